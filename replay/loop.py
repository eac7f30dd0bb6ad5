"""What every engine takes and gives back: lanes and columns of ops in, columns of times out.

The planner decides everything that can be decided before the clock starts and hands it over as
columns; an engine submits, reaps and stamps. One engine call runs one set of ops to its end:
populating is such a call, the measured run is another.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

NO_TIME_NS = -1
"""In a time column: it never happened."""


class LaneKind(IntEnum):
    """How a lane does its I/O."""

    NULL = 0
    MEMORY = 1
    FILE = 2


class Action(IntEnum):
    """What an engine does for an op."""

    NONE = 0
    """Bookkeeping (delete, lookup): completes when it is due and ready, without I/O."""
    READ = 1
    WRITE = 2


class Mode(IntEnum):
    """When an op is due."""

    OPEN = 0
    """At `start + due_ns`, an absolute schedule."""
    MAX = 1
    """When its predecessors have completed; `due_ns` is ignored."""


class Verify(IntEnum):
    """What of a completed read is checked, after its completion time was taken."""

    NONE = 0
    STAMPS = 1
    FULL = 2


@dataclass(frozen=True, slots=True)
class Lane:
    """One executed tier: how its I/O is done.

    `fd`: of an open file with O_DIRECT (FILE). `pool`: bytes of the memory target (MEMORY).
    `queue_depth`: I/Os in flight at most. `io_bytes`: longest single I/O; longer ops go in pieces.
    """

    kind: LaneKind
    queue_depth: int
    io_bytes: int
    fd: int = -1
    pool: NDArray[np.uint8] | None = None


@dataclass(frozen=True, slots=True)
class Ops:
    """Columns of the ops of one engine call, all of length n, in trace order.

    Offsets and lengths are aligned for the lane. `successors[successor_begin[i]:
    successor_begin[i + 1]]` are the ops that wait for op i (all of them > i); `wait_count[i]` is
    how many ops op i waits for. `arena_bytes` is where in the arena a write's bytes start (for a
    read with `Verify.FULL`: where the bytes it must find start): a virtual offset that grows
    without end, of which each piece's physical place is `virtual % arena size`; the planner
    never lets a piece straddle the end. Stamps: `key`, `sector` of the op's first 512 bytes in
    its object, `generation`.
    """

    due_ns: NDArray[np.int64]
    lane: NDArray[np.uint8]
    action: NDArray[np.uint8]
    offset_bytes: NDArray[np.uint64]
    length_bytes: NDArray[np.uint64]
    key: NDArray[np.uint64]
    sector: NDArray[np.uint32]
    generation: NDArray[np.uint32]
    arena_bytes: NDArray[np.uint64]
    wait_count: NDArray[np.uint32]
    successor_begin: NDArray[np.uint64]
    successors: NDArray[np.uint32]


@dataclass(frozen=True, slots=True)
class LoopOptions:
    """What holds for all lanes of one engine call.

    `arena`: payload bytes, a multiple of the longest `io_bytes`; written to while stamping.
    `read_buffer_bytes`: at most this much memory per lane for reads in flight.
    `spin_ns`: how long to poll for a completion before blocking; 0 never polls.
    """

    mode: Mode
    arena: NDArray[np.uint8]
    run_id: int
    verify: Verify = Verify.STAMPS
    spin_ns: int = 0
    read_buffer_bytes: int = 512 << 20


@dataclass(slots=True)
class Times:
    """What an engine found, per op, ns on CLOCK_MONOTONIC; `NO_TIME_NS` where it never happened.

    `ready_ns`: when the last predecessor completed (start of the run if it had none).
    `slot_ns`: when a queue slot was last found free after waiting for one; else equal to
    max(due, ready). `submit_ns`, `complete_ns`: first piece submitted, last piece completed.
    `error`: 0 or an errno; `DEPENDENCY_FAILED` where a predecessor failed.
    `bad_sector`: of a read that failed verification, first bad sector in the op, else -1.
    """

    ready_ns: NDArray[np.int64]
    slot_ns: NDArray[np.int64]
    submit_ns: NDArray[np.int64]
    complete_ns: NDArray[np.int64]
    error: NDArray[np.int32]
    bad_sector: NDArray[np.int64]

    @classmethod
    def empty(cls, count: int) -> Times:
        """Return columns for `count` ops of which nothing has happened yet."""
        ready, slot, submit, complete = (np.full(count, NO_TIME_NS, np.int64) for _ in range(4))
        error, bad_sector = np.zeros(count, np.int32), np.full(count, -1, np.int64)
        return cls(ready, slot, submit, complete, error, bad_sector)


DEPENDENCY_FAILED = -1
"""In `Times.error`: not executed, since an op it waited for had failed."""
VERIFY_FAILED = -2
"""In `Times.error`: read, but not the bytes that had been written."""
INTERRUPTED = -3
"""In `Times.error`: not executed, since the run was stopped."""


@dataclass(slots=True)
class LaneCounters:
    """What an engine counted on one lane."""

    retries: int = 0
    short_transfers: int = 0
    bad_sectors: int = 0
    in_flight_max: int = 0


@dataclass(slots=True)
class Control:
    """Shared between a running engine and the thread that watches it.

    Set `stop[0]` to 1: the engine submits nothing more, drains and returns. `completed_ops` and
    `completed_bytes` (one element per lane) grow while it runs.
    """

    lanes: int
    stop: NDArray[np.int32] = field(init=False)
    completed_ops: NDArray[np.int64] = field(init=False)
    completed_bytes: NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        self.stop = np.zeros(1, np.int32)
        self.completed_ops = np.zeros(self.lanes, np.int64)
        self.completed_bytes = np.zeros(self.lanes, np.int64)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one engine call gave."""

    start_ns: int
    """Clock zero of the run on CLOCK_MONOTONIC."""
    times: Times
    counters: tuple[LaneCounters, ...]
    cpu_ns: int
    """CPU time of the engine's own threads."""
    verify_cpu_ns: int


class Engine(Protocol):
    """Runs columns of ops. One module per engine; `name` is what a result says was used."""

    name: str

    def run(
        self, lanes: tuple[Lane, ...], ops: Ops, options: LoopOptions, control: Control
    ) -> Outcome:
        """Run all ops to their end (or to `control.stop`) and return what happened."""
        ...
