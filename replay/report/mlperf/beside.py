"""Our own figure beside each of the benchmark's whose definition misleads, and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kvtrace.units import MS_NS
from replay.measure.summaries import percentile
from replay.report.mlperf.tiers import READ, WRITE, TierMoved, moved
from replay.result.lookups import lookups_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from replay.result.document import ResultDocument

GB = 10**9
Value = float | int | str | bool | None
_Ours = tuple[str, str, Value, str]
"""Path of its figure in the summary; what ours is; ours; why."""
_WITHOUT_DEMOTIONS = "theirs leaves demotions and promotions out"
_FROM_SUBMIT = "nothing is due in mode max: counted from when the first op was submitted"
_GENERATION = "theirs has the time for generation in it, which no storage can change"


@dataclass(frozen=True, slots=True)
class Beside:
    """Its figure, by its path in the result, and ours."""

    name: str
    theirs: Value
    ours_name: str
    ours: Value
    why: str


def at(summary: dict[str, Any], path: str) -> Any:
    """Return the figure at `path`, names with dots between; None if there is none."""
    value: Any = summary
    for name in path.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value


def beside(document: ResultDocument, summary: dict[str, Any]) -> list[Beside]:
    """Return what stands beside `summary`; its figures may be None where they aren't known."""
    ours = [
        *_rates(document),
        *_requests(document),
        *(each for tier in moved(document) for each in _tier(document, tier)),
        *_counts(document),
    ]
    return [
        Beside(f"summary.{path}", at(summary, path), name, value, why)
        for path, name, value, why in ours
    ]


def _rates(document: ResultDocument) -> Iterator[_Ours]:
    yield (
        "storage_throughput_tokens_per_sec",
        "KV tokens moved per second",
        document.kv_tokens_per_s,
        "theirs divides generated tokens by summed, overlapping I/O time: a run that moved 44 % "
        "more bytes changed it by 0.9 %",
    )
    yield (
        "cache_stats.storage_health.overall_status",
        "verdict",
        document.verdict,
        "theirs passes without samples, and whatever happened to the run",
    )


def _requests(document: ResultDocument) -> Iterator[_Ours]:
    requests = document.requests
    if requests is None or not requests.count:
        return
    base = f" ({_FROM_SUBMIT})" if requests.counted_from == "submit" else ""
    waited = (
        f"P95 of the time that a request waits for storage, ms{base}",
        requests.waited_ns.p95 / MS_NS,
    )
    yield "end_to_end_latency_ms.p95", *waited, f"{_GENERATION}{base}"
    yield (
        "storage_io_latency_ms.p95",
        *waited,
        "theirs sums I/Os that go on at once, and leaves out what they wait for their turn",
    )
    for qos in requests.by_qos:
        yield (
            f"qos_metrics.{qos.qos}.sla.compliance",
            "share that waits for storage no longer than the target",
            qos.waited_level.compliance_ratio,
            _GENERATION,
        )


def _tier(document: ResultDocument, moved_bytes: TierMoved) -> Iterator[_Ours]:
    name = moved_bytes.name
    for op, past in ((READ, "read"), (WRITE, "written")):
        all_of_it = moved_bytes.of(op)
        yield (
            f"cache_stats.tier_{name}_{op}_bandwidth_gbps",
            f"GB/s {past}, all of it",
            _gb_per_s(document, moved_bytes.tier, op),
            f"theirs is in GiB/s, by the time until the last completion; {_WITHOUT_DEMOTIONS}",
        )
        yield (
            f"cache_stats.tier_{name}_kv_bytes_{past}_gb",
            f"GB {past}, all of it",
            all_of_it.bytes / GB,
            f"theirs is in GiB; {_WITHOUT_DEMOTIONS}",
        )
        p95_ns = percentile(all_of_it.service_ns, "p95")
        yield (
            f"cache_stats.{name}_{op}_p95_ms",
            f"P95 of all {op}s, ms",
            None if p95_ns is None else p95_ns / MS_NS,
            _WITHOUT_DEMOTIONS,
        )


def _gb_per_s(document: ResultDocument, tier: str, op: str) -> float | None:
    """Return the rate of a tier's reads or writes in the window: both are its throughput."""
    lane = next(lane for lane in document.lanes if lane.tier == tier)
    rate = lane.read_bytes_per_s if op == READ else lane.write_bytes_per_s
    return None if rate is None else rate / GB


def _per_s(document: ResultDocument, op: str) -> float | None:
    """Return all tiers' reads or writes in their windows per second of the longest window."""
    rates = [
        (lane.reads_per_s if op == READ else lane.writes_per_s, lane.window_s)
        for lane in document.lanes
    ]
    done = sum(rate * seconds for rate, seconds in rates if rate is not None)
    known = document.window_s and all(rate is not None for rate, seconds in rates if seconds)
    return done / document.window_s if known else None


def _counts(document: ResultDocument) -> Iterator[_Ours]:
    for op in (READ, WRITE):
        yield (
            f"cache_stats.{op}_iops",
            f"{op}s per second, all of them",
            _per_s(document, op),
            f"theirs is a count of the whole run; {_WITHOUT_DEMOTIONS}",
        )
    lookups = lookups_of(document.trace)
    yield (
        "cache_stats.cache_hit_rate",
        "blocks found ÷ blocks asked for",
        None if lookups is None else lookups.block_hit_ratio,
        "theirs counts re-reads of what was just found as hits, and no block that is new",
    )
