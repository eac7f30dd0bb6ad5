"""The score of an option by the rules' definitions, and our figures beside it."""

from __future__ import annotations

from statistics import fmean
from typing import TYPE_CHECKING, Any

from pydantic import Field

from kvtrace.fields import Section
from replay.compare.document import ComparisonDocument, SpreadDocument

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

OURS = (
    "nvme read rate", "nvme write rate", "nvme read P99", "nvme write P99", "KV tokens"
)  # fmt: skip
"""Figures of a bench that stand beside the score."""


class Score(Section):
    """The headline of 6.3.4.5; None where a trial doesn't have a figure. One client."""

    read_bandwidth_gib_per_s: float | None = Field(
        description="tier_storage_read_bandwidth_gbps: mean of the trials (6.3.4.1)"
    )
    write_bandwidth_gib_per_s: float | None = Field(
        description="tier_storage_write_bandwidth_gbps: mean of the trials (6.3.4.1)"
    )
    device_read_p95_ms: float | None = Field(
        description="storage_read_device_p95_ms: the highest of clients and trials (6.3.4.3)"
    )
    device_write_p95_ms: float | None = Field(
        description="storage_write_device_p95_ms: the highest of clients and trials (6.3.4.3)"
    )
    storage_tokens_per_s: float | None = Field(
        description="storage_throughput_tokens_per_sec: mean of the trials (6.3.4.2)"
    )


class OurFigure(Section):
    """A figure of the bench, over its trials."""

    name: str
    unit: str
    spread: SpreadDocument


def score_of(trials: Sequence[dict[str, Any]]) -> Score:
    """Return the score of an option from its trials' results in the benchmark's own form."""

    def over(take: Callable[[list[float]], float], *path: str) -> float | None:
        values = [_at(trial["summary"], path) for trial in trials]
        known = [value for value in values if value is not None]
        return take(known) if known and len(known) == len(values) else None

    return Score(
        read_bandwidth_gib_per_s=over(fmean, "cache_stats", "tier_storage_read_bandwidth_gbps"),
        write_bandwidth_gib_per_s=over(fmean, "cache_stats", "tier_storage_write_bandwidth_gbps"),
        device_read_p95_ms=over(max, "cache_stats", "storage_read_device_p95_ms"),
        device_write_p95_ms=over(max, "cache_stats", "storage_write_device_p95_ms"),
        storage_tokens_per_s=over(fmean, "storage_throughput_tokens_per_sec"),
    )


def _at(summary: dict[str, Any], path: tuple[str, ...]) -> float | None:
    value: Any = summary
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value if isinstance(value, int | float) else None


def ours_of(bench: ComparisonDocument) -> list[OurFigure]:
    """Return our figures of a bench, those that it has."""
    return [
        OurFigure(name=figure.name, unit=figure.unit, spread=figure.sides[0])
        for figure in bench.figures
        if figure.name in OURS and figure.sides[0] is not None
    ]
