"""Fixtures and helpers of the tests of compiled engines; holds no tests itself."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from replay.engine import native
from replay.engine.native import testing
from replay.ops.columns import NO_TIME_NS, OP_TYPES, Ops, Times
from replay.ops.contract import (
    Control,
    Engine,
    Lane,
    LaneKind,
    LoopOptions,
    Mode,
    Outcome,
    Script,
    Verify,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from replay.ops.counters import LaneCounters

KIB = 1024
MIB = 1024 * KIB
RUN_ID = 4711
HOUR_NS = 3_600_000_000_000
NULL_LANE = Lane(LaneKind.NULL, queue_depth=8, io_bytes=MIB)


@dataclass(frozen=True)
class Rows:
    """So many ops in a ring that holds them all."""

    ops: Ops
    count: int


@dataclass(frozen=True)
class Ran:
    """What a run gave, and the times of its ops."""

    outcome: Outcome
    times: Times

    @property
    def start_ns(self) -> int:
        return self.outcome.start_ns

    @property
    def counters(self) -> tuple[LaneCounters, ...]:
        return self.outcome.counters


def make_ops(count: int, **columns: Any) -> Rows:
    """Return `count` ops; the columns are those of `testing.make_ops`."""
    return Rows(testing.make_ops(count, **columns), count)


def contents(fd: int) -> NDArray[np.uint8]:
    """Return all bytes of an open file."""
    return np.frombuffer(Path(f"/proc/self/fd/{fd}").read_bytes(), np.uint8).copy()


def overwrite(fd: int, offset_bytes: int, data: bytes) -> None:
    """Change bytes of an open file behind the engine's back."""
    with Path(f"/proc/self/fd/{fd}").open("r+b") as file:
        file.seek(offset_bytes)
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def file_lane(fd: int, *, queue_depth: int = 8, io_bytes: int = 64 * KIB) -> Lane:
    """Return a FILE lane."""
    return Lane(LaneKind.FILE, queue_depth=queue_depth, io_bytes=io_bytes, fd=fd)


def options(
    arena: NDArray[np.uint8],
    *,
    mode: Mode = Mode.MAX,
    verify: Verify = Verify.FULL,
    spin_ns: int = 0,
    read_buffer_bytes: int = 64 * MIB,
    **others: Any,
) -> LoopOptions:
    """Return options that check everything."""
    return LoopOptions(
        mode=mode,
        arena=arena,
        run_id=RUN_ID,
        verify=verify,
        spin_ns=spin_ns,
        read_buffer_bytes=read_buffer_bytes,
        **others,
    )


def run(
    engine: Engine,
    lanes: tuple[Lane, ...],
    rows: Rows,
    chosen: LoopOptions,
    control: Control | None = None,
) -> Ran:
    """Run all rows, with a control of its own unless one is given."""
    if control is None:
        control = Control(len(lanes))
    control.planned[0], control.final[0] = rows.count, 1
    times = Times.empty(rows.ops.capacity)
    times.reset(0, rows.count)
    outcome = engine.run(lanes, rows.ops, times, chosen, control)
    of_rows = (column[: rows.count] for column in times)
    return Ran(outcome, Times(*of_rows))


def assert_order(outcome: Ran, edges: list[tuple[int, int]]) -> None:
    """Fail unless every successor went out after its predecessor's completion."""
    for before, after in edges:
        assert outcome.times.complete_ns[before] <= outcome.times.submit_ns[after]
        assert outcome.times.ready_ns[after] >= outcome.times.complete_ns[before]


def assert_times(outcome: Ran, rows: Rows, mode: Mode) -> None:
    """Fail unless each executed op's times are in the order they are defined in."""
    times = outcome.times
    done = times.complete_ns != NO_TIME_NS
    due_ns = outcome.start_ns + (rows.ops.due_ns[: rows.count] if mode != Mode.MAX else 0)
    eligible_ns = np.maximum(due_ns, times.ready_ns)
    assert (times.slot_ns[done] >= eligible_ns[done]).all()
    assert (times.submit_ns[done] >= times.slot_ns[done]).all()
    assert (times.complete_ns[done] >= times.submit_ns[done]).all()


def when_completed(control: Control, count: int, act: Callable[[], object]) -> threading.Thread:
    """Start a thread that acts once `count` ops have completed."""

    def watch() -> None:
        while control.completed_ops.sum() < count:
            os.sched_yield()
        act()

    thread = threading.Thread(target=watch)
    thread.start()
    return thread


def simulated_lane(
    delay_ns: Sequence[int],
    result: Sequence[int] = (0,),
    *,
    pool: NDArray[np.uint8] | None = None,
    queue_depth: int = 8,
    **script: int,
) -> Lane:
    """Return a SIMULATED lane; its I/Os are up to 64 KiB."""
    results = np.resize(np.array(result, np.int64), len(delay_ns))
    return Lane(
        LaneKind.SIMULATED,
        queue_depth=queue_depth,
        io_bytes=64 * KIB,
        pool=np.zeros(4 * MIB, np.uint8) if pool is None else pool,
        script=Script(np.array(delay_ns, np.int64), results, **script),
    )


def run_virtual(lane: Lane, rows: Rows, mode: Mode, **others: Any) -> Ran:
    """Run rows on a simulated lane in virtual time, with an arena of zeros and no verification."""
    arena = np.zeros(MIB, np.uint8)
    chosen = options(arena, mode=mode, verify=Verify.NONE, virtual_time=True, **others)
    return run(native.threads, (lane,), rows, chosen)


class Streamer:
    """Passes rows through a small ring, and takes their times out again."""

    def __init__(self, rows: Rows, capacity: int, lanes: int) -> None:
        self.rows, self.control = rows, Control(lanes)
        most = int(rows.ops.wait_count.max(initial=0))
        edges = testing.power_of_two(capacity * most)
        self.ops = Ops.empty(capacity, edges, clocks=len(rows.ops.clock) > 0)
        self.times = Times.empty(capacity)
        self.found = Times.empty(testing.power_of_two(rows.count))
        self.due_ns = rows.ops.due_ns.copy()
        self.ended = False

    def plan(self, most: int) -> None:
        """Add up to `most` rows, as far as there is room."""
        begin, drained = int(self.control.planned[0]), int(self.control.drained[0])
        end = min(self.rows.count, drained + self.ops.capacity, begin + most)
        if begin == end:
            return
        number = np.arange(begin, end)
        for name, whole, ring in zip(OP_TYPES, self.rows.ops, self.ops, strict=True):
            if name not in ("edges", "extents") and len(ring):
                ring[number & (self.ops.capacity - 1)] = whole[number]
        waits = int(self.rows.ops.wait_count[end - 1])
        edge = np.arange(
            self.rows.ops.edge_begin[begin], int(self.rows.ops.edge_begin[end - 1]) + waits
        )
        self.ops.edges[edge & (len(self.ops.edges) - 1)] = self.rows.ops.edges[edge]
        self.times.reset(begin, end)
        native.publish(self.control.planned, end)
        if end == self.rows.count:
            native.publish(self.control.final, 1)

    def drain(self) -> None:
        """Take out what has finished, in order."""
        begin = int(self.control.drained[0])
        end = self.times.finished(begin, int(self.control.planned[0]))
        number = np.arange(begin, end)
        at = number & (self.ops.capacity - 1)
        for taken, column in zip(self.found, self.times, strict=True):
            taken[number] = column[at]
        self.due_ns[number] = self.ops.due_ns[at]
        native.publish(self.control.drained, end)

    def _feed(self, rng: np.random.Generator) -> None:
        while self.control.drained[0] < self.rows.count and not self.ended:
            self.plan(int(rng.integers(1, self.ops.capacity + 1)))
            self.drain()
            os.sched_yield()

    def run(self, engine: Engine, lanes: tuple[Lane, ...], chosen: LoopOptions) -> Ran:
        """Run all rows; return the times of all."""
        feeder = threading.Thread(target=self._feed, args=(np.random.default_rng(1),))
        feeder.start()
        try:
            outcome = engine.run(lanes, self.ops, self.times, chosen, self.control)
        except BaseException:
            self.ended = True
            raise
        finally:
            feeder.join()
        found = (column[: self.rows.count] for column in self.found)
        return Ran(outcome, Times(*found))
