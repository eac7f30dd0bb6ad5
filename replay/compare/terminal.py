"""Comparisons for people: fits 80 columns."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from kvtrace.show.printable import printable
from kvtrace.show.tables import fitting, wrapped
from replay.compare import words
from replay.compare.reasons import reasons_of
from replay.report.support.cells import WIDTH

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import RenderableType

    from replay.compare.document import ComparisonDocument, SideDocument

_STYLES = {"VALID": "green", "INVALID": "red", "UNJUDGED": "yellow"}


def render(comparison: ComparisonDocument) -> Iterator[RenderableType]:
    """Yield what is to be printed."""
    for sentence in comparison.headline:
        yield Text("\n".join(wrapped(printable(sentence), WIDTH)), style="bold")
    yield Text("")
    for side in comparison.sides:
        yield _trials(side)
        yield from _reasons(side)
    for caution in comparison.cautions:
        yield Text("\n".join(wrapped(f"! {printable(caution)}", WIDTH)), style="yellow")
    yield Text("")
    yield _spreads(comparison) if len(comparison.sides) == 1 else _beside(comparison)
    if any(spread and spread.few_samples for each in comparison.figures for spread in each.sides):
        yield Text(words.FEW_NOTE, style="dim")


def _trials(side: SideDocument) -> Text:
    text = Text(f"{printable(side.label)}: ")
    counts: dict[str, int] = {}
    for trial in side.trials:
        counts[trial.verdict] = counts.get(trial.verdict, 0) + 1
    for at, (verdict, count) in enumerate(counts.items()):
        text.append(", " if at else "")
        text.append(f"{count} × {verdict}", style=_STYLES.get(verdict, ""))
    return text


def _reasons(side: SideDocument) -> Iterator[RenderableType]:
    """Yield why trials are INVALID, and what to do."""
    for reason, count in reasons_of(side):
        accepted = ", accepted" if reason.accepted else ""
        trials = f"{count} of {len(side.trials)} trials{accepted}"
        figure, remedy = printable(reason.figure), printable(reason.remedy)
        lines = wrapped(f"{reason.code} ({trials}): {figure}", WIDTH, "  ")
        lines += wrapped(f"→ {remedy}", WIDTH, "  ")
        text = Text("\n".join(lines))
        text.highlight_words([reason.code], style="red")
        yield text


def _spreads(comparison: ComparisonDocument) -> RenderableType:
    """Return the table of one side's figures over its trials."""
    rows = []
    for figure in comparison.figures:
        side = figure.sides[0]
        assert side is not None, "a figure is some trial's"
        odd = ", ".join(name.removesuffix(".json") for name in side.odd)
        rows.append(
            [
                figure.name,
                words.marked(side, figure.unit),
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


def _beside(comparison: ComparisonDocument) -> RenderableType:
    """Return each figure's means side by side, those after the first with their ratio to it."""
    rows = []
    for figure in comparison.figures:
        cells = []
        for side in figure.sides:
            if side is None:
                cells.append("")
                continue
            ratio = "" if side.ratio is None else f" ×{side.ratio:.3g}"
            judged = words.judged(figure, side)
            verdict = f" {judged}" if judged else ""
            cells.append(f"{words.marked(side, figure.unit)}{ratio}{verdict}")
        rows.append([figure.name, *cells])
    heads = ["figure", *(side.label for side in comparison.sides)]
    return fitting(heads, rows, names=1, width=WIDTH)
