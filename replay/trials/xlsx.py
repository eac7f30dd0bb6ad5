"""Comparisons as a workbook: numbers are numbers, in base units that a column names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from replay import workbook
from replay.trials import words

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from replay.trials.document import ComparisonDocument, FigureDocument
    from replay.workbook import Row, Sheet

SIDES = ("side", "trial", "verdict", "reasons", "trace_sha256")
FIGURES = (
    "figure", "unit", "side", "trials", "mean", "median", "low", "high", "deviation", "cv_ratio",
    "ci95_low", "ci95_high", "ratio", "beyond_noise", "judged", "odd_trials",
)  # fmt: skip
"""Empty cells: not known, or not of that side."""
CAUTIONS = ("caution",)


def write(found: ComparisonDocument, path: Path) -> None:
    """Write the comparison to `path`."""
    workbook.write(path, _sheets(found))


def _sheets(found: ComparisonDocument) -> Iterator[Sheet]:
    yield "Sides", SIDES, list(_sides(found))
    yield "Figures", FIGURES, [row for figure in found.figures for row in _figure(found, figure)]
    yield "Cautions", CAUTIONS, [(caution,) for caution in found.cautions]


def _sides(found: ComparisonDocument) -> Iterator[Row]:
    for side in found.sides:
        for trial in side.trials:
            reasons = ", ".join(trial.reasons)
            yield side.label, trial.name, trial.verdict, reasons, trial.trace_sha256


def _figure(found: ComparisonDocument, figure: FigureDocument) -> Iterator[Row]:
    for side, spread in zip(found.sides, figure.sides, strict=True):
        if spread is None:
            continue
        low, high = spread.ci95 or (None, None)
        yield (
            figure.name, figure.unit, side.label, spread.count,
            spread.mean, spread.median, spread.low, spread.high, spread.deviation,
            spread.cv_ratio, low, high, spread.ratio, spread.beyond_noise,
            words.judged(figure, spread), ", ".join(spread.odd),
        )  # fmt: skip
