"""Before anything is opened: which tiers run where, what they need, and the plan."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, replace
from math import ceil
from typing import TYPE_CHECKING

import numpy as np

from kvtrace.errors import TraceError, UsageError
from kvtrace.placement import extents
from kvtrace.placement.extents import any_mixed, lane_of_tier
from kvtrace.placement.looped import Loop, loop
from kvtrace.placement.rows import RowSource, TraceRows
from kvtrace.placement.survey import Survey, survey
from kvtrace.trace.schema import MAX_TIME_NS, Tier
from kvtrace.units import S_NS, format_bytes, format_duration_ns
from replay import clock
from replay import targets as target_folder
from replay.options import Payload, Timing
from replay.payload import fresh
from replay.payload import stamps as payload
from replay.plan.geometry import Geometry
from replay.plan.planner import Planner, make_ring
from replay.targets import TargetSpec

if TYPE_CHECKING:
    from contextlib import ExitStack

    from numpy.typing import NDArray

    from kvtrace.placement.extents import Need, Space
    from kvtrace.trace.reader import Trace
    from replay.ops.columns import Ops
    from replay.options import ReplayOptions
    from replay.targets import Target
    from replay.watch import Stop, Watcher

_POPULATE_STREAM = 1
"""Spawn key of the random numbers that shuffle extents."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A run that could start now. One target, need and space per lane, fastest tier first."""

    tiers: tuple[Tier, ...]
    targets: tuple[Target, ...]
    needs: tuple[Need, ...]
    spaces: tuple[Space, ...]
    writes: tuple[bool, ...]
    rows: RowSource
    survey: Survey
    """Of all rows, or of two rounds of a loop."""
    loop: Loop | None
    populate: Ops
    populate_count: int
    planner: Planner
    ring: Ops
    run_id: int
    arena_bytes: int
    named_not_executed: tuple[Tier, ...]
    survey_ns: int
    survey_cpu_ns: int

    def rounds(self, ops: int) -> float:
        """Return how often the trace was replayed when as many ops of executed tiers were begun."""
        once = self.survey if self.loop is None else self.loop.once
        if ops <= once.executed_ops:
            return ops / max(1, once.executed_ops)
        return 1 + (ops - once.executed_ops) / (self.survey.executed_ops - once.executed_ops)

    def begun(self, ops: int) -> Survey:
        """Return what was surveyed, with the counts of the rounds that as many ops are of."""
        rounds = max(1, ceil(self.rounds(ops)))
        return self.survey if self.loop is None else self.loop.survey(rounds)

    @property
    def mixed_lanes(self) -> tuple[int, ...]:
        """Lanes whose objects differ in length."""
        return tuple(
            lane
            for lane, need in enumerate(self.needs)
            if need.longest_bytes and not need.uniform_bytes
        )

    @property
    def moves_bytes(self) -> bool:
        """Whether any target does more than complete at once."""
        return any(target.spec.name != "null" for target in self.targets)


def choose_targets(
    given: tuple[TargetSpec | Target, ...], named: tuple[Tier, ...] | None
) -> dict[Tier, Target]:
    """Return which target executes which tier. Raises UsageError if two want the same one.

    A target that is given ready-made executes one tier.
    """
    chosen: dict[Tier, Target] = {}
    for item in given:
        ready = None if isinstance(item, TargetSpec) else item
        spec = item if isinstance(item, TargetSpec) else item.spec
        if ready is not None and len(spec.tiers) != 1:
            raise UsageError(
                "a ready-made target executes one tier",
                where=spec.name,
                got=", ".join(tier.label for tier in spec.tiers),
                hint="make one for each tier",
            )
        for tier in spec.tiers:
            if tier in chosen:
                raise UsageError(
                    f"two targets for tier {tier.label}",
                    got=f"{chosen[tier].spec.name} and {spec.name}",
                    hint="name one",
                )
            if named is None or tier in named:
                made = ready or target_folder.make(replace(spec, tiers=(tier,)))
                chosen[tier] = made
    if not chosen:
        raise UsageError(
            "no tier has a target",
            accepted="--device PATH (nvme), --cpu memory (cpu), --target null (any)",
        )
    return dict(sorted(chosen.items()))


def _survey(
    trace: Trace, tiers: tuple[Tier, ...], options: ReplayOptions, watcher: Watcher, stop: Stop
) -> tuple[RowSource, Survey, Loop | None]:
    """Return the rows that are to be replayed, and what they need."""

    def progress(rows: int) -> None:
        stop.check()
        watcher.advance(rows)

    watcher.stage("surveying", trace.rows)
    closed = options.mode == Timing.CLOSED
    rows, lanes = TraceRows(trace, options.limit), lane_of_tier(tiers)
    if not options.loop or not trace.rows:
        return rows, survey(rows, lanes, progress, count_sessions=closed), None
    endless = loop(rows, lanes, progress, count_sessions=closed)
    return endless.rows, endless.twice, endless


def _check_rows(trace: Trace, surveyed: Survey, tiers: tuple[Tier, ...]) -> None:
    if trace.rows == 0:
        raise TraceError("the trace has no rows", where=trace.path, hint="record it again")
    if surveyed.rows == 0:
        hint = "--with-failed executes ops that had failed" if "error" in trace.columns else None
        raise UsageError("--limit leaves no rows", where=trace.path, hint=hint)
    if surveyed.executed_ops == 0:
        tiers_with_rows = [tier.label for tier in Tier if surveyed.cell_ops[tier].any()]
        raise UsageError(
            "nothing to execute",
            where=trace.path,
            got=f"targets for {', '.join(tier.label for tier in tiers)}",
            accepted=f"the trace's tiers: {', '.join(tiers_with_rows)}",
            hint="give one of them a target",
        )


def schedule_text(surveyed: Survey, options: ReplayOptions) -> str | None:
    """Return one line on how long the run takes by its schedule; None where it doesn't tell."""
    if options.mode == Timing.MAX or options.loop:
        return None
    due_ns = int(surveyed.last_ns / options.speed)
    days = due_ns / S_NS / 86_400
    long = f", {days:,.1f} days" if days >= 1 else ""
    if options.mode == Timing.CLOSED:
        return f"schedule: about {format_duration_ns(due_ns)}{long}, by completions"
    return f"schedule: the last op is due after {format_duration_ns(due_ns)}{long}"


def _check_duration(trace: Trace, surveyed: Survey, options: ReplayOptions) -> None:
    if options.mode == Timing.MAX or surveyed.last_ns <= options.speed * MAX_TIME_NS:
        return
    raise UsageError(
        "the run would be longer than a clock can hold",
        where="--speed",
        got=f"{options.speed:g}, and {format_duration_ns(surveyed.last_ns)} of {trace.path}",
        accepted=f"at least {surveyed.last_ns / MAX_TIME_NS:.3g}",
    )


def _lane_writes(
    surveyed: Survey, targets: dict[Tier, Target], options: ReplayOptions
) -> tuple[bool, ...]:
    """Return, per lane, whether the run changes its target: writes, populates, deletes."""
    originals = surveyed.originals
    populated = {
        "touched": (originals["initial"] > 0) | (originals["touched"] > 0),
        "all": np.ones(len(originals), bool),
        "none": np.zeros(len(originals), bool),
    }["none" if options.reuse_populated else options.populate]
    return tuple(
        surveyed.changes_objects(tier, deletes=target.deletes)
        or bool(populated[originals["lane"] == lane].any())
        for lane, (tier, target) in enumerate(targets.items())
    )


def _check_geometry(spaces: tuple[Space, ...], options: ReplayOptions) -> None:
    for space in spaces:
        if options.io_size_bytes % space.align_bytes:
            raise UsageError(
                "isn't a multiple of the target's alignment",
                where="--io-size",
                got=format_bytes(options.io_size_bytes),
                accepted=f"multiples of {format_bytes(space.align_bytes)}",
            )


def _check_arena(
    surveyed: Survey, arena_bytes: int, options: ReplayOptions, *, whole: bool
) -> None:
    """`whole`: a target takes objects in one piece."""
    longest = surveyed.longest_bytes
    if (whole or options.verify == "full") and longest > arena_bytes:
        raise UsageError(
            f"{'--dir' if whole else '--verify full'} needs an arena that holds the largest object",
            where="--arena",
            got=format_bytes(arena_bytes),
            accepted=f"at least {format_bytes(longest)}",
        )


def _check_payload(surveyed: Survey, arena_bytes: int, options: ReplayOptions) -> None:
    if options.payload != Payload.FRESH:
        return
    if options.verify == "full":
        raise UsageError(
            "--verify full compares with the arena, and --payload fresh doesn't keep one",
            accepted="--verify stamps",
        )
    # A write may have to skip as much as its own length at the ring's end, and waits for all of it.
    needed = 2 * surveyed.longest_bytes + fresh.CHUNK_BYTES
    if needed > arena_bytes:
        raise UsageError(
            "--payload fresh needs an arena of twice the largest object",
            where="--arena",
            got=format_bytes(arena_bytes),
            accepted=f"at least {format_bytes(needed)}",
        )


def _executable(
    trace: Trace,
    targets: dict[Tier, Target],
    options: ReplayOptions,
    watcher: Watcher,
    stop: Stop,
) -> tuple[tuple[Tier, ...], RowSource, Survey, Loop | None]:
    """Return the tiers that have a target and rows, and the survey with a lane for each."""
    tiers = tuple(targets)
    rows, surveyed, endless = _survey(trace, tiers, options, watcher, stop)
    _check_rows(trace, surveyed, tiers)
    _check_duration(trace, surveyed, options)
    with_rows = tuple(tier for tier in tiers if surveyed.cell_ops[tier].any())
    if with_rows != tiers:
        rows, surveyed, endless = _survey(trace, with_rows, options, watcher, stop)
    return with_rows, rows, surveyed, endless


def _arena(surveyed: Survey, targets: tuple[Target, ...], options: ReplayOptions) -> int:
    """Return the arena's size: one I/O where nothing is moved."""
    if all(target.spec.name == "null" for target in targets):
        return options.io_size_bytes
    arena_bytes = payload.arena_size(options.arena_bytes, options.io_size_bytes)
    whole = any(target.space().per_object for target in targets)
    _check_arena(surveyed, arena_bytes, options, whole=whole)
    _check_payload(surveyed, arena_bytes, options)
    return arena_bytes


def _reserve(
    surveyed: Survey, targets: tuple[Target, ...], options: ReplayOptions
) -> tuple[NDArray[np.void], tuple[Need, ...], tuple[Space, ...]]:
    """Return how extents are laid out, what lanes need and get. Raises TargetError if too little.

    An object is divided, where it has to be, into what would be I/Os of their own anyway.
    """
    offered = tuple(target.space() for target in targets)
    _check_geometry(offered, options)
    slack, part_bytes = options.slack_ratio, options.io_size_bytes
    needs = extents.needs(surveyed, offered, slack, part_bytes)
    for need, space, target in zip(needs, offered, targets, strict=True):
        extents.check_fits(need, space, target.title)
    spaces = tuple(target.reserve(need) for target, need in zip(targets, needs, strict=True))
    return extents.lanes(needs, spaces, slack, part_bytes), needs, spaces


def prepare(
    trace: Trace,
    given: tuple[TargetSpec | Target, ...],
    options: ReplayOptions,
    watcher: Watcher,
    stop: Stop,
    closing: ExitStack,
) -> Prepared:
    """Return a run that could start now; nothing was written.

    `closing` closes the targets, which are claimed from here on.
    Raises UsageError, TraceError or TargetError for everything that can be known to be wrong.
    """
    made = choose_targets(given, options.tiers)
    start_ns, start_cpu_ns = clock.now_ns(), clock.process_cpu_ns()
    tiers, rows, surveyed, endless = _executable(trace, made, options, watcher, stop)
    surveyed_ns, surveyed_cpu_ns = clock.now_ns(), clock.process_cpu_ns()
    targets = tuple(made[tier] for tier in tiers)
    writes = _lane_writes(surveyed, dict(zip(tiers, targets, strict=True)), options)
    for target, lane_writes in zip(targets, writes, strict=True):
        closing.callback(target.close)
        target.authorise(writes=lane_writes)
    arena_bytes = _arena(surveyed, targets, options)
    lanes, needs, spaces = _reserve(surveyed, targets, options)
    run_id = _run_id(targets, options)
    geometry = _geometry(tiers, targets, spaces, arena_bytes, options)
    ring = make_ring(surveyed, closed=geometry.closed, divided=any_mixed(lanes))
    planner = Planner(rows, surveyed, lanes, geometry, ring)
    shuffle = np.random.default_rng(np.random.SeedSequence(run_id, spawn_key=(_POPULATE_STREAM,)))
    populate, populate_count = planner.populate(options.populate, shuffle)
    if options.payload == "fresh":
        planner.restart_arena()
    return Prepared(
        tiers=tiers,
        targets=targets,
        needs=needs,
        spaces=spaces,
        writes=writes,
        rows=rows,
        survey=surveyed,
        loop=endless,
        populate=populate,
        populate_count=populate_count,
        planner=planner,
        ring=ring,
        run_id=run_id,
        arena_bytes=arena_bytes,
        named_not_executed=tuple(t for t in options.tiers or () if t not in tiers),
        survey_ns=surveyed_ns - start_ns,
        survey_cpu_ns=surveyed_cpu_ns - start_cpu_ns,
    )


def _run_id(targets: tuple[Target, ...], options: ReplayOptions) -> int:
    """Return the run's id: as asked for, of the population to be reused, or a random one."""
    if options.run_id is not None:
        return options.run_id
    if options.reuse_populated:
        for target in targets:
            if target.earlier_run_id is not None:
                return target.earlier_run_id
    return secrets.randbits(16)


def _geometry(
    tiers: tuple[Tier, ...],
    targets: tuple[Target, ...],
    spaces: tuple[Space, ...],
    arena_bytes: int,
    options: ReplayOptions,
) -> Geometry:
    return Geometry(
        lane_of_tier(tiers),
        spaces,
        arena_bytes,
        options.io_size_bytes,
        speed=options.speed,
        threads=options.threads,
        deletes=tuple(target.deletes for target in targets),
        closed=options.mode == Timing.CLOSED,
        sync_stores=options.sync_stores,
        fresh=options.payload == Payload.FRESH,
    )
