"""The compiled engines behind the contract of replay/loop.py."""

from __future__ import annotations

import ctypes
import os
import threading
from enum import IntEnum, IntFlag
from typing import TYPE_CHECKING

import numpy as np

from kvtrace.errors import TargetError
from replay.loop import Control, Lane, LaneCounters, LaneKind, LoopOptions, Ops, Outcome, Times
from replay.native import library
from replay.native.library import LaneStruct, RunStruct, address

if TYPE_CHECKING:
    from numpy.typing import NDArray

_OP_DTYPES: dict[str, type[np.generic]] = {
    "due_ns": np.int64,
    "lane": np.uint8,
    "action": np.uint8,
    "offset_bytes": np.uint64,
    "length_bytes": np.uint64,
    "key": np.uint64,
    "sector": np.uint32,
    "generation": np.uint32,
    "arena_bytes": np.uint64,
    "wait_count": np.uint32,
}


class EngineKind(IntEnum):
    """Which way of doing file I/O; the values are those of abi.h."""

    URING = 0
    THREADS = 1


class Feature(IntFlag):
    """What a lane obtained from the kernel; the values are those of abi.h."""

    SINGLE_ISSUER = 1 << 0
    DEFER_TASKRUN = 1 << 1
    COOP_TASKRUN = 1 << 2
    FIXED_FILE = 1 << 3
    FIXED_ARENA = 1 << 4
    FIXED_READS = 1 << 5
    HUGE_READS = 1 << 6


def _check_column(
    name: str, column: NDArray[np.generic], dtype: type[np.generic], length: int
) -> None:
    if column.dtype != dtype or column.shape != (length,) or not column.flags.c_contiguous:
        raise TypeError(
            f"column {name}: got {column.dtype}{list(column.shape)}, "
            f"contiguous {column.flags.c_contiguous}; accepted: {np.dtype(dtype)}[{length}]"
        )


def _check_memory(name: str, memory: NDArray[np.uint8]) -> None:
    if memory.dtype != np.uint8 or memory.ndim != 1 or not memory.flags.c_contiguous:
        raise TypeError(f"{name}: takes contiguous bytes")
    if not memory.flags.writeable:
        raise TypeError(f"{name}: must be writable")


def _check_ops(ops: Ops) -> int:
    """Return the number of ops after checking that all columns are what the library reads."""
    count = len(ops.due_ns)
    for name, dtype in _OP_DTYPES.items():
        _check_column(name, getattr(ops, name), dtype, count)
    _check_column("successor_begin", ops.successor_begin, np.uint64, count + 1)
    _check_column("successors", ops.successors, np.uint32, int(ops.successor_begin[-1]))
    return count


def _lane_struct(lane: Lane) -> LaneStruct:
    if lane.kind == LaneKind.MEMORY:
        if lane.pool is None:
            raise TypeError("a MEMORY lane needs a pool")
        _check_memory("pool", lane.pool)
    return LaneStruct(
        kind=int(lane.kind),
        fd=lane.fd,
        queue_depth=lane.queue_depth,
        io_bytes=lane.io_bytes,
        pool=address(lane.pool),
        pool_bytes=0 if lane.pool is None else lane.pool.size,
    )


def _fill_ops(run: RunStruct, ops: Ops, count: int) -> None:
    run.op_count = count
    for name in (*_OP_DTYPES, "successor_begin", "successors"):
        target = "arena_offset_bytes" if name == "arena_bytes" else name
        setattr(run, target, address(getattr(ops, name)))


def _fill_control(run: RunStruct, control: Control, lane_count: int) -> None:
    _check_column("stop", control.stop, np.int32, 1)
    _check_column("completed_ops", control.completed_ops, np.int64, lane_count)
    _check_column("completed_bytes", control.completed_bytes, np.int64, lane_count)
    run.stop = address(control.stop)
    run.completed_ops = address(control.completed_ops)
    run.completed_bytes = address(control.completed_bytes)


def _fill_times(run: RunStruct, times: Times) -> None:
    for name in ("ready_ns", "slot_ns", "submit_ns", "complete_ns", "error", "bad_sector"):
        setattr(run, name, address(getattr(times, name)))


def _wait_or_stop(done: threading.Event, control: Control) -> None:
    """Return when the engine is done; what a signal handler raises stops it and waits for that.

    The engine must not outlive the columns. `Thread.join` can't be used here: interrupted, it
    takes a running thread for a finished one (Python 3.11).
    """
    try:
        done.wait()
    finally:
        if not done.is_set():
            control.stop[0] = 1
            _wait_or_stop(done, control)


def _run_interruptibly(run: RunStruct, control: Control) -> int:
    """Run in a thread of its own, so that Python's signal handlers run meanwhile."""
    loop = library.load()
    results: list[int] = []
    done = threading.Event()

    def work() -> None:
        results.append(loop.kv_run(ctypes.byref(run)))
        done.set()

    threading.Thread(target=work, name="kvtrace-engine").start()
    _wait_or_stop(done, control)
    return results[0]


class NativeEngine:
    """Runs columns of ops in the compiled loop."""

    def __init__(self, name: str, kind: EngineKind) -> None:
        self.name = name
        self.kind = kind
        self.features: tuple[Feature, ...] = ()
        """What each lane of the latest run obtained."""

    def available(self) -> str | None:
        """Return why the engine can't be used here, or None if it can."""
        if self.kind == EngineKind.URING:
            return library.uring_available()
        return library.unavailable()

    def run(
        self, lanes: tuple[Lane, ...], ops: Ops, options: LoopOptions, control: Control
    ) -> Outcome:
        """Run all ops to their end (or to `control.stop`) and return what happened.

        Raises TargetError if the lanes can't be set up, TypeError for columns of a wrong type.
        """
        count = _check_ops(ops)
        _check_memory("arena", options.arena)
        structs = (LaneStruct * len(lanes))(*(_lane_struct(lane) for lane in lanes))
        times = Times.empty(count)
        run = RunStruct(
            engine=int(self.kind),
            mode=int(options.mode),
            verify=int(options.verify),
            run_id=options.run_id,
            spin_ns=options.spin_ns,
            read_buffer_bytes=options.read_buffer_bytes,
            arena=address(options.arena),
            arena_bytes=options.arena.size,
            lanes=structs,
            lane_count=len(lanes),
        )
        _fill_ops(run, ops, count)
        _fill_control(run, control, len(lanes))
        _fill_times(run, times)
        code = _run_interruptibly(run, control)
        if code != 0:
            raise TargetError(
                run.message.decode(errors="replace"), where=self.name, got=os.strerror(code)
            )
        self.features = tuple(Feature(struct.features) for struct in structs)
        return Outcome(
            start_ns=run.start_ns,
            times=times,
            counters=tuple(_counters(struct) for struct in structs),
            cpu_ns=run.cpu_ns,
            verify_cpu_ns=run.verify_cpu_ns,
        )


def _counters(struct: LaneStruct) -> LaneCounters:
    return LaneCounters(
        retries=struct.retries,
        short_transfers=struct.short_transfers,
        bad_sectors=struct.bad_sectors,
        in_flight_max=struct.in_flight_max,
    )


uring = NativeEngine("uring", EngineKind.URING)
threads = NativeEngine("threads", EngineKind.THREADS)
