"""The benchmark's result as its own tools read it: `summary`, and what stands beside it."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from kvtrace.units import MS_NS
from replay.report.mlperf.beside import beside
from replay.report.mlperf.cache_stats import PERCENTILES, cache_stats
from replay.report.mlperf.tiers import elapsed_s
from replay.report.mlperf.tracing import device_latency_tracing
from replay.result.lookups import shared_of
from replay.result.totals import request_io_ns

if TYPE_CHECKING:
    from replay.measure.requests.figures import QosRequestsDocument
    from replay.measure.summaries import Percentiles
    from replay.result.document import ResultDocument

_NEVER = (
    "storage_read_host_*", "storage_write_host_*", "end_to_end_latencies", "storage_latencies",
    "prefill_latencies", "decode_latencies", "throughput_timeline",
)  # fmt: skip
"""Figures without a counterpart in a replay: serialising in Python, and lists of single times."""
_QOS = ("interactive", "responsive", "batch")


def result_of(document: ResultDocument) -> dict[str, Any]:
    """Return the result as JSON objects. What isn't known is left out, and listed by name."""
    summary = summary_of(document)
    known, unknown = _split({**_root(document, summary), "summary": summary})
    tracing = device_latency_tracing(document.bpf)
    if tracing:
        known["device_latency_tracing"] = tracing
    known["kvtrace"] = {
        "verdict": document.verdict,
        "reasons": [reason.code for reason in document.reasons],
        "warnings": [warning.code for warning in document.warnings],
        "trace_sha256": document.trace.sha256,
        "executed_tiers": [lane.tier for lane in document.lanes],
        "beside": [dataclasses.asdict(each) for each in beside(document, summary)],
        "not_measured": [*unknown, *_NEVER],
    }
    return known


def _split(values: dict[str, Any], prefix: str = "") -> tuple[dict[str, Any], list[str]]:
    """Return what is known, and the names of what isn't."""
    known: dict[str, Any] = {}
    unknown = []
    for name, value in values.items():
        if value is None and name != "autoscaling_summary":
            unknown.append(f"{prefix}{name}")
        elif isinstance(value, dict) and name != "storage_health":
            part, more = _split(value, f"{prefix}{name}.")
            unknown += more
            if part:
                known[name] = part
        else:
            known[name] = value
    return known, unknown


def _root(document: ResultDocument, summary: dict[str, Any]) -> dict[str, Any]:
    turns = summary["multi_turn_stats"]
    return {
        "requests_completed": summary["total_requests"],
        "total_tokens_generated": summary["total_tokens"],
        "total_storage_io_latency": summary["total_storage_io_time"],
        "total_generation_latency": 0.0 if _no_generation(document) else None,
        "multi_turn_cache_hits": turns["cache_hits"],
        "multi_turn_cache_misses": turns["cache_misses"],
        "seed": document.trace.header.get("seed"),
    }


def summary_of(document: ResultDocument) -> dict[str, Any]:
    """Return its `summary`; None where a figure isn't known."""
    requests, tokens = document.requests, document.trace.generated_tokens
    seconds = elapsed_s(document)
    count = None if requests is None else requests.count
    io_ns = request_io_ns((group.phase, group.service_ns) for group in document.groups)
    return {
        "total_requests": count,
        "total_tokens": tokens,
        "elapsed_time": seconds,
        "avg_throughput_tokens_per_sec": tokens / seconds if tokens and seconds else None,
        "total_storage_io_time": io_ns / 1e9,
        "storage_throughput_tokens_per_sec": document.storage_throughput_tokens_per_sec,
        "requests_per_second": count / seconds if count is not None and seconds else None,
        "end_to_end_latency_ms": _times(None if requests is None else requests.end_to_end_ns),
        "storage_io_latency_ms": _times(None if requests is None else requests.storage_io_ns),
        "generation_latency_ms": dict.fromkeys(
            ("mean", *PERCENTILES), 0.0 if _no_generation(document) else None
        ),
        "cache_stats": cache_stats(document),
        "qos_metrics": _qos_metrics(document),
        "prefix_cache_stats": _prefix_cache_stats(document),
        "autoscaling_stats": [],
        "autoscaling_summary": None,
        "multi_turn_stats": _multi_turn_stats(document),
    }


def _no_generation(document: ResultDocument) -> bool:
    return bool(document.trace.header.get("config", {}).get("generation") == "none")


def _times(times: Percentiles | None) -> dict[str, float | None]:
    if times is None or not times.count:
        return dict.fromkeys(("mean", *PERCENTILES))
    mean = None if times.mean is None else times.mean / MS_NS
    return {"mean": mean, **{name: times[name] / MS_NS for name in PERCENTILES}}


def _qos_metrics(document: ResultDocument) -> dict[str, Any]:
    by_qos = [] if document.requests is None else document.requests.by_qos
    classes = {each.qos: each for each in by_qos if each.count}
    return {name: _level(classes[name]) if name in classes else {"no_data": True} for name in _QOS}


def _level(requests: QosRequestsDocument) -> dict[str, Any]:
    times, level = requests.end_to_end_ns, requests.end_to_end_level
    latency_ms = {name: times[name] / MS_NS for name in ("p50", "p95", "p99", "max")}
    return {
        "total_requests": requests.count,
        "latency_ms": {"mean": None if times.mean is None else times.mean / MS_NS, **latency_ms},
        "sla": {
            "target_p95_ms": level.target_p95_ns / MS_NS,
            "actual_p95_ms": latency_ms["p95"],
            "compliance": level.compliance_ratio,
            "met": level.met,
        },
    }


def _prefix_cache_stats(document: ResultDocument) -> dict[str, Any]:
    """Return hits of system prompts and documents; a phrase in common is none of the trace's."""
    shared, per_token = shared_of(document.trace), document.trace.bytes_per_token
    if shared is None:
        names = ("prefix_hits", "prefix_misses", "system_prompt_reuse", "bytes_saved")
        return dict.fromkeys(names)
    return {
        "prefix_hits": shared.hits,
        "prefix_misses": shared.blocks - shared.hits,
        "system_prompt_reuse": shared.hits,
        "common_phrase_reuse": 0,
        "bytes_saved": None if per_token is None else round(shared.hit_tokens * per_token),
    }


def _multi_turn_stats(document: ResultDocument) -> dict[str, Any]:
    shared = shared_of(document.trace)
    if shared is None:
        return dict.fromkeys(("cache_hits", "cache_misses", "hit_rate"))
    asked = shared.session_hits + shared.session_misses
    return {
        "cache_hits": shared.session_hits,
        "cache_misses": shared.session_misses,
        "hit_rate": shared.session_hits / max(asked, 1),
    }
