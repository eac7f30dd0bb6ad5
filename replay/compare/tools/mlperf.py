"""Results of MLPerf Storage's KV-cache benchmark (kv-cache.py --output)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kvtrace.units import MS_NS
from replay.compare.figures import BYTES_PER_S, NS, PER_S, Figure
from replay.measure.summaries import TITLES

if TYPE_CHECKING:
    from collections.abc import Iterator

FORM = "MLPerf Storage's kv-cache.py --output"
CAUTION = (
    "MLPerf Storage's KV benchmark: its latencies are those of Python threads, its bytes leave "
    "demotions out, its window is the whole run"
)
_TIERS = {"gpu": ("gpu",), "cpu": ("cpu",), "nvme": ("storage", "nvme")}
"""Our tiers: what they are called there, newest first.

Source: mlcommons/storage, kv_cache_benchmark/kv_cache/cache.py (get_stats) at 23aa82e, and a result
of January 2026 beside it in vllm_lmcache_validate.
"""
_SHOWN = ("p50", "p99", "p999", "p9999")
_GIB = 1 << 30
"""Their `…_gb` are GiB."""


def recognises(fields: dict[str, Any]) -> bool:
    """Return whether it is a result of that benchmark."""
    summary = fields.get("summary")
    return isinstance(summary, dict) and "cache_stats" in summary


def figures(fields: dict[str, Any]) -> tuple[Figure, ...]:
    """Return rates of the whole run, and the percentiles of each tier."""
    return tuple(_all(fields["summary"]))


def _all(summary: dict[str, Any]) -> Iterator[Figure]:
    stats, elapsed = summary["cache_stats"], float(summary["elapsed_time"])
    if elapsed <= 0:
        raise ValueError("an elapsed_time above 0")
    moved = stats["total_read_bytes"] + stats["total_write_bytes"]
    yield Figure("throughput", moved / elapsed, BYTES_PER_S, True)
    # read_iops and write_iops are counts, whatever their names say.
    yield Figure("ops", (stats["read_iops"] + stats["write_iops"]) / elapsed, PER_S, True)
    for tier, names in _TIERS.items():
        for name in names:
            for op, past in (("read", "read"), ("write", "written")):
                held = stats.get(f"tier_{name}_kv_bytes_{past}_gb")
                if held:
                    yield Figure(f"{tier} {op} rate", held * _GIB / elapsed, BYTES_PER_S, True)
                yield from _percentiles(stats, f"{tier} {op}", f"{name}_{op}")


def _percentiles(stats: dict[str, Any], name: str, prefix: str) -> Iterator[Figure]:
    for quantile in _SHOWN:
        value = stats.get(f"{prefix}_{quantile}_ms")
        if value is not None:
            yield Figure(f"{name} {TITLES[quantile]}", value * MS_NS, NS, False)
