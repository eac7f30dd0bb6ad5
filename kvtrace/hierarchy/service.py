"""Service of the simulated node: prefill, queueing, time to first token."""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING, Any

from kvtrace.hierarchy.native import SUB_BINS
from kvtrace.units import S_NS

if TYPE_CHECKING:
    from kvtrace.hierarchy.events import HierarchyStats
    from kvtrace.recording.config import RecordConfig

US_NS = 1000
PERCENTILES = (50, 90, 99)


def percentile_ns(bins: tuple[int, ...], percent: float) -> int | None:
    """Return a percentile of a histogram's durations, at most 1/32 too long; None without any."""
    total = sum(bins)
    if not total:
        return None
    rank = max(1, -(-total * percent // 100))
    for index, below in enumerate(accumulate(bins)):
        if below >= rank:
            return _longest_ns(index)
    return None


def _longest_ns(index: int) -> int:
    """Return the longest duration of a bin; exact below 2 * SUB_BINS µs."""
    if index < 2 * SUB_BINS:
        return index * US_NS
    shift = index // SUB_BINS - 1
    return ((index - shift * SUB_BINS + 1) << shift) * US_NS - 1


def service(stats: HierarchyStats, config: RecordConfig) -> dict[str, Any] | None:
    """Return what the header says of prefill and queueing; None without a rate or a batch.

    Rates are of one node, over the time until its last prompt was computed.
    """
    fields: dict[str, Any] = {}
    if config.prefill_rate is not None and config.role != "decode":
        spent = max(1, stats.prefill_end_ns) * config.nodes
        fields |= {
            "prefill_tokens": stats.prefill_tokens,
            "prefill_tokens_per_s": stats.prefill_tokens * S_NS / spent,
            "prefill_busy_ratio": stats.prefill_busy_ns / spent,
            "first_token_ns": _percentiles(stats.first_token),
            "prefill_wait_ns": _percentiles(stats.prefill_wait),
        }
    if config.decode_batch is not None and config.role != "prefill":
        fields["decode_wait_ns_mean"] = stats.decode_wait_ns / max(1, stats.requests)
    return fields or None


def _percentiles(bins: tuple[int, ...]) -> dict[str, int | None]:
    return {f"p{percent}": percentile_ns(bins, percent) for percent in PERCENTILES}
