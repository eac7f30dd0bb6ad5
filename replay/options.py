"""Options of a run, validated once."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Self

from pydantic import Field, model_validator

from kvtrace.arguments import Checked
from kvtrace.placement.extents import DEPTH_MAX, DEPTH_OPEN, PART_BYTES, SLACK_RATIO
from kvtrace.placement.rows import Limit
from kvtrace.trace.schema import Tier
from kvtrace.units import S_NS
from replay.ops.contract import Mode


class Timing(StrEnum):
    """When an op is due."""

    OPEN = "open"
    CLOSED = "closed"
    MAX = "max"

    @property
    def loop_mode(self) -> Mode:
        """What the engine calls it."""
        return {Timing.OPEN: Mode.OPEN, Timing.CLOSED: Mode.CLOSED, Timing.MAX: Mode.MAX}[self]


class Populate(StrEnum):
    """Which objects are written before the clock starts."""

    TOUCHED = "touched"
    ALL = "all"
    NONE = "none"


class Checking(StrEnum):
    """What of a completed read is checked."""

    NONE = "none"
    STAMPS = "stamps"
    SAMPLE = "sample"
    FULL = "full"


class Spin(StrEnum):
    """Whether the loop polls for completions before it blocks.

    Auto: where a CPU is spare, and in max mode only while polling moves more bytes, which each lane
    tries out now and then.
    """

    AUTO = "auto"
    ON = "on"
    OFF = "off"


class Payload(StrEnum):
    """Where a write's bytes come from."""

    ARENA = "arena"
    FRESH = "fresh"


class Priority(StrEnum):
    """How the loop's threads are scheduled: as any other, nice −15, or real-time (FIFO 1)."""

    NONE = "none"
    NICE = "nice"
    RT = "rt"


class FsyncPolicy(StrEnum):
    """What of a folder target is durable when a write has completed."""

    NONE = "none"
    FILE = "file"
    DIR = "dir"


Positive = Annotated[int, Field(gt=0)]


class ReplayOptions(Checked):
    """All that changes a result, beside trace and targets. `None` means: decided by the run.

    Raises UsageError that names the first wrong option.
    """

    mode: Timing = Timing.OPEN
    speed: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    queue_depth: Annotated[int, Field(gt=0, le=16384)] | None = None
    io_size_bytes: Annotated[int, Field(ge=4096, le=1 << 30, multiple_of=4096)] = PART_BYTES
    slack_ratio: Annotated[float, Field(ge=0, le=10, allow_inf_nan=False)] = SLACK_RATIO
    engine: str = "auto"
    spin: Spin = Spin.AUTO
    arena_bytes: Positive | None = None
    run_id: Annotated[int, Field(ge=0, lt=1 << 16)] | None = None
    tiers: tuple[Tier, ...] | None = None
    populate: Populate = Populate.TOUCHED
    settle_ns: Annotated[int, Field(ge=0)] = 10 * S_NS
    verify: Checking = Checking.SAMPLE
    threads: Annotated[int, Field(gt=0, le=16)] = 1
    priority: Priority = Priority.NONE
    warmup_ns: Annotated[int, Field(ge=0)] = 0
    run_time_ns: Positive | None = None
    """The run ends this long after the warm-up; None: with the trace."""
    loop: bool = False
    """Whether the trace begins again until the run time is over."""
    sync_stores: bool = False
    reuse_populated: bool = False
    payload: Payload = Payload.ARENA
    dedup_ratio: Annotated[int, Field(ge=1)] = 1
    compress_ratio: Annotated[int, Field(ge=1)] = 1
    trim: bool = False
    fsync: FsyncPolicy = FsyncPolicy.NONE
    min_window_ns: Annotated[int, Field(ge=0)] = 10 * S_NS
    limit_rows: Positive | None = None
    limit_ns: Positive | None = None
    with_failed: bool = False
    bpf: bool = False
    accept: tuple[str, ...] = ()

    @property
    def depth(self) -> int:
        """I/Os in flight at most, per lane."""
        default = DEPTH_MAX if self.mode == Timing.MAX else DEPTH_OPEN
        return self.queue_depth or default

    @property
    def stamped(self) -> bool:
        """Whether writes carry stamps: they would defeat duplicates that were asked for."""
        return self.dedup_ratio == 1

    @model_validator(mode="after")
    def _ends(self) -> Self:
        if self.loop and self.run_time_ns is None:
            raise ValueError("--loop needs --run-time: without it the run would never end")
        return self

    @property
    def limit(self) -> Limit:
        """How much of the trace is replayed."""
        return Limit(self.limit_rows, self.limit_ns, with_failed=self.with_failed)
