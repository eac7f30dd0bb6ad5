"""From a run's result to the document that reports show and files keep."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from kvtrace.units import S_NS
from replay.host.document import block_document, device_document, host_document
from replay.measure.histogram import ERROR_RATIO, Summary
from replay.result import document as doc
from replay.result.health import health_of
from replay.result.requests import document_of as requests_document
from replay.result.summaries import Distribution, Percentiles, flat, percentiles

if TYPE_CHECKING:
    from replay.measure.fidelity import Fidelity
    from replay.measure.recorder import Group, Groups, LaneMeasure, Lateness
    from replay.measure.slices import Heat, Series
    from replay.measure.window import Completed
    from replay.result.model import DeviceView, IoGroup, LaneResult, Result
    from replay.result.totals import Totals
    from replay.result.trace_info import TraceInfo


def document_of(result: Result) -> doc.ResultDocument:
    """Return the result as a document."""
    lanes = [_lane(result, lane) for lane in result.lanes]
    return doc.ResultDocument(
        kind="replay",
        verdict=result.verdict.word,
        acceptable=result.verdict.acceptable,
        reasons=list(result.verdict.reasons),
        marks=list(result.verdict.marks),
        warnings=list(result.verdict.warnings),
        **summed(result.totals, lanes),
        **grouped(result.groups, lanes, result.trace),
        requests=requests_document(result.requests),
        created_at_s=result.created_at_s,
        errors=sum(result.errors.values()),
        errors_by_name=result.errors,
        not_executed=[
            doc.NotExecuted(tier=part.tier.label, ops=part.ops, bytes=part.bytes)
            for part in result.skipped
        ],
        fidelity=fidelity_of(result.fidelity),
        populate=result.populated,
        payload=result.payload,
        tool=_tool(result),
        environment=result.environment,
        host_series=host_document(result.host_series),
        bpf=block_document(result.bpf),
        config=result.options,
    )


def summed(totals: Totals, lanes: list[doc.LaneDocument]) -> dict[str, Any]:
    """Return the lanes, what they amount to, and the trace that they did."""
    headline = next(lane for lane in lanes if lane.tier == totals.headline.tier.label)
    return {
        "window_s": totals.window_ns / S_NS,
        "ops": totals.ops,
        "bytes": totals.bytes,
        "throughput_bytes_per_s": totals.bytes_per_s,
        "ops_per_s": totals.ops_per_s,
        "kv_tokens_per_s": totals.kv_tokens_per_s(totals.bytes_per_s),
        "storage_throughput_tokens_per_sec": totals.storage_throughput_tokens_per_s,
        "headline_tier": headline.tier,
        "lateness_ns": headline.lateness_ns,
        "service_ns": headline.service_ns,
        "response_ns": headline.response_ns,
        "percentile_error_ratio_max": ERROR_RATIO,
        "lanes": lanes,
        "trace": totals.trace,
    }


def grouped(groups: Groups, lanes: list[doc.LaneDocument], trace: TraceInfo) -> dict[str, Any]:
    """Return the three lists of groups, and what follows from them and the trace."""
    whole = [_group(each, distribution=True) for each in groups.whole]
    return {
        "groups": whole,
        "storage_health": health_of(whole, lanes, trace),
        "groups_by_qos": [_group(each) for each in groups.by_qos],
        "groups_by_size": [_group(each) for each in groups.by_size],
    }


def distribution(summary: Summary) -> Distribution:
    """Return the filled buckets below a summary."""
    buckets = summary.buckets
    return Distribution(upper=buckets.upper.tolist(), count=buckets.count.tolist())


def slices(series: Series) -> doc.TimeSlices:
    """Return slices of time as a document has them."""
    columns: dict[str, Any] = {name: values.tolist() for name, values in series.columns.items()}
    for name in ("response_p50_ns", "response_p99_ns", "host_lateness_max_ns"):
        columns.setdefault(name, None)
    return doc.TimeSlices(width_s=series.width_ns / S_NS, **columns)


def heat_map(heat: Heat | None) -> doc.HeatMap | None:
    """Return a heat map as a document has it."""
    if heat is None:
        return None
    return doc.HeatMap(
        width_s=heat.width_ns / S_NS,
        edges_ns=heat.edges_ns.tolist(),
        counts=(heat.reads + heat.writes).tolist(),
        counts_by_op={"read": heat.reads.tolist(), "write": heat.writes.tolist()},
    )


def measured(measure: LaneMeasure) -> dict[str, Any]:
    """Return what of a lane comes from its ops' times alone."""
    response = measure.response
    return {
        "tier": measure.tier.label,
        "ops": measure.ops,
        "bytes": measure.bytes,
        "device_bytes": measure.device_bytes,
        "errors": measure.errors,
        "window_s": measure.window_ns / S_NS,
        "window_ops": measure.window_ops,
        "window_bytes": measure.window_bytes,
        "drain_s": measure.drain_ns / S_NS,
        "throughput_bytes_per_s": measure.bytes_per_s,
        **_rates(measure.completed),
        "io_s": measure.service_ns_sum / S_NS,
        "service_ns": percentiles(measure.service),
        "response_ns": _percentiles(response),
        "service_distribution_ns": distribution(measure.service),
        "response_distribution_ns": None if response is None else distribution(response),
        "on_schedule_ratio": measure.on_schedule_ratio,
        "in_flight": _in_flight(measure),
        "in_flight_mean": measure.ops_in_flight.mean,
        "in_flight_max": None if measure.ios_in_flight is None else measure.ios_in_flight.max,
        "drift_ratio": measure.drift_ratio,
        "warmup_ops": measure.warmup_ops,
        "time_slices": slices(measure.series),
        "heat_map": heat_map(measure.heat),
    }


def _rates(completed: Completed) -> dict[str, float | None]:
    return {
        "read_bytes_per_s": completed.per_s(completed.read_bytes),
        "write_bytes_per_s": completed.per_s(completed.write_bytes),
        "ops_per_s": completed.per_s(completed.ops),
        "reads_per_s": completed.per_s(completed.reads),
        "writes_per_s": completed.per_s(completed.writes),
    }


def _in_flight(measure: LaneMeasure) -> doc.InFlight:
    ops, ios = measure.ops_in_flight, measure.ios_in_flight
    return doc.InFlight(
        ops=doc.Flight(mean=ops.mean, max=ops.max),
        ios=None if ios is None else doc.Flight(mean=ios.mean, max=ios.max),
    )


def _lane(result: Result, lane: LaneResult) -> doc.LaneDocument:
    measure = lane.measure
    return doc.LaneDocument(
        **measured(measure),
        target=lane.target_name,
        title=lane.target,
        kv_tokens_per_s=result.totals.kv_tokens_per_s(measure.bytes_per_s),
        lateness_ns=_lateness(measure.lateness),
        live_bytes_max=lane.live_bytes_max,
        live_objects_max=lane.live_objects_max,
        space_needed_bytes=lane.space_needed_bytes,
        counters=_counters(lane),
        io_ns=[_io(group) for group in lane.io],
        device=_device(lane.device),
        device_series=device_document(lane.device_series),
        device_state=lane.state,
        device_change=_change(lane),
        preconditioned=lane.preconditioned,
    )


def _percentiles(summary: Summary | None) -> Percentiles | None:
    return None if summary is None else percentiles(summary)


def _lateness(lateness: Lateness) -> doc.LatenessSummary:
    return doc.LatenessSummary(
        **flat(lateness.total),
        dependency_wait_ns=percentiles(lateness.dependency_wait),
        slot_wait_ns=percentiles(lateness.slot_wait),
        burst_wait_ns=percentiles(lateness.burst_wait),
        host_lateness_ns=percentiles(lateness.host),
    )


def _counters(lane: LaneResult) -> doc.Counters:
    fields = dataclasses.asdict(lane.counters)
    del fields["io_counts"]  # reported as `io_ns`
    return doc.Counters(**fields)


def _io(group: IoGroup) -> doc.IoLatency:
    return doc.IoLatency(size_class_bytes=group.size_class, **flat(group.latency))


def _change(lane: LaneResult) -> doc.DriveChange | None:
    if lane.change is None:
        return None
    fields = dataclasses.asdict(lane.change)
    return doc.DriveChange(**fields, write_amplification=lane.change.write_amplification)


def _device(view: DeviceView | None) -> doc.DeviceCounters | None:
    if view is None:
        return None
    stat = view.stat
    return doc.DeviceCounters(
        **dataclasses.asdict(stat),
        read_latency_ms_mean=stat.read_ms / stat.read_ios if stat.read_ios else None,
        write_latency_ms_mean=stat.write_ms / stat.write_ios if stat.write_ios else None,
        device_bytes_per_byte_asked=view.bytes / view.asked_bytes if view.asked_bytes else None,
    )


def _group(group: Group, *, distribution: bool = False) -> doc.GroupDocument:
    return doc.GroupDocument(
        tier=group.tier.label,
        phase=group.phase.label,
        op=group.op.label,
        qos=None if group.qos is None else group.qos.label,
        size_class_bytes=group.size_class,
        ops=group.ops,
        bytes=group.bytes,
        errors=group.errors,
        service_ns=_percentiles(group.service),
        response_ns=_percentiles(group.response),
        service_distribution_ns=_buckets(group.service) if distribution else None,
        response_distribution_ns=_buckets(group.response) if distribution else None,
        service_per_mib_distribution_ns=_buckets(group.pace) if distribution else None,
    )


def _buckets(summary: Summary | None) -> Distribution | None:
    return None if summary is None else distribution(summary)


def fidelity_of(fidelity: Fidelity) -> doc.FidelityDocument:
    """Return how faithful a run was, as a document has it."""
    return doc.FidelityDocument(
        submit_error_ns=_percentiles(fidelity.submit_error),
        interarrival_distance_ns=fidelity.interarrival_distance_ns,
        interarrival_due_ns=_buckets(fidelity.due_gaps),
        interarrival_submit_ns=_buckets(fidelity.submit_gaps),
        in_flight_planned_max=fidelity.in_flight_planned_max,
        in_flight_actual_max=fidelity.in_flight_actual_max,
        stretch_ratio=fidelity.stretch_ratio,
        order_violations=fidelity.order_violations,
        phases=[
            doc.PhaseFidelity(**{**dataclasses.asdict(count), "phase": count.phase.label})
            for count in fidelity.phases
        ],
    )


def _tool(result: Result) -> doc.ToolDocument:
    tool, moved = result.tool, result.bytes
    return doc.ToolDocument(
        engine=tool.engine,
        engine_note=tool.engine_note,
        spin=tool.spin,
        page_size=result.payload.page_kind,
        cpu_s=tool.cpu_ns / S_NS,
        cpu_s_per_gb=tool.cpu_ns / moved if moved else None,  # ns per byte is s per GB
        verify_cpu_s=tool.verify_cpu_ns / S_NS,
        threads=tool.threads,
        priority=tool.priority,
        memory_bytes_max=tool.memory_bytes,
        survey_s=tool.survey_s,
        survey_rows_per_cpu_s=tool.survey_rows_per_cpu_s,
        plan_cpu_s=tool.plan_cpu_s,
        plan_ops_per_cpu_s=tool.plan_ops_per_cpu_s,
        plan_bytes_per_op=tool.plan_bytes_per_op,
        plan_stalls=tool.plan_stalls,
        payload_cpu_s=tool.payload_cpu_s,
        payload_stalls=tool.payload_stalls,
        drain_cpu_s=tool.drain_cpu_s,
    )
