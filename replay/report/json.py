"""The machine-readable report. Keys keep their names once released."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any

from kvtrace.units import S_NS
from replay.histogram import ERROR_RATIO, Summary

if TYPE_CHECKING:
    from pathlib import Path

    from replay.fidelity import Fidelity
    from replay.recorder import Group, Lateness
    from replay.result import DeviceView, LaneResult, Result
    from replay.slices import Series
    from replay.verdict import Reason

SUFFIX = ".json"
SCHEMA_VERSION = 1


def write(result: Result, path: Path) -> None:
    """Write the report to `path`."""
    text = json.dumps(document(result), indent=2, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")


def document(result: Result) -> dict[str, Any]:
    """Return the report as what JSON knows."""
    headline = result.headline.measure
    return {
        "schema_version": SCHEMA_VERSION,
        "verdict": result.verdict.word,
        "reasons": [_reason(reason) for reason in result.verdict.reasons],
        "marks": [_reason(reason) for reason in result.verdict.marks],
        "warnings": [_reason(reason) for reason in result.verdict.warnings],
        "window_s": result.window_ns / S_NS,
        "ops": result.ops,
        "bytes": result.bytes,
        "throughput_bytes_per_s": result.bytes_per_s,
        "ops_per_s": result.ops_per_s,
        "kv_tokens_per_s": result.kv_tokens_per_s,
        "storage_throughput_tokens_per_sec": result.storage_throughput_tokens_per_s,
        "errors": sum(result.errors.values()),
        "errors_by_name": result.errors,
        "headline_tier": headline.tier.label,
        "lateness_ns": _lateness(headline.lateness),
        "service_ns": _summary(headline.service),
        "response_ns": _summary(headline.response),
        "percentile_error_ratio_max": ERROR_RATIO,
        "lanes": [_lane(result, lane) for lane in result.lanes],
        "groups": [_group(group) for group in result.groups.whole],
        "groups_by_qos": [
            {**_group(group), "qos": group.qos.label if group.qos is not None else None}
            for group in result.groups.by_qos
        ],
        "groups_by_size": [
            {**_group(group), "size_class_bytes": group.size_class}
            for group in result.groups.by_size
        ],
        "not_executed": [
            {"tier": part.tier.label, "ops": part.ops, "bytes": part.bytes}
            for part in result.skipped
        ],
        "fidelity": _fidelity(result.fidelity),
        "populate": dataclasses.asdict(result.populated),
        "payload": dataclasses.asdict(result.payload),
        "tool": _tool(result),
        "environment": dataclasses.asdict(result.environment),
        "trace": dataclasses.asdict(result.trace),
        "config": result.options.model_dump(mode="json"),
    }


def _reason(reason: Reason) -> dict[str, Any]:
    return dataclasses.asdict(reason)


def _summary(summary: Summary | None) -> dict[str, Any] | None:
    if summary is None:
        return None
    return {
        **summary.percentiles,
        "max": summary.max,
        "count": summary.count,
        "few_samples": list(summary.few_samples),
    }


def _lateness(lateness: Lateness) -> dict[str, Any]:
    return {
        **(_summary(lateness.total) or {}),
        "dependency_wait_ns": _summary(lateness.dependency_wait),
        "slot_wait_ns": _summary(lateness.slot_wait),
        "burst_wait_ns": _summary(lateness.burst_wait),
        "host_lateness_ns": _summary(lateness.host),
    }


def _lane(result: Result, lane: LaneResult) -> dict[str, Any]:
    measure = lane.measure
    return {
        "tier": measure.tier.label,
        "target": lane.target_name,
        "title": lane.target,
        "ops": measure.ops,
        "bytes": measure.bytes,
        "device_bytes": measure.device_bytes,
        "errors": measure.errors,
        "window_s": measure.window_ns / S_NS,
        "drain_s": measure.drain_ns / S_NS,
        "throughput_bytes_per_s": measure.bytes_per_s,
        "ops_per_s": measure.ops_per_s,
        "kv_tokens_per_s": result.lane_tokens_per_s(lane),
        "service_ns": _summary(measure.service),
        "response_ns": _summary(measure.response),
        "lateness_ns": _lateness(measure.lateness),
        "on_schedule_ratio": measure.on_schedule_ratio,
        "in_flight_max": measure.in_flight_max,
        "in_flight_mean": measure.in_flight_mean,
        "drift_ratio": measure.drift_ratio,
        "live_bytes_max": lane.live_bytes_max,
        "live_objects_max": lane.live_objects_max,
        "warmup_ops": measure.warmup_ops,
        "counters": _counters(lane),
        "io_ns": [
            {"size_class_bytes": group.size_class, **(_summary(group.latency) or {})}
            for group in lane.io
        ],
        "time_slices": _series(measure.series),
        "device": _device(lane.device),
        "device_state": None if lane.state is None else dataclasses.asdict(lane.state),
        "device_change": _change(lane),
        "preconditioned": (
            None if lane.preconditioned is None else dataclasses.asdict(lane.preconditioned)
        ),
    }


def _counters(lane: LaneResult) -> dict[str, int]:
    found = dataclasses.asdict(lane.counters)
    del found["io_counts"]  # reported as `io_ns`
    return found


def _series(series: Series) -> dict[str, Any]:
    return {
        "width_s": series.width_ns / S_NS,
        **{name: column.tolist() for name, column in series.columns.items()},
    }


def _change(lane: LaneResult) -> dict[str, Any] | None:
    if lane.change is None:
        return None
    found = dataclasses.asdict(lane.change)
    return {**found, "write_amplification": lane.change.write_amplification}


def _device(view: DeviceView | None) -> dict[str, Any] | None:
    if view is None:
        return None
    stat = view.stat
    return {
        **dataclasses.asdict(stat),
        "read_latency_ms_mean": stat.read_ms / stat.read_ios if stat.read_ios else None,
        "write_latency_ms_mean": stat.write_ms / stat.write_ios if stat.write_ios else None,
        "device_bytes_per_byte_asked": view.bytes / view.asked_bytes if view.asked_bytes else None,
    }


def _group(group: Group) -> dict[str, Any]:
    return {
        "tier": group.tier.label,
        "phase": group.phase.label,
        "op": group.op.label,
        "ops": group.ops,
        "bytes": group.bytes,
        "errors": group.errors,
        "service_ns": _summary(group.service),
        "response_ns": _summary(group.response),
    }


def _fidelity(found: Fidelity) -> dict[str, Any]:
    return {
        "submit_error_ns": _summary(found.submit_error),
        "interarrival_distance_ns": found.interarrival_distance_ns,
        "in_flight_planned_max": found.in_flight_planned_max,
        "in_flight_actual_max": found.in_flight_actual_max,
        "stretch_ratio": found.stretch_ratio,
        "order_violations": found.order_violations,
        "phases": [
            {**dataclasses.asdict(count), "phase": count.phase.label} for count in found.phases
        ],
    }


def _tool(result: Result) -> dict[str, Any]:
    tool, moved = result.tool, result.bytes
    return {
        "engine": tool.engine,
        "engine_note": tool.engine_note,
        "spin": tool.spin,
        "page_size": result.payload.page_kind,
        "cpu_s": tool.cpu_ns / S_NS,
        "cpu_s_per_gb": tool.cpu_ns / moved if moved else None,  # ns per byte is s per GB
        "verify_cpu_s": tool.verify_cpu_ns / S_NS,
        "threads": tool.threads,
        "priority": tool.priority,
        "memory_bytes_max": tool.memory_bytes,
        "survey_s": tool.survey_s,
        "survey_rows_per_cpu_s": tool.survey_rows_per_cpu_s,
        "plan_cpu_s": tool.plan_cpu_s,
        "plan_ops_per_cpu_s": tool.plan_ops_per_cpu_s,
        "plan_bytes_per_op": tool.plan_bytes_per_op,
        "plan_stalls": tool.plan_stalls,
        "payload_cpu_s": tool.payload_cpu_s,
        "payload_stalls": tool.payload_stalls,
        "drain_cpu_s": tool.drain_cpu_s,
    }
