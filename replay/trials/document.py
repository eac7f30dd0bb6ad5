"""A comparison (or the trials of one thing) as it is stored: typed, versioned, JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from kvtrace.fields import Section

if TYPE_CHECKING:
    from replay.trials.comparison import Comparison, Entry, Row
    from replay.trials.sides import Side

SCHEMA_VERSION = 1


class TrialDocument(Section):
    """One result: where it is, and what it is of."""

    name: str
    verdict: str
    reasons: list[str]
    trace_sha256: str | None


class SideDocument(Section):
    """Trials of one thing."""

    label: str
    trials: list[TrialDocument]


class SpreadDocument(Section):
    """One figure of one side over its trials; None: not known from one trial."""

    count: int
    mean: float
    median: float
    low: float
    high: float
    deviation: float | None
    cv_ratio: float | None
    ci95: tuple[float, float] | None
    odd: list[str] = Field(description="trials far from the others")
    ratio: float | None = Field(description="mean ÷ the first side's mean")
    beyond_noise: bool | None = Field(description="Welch's test, 95 %, against the first side")


class FigureDocument(Section):
    """One figure over all sides; None where a side doesn't have it."""

    name: str
    unit: str
    higher_is_better: bool | None
    sides: list[SpreadDocument | None]


class ComparisonDocument(Section):
    """Sides next to each other; of one side: its trials."""

    schema_version: int = SCHEMA_VERSION
    sides: list[SideDocument]
    figures: list[FigureDocument]
    cautions: list[str]


def document_of(found: Comparison) -> ComparisonDocument:
    """Return a comparison as a document."""
    return ComparisonDocument(
        sides=[_side(side) for side in found.sides],
        figures=[_figure(row, found.sides) for row in found.rows],
        cautions=list(found.cautions),
    )


def _side(side: Side) -> SideDocument:
    return SideDocument(
        label=side.label,
        trials=[
            TrialDocument(
                name=trial.name,
                verdict=trial.verdict,
                reasons=[] if trial.document is None else [r.code for r in trial.document.reasons],
                trace_sha256=None if trial.document is None else trial.document.trace.sha256,
            )
            for trial in side.trials
        ],
    )


def _figure(row: Row, sides: tuple[Side, ...]) -> FigureDocument:
    return FigureDocument(
        name=row.figure.name,
        unit=row.figure.unit,
        higher_is_better=row.figure.higher_is_better,
        sides=[_entry(entry, side) for entry, side in zip(row.entries, sides, strict=True)],
    )


def _entry(entry: Entry | None, side: Side) -> SpreadDocument | None:
    if entry is None:
        return None
    found = entry.spread
    return SpreadDocument(
        count=found.count,
        mean=found.mean,
        median=found.median,
        low=found.low,
        high=found.high,
        deviation=found.deviation,
        cv_ratio=found.cv_ratio,
        ci95=found.ci95,
        odd=[side.trials[at].name for at in found.odd],
        ratio=entry.ratio,
        beyond_noise=entry.real,
    )
