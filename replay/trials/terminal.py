"""Comparisons for people: fits 80 columns."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from kvtrace.printable import printable
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


def _table(*heads: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for at, head in enumerate(heads):
        table.add_column(printable(head), justify="right" if at else "left", overflow="fold")
    return table


def _spreads(found: ComparisonDocument) -> Table:
    """Return what the trials of one side say of each figure."""
    table = _table("figure", "mean", "median", "CV", "95 %", "odd")
    for figure in found.figures:
        side = figure.sides[0]
        assert side is not None, "a figure is some trial's"
        odd = ", ".join(name.removesuffix(".json") for name in side.odd)
        table.add_row(
            figure.name,
            words.value(side.mean, figure.unit),
            words.value(side.median, figure.unit),
            words.percent(side.cv_ratio),
            words.sure(side, figure.unit),
            odd,
        )
    return table


def _beside(found: ComparisonDocument) -> Table:
    """Return each figure's means side by side, those after the first with their ratio to it."""
    table = _table("figure", *(side.label for side in found.sides))
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
        table.add_row(figure.name, *cells)
    return table
