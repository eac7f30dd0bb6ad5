"""Comparisons as one HTML file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from replay.compare import charts, words
from replay.compare.reasons import reasons_of
from replay.report.web import page
from replay.report.web.page import Cell

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from replay.compare.document import ComparisonDocument, FigureDocument, SideDocument

_CHARTS = (
    "Bars: the mean over trials. Line: where the mean is, at 95 % confidence; it may go on beyond "
    "the chart. Points: the trials. "
    "Service time: from submit to completion. Response time: from when the op was due. "
    f"{words.FEW_NOTE}."
)
_NOISE = (
    "Better and worse are told only where the means differ by more than the trials' noise (Welch's "
    f"test, 95 %). One trial has no known noise. {words.FEW_NOTE}."
)
_STATISTICS = (
    "95 %: confidence interval of the mean (Student's t on a log scale). CV: standard deviation "
    "÷ mean. Odd: trials far from the others."
)
_DIFFERS = "differs"


def text(comparison: ComparisonDocument, title: str) -> str:
    """Return a comparison as one page."""
    return page.whole(title, _body(comparison, title))


def _body(comparison: ComparisonDocument, title: str) -> Iterator[str]:
    sentences = "".join(
        f'<p class="headline">{page.text(each)}</p>' for each in comparison.headline
    )
    reasons = "".join(map(_reasons, comparison.sides))
    yield f"<header><h1>{page.text(title)}</h1>{sentences}{reasons}{_cautions(comparison)}</header>"
    yield page.section("At a glance", page.note(_CHARTS), *_charts(comparison))
    alone = len(comparison.sides) == 1
    yield page.section(f"What was {'measured' if alone else 'compared'}", _facts(comparison))
    yield page.section("Figures", *(_alone(comparison) if alone else _beside(comparison)))
    yield page.section("Trials", _trials(comparison))


def _charts(comparison: ComparisonDocument) -> Iterator[str]:
    drawn = 0
    for tier, of_tier in charts.of_tiers(comparison):
        yield page.heading(f"Tier {tier}") + page.charts(of_tier, drawn)
        drawn += len(of_tier)


def _cautions(comparison: ComparisonDocument) -> str:
    items = "".join(f'<li class="warning">{page.text(text)}</li>' for text in comparison.cautions)
    return f'<ul class="reasons">{items}</ul>' if items else ""


def _reasons(side: SideDocument) -> str:
    """Return why trials are INVALID, and what to do."""
    items = []
    for reason, count in reasons_of(side):
        kind = f"INVALID{', accepted' if reason.accepted else ''}"
        items.append(
            f'<li class="INVALID">{page.text(side.label)}: <code>{page.text(reason.code)}</code> '
            f"({kind}, {count} of {len(side.trials)} trials): {page.text(reason.figure)}"
            f"<br>→ {page.text(reason.remedy)}</li>"
        )
    return f'<ul class="reasons">{"".join(items)}</ul>' if items else ""


def _facts(comparison: ComparisonDocument) -> str:
    """Return a row per fact; those that differ between the sides are marked, in words too."""
    heads = ["", *(side.label for side in comparison.sides)]
    head = "".join(f'<th scope="col">{page.text(name)}</th>' for name in heads)
    rows = []
    for fact in comparison.facts:
        cells = "".join(
            f'<td class="text">{page.text("not known" if value is None else value)}</td>'
            for value in fact.values
        )
        mark = f' <small class="mark">{_DIFFERS}</small>' if fact.differs else ""
        kind = f' class="{_DIFFERS}"' if fact.differs else ""
        rows.append(f'<tr{kind}><th scope="row">{page.text(fact.name)}{mark}</th>{cells}</tr>\n')
    if not rows:
        return ""
    return (
        f'<div class="scroll" tabindex="0"><table class="facts"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _beside(comparison: ComparisonDocument) -> Iterator[str]:
    """Yield the figures that differ, then what is within noise and what one side lacks, folded."""
    kinds: dict[str, list[FigureDocument]] = {"differ": [], "noise": [], "missing": []}
    for figure in comparison.figures:
        kinds[_kind(figure)].append(figure)
    yield page.note(_NOISE)
    yield _means(comparison, kinds["differ"]) or page.note(
        "No figure differs by more than the noise."
    )
    for kind, title in (("noise", "within noise"), ("missing", "that not all sides have")):
        if kinds[kind]:
            count = len(kinds[kind])
            noun = "figure" if count == 1 else "figures"
            yield page.folded(f"{count} {noun} {title}", _means(comparison, kinds[kind]))
    every = page.note(_STATISTICS) + _statistics(comparison)
    yield page.folded("All figures with their statistics", every)


def _kind(figure: FigureDocument) -> str:
    """Return whether sides differ in a figure (or may), don't beyond the noise, or lack it."""
    if None in figure.sides:
        return "missing"
    judged = {spread.beyond_noise for spread in figure.sides[1:] if spread is not None}
    return "noise" if judged == {False} else "differ"


def _means(comparison: ComparisonDocument, figures: Sequence[FigureDocument]) -> str:
    """Return a row per figure: each side's mean, and its ratio to the first side's."""
    base, *others = (side.label for side in comparison.sides)
    heads = ["figure", base]
    for label in others:
        heads += [label, f"{label} ÷ {base}"]
    rows = [[figure.name, *_mean_cells(figure)] for figure in figures]
    return page.table(heads, rows)


def _mean_cells(figure: FigureDocument) -> Iterator[Cell | str]:
    for at, spread in enumerate(figure.sides):
        if spread is None:
            yield from [""] * (2 if at else 1)
            continue
        yield Cell(words.marked(spread, figure.unit), spread.mean)
        if at:
            judged = words.judged(figure, spread)
            yield Cell(f"{words.times(spread.ratio)} {judged}".strip(), spread.ratio, judged)


def _alone(comparison: ComparisonDocument) -> Iterator[str]:
    yield page.note(f"{_STATISTICS} {words.FEW_NOTE}.")
    yield _statistics(comparison)


def _statistics(comparison: ComparisonDocument) -> str:
    alone = len(comparison.sides) == 1
    heads = ["figure", *([] if alone else ["side"]), "odd trials", "trials", "mean", "median",
             "lowest", "highest", "CV", "95 %"]  # fmt: skip
    rows = [row for figure in comparison.figures for row in _rows(comparison, figure, alone=alone)]
    return page.table(heads, rows, texts=2 if alone else 3)


def _rows(
    comparison: ComparisonDocument, figure: FigureDocument, *, alone: bool
) -> Iterator[list[Cell | str]]:
    for side, spread in zip(comparison.sides, figure.sides, strict=True):
        if spread is None:
            continue
        low = None if spread.ci95 is None else spread.ci95[0]
        yield [
            figure.name,
            *([] if alone else [side.label]),
            ", ".join(name.removesuffix(".json") for name in spread.odd),
            Cell(str(spread.count), spread.count),
            Cell(words.marked(spread, figure.unit), spread.mean),
            Cell(words.marked(spread, figure.unit, median=True), spread.median),
            Cell(words.value(spread.low, figure.unit), spread.low),
            Cell(words.value(spread.high, figure.unit), spread.high),
            Cell(words.percent(spread.cv_ratio), spread.cv_ratio),
            Cell(words.sure(spread, figure.unit), low),
        ]


def _trials(comparison: ComparisonDocument) -> str:
    rows: list[list[Cell | str]] = [
        [side.label, trial.name, Cell(trial.verdict, kind=trial.verdict), ", ".join(trial.reasons),
         (trial.trace_sha256 or "")[:12]]
        for side in comparison.sides
        for trial in side.trials
    ]  # fmt: skip
    return page.table(["side", "trial", "verdict", "reasons", "trace sha256"], rows, texts=5)
