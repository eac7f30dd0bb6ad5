"""The benchmark's tables under its own headings: run parameters, metrics, service levels."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from kvtrace.trace.schema import Tier
from kvtrace.units import GIB, MS_NS, S_NS, UNLIMITED
from replay.report.mlperf.beside import at
from replay.report.mlperf.cache_stats import PERCENTILES
from replay.report.mlperf.tracing import device_latency_tracing, percentile_us

if TYPE_CHECKING:
    from collections.abc import Iterator

    from replay.report.mlperf.beside import Beside
    from replay.result.document import ResultDocument

Value = object
_TITLES = dict(zip(PERCENTILES, ("P50", "P95", "P99", "P99.9", "P99.99"), strict=True))
METRIC_HEADS = ("Metric", "Value", "kvtrace", "kvtrace's value", "why")
QOS_HEADS = (
    "QoS Level", "Total Requests", "Latency P95 (ms)", "Latency P99 (ms)", "SLA Met",
    "SLA Compliance", "Waiting for storage P95 (ms)", "SLA Met by waiting",
    "SLA Compliance by waiting",
)  # fmt: skip
TRACING_HEADS = (
    "Metric", "Description", "Samples", "P50", "P95", "P99", "Min Bucket", "Max Bucket"
)  # fmt: skip


def _paths() -> Iterator[tuple[str, str]]:
    """Yield its heading of each metric, and where that is in its summary."""
    yield "Total Requests", "total_requests"
    yield "Total Tokens", "total_tokens"
    yield "Elapsed Time (s)", "elapsed_time"
    yield "Avg Throughput (tok/s)", "avg_throughput_tokens_per_sec"
    yield "Storage Throughput (tok/s)", "storage_throughput_tokens_per_sec"
    yield "Requests/sec", "requests_per_second"
    yield "Total I/O Time (s)", "total_storage_io_time"
    for title, group in (("E2E", "end_to_end"), ("Storage", "storage_io"), ("Gen", "generation")):
        yield f"{title} Latency Mean (ms)", f"{group}_latency_ms.mean"
        for name, percentile in _TITLES.items():
            yield f"{title} Latency {percentile} (ms)", f"{group}_latency_ms.{name}"
    for title, part in (("Total", ""), ("Device", "device_")):
        for op in ("read", "write"):
            for name, percentile in _TITLES.items():
                heading = f"Storage Tier {op.title()} {title} {percentile} (ms)"
                yield heading, f"cache_stats.storage_{op}_{part}{name}_ms"
    yield "Cache Hit Rate", "cache_stats.cache_hit_rate"
    yield "Read/Write Ratio", "cache_stats.read_write_ratio"
    yield "Total Read (GB)", "cache_stats.total_read_gb"
    yield "Total Write (GB)", "cache_stats.total_write_gb"
    tiers = (("GPU", "gpu"), ("CPU", "cpu"), ("Storage", "storage"))
    for past in ("Written", "Read"):
        for title, tier in tiers:
            heading = f"Tier {title} KV Bytes {past} (GB)"
            yield heading, f"cache_stats.tier_{tier}_kv_bytes_{past.lower()}_gb"
    for title, tier in tiers:
        for op in ("Read", "Write"):
            heading = f"Tier {title} {op} Bandwidth (GB/s)"
            yield heading, f"cache_stats.tier_{tier}_{op.lower()}_bandwidth_gbps"
    for title, tier in tiers:
        yield f"{title} Entries", f"cache_stats.{tier}_entries"
    yield "Read IOPS", "cache_stats.read_iops"
    yield "Write IOPS", "cache_stats.write_iops"
    yield "Multi-turn Hit Rate", "multi_turn_stats.hit_rate"
    yield "Prefix Hits", "prefix_cache_stats.prefix_hits"
    yield "Prefix Misses", "prefix_cache_stats.prefix_misses"
    yield "Storage Health", "cache_stats.storage_health.overall_status"


def metrics(summary: dict[str, Any]) -> Iterator[tuple[str, str, Value]]:
    """Yield (heading, path, value); None where a metric isn't known."""
    for heading, path in _paths():
        yield heading, path, at(summary, path)


def metric_rows(summary: dict[str, Any], beside: list[Beside]) -> Iterator[tuple[Value, ...]]:
    """Yield rows under `METRIC_HEADS`: its value and, where its definition misleads, ours."""
    ours = {each.name: each for each in beside}
    for heading, path, value in metrics(summary):
        own = ours.get(f"summary.{path}")
        yield (heading, value, *(("", None, "") if own is None
                                 else (own.ours_name, own.ours, own.why)))  # fmt: skip


def parameters(document: ResultDocument) -> Iterator[tuple[str, Value]]:
    """Yield its run parameters as far as the trace and the run have them."""
    trace = document.trace
    config = trace.header.get("config", {})
    source, tiers = config.get("source", {}), config.get("tiers", {})
    gpus = trace.header.get("num_gpus") or 1
    per_card = _gib(tiers, Tier.GPU)
    made = datetime.fromtimestamp(document.created_at_s, UTC)
    yield "Timestamp", f"{made:%Y-%m-%d %H:%M:%S}"
    yield "Model", trace.model
    yield "Num Users", source.get("users")
    yield "Duration (s)", trace.duration_ns / S_NS
    yield "GPU Memory per Card (GB)", per_card
    yield "Num GPUs", gpus
    yield "Tensor Parallel", trace.header.get("tensor_parallel")
    yield "Total GPU Memory (GB)", None if per_card is None else per_card * gpus
    yield "CPU Memory (GB)", _gib(tiers, Tier.CPU)
    yield "Generation Mode", config.get("generation")
    yield "Performance Profile", "latency"
    yield "Multi-turn", source.get("multi_turn")
    yield "Prefix Caching", source.get("prefix_caching")
    yield "RAG Enabled", source.get("rag") is not None if source else None
    yield "Seed", trace.header.get("seed")
    yield "Request Rate", source.get("rate")
    yield "Max Requests", config.get("requests")
    yield "Storage Capacity (GB)", _gib(tiers, Tier.NVME)
    yield "Precondition", any(lane.preconditioned is not None for lane in document.lanes)
    yield "Trace Speedup", None if document.config is None else document.config.speed


def _gib(tiers: dict[str, Any], tier: Tier) -> float | None:
    """Return a capacity in what it calls GB; None if there is no limit, or it isn't known."""
    capacity = tiers.get(tier.label, {}).get("capacity")
    return None if capacity is None or capacity >= UNLIMITED else capacity / GIB


def qos_rows(document: ResultDocument) -> Iterator[tuple[Value, ...]]:
    """Yield rows under `QOS_HEADS` of the classes that requests are of."""
    for qos in [] if document.requests is None else document.requests.by_qos:
        times, level = qos.end_to_end_ns, qos.end_to_end_level
        yield (
            qos.qos, qos.count, times.p95 / MS_NS, times.p99 / MS_NS, level.met,
            level.compliance_ratio, qos.waited_ns.p95 / MS_NS, qos.waited_level.met,
            qos.waited_level.compliance_ratio,
        )  # fmt: skip


def tracing_rows(document: ResultDocument) -> Iterator[tuple[Value, ...]]:
    """Yield rows under `TRACING_HEADS` of what the block layer took, µs."""
    titles = {"d2c_read_us": "D2C Read (us)", "d2c_write_us": "D2C Write (us)"}
    for name, latency in device_latency_tracing(document.bpf).items():
        buckets = latency["buckets"]
        yield (
            titles[name], "Device hardware time", sum(bucket["count"] for bucket in buckets),
            *(percentile_us(buckets, percent) for percent in (50, 95, 99)),
            buckets[0]["range_us"][0], buckets[-1]["range_us"][1],
        )  # fmt: skip
