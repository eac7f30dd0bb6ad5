"""Comparisons as a workbook: what it comes to, means in units that people read, all figures.

Sheets Summary, Compared, Rates, Times and Others are for people; Figures has numbers in base units,
which a column names.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from kvtrace.units import MS_NS
from replay.compare import words
from replay.compare.figures import BYTES_PER_S, NS
from replay.compare.reasons import reasons_of
from replay.report.support import workbook
from replay.report.support.workbook import Bars

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from replay.compare.document import ComparisonDocument, FigureDocument
    from replay.report.support.workbook import Row, Sheet

SIDES = ("side", "trial", "verdict", "reasons", "trace_sha256")
FIGURES = (
    "figure", "unit", "side", "trials", "mean", "median", "low", "high", "deviation", "cv_ratio",
    "ci95_low", "ci95_high", "ratio", "beyond_noise", "judged", "odd_trials", "few_samples",
)  # fmt: skip
"""Empty cells: not known, or not of that side."""
CAUTIONS = ("caution",)
REASONS = ("side", "code", "trials", "figure", "remedy", "accepted")

_KEY = re.compile(r"\w+ (read|write)( response)? (P50|P99)")
_MEANS: tuple[tuple[str, Callable[[str], bool], str, float], ...] = (
    ("Rates", lambda unit: unit == BYTES_PER_S, "GB/s", 1e9),
    ("Times", lambda unit: unit == NS, "ms", MS_NS),
    ("Others", lambda unit: unit not in (BYTES_PER_S, NS), "", 1),
)
"""Sheets of means: which figures, their unit in the heads, what they are divided by."""


def write(comparison: ComparisonDocument, path: Path) -> None:
    """Write the comparison to `path`."""
    workbook.write(path, _sheets(comparison), list(_charts(comparison)))


def _charts(comparison: ComparisonDocument) -> Iterator[Bars]:
    """Yield bars of all rates, and of the times that lie first in their sheet."""
    labels = [side.label for side in comparison.sides]
    columns = [1, *(4 + 5 * at for at in range(len(labels) - 1))]
    for (name, unit, shown, _), title in zip(_MEANS, ("Rates", "P50 and P99"), strict=False):
        names = [figure.name for figure in comparison.figures if unit(figure.unit)]
        rows = len(names) if name == "Rates" else sum(map(_is_key, names))
        if rows:
            yield Bars(name, title, shown, rows, columns, labels)


def _is_key(name: str) -> bool:
    """Return whether a time is P50 or P99 of a tier's reads or writes."""
    return _KEY.fullmatch(name) is not None


def _sheets(comparison: ComparisonDocument) -> Iterator[Sheet]:
    labels = [side.label for side in comparison.sides]
    yield "Summary", ("summary",), [(sentence,) for sentence in comparison.headline]
    facts: list[Row] = [
        (fact.name, *("not known" if value is None else value for value in fact.values),
         "differs" if fact.differs else "")
        for fact in comparison.facts
    ]  # fmt: skip
    yield "Compared", ("what", *labels, "differs"), facts
    for name, unit, shown, factor in _MEANS:
        figures = [figure for figure in comparison.figures if unit(figure.unit)]
        figures.sort(key=lambda figure: not _is_key(figure.name))
        means = [_means(figure, factor) for figure in figures]
        if means:
            yield name, _mean_heads(labels, shown), means
    yield "Sides", SIDES, list(_sides(comparison))
    every = [row for figure in comparison.figures for row in _figure(comparison, figure)]
    yield "Figures", FIGURES, every
    yield "Cautions", CAUTIONS, [(caution,) for caution in comparison.cautions]
    yield "Reasons", REASONS, list(_reasons(comparison))


def _mean_heads(labels: list[str], unit: str) -> tuple[str, ...]:
    """Return the heads of `_means`: of each side its mean, interval and what it is to the first."""
    heads = ["figure", *([] if unit else ["unit"])]
    shown = f" ({unit})" if unit else ""
    for at, label in enumerate(labels):
        heads += [f"{label}, {what}{shown}" for what in ("mean", "95 % from", "95 % to")]
        heads += [f"{label} ÷ {labels[0]}", f"{label}, verdict"] if at else []
    return (*heads, "fewer than 10 samples")


def _means(figure: FigureDocument, factor: float) -> Row:
    """Return a figure of all sides, divided by `factor`; with its unit where that is 1."""
    cells: list[object] = [figure.name, *([figure.unit] if factor == 1 else [])]
    for at, spread in enumerate(figure.sides):
        if spread is None:
            cells += [None] * (5 if at else 3)
            continue
        ends = spread.ci95 or (None, None)
        cells += [spread.mean / factor, *(None if end is None else end / factor for end in ends)]
        cells += [spread.ratio, words.judged(figure, spread)] if at else []
    few = any(spread is not None and spread.few_samples for spread in figure.sides)
    return (*cells, words.FEW_MARK if few else "")


def _sides(comparison: ComparisonDocument) -> Iterator[Row]:
    for side in comparison.sides:
        for trial in side.trials:
            reasons = ", ".join(trial.reasons)
            yield side.label, trial.name, trial.verdict, reasons, trial.trace_sha256


def _figure(comparison: ComparisonDocument, figure: FigureDocument) -> Iterator[Row]:
    for side, spread in zip(comparison.sides, figure.sides, strict=True):
        if spread is None:
            continue
        low, high = spread.ci95 or (None, None)
        yield (
            figure.name, figure.unit, side.label, spread.count,
            spread.mean, spread.median, spread.low, spread.high, spread.deviation,
            spread.cv_ratio, low, high, spread.ratio, spread.beyond_noise,
            words.judged(figure, spread), ", ".join(spread.odd), spread.few_samples,
        )  # fmt: skip


def _reasons(comparison: ComparisonDocument) -> Iterator[Row]:
    for side in comparison.sides:
        for reason, count in reasons_of(side):
            yield side.label, reason.code, count, reason.figure, reason.remedy, reason.accepted
