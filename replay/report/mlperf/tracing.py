"""The benchmark's device tracing from the block layer's latencies."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kvtrace.trace.schema import Op
from kvtrace.units import US_NS

if TYPE_CHECKING:
    from replay.host.document import BlockLatencyDocument

NAMES = {Op.READ.label: "d2c_read_us", Op.WRITE.label: "d2c_write_us"}
"""From handing a request to the driver to its completion."""


def device_latency_tracing(block_layer: BlockLatencyDocument | None) -> dict[str, Any]:
    """Return its histograms, by name; nothing without measurement. `range_us` is [from, below)."""
    if block_layer is None:
        return {}
    histograms: dict[str, Any] = {}
    for op, name in NAMES.items():
        counts: dict[float, int] = {}
        for group in block_layer.groups:
            if group.op == op:
                for edge, count in zip(group.bucket_us, group.bucket_count, strict=True):
                    counts[edge] = counts.get(edge, 0) + count
        if counts:
            buckets = [
                {"range_us": [edge, edge + _width_us(edge)], "count": counts[edge]}
                for edge in sorted(counts)
            ]
            histograms[name] = {"buckets": buckets}
    return histograms


def _width_us(edge_us: float) -> float:
    """Return how wide the bucket is that begins there: an eighth of the power of two below."""
    edge_ns = max(1, round(edge_us * US_NS))
    return float(max(1, (1 << edge_ns.bit_length() - 1) // 8)) / US_NS


def percentile_us(buckets: list[dict[str, Any]], percent: float) -> float:
    """Return the end of the bucket that holds a percentile of the requests."""
    rank = sum(bucket["count"] for bucket in buckets) * percent / 100
    reached = 0
    for bucket in buckets:
        reached += bucket["count"]
        if reached >= rank:
            break
    return float(bucket["range_us"][1])
