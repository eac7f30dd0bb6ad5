"""A comparison (or the trials of one thing) as it is stored: typed, versioned, JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from kvtrace.fields import Section
from replay.compare.facts import facts
from replay.compare.headline import sentences
from replay.result.reason import Reason

if TYPE_CHECKING:
    from replay.compare.comparison import Comparison, Entry, Row
    from replay.compare.sides import Side, Trial

SCHEMA_VERSION = 2
"""2 (30 November 2026) adds `headline`, `facts`, `reason_details`, each trial's `values` and
`few_samples`; `ci95` is an interval on a log scale. Version 1 is read: it doesn't have them."""


class TrialDocument(Section):
    """One result: where it is, and what it is of."""

    name: str
    verdict: str
    reasons: list[str]
    trace_sha256: str | None
    reason_details: list[Reason] = Field([], description="what makes it INVALID, what to do")


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

    values: list[float | None] = Field([], description="of each trial; null: it hasn't it")
    few_samples: bool = Field(False, description="fewer than 10 samples beyond the percentile")


class FactDocument(Section):
    """One thing that a comparison is of: what it is on each side; null where it isn't known."""

    name: str
    values: list[str | None]
    differs: bool


class FigureDocument(Section):
    """One figure over all sides; None where a side doesn't have it."""

    name: str
    unit: str
    higher_is_better: bool | None
    sides: list[SpreadDocument | None]


class ComparisonDocument(Section):
    """Sides next to each other; of one side: its trials."""

    schema_version: int = SCHEMA_VERSION
    headline: list[str] = Field([], description="what it comes to, in sentences")
    facts: list[FactDocument] = Field([], description="what was compared")
    sides: list[SideDocument]
    figures: list[FigureDocument]
    cautions: list[str]


def document_of(comparison: Comparison) -> ComparisonDocument:
    """Return a comparison as a document."""
    sides = [_side(side) for side in comparison.sides]
    figures = [_figure(row, comparison.sides) for row in comparison.rows]
    compared = [FactDocument(name=name, values=values, differs=differs)
                for name, values, differs in facts(comparison.sides)]  # fmt: skip
    return ComparisonDocument(
        headline=list(sentences(sides, figures, compared)),
        facts=compared,
        sides=sides,
        figures=figures,
        cautions=list(comparison.cautions),
    )


def _side(side: Side) -> SideDocument:
    return SideDocument(label=side.label, trials=[_trial(trial) for trial in side.trials])


def _trial(trial: Trial) -> TrialDocument:
    reasons = [] if trial.document is None else trial.document.reasons
    return TrialDocument(
        name=trial.name,
        verdict=trial.verdict,
        reasons=[reason.code for reason in reasons],
        trace_sha256=None if trial.document is None else trial.document.trace.sha256,
        reason_details=reasons,
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
    spread = entry.spread
    with_it = [trial.name for trial, value in zip(side.trials, entry.values, strict=True)
               if value is not None]  # fmt: skip
    return SpreadDocument(
        count=spread.count,
        mean=spread.mean,
        median=spread.median,
        low=spread.low,
        high=spread.high,
        deviation=spread.deviation,
        cv_ratio=spread.cv_ratio,
        ci95=spread.ci95,
        odd=[with_it[at] for at in spread.odd],
        ratio=entry.ratio,
        beyond_noise=entry.real,
        values=list(entry.values),
        few_samples=entry.few_samples,
    )
