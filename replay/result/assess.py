"""From a finished run to its result: measures, verdict, what it cost."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from kvtrace.units import S_NS
from replay import clock
from replay.host import environment
from replay.host.document import block_document, device_document, host_document
from replay.measure import fidelity
from replay.measure.counts import counts_of
from replay.measure.figures import Counters, DeviceCounters, DriveChange, IoLatency
from replay.measure.histogram import COARSE_BITS, Histogram
from replay.measure.recorded import recorded_flights
from replay.ops.columns import DEPENDENCY_FAILED, SECTOR_BYTES, VERIFY_FAILED
from replay.ops.contract import Verify
from replay.options import Payload, ReplayOptions, Timing
from replay.payload import stamps as payload
from replay.result.document import PayloadInfo
from replay.result.findings import Findings
from replay.result.finished import Result
from replay.result.trace_info import describe
from replay.result.verdict import judge
from replay.result.whole import lane_of, result_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kvtrace.trace.reader import Trace
    from replay.device.sysfs import DeviceState, DiskStat
    from replay.host.bpf import BlockLatency
    from replay.host.environment import Environment
    from replay.host.series import DeviceSeries, HostSeries
    from replay.measure.fidelity import FidelityDocument
    from replay.measure.figures import LaneDocument
    from replay.measure.recorder import Recorder
    from replay.measure.requests.measure import Requests
    from replay.measure.tally import Tally
    from replay.ops.counters import LaneCounters
    from replay.ops.done import Done
    from replay.payload.reduction import Reduction
    from replay.plan.prepare import Prepared
    from replay.result.document import Populated, ToolDocument
    from replay.result.trace_info import TraceInfo

_SMALL_PAGES = "4K"


@dataclass(frozen=True, slots=True)
class Measured:
    """What came out of a run, beside what had been prepared."""

    counters: tuple[LaneCounters, ...]
    """Per loop thread."""
    inline_lanes: tuple[int, ...]
    """Those whose work is done by the loop's own thread."""
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
    cost: ToolDocument
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
    source: Trace, prepared: Prepared, options: ReplayOptions, measured: Measured, trace: TraceInfo
) -> Iterator[LaneDocument]:
    """Yield each lane: what was measured, and what it ran on."""
    recorded = recorded_flights(source)
    for lane, tier in enumerate(prepared.tiers):
        counters = _threads_of(lane, measured, options.threads)
        measure = measured.recorder.measure(lane, tier, counters)
        if measure.in_flight is not None and tier in recorded:
            flight = measure.in_flight.model_copy(update={"recorded": recorded[tier]})
            measure = measure.model_copy(update={"in_flight": flight})
        before, after = measured.states[lane]
        target, need = prepared.targets[lane], prepared.needs[lane]
        yield lane_of(
            measure,
            trace,
            target=target.spec.name,
            title=target.title,
            counters=_sum(counters),
            io_ns=_io(counters),
            live_bytes_max=need.live_bytes,
            live_objects_max=need.live_objects_max,
            space_needed_bytes=need.size_bytes,
            device=_device(measured.stats[lane], measure.device_bytes),
            device_series=device_document(measured.device_series[lane]),
            device_state=after,
            device_change=None if before is None or after is None else _change(before, after),
            preconditioned=target.preconditioned,
        )


def _change(before: DeviceState, after: DeviceState) -> DriveChange:
    change = after.since(before)
    return DriveChange(**dataclasses.asdict(change), write_amplification=change.write_amplification)


def _device(stat: DiskStat | None, asked_bytes: int) -> DeviceCounters | None:
    """Return the device's own counters over the run, beside the bytes that the lane moved."""
    if stat is None:
        return None
    moved = stat.read_bytes + stat.write_bytes
    return DeviceCounters(
        **dataclasses.asdict(stat),
        read_latency_ms_mean=stat.read_ms / stat.read_ios if stat.read_ios else None,
        write_latency_ms_mean=stat.write_ms / stat.write_ios if stat.write_ios else None,
        device_bytes_per_byte_asked=moved / asked_bytes if asked_bytes else None,
    )


def _sum(counters: tuple[LaneCounters, ...]) -> Counters:
    """Return the counts of all loop threads of a lane."""
    return Counters(
        **{name: sum(getattr(each, name) for each in counters) for name in Counters.model_fields}
    )


def _io(counters: tuple[LaneCounters, ...]) -> list[IoLatency]:
    """Return the latencies of single I/Os, per size class."""
    kept = [each.io_counts for each in counters if each.io_counts is not None]
    if not kept:
        return []
    total = np.sum(kept, axis=0)
    return [
        IoLatency(
            size_class_bytes=1 << size,
            **dict(Histogram.from_counts(total[size], COARSE_BITS).summary()),
        )
        for size in range(len(total))
        if total[size].any()
    ]


def _findings(
    prepared: Prepared,
    options: ReplayOptions,
    measured: Measured,
    lanes: tuple[LaneDocument, ...],
    faithful: FidelityDocument,
    observed: Environment,
) -> Findings:
    tally = measured.tally
    views = [(lane.device, lane.device_bytes) for lane in lanes if lane.device is not None]
    own = sum(asked_bytes for _, asked_bytes in views)
    device_bytes = [device.read_bytes + device.write_bytes for device, _ in views]
    unpopulated = options.populate == "none"
    begun = prepared.begun(tally.reached)
    return Findings(
        lanes=lanes,
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
        window_ns=max(lane.window_ns for lane in lanes),
        interrupted=measured.interrupted,
        changed=measured.changed,
        suspended_ns=measured.suspended_ns,
        foreign_bytes=sum(device_bytes) - own if views else None,
        own_bytes=own,
        engine=measured.cost.engine,
        small_pages=measured.page_kind == _SMALL_PAGES and own > 0,
        backlog_tiers=_backlogs(lanes, measured),
        inline_tiers=tuple(lanes[number].tier for number in measured.inline_lanes),
        scheduled=options.mode != Timing.MAX,
        planner_stalls=sum(counters.planner_stalls for counters in measured.counters),
        repeated_payload=not options.stamped and options.payload == Payload.ARENA,
        unconditioned=any(
            writes and lane.preconditioned is None and lane.device is not None
            for writes, lane in zip(prepared.writes, lanes, strict=True)
        ),
        throttled=tuple(
            lane.title
            for lane in lanes
            if lane.device_change is not None and lane.device_change.throttled
        ),
        no_bpf=measured.bpf if isinstance(measured.bpf, str) else "",
        measured_ops=sum(lane.service_ns.count for lane in lanes),
        moved_reads=tally.moved_reads,
        coverage=_payload(prepared, options, measured),
        targets=observed.targets,
    )


def _backlogs(lanes: tuple[LaneDocument, ...], measured: Measured) -> tuple[str, ...]:
    """Return the tiers whose backlog still grew at the end."""
    recorded = zip(lanes, measured.recorder.lanes, strict=True)
    return tuple(lane.tier for lane, record in recorded if record.backlog_growing)


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
    tally = measured.tally
    begun = prepared.begun(tally.reached)
    info = describe(
        trace,
        sha256=measured.trace_sha256,
        rows_replayed=tally.reached if measured.stopped else begun.rows,
        duration_ns=begun.last_ns,
        rounds=prepared.rounds(tally.reached),
    )
    lanes = tuple(_lanes(trace, prepared, options, measured, info))
    phases = fidelity.phases_of(begun, prepared.tiers, measured.recorder)
    faithful = fidelity.measure(measured.recorder, phases, measured.order_violations)
    observed = environment.observe(prepared.targets)
    findings = _findings(prepared, options, measured, lanes, faithful, observed)
    verdict = judge(findings, options.accept)
    errors = tally.errors(unreached=not measured.time_is_over)
    figures = result_of(
        lanes,
        measured.recorder.groups(),
        info,
        kind="replay",
        verdict=verdict.word,
        acceptable=verdict.acceptable,
        reasons=list(verdict.reasons),
        marks=list(verdict.marks),
        warnings=list(verdict.warnings),
        requests=None if measured.requests is None else measured.requests.measure(),
        created_at_s=clock.unix_s(),
        errors=sum(errors.values()),
        errors_by_name=errors,
        not_executed=fidelity.skipped(begun, prepared.tiers),
        fidelity=faithful,
        populate=measured.populated,
        payload=findings.coverage,
        tool=_tool(measured.cost, sum(lane.bytes for lane in lanes)),
        environment=observed,
        host_series=host_document(measured.host_series),
        bpf=None if isinstance(measured.bpf, str) else block_document(measured.bpf),
        config=options,
    )
    return Result(verdict, figures, measured.recorder.start_ns, measured.kept)


def _tool(cost: ToolDocument, moved_bytes: int) -> ToolDocument:
    """Return what the tool took, beside the bytes that it moved."""
    per_gb = round(cost.cpu_s * S_NS) / moved_bytes if moved_bytes else None  # ns per byte
    return cost.model_copy(update={"cpu_s_per_gb": per_gb})
