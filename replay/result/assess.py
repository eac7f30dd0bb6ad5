"""From a finished run to its result: measures, verdict, what it cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from replay import clock
from replay.host import environment
from replay.measure import fidelity
from replay.measure.counts import counts_of
from replay.measure.histogram import COARSE_BITS, Histogram
from replay.ops.columns import DEPENDENCY_FAILED, SECTOR_BYTES, VERIFY_FAILED
from replay.ops.contract import Verify
from replay.ops.counters import LaneCounters
from replay.options import Payload, ReplayOptions, Timing
from replay.payload import stamps as payload
from replay.result.model import DeviceView, IoGroup, LaneResult, PayloadInfo, Result
from replay.result.trace_info import describe
from replay.result.verdict import Findings, judge

if TYPE_CHECKING:
    from kvtrace.trace.reader import Trace
    from replay.device.sysfs import DeviceState, DiskStat
    from replay.host.bpf import BlockLatency
    from replay.host.environment import Environment
    from replay.host.series import DeviceSeries, HostSeries
    from replay.measure.fidelity import Fidelity
    from replay.measure.recorder import Recorder
    from replay.measure.requests.measure import Requests
    from replay.measure.tally import Tally
    from replay.ops.done import Done
    from replay.payload.reduction import Reduction
    from replay.plan.prepare import Prepared
    from replay.result.model import Populated, ToolCost

_SMALL_PAGES = "4K"
_INLINE = ("null", "memory")


@dataclass(frozen=True, slots=True)
class Measured:
    """What came out of a run, beside what had been prepared."""

    counters: tuple[LaneCounters, ...]
    """Per loop thread."""
    recorder: Recorder
    requests: Requests | None
    tally: Tally
    order_violations: int
    kept: Done | None
    populated: Populated
    verify: Verify
    page_kind: str
    mismatches: tuple[str, ...]
    stats: tuple[DiskStat | None, ...]
    states: tuple[tuple[DeviceState | None, DeviceState | None], ...]
    """Per lane, before and after."""
    interrupted: bool
    time_is_over: bool
    """Whether the run ended because the time that it was given was over."""
    changed: tuple[str, ...]
    """Targets that no longer were what the run had opened when it ended, each with why."""
    suspended_ns: int
    trace_sha256: str
    cost: ToolCost
    reduction: Reduction | None
    device_series: tuple[DeviceSeries | None, ...]
    host_series: HostSeries | None
    bpf: BlockLatency | str | None
    """Or why it couldn't be had."""

    @property
    def stopped(self) -> bool:
        """Whether the run ended before its rows did."""
        return self.interrupted or self.time_is_over


def _threads_of(lane: int, measured: Measured, threads: int) -> tuple[LaneCounters, ...]:
    return measured.counters[lane * threads : (lane + 1) * threads]


def _lanes(
    prepared: Prepared, options: ReplayOptions, measured: Measured
) -> tuple[LaneResult, ...]:
    counted = []
    for lane, tier in enumerate(prepared.tiers):
        counters = _threads_of(lane, measured, options.threads)
        measure = measured.recorder.measure(lane, tier, counters)
        stat = measured.stats[lane]
        before, after = measured.states[lane]
        target = prepared.targets[lane]
        counted.append(
            LaneResult(
                measure=measure,
                target=target.title,
                target_name=target.spec.name,
                counters=_sum(counters),
                io=_io_groups(counters),
                live_bytes_max=prepared.needs[lane].live_bytes,
                live_objects_max=prepared.needs[lane].live_objects_max,
                space_needed_bytes=prepared.needs[lane].size_bytes,
                device=None if stat is None else DeviceView(stat, measure.device_bytes),
                state=after,
                change=None if before is None or after is None else after.since(before),
                preconditioned=target.preconditioned,
                device_series=measured.device_series[lane],
            )
        )
    return tuple(counted)


def _sum(counters: tuple[LaneCounters, ...]) -> LaneCounters:
    """Return the counts of all loop threads of a lane."""
    total = LaneCounters()
    for each in counters:
        for name in _SUMMED:
            setattr(total, name, getattr(total, name) + getattr(each, name))
    return total


_SUMMED = (
    "retries", "short_transfers", "bad_sectors", "in_flight_max", "in_flight_ns",
    "planner_stalls", "payload_stalls", "enter_calls", "timed_submits", "timed_submit_ns",
    "checked_bytes", "body_bytes", "body_reads",
)  # fmt: skip


def _io_groups(counters: tuple[LaneCounters, ...]) -> tuple[IoGroup, ...]:
    """Return the latencies of single I/Os, per size class."""
    kept = [each.io_counts for each in counters if each.io_counts is not None]
    if not kept:
        return ()
    total = np.sum(kept, axis=0)
    return tuple(
        IoGroup(1 << size, Histogram.from_counts(total[size], COARSE_BITS).summary())
        for size in range(len(total))
        if total[size].any()
    )


def _findings(
    prepared: Prepared,
    options: ReplayOptions,
    measured: Measured,
    lanes: tuple[LaneResult, ...],
    faithful: Fidelity,
    observed: Environment,
) -> Findings:
    tally = measured.tally
    views = [lane.device for lane in lanes if lane.device is not None]
    own = sum(view.asked_bytes for view in views)
    unpopulated = options.populate == "none"
    begun = prepared.begun(tally.reached)
    return Findings(
        lanes=tuple(lane.measure for lane in lanes),
        fidelity=faithful,
        counts=counts_of(begun, prepared.tiers, tally, stopped=measured.stopped),
        named_not_executed=tuple(tier.label for tier in prepared.named_not_executed),
        left_out_ops=begun.failed_rows,
        failed_ops=tally.failed,
        dependency_failed_ops=tally.count(DEPENDENCY_FAILED),
        first_error=tally.first_error,
        mismatches=measured.mismatches,
        mismatched_ops=tally.count(VERIFY_FAILED),
        original_reads=begun.original_reads if unpopulated else 0,
        beyond_reads=begun.beyond_reads,
        min_window_ns=options.min_window_ns,
        ended_after_ns=(options.run_time_ns or 0) if measured.time_is_over else 0,
        part_ratio=_part(prepared, measured),
        run_time_ns=0 if measured.stopped else options.run_time_ns or 0,
        window_ns=max(lane.measure.window_ns for lane in lanes),
        interrupted=measured.interrupted,
        changed=measured.changed,
        suspended_ns=measured.suspended_ns,
        foreign_bytes=sum(view.bytes for view in views) - own if views else None,
        own_bytes=own,
        engine=measured.cost.engine,
        small_pages=measured.page_kind == _SMALL_PAGES and own > 0,
        inline_tiers=tuple(
            tier
            for tier, target in zip(prepared.tiers, prepared.targets, strict=True)
            if target.spec.name in _INLINE
        ),
        scheduled=options.mode != Timing.MAX,
        planner_stalls=sum(lane.counters.planner_stalls for lane in lanes),
        repeated_payload=not options.stamped and options.payload == Payload.ARENA,
        unconditioned=any(
            writes and lane.preconditioned is None and lane.device is not None
            for writes, lane in zip(prepared.writes, lanes, strict=True)
        ),
        throttled=tuple(
            lane.target for lane in lanes if lane.change is not None and lane.change.throttled
        ),
        no_bpf=measured.bpf if isinstance(measured.bpf, str) else "",
        measured_ops=sum(lane.measure.service.count for lane in lanes),
        moved_reads=tally.moved_reads,
        coverage=_payload(prepared, options, measured),
        targets=observed.targets,
    )


def _part(prepared: Prepared, measured: Measured) -> float | None:
    """Return how much of the trace was begun, if a run time ended it before the first round did."""
    rounds = prepared.rounds(measured.tally.reached)
    return rounds if measured.time_is_over and rounds < 1 else None


def coverage_ratio(checked_bytes: int, body_bytes: int) -> float | None:
    """Return which part of the verified bytes was compared; None if nothing was verified."""
    if not checked_bytes:
        return None
    stamped = (checked_bytes - body_bytes) * payload.STAMP_BYTES / SECTOR_BYTES
    return (body_bytes + stamped) / checked_bytes


def _payload(prepared: Prepared, options: ReplayOptions, measured: Measured) -> PayloadInfo:
    moving = prepared.moves_bytes
    verifying = measured.verify != Verify.NONE
    checked = sum(counters.checked_bytes for counters in measured.counters)
    bodies = sum(counters.body_bytes for counters in measured.counters)
    return PayloadInfo(
        kind=options.payload.value if moving else "none",
        arena_bytes=prepared.arena_bytes if moving else 0,
        page_kind=measured.page_kind,
        run_id=prepared.run_id,
        stamped=options.stamped,
        verify=measured.verify.name.lower(),
        verified_ops=measured.tally.verified if verifying else 0,
        mismatched_ops=measured.tally.count(VERIFY_FAILED),
        mismatches=measured.mismatches,
        dedup_ratio=options.dedup_ratio,
        compress_ratio=options.compress_ratio,
        measured=measured.reduction,
        checked_bytes=checked,
        body_bytes=bodies,
        body_reads=sum(counters.body_reads for counters in measured.counters),
        coverage_ratio=coverage_ratio(checked, bodies),
    )


def assess(trace: Trace, prepared: Prepared, options: ReplayOptions, measured: Measured) -> Result:
    """Return the result of a finished (or interrupted) run."""
    lanes = _lanes(prepared, options, measured)
    tally = measured.tally
    begun = prepared.begun(tally.reached)
    phases = fidelity.phases_of(begun, prepared.tiers, measured.recorder)
    faithful = fidelity.measure(measured.recorder, phases, measured.order_violations)
    observed = environment.observe(prepared.targets)
    findings = _findings(prepared, options, measured, lanes, faithful, observed)
    return Result(
        verdict=judge(findings, options.accept),
        lanes=lanes,
        groups=measured.recorder.groups(),
        requests=None if measured.requests is None else measured.requests.measure(),
        fidelity=faithful,
        skipped=fidelity.skipped(begun, prepared.tiers),
        errors=tally.errors(unreached=not measured.time_is_over),
        populated=measured.populated,
        payload=_payload(prepared, options, measured),
        tool=measured.cost,
        environment=observed,
        trace=describe(
            trace,
            sha256=measured.trace_sha256,
            rows_replayed=tally.reached if measured.stopped else begun.rows,
            duration_ns=begun.last_ns,
            rounds=prepared.rounds(tally.reached),
        ),
        options=options,
        start_ns=measured.recorder.start_ns,
        created_at_s=clock.unix_s(),
        host_series=measured.host_series,
        bpf=None if isinstance(measured.bpf, str) else measured.bpf,
        kept=measured.kept,
    )
