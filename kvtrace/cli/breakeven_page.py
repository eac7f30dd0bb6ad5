"""A break-even as a page and as a workbook: the tables of the terminal, with charts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from kvtrace.breakeven.answer import Timed
from kvtrace.breakeven.curve import Curve
from kvtrace.cli import breakeven_charts, breakeven_tables
from kvtrace.cli.breakeven_tables import Table
from kvtrace.cli.forms import Forms
from replay.report.web import page
from replay.report.web.page import Cell

if TYPE_CHECKING:
    from kvtrace.breakeven.ask import Answer, BreakEven
    from replay.report.support import workbook

_TITLE = "Is the tier worth it?"
_CURVE = (
    "Needed is the bandwidth above which loading a prefix is faster than computing it; both ends: "
    "the head is computed while the tail is loaded."
)
_HELD = (
    "GPU-seconds count a request's GPUs as held while it loads: saved where its load is faster "
    "than computing the same tokens, wasted where it is slower. The answer flips where both are "
    "equal."
)
_FIRST = (
    "What no tier had is computed after the load in all four. Both ends at once: the GPUs compute "
    "the head of the hits while the tail is loaded, until they meet."
)
_SHOWN = "The chart of requests shows {shown:,} of {all:,}, spread evenly."


def forms_of(answered: BreakEven) -> Forms:
    """Return the report's forms."""
    return Forms(
        lambda: page.whole(_TITLE, body(answered.answer)),
        answered.document,
        lambda: sheets(answered),
    )


def body(answer: Answer) -> list[str]:
    """Return the parts of the page."""
    charts = breakeven_charts.charts(answer)
    facts = list(breakeven_tables.facts(answer))
    parts = [
        page.header(_TITLE, [answer.sentence()]),
        page.section("At a glance", page.charts(charts, 0), *_shown(answer)),
    ]
    if facts:
        parts.append(page.section("What it comes to", page.note(_HELD), page.pairs(facts)))
    tables = [
        page.section(table.title, *_notes(answer, table), _table(table))
        for table in breakeven_tables.tables(answer)
    ]
    return [*parts, *tables, page.section("What this rests on", _assumed(answer))]


def _shown(answer: Answer) -> Iterator[str]:
    most = breakeven_charts.POINTS_MAX
    if isinstance(answer, Timed) and len(answer.loads) > most:
        yield page.note(_SHOWN.format(shown=most, all=len(answer.loads)))


def _notes(answer: Answer, table: Table) -> Iterator[str]:
    if isinstance(answer, Curve):
        yield page.note(_CURVE)
    elif table.title.startswith("Time to first token"):
        yield page.note(_FIRST)


def _table(table: Table) -> str:
    rows: list[list[Cell | str]] = [
        [Cell(text, value) for text, value in zip(texts, values, strict=True)]
        for texts, values in zip(table.rows, table.values, strict=True)
    ]
    return page.table(table.heads, rows, texts=0 if table.values[0][0] is not None else 1)


def _assumed(answer: Answer) -> str:
    return page.pairs(
        (name, f"{value} ({origin})")
        for name, value, origin in breakeven_tables.assumptions(answer)
    )


def sheets(answered: BreakEven) -> list[workbook.Sheet]:
    """Return the workbook's sheets: a summary, every length or request, the assumptions."""
    rows = answered.records()
    heads = tuple(rows[0])
    facts: list[tuple[Any, ...]] = [("", answered.sentence())]
    facts += list(breakeven_tables.facts(answered.answer))
    name = "Lengths" if isinstance(answered.answer, Curve) else "Requests"
    return [
        ("Summary", ("figure", "value"), facts),
        (name, heads, [tuple(_cell(value) for value in row.values()) for row in rows]),
        ("Assumptions", ("figure", "value", "from"),
         list(breakeven_tables.assumptions(answered.answer))),
    ]  # fmt: skip


def _cell(value: Any) -> Any:
    return None if isinstance(value, float) and value == float("inf") else value
