"""The engines' interface: lanes and a ring of ops in, times out.

The planner decides everything that can be decided before the clock starts and hands it over as
columns; an engine submits, reaps and stamps. The columns are a ring: a run of any length needs the
memory of its look-ahead. One engine call runs one set of ops to its end: populating is such a call,
the measured run is another.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from replay.ops.columns import Ops, Times
    from replay.ops.counters import LaneCounters

UNBOUNDED_BYTES = (1 << 63) - 1
"""End of a lane whose target has no end: what a file's offset can say."""
OUT_OF_RANGE = errno.ERANGE
"""In `Times.error`: the op would have left its lane's part of the target, and wasn't done."""
OPS_MAX = (1 << 32) - 16
"""Ops of one engine call at most: their numbers are 32 bits wide."""


def power_of_two(least: int) -> int:
    """Return the first power of two that isn't below `least`."""
    return 1 << max(0, least - 1).bit_length()


class LaneKind(IntEnum):
    """How a lane does its I/O."""

    NULL = 0
    MEMORY = 1
    FILE = 2
    DIR = 3
    """One file per object, in a folder whose descriptor is `fd`; each op is one I/O."""
    EXTERNAL = 4
    """By a Python thread that takes jobs from a mailbox."""
    SIMULATED = 5
    """A pool in memory that takes as long, and fails, as a script says."""

    @property
    def inline(self) -> bool:
        """Whether the loop's own thread does the work, one op after the other."""
        return self in (LaneKind.NULL, LaneKind.MEMORY)


class Action(IntEnum):
    """What an engine does for an op."""

    NONE = 0
    """Bookkeeping (delete, lookup): completes when it is due and ready, without I/O."""
    READ = 1
    WRITE = 2
    DELETE = 3
    """A delete that is work for the target: unlink, trim."""
    GATE = 4
    """Closed mode, no op of the trace: completes `due_ns` after the latest completion that its
    clock has seen, once its predecessors are done; ops that wait for it are due then."""


class Mode(IntEnum):
    """When an op is due."""

    OPEN = 0
    """At `start + due_ns`, an absolute schedule; `due_ns` never decreases."""
    MAX = 1
    """When its predecessors have completed; `due_ns` is ignored."""
    CLOSED = 2
    """At `start + due_ns`, or when the gate among its predecessors opens (`NO_TIME_NS`)."""


class Verify(IntEnum):
    """What of a completed read is checked, after its completion time was taken."""

    NONE = 0
    STAMPS = 1
    FULL = 2
    SAMPLE = 3


class Fsync(IntEnum):
    """What a DIR lane makes durable before a write has completed."""

    NONE = 0
    FILE = 1
    DIR = 2
    """The file, and after its renaming the folder."""


@dataclass(frozen=True, slots=True)
class Script:
    """What a SIMULATED lane does with its n-th I/O (n modulo the columns' length).

    `delay_ns`: its service time. `result`: 0 whole, −errno, or how many bytes it moves. Nothing
    goes on between `stall_begin_ns` and `stall_end_ns` after the start. `channels`: I/Os that are
    served at once, 0 all.
    """

    delay_ns: NDArray[np.int64]
    result: NDArray[np.int64]
    channels: int = 0
    stall_begin_ns: int = 0
    stall_end_ns: int = 0


@dataclass(frozen=True, slots=True)
class Lane:
    """One loop thread of one executed tier: how its I/O is done.

    `fd`: of an open file with O_DIRECT (FILE), or of the folder (DIR). `pool`: bytes of the target
    (MEMORY, SIMULATED). `mailbox`: address of the library's mailbox (EXTERNAL). `queue_depth`: I/Os
    in flight at most. `io_bytes`: longest single I/O; longer ops go in pieces. `longest_bytes`:
    longest read that will come; 0: unknown. `trim_bytes`: what deletes are aligned to (FILE); 0:
    they are bookkeeping. [`begin_bytes`, `end_bytes`): the part of the target (DIR: of each
    object's file) that ops may touch; one that leaves it isn't done and ends with `OUT_OF_RANGE`.
    """

    kind: LaneKind
    queue_depth: int
    io_bytes: int
    longest_bytes: int = 0
    fd: int = -1
    pool: NDArray[np.uint8] | None = None
    mailbox: int = 0
    trim_bytes: int = 0
    fsync: Fsync = Fsync.NONE
    script: Script | None = None
    begin_bytes: int = 0
    end_bytes: int = UNBOUNDED_BYTES

    @property
    def bounds(self) -> tuple[int, int]:
        """The part of the target that ops may touch, within the pool if there is one."""
        end = self.end_bytes if self.pool is None else min(self.end_bytes, self.pool.size)
        return self.begin_bytes, end


@dataclass(frozen=True, slots=True)
class LoopOptions:
    """What holds for all lanes of one engine call.

    `arena`: payload bytes, a multiple of the longest `io_bytes`; written to while stamping.
    `stamp`: whether writes are stamped. `filled_bytes` (one u64, shared): a write must not start
    before its virtual place in the arena and all of its bytes are below it; None: no limit.
    `spin_ns`: how long to poll for a completion before blocking; 0 never polls. `spin_adapts`: each
    lane finds out, now and then, whether polling moves more bytes, and polls only then.
    `read_buffer_bytes`: at most this much memory per lane for reads in flight. `clocks`: how many
    clocks there are in closed mode. `virtual_time`: the clock is simulated, and jumps to whatever
    comes next; for one SIMULATED lane.
    """

    mode: Mode
    arena: NDArray[np.uint8]
    run_id: int
    verify: Verify = Verify.STAMPS
    spin_ns: int = 0
    spin_adapts: bool = False
    read_buffer_bytes: int = 512 << 20
    stamp: bool = True
    filled_bytes: NDArray[np.uint64] | None = None
    clocks: int = 0
    virtual_time: bool = False


@dataclass(slots=True)
class Control:
    """Shared between a running engine, its planner and watchers.

    Ops [drained, planned) are in the ring. The planner grows `planned[0]` after it has filled
    columns and called `Times.reset`, and sets `final[0]` before the engine may end; it may fill the
    place of op i only when `drained[0] > i - capacity`. The thread that drains finished ops
    grows `drained[0]`, in order. Set `stop[0]` to 1: the engine submits nothing more, drains and
    returns. `completed_ops` and `completed_bytes` (one element per lane) grow while it runs.
    `start_ns[0]`: clock zero, 0 until the clock has started.
    """

    lanes: int
    stop: NDArray[np.int32] = field(init=False)
    planned: NDArray[np.uint64] = field(init=False)
    drained: NDArray[np.uint64] = field(init=False)
    final: NDArray[np.int32] = field(init=False)
    start_ns: NDArray[np.int64] = field(init=False)
    completed_ops: NDArray[np.int64] = field(init=False)
    completed_bytes: NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        import numpy as np  # here, since options of a replay name what this module declares

        self.stop = np.zeros(1, np.int32)
        self.planned = np.zeros(1, np.uint64)
        self.drained = np.zeros(1, np.uint64)
        self.final = np.zeros(1, np.int32)
        self.start_ns = np.zeros(1, np.int64)
        self.completed_ops = np.zeros(self.lanes, np.int64)
        self.completed_bytes = np.zeros(self.lanes, np.int64)

    @classmethod
    def whole(cls, lanes: int, count: int) -> Control:
        """Return the control of a call whose `count` ops are all there before it begins."""
        made = cls(lanes)
        made.planned[0] = count
        made.final[0] = 1
        return made


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one engine call gave."""

    start_ns: int
    """Clock zero of the run on CLOCK_MONOTONIC."""
    counters: tuple[LaneCounters, ...]
    cpu_ns: int
    """CPU time of the engine's own threads."""
    verify_cpu_ns: int


class Engine(Protocol):
    """Runs a ring of ops. One module per engine; `name` is what a result says was used."""

    name: str

    def run(
        self,
        lanes: tuple[Lane, ...],
        ops: Ops,
        times: Times,
        options: LoopOptions,
        control: Control,
    ) -> Outcome:
        """Run all ops to their end (or to `control.stop`); what happened is in `times`."""
        ...


def run_whole(
    engine: Engine, lanes: tuple[Lane, ...], ops: Ops, count: int, options: LoopOptions
) -> tuple[Outcome, Times]:
    """Run `count` ops that are all in the ring; the times are of these, in their order."""
    from replay.ops.columns import Times

    times = Times.empty(ops.capacity)
    times.reset(0, count)
    outcome = engine.run(lanes, ops, times, options, Control.whole(len(lanes), count))
    return outcome, Times(**{name: column[:count] for name, column in times._asdict().items()})
