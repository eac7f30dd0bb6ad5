"""Options of a run, validated once."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, model_validator

from kvtrace.arguments import Checked
from kvtrace.errors import unknown_name
from kvtrace.fields import SIZE, TIME, Option, Takes
from kvtrace.placement.defaults import DEPTH_MAX, DEPTH_OPEN, PART_BYTES, SLACK_RATIO
from kvtrace.placement.limit import Limit
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


TIMING, STATE, OUTPUT = "Timing and engine", "State and payload", "Verdict and outputs"
TARGETS, SAFETY = "Targets", "Safety"
"""Headings of the help of `kvtrace replay`."""
ENGINES = ("uring", "threads", "python")
"""Engines, fastest first."""
Positive = Annotated[int, Field(gt=0)]
_Time = Annotated[int, Field(ge=0), TIME]
_PositiveTime = Annotated[int, Field(gt=0), TIME]


def _switched(value: object) -> object:
    """Return `on` and `off` for what YAML makes of them."""
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else value


def _tiers(value: object) -> object:
    """Return tiers that are given by their names, as `cpu,nvme` or in a list."""
    if isinstance(value, str):
        named = _tiers([name.strip().lower() for name in value.split(",")])
        return tuple(sorted(set(named))) if isinstance(named, tuple) else named
    if not isinstance(value, list | tuple):
        return value
    by_name = {tier.label: tier for tier in Tier}
    for name in value:
        if isinstance(name, str) and name not in by_name:
            raise ValueError(str(unknown_name("tier", name, by_name)))
    return tuple(by_name[each] if isinstance(each, str) else each for each in value)


def _labels(tiers: tuple[Tier, ...]) -> str:
    return ",".join(tier.label for tier in tiers)


Tiers = Annotated[tuple[Tier, ...], Takes("TIERS", _labels), BeforeValidator(_tiers)]


class ReplayOptions(Checked):
    """All that changes a result, beside trace and targets. `None` means: decided by the run.

    Raises UsageError that names the first wrong option.
    """

    mode: Annotated[
        Timing,
        Option(
            "Pace ops by the trace's clock (open), by completions (closed) or by the queue depth "
            "(max).",
            TIMING,
        ),
    ] = Timing.OPEN
    speed: Annotated[
        float,
        Field(gt=0, allow_inf_nan=False),
        Option("Divide due times by X; 2 is twice as fast.", TIMING),
    ] = 1.0
    queue_depth: Annotated[
        Annotated[int, Field(gt=0, le=16384)] | None,
        Option(
            "I/Os in flight at most.", TIMING, unset=f"{DEPTH_OPEN}, or {DEPTH_MAX} in mode max"
        ),
    ] = None
    io_size_bytes: Annotated[
        int,
        Field(ge=4096, le=1 << 30, multiple_of=4096),
        SIZE,
        Option("Size of the longest I/O; split longer ops.", TIMING),
    ] = PART_BYTES
    slack_ratio: Annotated[
        float,
        Field(ge=0, le=10, allow_inf_nan=False),
        Option("Extra space, as a fraction of the live set.", STATE),
    ] = SLACK_RATIO
    engine: Annotated[
        str,
        Option(
            "I/O engine; auto: the first that works.", TIMING, takes="|".join(("auto", *ENGINES))
        ),
    ] = "auto"
    spin: Annotated[
        Spin,
        BeforeValidator(_switched),
        Option(
            "Poll for completions before blocking: on, off, auto (when a CPU is idle; in mode "
            "max, while polling moves more bytes).",
            TIMING,
        ),
    ] = Spin.AUTO
    arena_bytes: Annotated[
        Annotated[int, Field(gt=0), SIZE] | None,
        Option("Size of the unique payload.", STATE, unset="1GiB where memory allows"),
    ] = None
    run_id: Annotated[
        Annotated[int, Field(ge=0, lt=1 << 16)] | None,
        Option("Run id, 0 to 65535; equal ids give equal payloads.", STATE, unset="random"),
    ] = None
    tiers: Annotated[
        Tiers | None,
        Option("Execute these tiers, e.g. cpu,nvme.", TARGETS, unset="those with a target"),
    ] = None
    populate: Annotated[
        Populate,
        Option(
            "Objects to write before the run: those that the trace reads (touched), all, or none.",
            STATE,
        ),
    ] = Populate.TOUCHED
    settle_ns: Annotated[
        _Time, Option("Wait at most this long for the device to become idle.", STATE)
    ] = 10 * S_NS
    verify: Annotated[
        Checking,
        Option(
            "Verify reads: none, stamps (of every sector), sample (stamps, and every byte of one "
            "read in 128), full (every byte).",
            STATE,
        ),
    ] = Checking.SAMPLE
    threads: Annotated[int, Field(gt=0, le=16), Option("Loop threads per target.", TIMING)] = 1
    priority: Annotated[
        Priority,
        Option("Scheduling priority of the loop threads: none, nice -15, or real-time.", TIMING),
    ] = Priority.NONE
    warmup_ns: Annotated[_Time, Option("Exclude ops due before this time.", TIMING)] = 0
    run_time_ns: Annotated[
        _PositiveTime | None,
        Option(
            "End the run this long after the warm-up, e.g. 300s.",
            TIMING,
            unset="the trace's length",
        ),
    ] = None
    """The run ends this long after the warm-up; None: with the trace."""
    loop: Annotated[
        bool, Option("Repeat the trace with fresh keys until --run-time ends.", TIMING)
    ] = False
    """Whether the trace begins again until the run time is over."""
    sync_stores: Annotated[
        bool,
        Option(
            "closed: let requests also wait for their stores, evictions and promotions.", TIMING
        ),
    ] = False
    reuse_populated: Annotated[
        bool, Option("Reuse the objects that an earlier run populated.", STATE)
    ] = False
    payload: Annotated[
        Payload,
        Option(
            "Payload: arena (one block of unique bytes, reused with stamps) or fresh (generated "
            "during the run).",
            STATE,
        ),
    ] = Payload.ARENA
    dedup_ratio: Annotated[
        int,
        Field(ge=1),
        Option(
            "Make the payload deduplicable by this ratio; above 1 without stamps.",
            STATE,
            name="dedup-ratio",
        ),
    ] = 1
    compress_ratio: Annotated[
        int,
        Field(ge=1),
        Option("Make the payload compressible by this ratio.", STATE, name="compress-ratio"),
    ] = 1
    trim: bool = False
    """Whether any target's deletes discard."""
    fsync: FsyncPolicy = FsyncPolicy.NONE
    """What the folder target's writes make durable."""
    min_window_ns: Annotated[_Time, Option("Mark a shorter run INVALID.", OUTPUT)] = 10 * S_NS
    limit_rows: Annotated[
        Positive | None,
        Option(
            "Replay only the first rows (1000) or the first time (60s).", TIMING, takes="N|TIME"
        ),
    ] = None
    limit_ns: _PositiveTime | None = None
    with_failed: Annotated[
        bool, Option("Execute ops that failed when the trace was recorded as well.", TIMING)
    ] = False
    bpf: Annotated[
        bool, Option("Measure block-layer latencies with bpftrace (needs root).", OUTPUT)
    ] = False
    accept: Annotated[
        tuple[str, ...],
        Option("Exit 0 despite this INVALID reason; it is still reported.", OUTPUT, takes="CODE"),
    ] = ()

    @model_validator(mode="before")
    @classmethod
    def _one_limit(cls, data: Any) -> Any:
        """Return the fields with `limit` as rows or time."""
        if not isinstance(data, dict) or "limit" not in data:
            return data
        given = data["limit"]
        if isinstance(given, bool) or not data.keys().isdisjoint(("limit_rows", "limit_ns")):
            raise ValueError("limit is rows or a time, and stands for limit_rows and limit_ns")
        rest = {key: value for key, value in data.items() if key != "limit"}
        rows = isinstance(given, int) or (
            isinstance(given, str) and given.replace("_", "").isdigit()
        )
        return rest if given is None else rest | {"limit_rows" if rows else "limit_ns": given}

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
