"""The benchmark's `cache_stats`: hits, entries, bytes and latencies per tier."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kvtrace.trace.schema import Op, Phase, Tier
from kvtrace.units import GIB, MS_NS
from replay.measure.summaries import Distribution, percentile
from replay.report.mlperf.tiers import NAMES, READ, WRITE, TierMoved, elapsed_s, moved, ops
from replay.result.lookups import lookups_of, objects_per_block, shared_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from replay.result.document import ResultDocument
    from replay.result.health import HealthDocument

Pair = tuple[str, Any]
PERCENTILES = ("p50", "p95", "p99", "p999", "p9999")


def cache_stats(document: ResultDocument) -> dict[str, Any]:
    """Return its figures by name; None where a figure isn't known."""
    tiers = moved(document)
    return {
        **dict(_hits(document)),
        **dict(_entries(document)),
        **dict(_offloads(document)),
        "storage_health": None if document.storage_health is None
        else storage_health(document.storage_health),
        "prefill_writes": ops(document, WRITE, Phase.PREFILL.label),
        "decode_reads": ops(document, READ, Phase.DECODE.label),
        **dict(_bytes(tiers, elapsed_s(document))),
        **dict(_totals(tiers)),
        "storage_tokens_processed": _storage_tokens(document, tiers),
        **dict(_latencies(tiers)),
    }  # fmt: skip


def _hits(document: ResultDocument) -> Iterator[Pair]:
    lookups, shared = lookups_of(document.trace), shared_of(document.trace)
    yield "cache_hit_rate", lookups and lookups.access_hit_ratio
    yield "cache_hits", lookups and lookups.hits
    yield "cache_misses", lookups and lookups.misses
    system = session = user = None
    if lookups is not None and shared is not None:
        factor = objects_per_block(document.trace)
        system, session = shared.hits * factor, shared.session_hits * factor
        user = lookups.hits - system - session
    yield "system_prompt_hits", system
    yield "common_phrase_hits", None if shared is None else 0
    yield "user_cache_hits", user
    yield "multi_turn_hits", session


def _entries(document: ResultDocument) -> Iterator[Pair]:
    """Yield what the tiers hold at the end of the recorded trace: what came less what went."""
    for tier, name in NAMES.items():
        count = held = None
        if lookups_of(document.trace) is not None:
            count = _left(document, tier, "ops", "objects")
            held = _left(document, tier, "bytes", "bytes")
        yield f"{name}_entries", count
        if tier != Tier.NVME.label:
            yield f"{name}_memory_used_gb", None if held is None else held / GIB


def _left(document: ResultDocument, tier: str, cell_key: str, resident_key: str) -> int:
    header = document.trace.header
    came = int(header["resident"][resident_key].get(tier, 0))
    signs = {Op.WRITE.label: 1, Op.DELETE.label: -1}
    return came + sum(
        signs.get(cell["op"], 0) * int(cell[cell_key])
        for cell in header["totals"]["cells"]
        if cell["tier"] == tier
    )


def _offloads(document: ResultDocument) -> Iterator[Pair]:
    """Yield what was written below the GPU, by requests and by demotions."""
    for tier in (Tier.CPU.label, Tier.NVME.label):
        executed = any(lane.tier == tier for lane in document.lanes)
        count = sum(
            group.ops
            for group in document.groups
            if group.tier == tier and group.op == WRITE and group.phase != Phase.PROMOTE.label
        )
        yield f"offloads_{NAMES[tier]}", count if executed else None


def storage_health(document: HealthDocument) -> dict[str, Any]:
    """Return its assessment; what has no samples isn't measured, where it would leave it out."""
    return {
        "overall_status": document.status,
        "criteria": [
            {
                "name": each.name,
                "target": each.theirs.target,
                "actual": each.theirs.actual,
                "unit": each.theirs.unit,
                "passed": each.theirs.passed,
                "status": _word(each.theirs.passed),
            }
            for each in document.criteria
        ],
        "passed_count": sum(each.theirs.passed is True for each in document.criteria),
        "total_count": len(document.criteria),
    }


def _word(passed: bool | None) -> str:
    return "not measured" if passed is None else "passed" if passed else "failed"


def _bytes(tiers: list[TierMoved], seconds: float) -> Iterator[Pair]:
    for each in tiers:
        for op, past in ((READ, "read"), (WRITE, "written")):
            gib = each.of(op).own_bytes / GIB
            yield f"tier_{each.name}_kv_bytes_{past}_gb", gib
            yield f"tier_{each.name}_{op}_bandwidth_gbps", gib / seconds if seconds else None


def _totals(tiers: list[TierMoved]) -> Iterator[Pair]:
    own_bytes = {op: sum(each.of(op).own_bytes for each in tiers) for op in (READ, WRITE)}
    for op in (READ, WRITE):
        yield f"total_{op}_bytes", own_bytes[op]
        yield f"total_{op}_gb", own_bytes[op] / GIB
        yield f"{op}_iops", sum(each.of(op).own_ops for each in tiers)
    yield "read_write_ratio", own_bytes[READ] / max(own_bytes[WRITE], 1)


def _storage_tokens(document: ResultDocument, tiers: list[TierMoved]) -> float | None:
    """Return the tokens of KV that the storage tier took and gave, demotions included."""
    per_token = document.trace.bytes_per_token
    nvme = [each for each in tiers if each.tier == Tier.NVME.label]
    if not per_token or not nvme:
        return None
    own = nvme[0].read.own_bytes + nvme[0].write.own_bytes
    return (own + nvme[0].demoted_bytes) / per_token


def _latencies(tiers: list[TierMoved]) -> Iterator[Pair]:
    """Yield percentiles in ms; the storage tier's once more as its device's: both are its I/O."""
    for each in tiers:
        for op in (READ, WRITE):
            names = [f"{each.name}_{op}"]
            if each.tier == Tier.NVME.label:
                names.append(f"{each.name}_{op}_device")
            for name in names:
                yield from latencies(f"{name}_", each.of(op).own_service_ns)


def latencies(prefix: str, distribution: Distribution) -> Iterator[Pair]:
    """Yield percentiles in ms under the benchmark's names."""
    for name in PERCENTILES:
        value_ns = percentile(distribution, name)
        yield f"{prefix}{name}_ms", None if value_ns is None else value_ns / MS_NS
