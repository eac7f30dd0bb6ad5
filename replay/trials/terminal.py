"""Comparisons for people: fits 80 columns."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from kvtrace.printable import printable
from kvtrace.tables import fitting
from replay.report.cells import WIDTH
from replay.trials import words

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import RenderableType

    from replay.trials.document import ComparisonDocument, SideDocument

_STYLES = {"VALID": "green", "INVALID": "red", "UNJUDGED": "yellow"}


def render(found: ComparisonDocument) -> Iterator[RenderableType]:
    """Yield what is to be printed."""
    for side in found.sides:
        yield _trials(side)
    for caution in found.cautions:
        yield Text(f"! {printable(caution)}", style="yellow")
    yield Text("")
    yield _spreads(found) if len(found.sides) == 1 else _beside(found)


def _trials(side: SideDocument) -> Text:
    text = Text(f"{printable(side.label)}: ")
    counts: dict[str, int] = {}
    for trial in side.trials:
        counts[trial.verdict] = counts.get(trial.verdict, 0) + 1
    for at, (verdict, count) in enumerate(counts.items()):
        text.append(", " if at else "")
        text.append(f"{count} × {verdict}", style=_STYLES.get(verdict, ""))
    return text


def _spreads(found: ComparisonDocument) -> RenderableType:
    """Return what the trials of one side say of each figure."""
    rows = []
    for figure in found.figures:
        side = figure.sides[0]
        assert side is not None, "a figure is some trial's"
        odd = ", ".join(name.removesuffix(".json") for name in side.odd)
        rows.append(
            [
                figure.name,
                words.value(side.mean, figure.unit),
                words.value(side.median, figure.unit),
                words.percent(side.cv_ratio),
                words.sure(side, figure.unit),
                odd,
            ]
        )
    heads = ["figure", "mean", "median", "CV", "95 %", "odd"]
    if not any(row[-1] for row in rows):
        heads, rows = heads[:-1], [row[:-1] for row in rows]
    return fitting(heads, rows, names=1, width=WIDTH)


def _beside(found: ComparisonDocument) -> RenderableType:
    """Return each figure's means side by side, those after the first with their ratio to it."""
    rows = []
    for figure in found.figures:
        cells = []
        for side in figure.sides:
            if side is None:
                cells.append("")
                continue
            ratio = "" if side.ratio is None else f" ×{side.ratio:.3g}"
            judged = words.judged(figure, side)
            said = f" {judged}" if judged else ""
            cells.append(f"{words.value(side.mean, figure.unit)}{ratio}{said}")
        rows.append([figure.name, *cells])
    heads = ["figure", *(side.label for side in found.sides)]
    return fitting(heads, rows, names=1, width=WIDTH)
