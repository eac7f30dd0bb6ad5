"""MLPerf Storage's criteria of a healthy storage tier, and the same per MiB.

A criterion without samples is not measured, never passed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from kvtrace.fields import Section
from kvtrace.trace.schema import Op, Tier
from kvtrace.units import MS_NS
from replay.measure.summaries import Distribution, merged, percentile
from replay.result.lookups import NOTHING, lookups_of
from replay.result.totals import REQUEST_PHASES

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from replay.measure.figures import GroupDocument, LaneDocument
    from replay.result.trace_info import TraceInfo

Status = Literal["PASS", "FAIL", "NOT MEASURED"]

WRITE_P95_MS, READ_P95_MS, CPU_P95_MS, HIT_RATIO = 500.0, 200.0, 150.0, 0.3
"""Source: the latency profile of the MLPerf Storage KV cache benchmark, v3.0 (2026)."""
NULL = "null"
OBJECT_MIB = 200
"""The object that the benchmark's own notes give for 200 ms: 200 MiB at 1 GiB/s."""
PER_MIB_WHY = (
    "a P95 in ms grows with the object; per MiB objects of any size compare, and demotions and "
    "promotions are in it"
)
HIT_WHY = (
    "theirs counts re-reads of what was just found as hits, and nothing that is asked for the "
    "first time; ours is of all blocks that requests ask for"
)


class Judged(Section):
    """A figure held to its target; None: not measured."""

    unit: str
    target: float
    actual: float | None
    passed: bool | None
    count: int = Field(description="samples")


class Criterion(Section):
    """A criterion as the benchmark has it, and in our form."""

    name: str
    title: str = Field(description="what it is of, in short")
    theirs: Judged
    ours: Judged
    why: str = Field(description="why theirs may mislead")


class HealthDocument(Section):
    """PASS: what was measured passed, and something was; see `measured_count`."""

    status: Status
    status_ours: Status
    measured_count: int
    criteria: list[Criterion]


def health_of(
    groups: Sequence[GroupDocument], lanes: Sequence[LaneDocument], trace: TraceInfo
) -> HealthDocument:
    """Return the criteria of a result's groups (tier × phase × op).

    Nothing is stored on a target `null`, so that its times say nothing.
    """
    real = {lane.tier for lane in lanes if lane.target != NULL}
    groups = [group for group in groups if group.tier in real]
    storage, cpu = Tier.NVME.label, Tier.CPU.label
    read, write = Op.READ.label, Op.WRITE.label
    latencies = (
        ("Storage Tier Write Device P95", "nvme writes P95", WRITE_P95_MS, storage, (write,)),
        ("Storage Tier Read Device P95", "nvme reads P95", READ_P95_MS, storage, (read,)),
        ("CPU RAM P95", "cpu P95", CPU_P95_MS, cpu, (read, write)),
    )
    criteria = [
        _latency(
            f"{name} < {limit_ms:g}ms",
            title,
            limit_ms,
            [each for each in groups if each.tier == tier and each.op in ops],
        )
        for name, title, limit_ms, tier, ops in latencies
    ]
    criteria.append(_hit_rate(trace))
    return HealthDocument(
        status=_status(each.theirs for each in criteria),
        status_ours=_status(each.ours for each in criteria),
        measured_count=sum(each.theirs.passed is not None for each in criteria),
        criteria=criteria,
    )


def _latency(name: str, title: str, limit_ms: float, groups: Sequence[GroupDocument]) -> Criterion:
    own = [group for group in groups if group.phase in REQUEST_PHASES]
    return Criterion(
        name=name,
        title=title,
        theirs=_p95(merged(group.service_distribution_ns for group in own), "ms", limit_ms),
        ours=_p95(
            merged(group.service_per_mib_distribution_ns for group in groups),
            "ms/MiB",
            limit_ms / OBJECT_MIB,
        ),
        why=PER_MIB_WHY,
    )


def _p95(distribution: Distribution, unit: str, limit: float) -> Judged:
    p95_ns = percentile(distribution, "p95")
    actual = None if p95_ns is None else p95_ns / MS_NS
    return Judged(
        unit=unit,
        target=limit,
        actual=actual,
        passed=None if actual is None else actual < limit,
        count=sum(distribution.count),
    )


def _hit_rate(trace: TraceInfo) -> Criterion:
    counted = lookups_of(trace) or NOTHING
    return Criterion(
        name="Cache Hit Rate > 30%",
        title="cache hit rate",
        theirs=_ratio(counted.access_hit_ratio, counted.accesses),
        ours=_ratio(counted.block_hit_ratio, counted.blocks),
        why=HIT_WHY,
    )


def _ratio(actual: float | None, count: int) -> Judged:
    return Judged(
        unit="ratio",
        target=HIT_RATIO,
        actual=actual,
        passed=None if actual is None else actual > HIT_RATIO,
        count=count,
    )


def _status(criteria: Iterable[Judged]) -> Status:
    measured = [each.passed for each in criteria if each.passed is not None]
    if not measured:
        return "NOT MEASURED"
    return "PASS" if all(measured) else "FAIL"
