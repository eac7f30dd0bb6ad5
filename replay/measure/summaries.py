"""Percentiles and distributions, and what can be read from several."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from kvtrace.fields import Section

if TYPE_CHECKING:
    from collections.abc import Iterable

FEW_SAMPLES = 10
QUANTILES = {
    "p50": 5000,
    "p90": 9000,
    "p95": 9500,
    "p99": 9900,
    "p999": 9990,
    "p9999": 9999,
}
"""Name and ten-thousandths."""
TITLES = {"p50": "P50", "p90": "P90", "p99": "P99", "p999": "P99.9", "p9999": "P99.99"}
"""The percentiles that are shown to people, and what they are called."""


class Percentiles(BaseModel):
    """Of a time in ns; `few_samples` names those with fewer than 10 samples beyond them."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    p50: int
    p90: int
    p95: int
    p99: int
    p999: int
    p9999: int
    max: int
    mean: float | None
    count: int
    few_samples: list[str]

    def __getitem__(self, name: str) -> int:
        value: int = getattr(self, name)
        return value


class Distribution(Section):
    """How many values fell into each bucket: above the `upper` before it, up to its own."""

    upper: list[int]
    count: list[int]


def rank_of(count: int, ten_thousandths: int) -> int:
    """Return how many of `count` sorted values a percentile covers."""
    return -(-count * ten_thousandths // 10_000)


def has_few(count: int, name: str) -> bool:
    """Return whether fewer than 10 of `count` samples lie beyond the percentile."""
    return count - rank_of(count, QUANTILES[name]) < FEW_SAMPLES


def merged(distributions: Iterable[Distribution | None]) -> Distribution:
    """Return several distributions of the same kind of value as one."""
    counts: dict[int, int] = {}
    for each in distributions:
        if each is not None:
            for upper, count in zip(each.upper, each.count, strict=True):
                counts[upper] = counts.get(upper, 0) + count
    ends = sorted(counts)
    return Distribution(upper=ends, count=[counts[end] for end in ends])


def percentile(distribution: Distribution, name: str) -> int | None:
    """Return the upper end of the percentile's bucket; None without values."""
    total = sum(distribution.count)
    if not total:
        return None
    rank = rank_of(total, QUANTILES[name])
    reached = 0
    for upper, count in zip(distribution.upper, distribution.count, strict=True):
        reached += count
        if reached >= rank:
            return upper
    raise AssertionError("the last bucket reaches every rank")
