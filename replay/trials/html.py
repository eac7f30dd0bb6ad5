"""Comparisons as one HTML file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from replay.trials import words
from replay.web import page
from replay.web.page import Cell, Chart

if TYPE_CHECKING:
    from collections.abc import Iterator

    from replay.trials.document import ComparisonDocument, FigureDocument

_NOISE = (
    "Better and worse are said only where the means differ by more than the trials' noise (Welch's "
    "test, 95 %). One trial has no known noise."
)


def text(found: ComparisonDocument, title: str) -> str:
    """Return a comparison as one page."""
    return page.whole(title, _body(found, title))


def _body(found: ComparisonDocument, title: str) -> Iterator[str]:
    yield f"<header><h1>{page.text(title)}</h1>{_cautions(found)}</header>"
    yield page.section("Trials", _trials(found))
    charts = [chart for figure in found.figures if (chart := _chart(found, figure)) is not None]
    yield page.section("At a glance", page.charts(charts[:6], 0))
    yield page.section("Figures", page.note(_NOISE), _figures(found))


def _cautions(found: ComparisonDocument) -> str:
    items = "".join(f'<li class="warning">{page.text(text)}</li>' for text in found.cautions)
    return f'<ul class="reasons">{items}</ul>' if items else ""


def _trials(found: ComparisonDocument) -> str:
    rows: list[list[Cell | str]] = [
        [side.label, trial.name, trial.verdict, ", ".join(trial.reasons), trial.trace_sha256 or ""]
        for side in found.sides
        for trial in side.trials
    ]
    return page.table(["side", "trial", "verdict", "reasons", "trace sha256"], rows, texts=5)


def _figures(found: ComparisonDocument) -> str:
    heads = ["figure", "side", "judged", "odd trials", "trials", "mean", "median", "CV",
             "95 % from", "to", "ratio"]  # fmt: skip
    return page.table(heads, [row for figure in found.figures for row in _rows(found, figure)],
                      texts=4)  # fmt: skip


def _rows(found: ComparisonDocument, figure: FigureDocument) -> Iterator[list[Cell | str]]:
    for side, spread in zip(found.sides, figure.sides, strict=True):
        if spread is None:
            continue
        low, high = spread.ci95 or (None, None)
        yield [
            figure.name,
            side.label,
            words.judged(figure, spread),
            ", ".join(spread.odd),
            Cell(str(spread.count), spread.count),
            Cell(words.value(spread.mean, figure.unit), spread.mean),
            Cell(words.value(spread.median, figure.unit), spread.median),
            Cell(words.percent(spread.cv_ratio), spread.cv_ratio),
            Cell("" if low is None else words.value(low, figure.unit), low),
            Cell("" if high is None else words.value(high, figure.unit), high),
            Cell("" if spread.ratio is None else f"{spread.ratio:.3f}", spread.ratio),
        ]


def _chart(found: ComparisonDocument, figure: FigureDocument) -> Chart | None:
    """Return the sides' means as bars, with what is sure of them; None if there is nothing."""
    rows = [
        {
            "side": side.label,
            "mean": spread.mean,
            "from": (spread.ci95 or (spread.mean,))[0],
            "to": (spread.ci95 or (spread.mean,))[-1],
        }
        for side, spread in zip(found.sides, figure.sides, strict=True)
        if spread is not None
    ]
    if not any(row["mean"] for row in rows):
        return None
    import altair

    base = altair.Chart(altair.InlineData(values=rows)).encode(
        y=altair.Y("side:N", title=None, sort=None)
    )
    bars = base.mark_bar(color="#2b7bba").encode(
        x=altair.X("mean:Q", title=figure.unit, scale=altair.Scale(zero=True)),
        tooltip=["side:N", "mean:Q", "from:Q", "to:Q"],
    )
    sure = base.mark_rule(strokeWidth=3, color="#d9730d").encode(x="from:Q", x2="to:Q")
    return Chart(figure.name, page.fitted(bars + sure, height=40 * len(rows)))
