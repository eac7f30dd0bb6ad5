"""The compiled engines behind the contract of replay/ops/contract.py."""

from __future__ import annotations

import ctypes
import os
import threading
from enum import IntEnum, IntFlag
from typing import TYPE_CHECKING

import numpy as np

from kvtrace.errors import TargetError
from kvtrace.native.library import address
from replay.engine.native import library
from replay.engine.native.library import LaneStruct, RunStruct
from replay.ops.columns import NATIVE_OPS, OP_TYPES, TIME_TYPES, Ops, Times
from replay.ops.contract import Control, Lane, LaneKind, LoopOptions, Mode, Outcome, Script
from replay.ops.counters import LaneCounters

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray

IO_SIZE_CLASSES = 32
"""I/O latencies are kept by size class: floor(log2(bytes)), up to 2 GiB."""
_IO_BITS = 5
IO_BUCKETS = (1 << _IO_BITS) * (64 - _IO_BITS)
"""Latency buckets of `LaneCounters.io_counts`; KV_IO_BUCKETS of abi.h."""


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


def _check_column(name: str, column: NDArray[np.generic], dtype: DTypeLike, length: int) -> None:
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


def _check_ops(ops: Ops) -> None:
    """Check that all columns are what the library reads, for one capacity."""
    lengths = dict.fromkeys(NATIVE_OPS, ops.capacity)
    lengths |= {"edges": len(ops.edges), "extents": len(ops.extents)}
    lengths["clock"] = ops.capacity if len(ops.clock) else 0
    for name in NATIVE_OPS:
        _check_column(name, getattr(ops, name), OP_TYPES[name], lengths[name])
    if not ops.due_ns.flags.writeable:
        raise TypeError("column due_ns: must be writable")


def _script_fields(script: Script | None) -> dict[str, int | None]:
    if script is None:
        raise TypeError("a SIMULATED lane needs a script")
    _check_column("delay_ns", script.delay_ns, np.int64, len(script.delay_ns))
    _check_column("result", script.result, np.int64, len(script.delay_ns))
    return {
        "script_delay_ns": address(script.delay_ns),
        "script_result": address(script.result),
        "script_count": len(script.delay_ns),
        "script_channels": script.channels,
        "stall_begin_ns": script.stall_begin_ns,
        "stall_end_ns": script.stall_end_ns,
    }


def _lane_struct(lane: Lane, io_counts: NDArray[np.int64]) -> LaneStruct:
    if lane.kind in (LaneKind.MEMORY, LaneKind.SIMULATED):
        if lane.pool is None:
            raise TypeError(f"a {lane.kind.name} lane needs a pool")
        _check_memory("pool", lane.pool)
    return LaneStruct(
        kind=int(lane.kind),
        fd=lane.fd,
        queue_depth=lane.queue_depth,
        io_bytes=lane.io_bytes,
        longest_bytes=lane.longest_bytes,
        pool=address(lane.pool),
        pool_bytes=0 if lane.pool is None else lane.pool.size,
        mailbox=lane.mailbox,
        trim_bytes=lane.trim_bytes,
        fsync=int(lane.fsync),
        begin_bytes=lane.bounds[0],
        end_bytes=lane.bounds[1],
        io_counts=address(io_counts),
        **(_script_fields(lane.script) if lane.kind == LaneKind.SIMULATED else {}),
    )


def _fill_ops(run: RunStruct, ops: Ops, options: LoopOptions) -> None:
    run.capacity = ops.capacity
    run.edge_capacity = len(ops.edges)
    run.extent_words = len(ops.extents)
    for name in NATIVE_OPS:
        setattr(run, name, address(getattr(ops, name)))
    run.clock_count = options.clocks if options.mode == Mode.CLOSED else 0
    if options.mode != Mode.CLOSED:
        run.clock = None


def _fill_control(run: RunStruct, control: Control, lane_count: int) -> None:
    shared: dict[str, tuple[type[np.generic], int]] = {
        "stop": (np.int32, 1),
        "planned": (np.uint64, 1),
        "drained": (np.uint64, 1),
        "final": (np.int32, 1),
        "completed_ops": (np.int64, lane_count),
        "completed_bytes": (np.int64, lane_count),
    }
    for name, (dtype, length) in shared.items():
        _check_column(name, getattr(control, name), dtype, length)
        setattr(run, name, address(getattr(control, name)))
    _check_column("start_ns", control.start_ns, np.int64, 1)
    run.started_ns = address(control.start_ns)


def _fill_times(run: RunStruct, times: Times, capacity: int) -> None:
    for name, dtype in TIME_TYPES.items():
        _check_column(name, getattr(times, name), dtype, capacity)
        setattr(run, name, address(getattr(times, name)))


def _fill_options(run: RunStruct, options: LoopOptions) -> None:
    _check_memory("arena", options.arena)
    run.mode = int(options.mode)
    run.verify = int(options.verify)
    run.run_id = options.run_id
    run.spin_ns = options.spin_ns
    run.spin_adapts = options.spin_adapts
    run.read_buffer_bytes = options.read_buffer_bytes
    run.arena = address(options.arena)
    run.arena_size_bytes = options.arena.size
    run.stamp = options.stamp
    run.virtual_time = options.virtual_time
    if options.filled_bytes is not None:
        _check_column("filled_bytes", options.filled_bytes, np.uint64, 1)
        run.filled_bytes = address(options.filled_bytes)


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
        self,
        lanes: tuple[Lane, ...],
        ops: Ops,
        times: Times,
        options: LoopOptions,
        control: Control,
    ) -> Outcome:
        """Run all ops to their end (or to `control.stop`); what happened is in `times`.

        Raises TargetError if the lanes can't be set up or an op can't be executed safely,
        TypeError for columns of a wrong type.
        """
        _check_ops(ops)
        io_counts = [np.zeros((IO_SIZE_CLASSES, IO_BUCKETS), np.int64) for _ in lanes]
        structs = (LaneStruct * len(lanes))(*map(_lane_struct, lanes, io_counts))
        run = RunStruct(engine=int(self.kind), lanes=structs, lane_count=len(lanes))
        _fill_options(run, options)
        _fill_ops(run, ops, options)
        _fill_control(run, control, len(lanes))
        _fill_times(run, times, ops.capacity)
        code = _run_interruptibly(run, control)
        if code != 0:
            raise TargetError(
                run.message.decode(errors="replace"), where=self.name, got=os.strerror(code)
            )
        self.features = tuple(Feature(struct.features) for struct in structs)
        return Outcome(
            start_ns=run.start_ns,
            counters=tuple(map(_counters, structs, io_counts)),
            cpu_ns=run.cpu_ns,
            verify_cpu_ns=run.verify_cpu_ns,
        )


def _counters(struct: LaneStruct, io_counts: NDArray[np.int64]) -> LaneCounters:
    return LaneCounters(
        retries=struct.retries,
        short_transfers=struct.short_transfers,
        bad_sectors=struct.bad_sectors,
        in_flight_max=struct.in_flight_max,
        in_flight_ns=struct.in_flight_ns,
        planner_stalls=struct.planner_stalls,
        payload_stalls=struct.payload_stalls,
        enter_calls=struct.enter_calls,
        timed_submits=struct.timed_submits,
        timed_submit_ns=struct.timed_submit_ns,
        checked_bytes=struct.checked_bytes,
        body_bytes=struct.body_bytes,
        body_reads=struct.body_reads,
        io_counts=io_counts,
    )


uring = NativeEngine("uring", EngineKind.URING)
threads = NativeEngine("threads", EngineKind.THREADS)
