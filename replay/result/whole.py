"""A result put together from its lanes and groups, whether a run or finished ops gave them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kvtrace.units import S_NS
from replay.measure.histogram import ERROR_RATIO
from replay.result.document import ResultDocument
from replay.result.health import health_of
from replay.result.totals import (
    headline_of,
    kv_tokens_per_s,
    storage_throughput_tokens_per_s,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from replay.measure.figures import LaneDocument
    from replay.measure.recorder import Groups
    from replay.result.trace_info import TraceInfo


def lane_of(lane: LaneDocument, trace: TraceInfo, **known: Any) -> LaneDocument:
    """Return a measured lane with what else is `known` of it, by the figures' names."""
    tokens = kv_tokens_per_s(trace, lane.throughput_bytes_per_s)
    assert set(known) <= set(type(lane).model_fields), known
    return lane.model_copy(update={**known, "kv_tokens_per_s": tokens})


def result_of(
    lanes: Sequence[LaneDocument], groups: Groups, trace: TraceInfo, **known: Any
) -> ResultDocument:
    """Return the result: what the lanes amount to, and what else is `known`, by figures' names."""
    headline = headline_of(lanes)
    window_ns = max(lane.window_ns for lane in lanes)
    moved, done = sum(lane.window_bytes for lane in lanes), sum(lane.window_ops for lane in lanes)
    bytes_per_s = moved * S_NS / window_ns if window_ns else None
    return ResultDocument(
        window_s=window_ns / S_NS,
        ops=sum(lane.ops for lane in lanes),
        bytes=sum(lane.bytes for lane in lanes),
        throughput_bytes_per_s=bytes_per_s,
        ops_per_s=done * S_NS / window_ns if window_ns else None,
        kv_tokens_per_s=kv_tokens_per_s(trace, bytes_per_s),
        storage_throughput_tokens_per_sec=storage_throughput_tokens_per_s(trace, groups.whole),
        headline_tier=headline.tier,
        lateness_ns=headline.lateness_ns,
        service_ns=headline.service_ns,
        response_ns=headline.response_ns,
        percentile_error_ratio_max=ERROR_RATIO,
        lanes=list(lanes),
        groups=groups.whole,
        groups_by_qos=groups.by_qos,
        groups_by_size=groups.by_size,
        storage_health=health_of(groups.whole, lanes, trace),
        trace=trace,
        **known,
    )
