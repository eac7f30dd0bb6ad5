"""Our own figure beside each of the benchmark's whose definition misleads, and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kvtrace.units import MS_NS
from replay.lookups import lookups_of
from replay.mlperf.tiers import READ, WRITE, TierMoved, elapsed_s, moved
from replay.summaries import percentile

if TYPE_CHECKING:
    from collections.abc import Iterator

    from replay.document import ResultDocument

GB = 10**9
Value = float | int | str | bool | None
_WITHOUT_DEMOTIONS = "theirs leaves demotions and promotions out"


@dataclass(frozen=True, slots=True)
class Beside:
    """Its figure, by its path in the result, and ours."""

    name: str
    theirs: Value
    ours_name: str
    ours: Value
    why: str


def beside(document: ResultDocument, summary: dict[str, Any]) -> list[Beside]:
    """Return what stands beside `summary`; its figures may be None where they aren't known."""
    return [
        *_rates(document, summary),
        *_requests(document, summary),
        *(each for found in moved(document) for each in _tier(document, summary, found)),
        *_counts(document, summary),
    ]


def _rates(document: ResultDocument, summary: dict[str, Any]) -> Iterator[Beside]:
    yield Beside(
        "summary.storage_throughput_tokens_per_sec",
        summary["storage_throughput_tokens_per_sec"],
        "KV tokens moved per second",
        document.kv_tokens_per_s,
        "theirs divides generated tokens by summed, overlapping I/O time: a run that moved 44 % "
        "more bytes changed it by 0.9 %",
    )
    health = summary["cache_stats"]["storage_health"]
    yield Beside(
        "summary.cache_stats.storage_health.overall_status",
        None if health is None else health["overall_status"],
        "verdict",
        document.verdict,
        "theirs passes without samples, and whatever happened to the run",
    )


def _requests(document: ResultDocument, summary: dict[str, Any]) -> Iterator[Beside]:
    requests = document.requests
    if requests is None or not requests.count:
        return
    yield Beside(
        "summary.end_to_end_latency_ms.p95",
        summary["end_to_end_latency_ms"]["p95"],
        "P95 of the time that a request waits for storage, ms",
        requests.waited_ns.p95 / MS_NS,
        "theirs has the time for generation in it, which no storage can change",
    )
    yield Beside(
        "summary.storage_io_latency_ms.p95",
        summary["storage_io_latency_ms"]["p95"],
        "P95 of the time that a request waits for storage, ms",
        requests.waited_ns.p95 / MS_NS,
        "theirs sums I/Os that go on at once, and leaves out what they wait for their turn",
    )
    for found in requests.by_qos:
        yield Beside(
            f"summary.qos_metrics.{found.qos}.sla.compliance",
            found.end_to_end_level.compliance_ratio,
            "share that waits for storage no longer than the target",
            found.waited_level.compliance_ratio,
            "theirs has the time for generation in it, which no storage can change",
        )


def _tier(document: ResultDocument, summary: dict[str, Any], found: TierMoved) -> Iterator[Beside]:
    stats, seconds, name = summary["cache_stats"], elapsed_s(document), found.name
    for op, past in ((READ, "read"), (WRITE, "written")):
        all_of_it = found.of(op)
        key = f"tier_{name}_{op}_bandwidth_gbps"
        yield Beside(
            f"summary.cache_stats.{key}",
            stats[key],
            f"GB/s {past}, all of it",
            all_of_it.bytes / GB / seconds if seconds else None,
            f"theirs is in GiB/s; {_WITHOUT_DEMOTIONS}",
        )
        key = f"tier_{name}_kv_bytes_{past}_gb"
        yield Beside(
            f"summary.cache_stats.{key}",
            stats[key],
            f"GB {past}, all of it",
            all_of_it.bytes / GB,
            f"theirs is in GiB; {_WITHOUT_DEMOTIONS}",
        )
        p95_ns = percentile(all_of_it.service_ns, "p95")
        key = f"{name}_{op}_p95_ms"
        yield Beside(
            f"summary.cache_stats.{key}",
            stats[key],
            f"P95 of all {op}s, ms",
            None if p95_ns is None else p95_ns / MS_NS,
            _WITHOUT_DEMOTIONS,
        )


def _counts(document: ResultDocument, summary: dict[str, Any]) -> Iterator[Beside]:
    stats, seconds = summary["cache_stats"], elapsed_s(document)
    for op in (READ, WRITE):
        done = sum(group.ops for group in document.groups if group.op == op)
        yield Beside(
            f"summary.cache_stats.{op}_iops",
            stats[f"{op}_iops"],
            f"{op}s per second, all of them",
            done / seconds if seconds else None,
            f"theirs is a count of the whole run; {_WITHOUT_DEMOTIONS}",
        )
    lookups = lookups_of(document.trace)
    yield Beside(
        "summary.cache_stats.cache_hit_rate",
        stats["cache_hit_rate"],
        "blocks found ÷ blocks asked for",
        None if lookups is None else lookups.block_hit_ratio,
        "theirs counts re-reads of what was just found as hits, and no block that is new",
    )
