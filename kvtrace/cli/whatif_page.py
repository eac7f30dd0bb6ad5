"""What-ifs as a page and as a workbook: the table and the charts of what the terminal prints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kvtrace.cli import whatif_worth
from kvtrace.cli.forms import Forms
from kvtrace.cli.whatif_tables import (
    Column,
    Columns,
    byte_columns,
    curve_rows,
    headline,
    hit_columns,
    short_number,
    swept_keys,
)
from kvtrace.files.outfile import OutFile
from kvtrace.whatif import plot
from kvtrace.whatif.answers import Answers
from replay.report.support import workbook
from replay.report.web import page
from replay.report.web.page import Cell, Chart

_TITLE = "What if the tiers were others?"
_NODE = (
    "Bytes are the whole node's, over the whole run. GiB per day and drive writes per day are at "
    "its mean rate, the tiers' filling at the start included."
)
_WORTH = (
    "Of each combination's slowest tier below gpu: the bandwidth above which its loads are faster "
    "than computing the same tokens, at P50 of the requests and of all bytes."
)
_OPT = "OPT: the most that any cache of as many blocks, each by itself, could serve. "


def forms_of(
    answers: Answers, choices: dict[str, list[str]], notes: list[str], document: dict[str, Any]
) -> Forms:
    """Return the report's forms; `document`: the one in JSON."""
    return Forms(
        lambda: page.whole(_TITLE, _body(answers, choices, notes)),
        lambda: document,
        lambda: _sheets(answers, choices, notes),
    )


def write_charts(
    answers: Answers, choices: dict[str, list[str]], path: Path, *, force: bool
) -> None:
    """Write the charts alone to a page at `path`."""
    text = page.whole(_TITLE, [_head(answers, choices), _charts(answers, choices)])
    with OutFile(path, force=force) as file:
        file.write(text.encode())


def _sheets(
    answers: Answers, choices: dict[str, list[str]], notes: list[str]
) -> list[workbook.Sheet]:
    """Return the tables: numbers in the units that heads name, formatted."""
    keys = swept_keys(choices)
    sheets: list[workbook.Sheet] = [
        ("Summary", ("summary",), [(line,) for line in (*headline(answers, keys), *notes)])
    ]
    tables = [("Hit ratios", hit_columns(answers)), ("Bytes", byte_columns(answers))]
    if any(each.worth is not None for each in answers.outcomes):
        worth = whatif_worth.columns(answers.outcomes)
        tables.append(("Break-even", [Column(each.head, each.value) for each in worth]))
    for name, columns in tables:
        heads = (*map(plot.short, keys), *(column.head for column in columns))
        rows = [
            (*(each.options[key] for key in keys), *(column.value(each) for column in columns))
            for each in answers.outcomes
        ]
        sheets.append((name, heads, rows))
    if answers.curves:
        heads, curve = curve_rows(answers)
        sheets.append(("Miss ratio", heads, curve))
    return sheets


def _body(answers: Answers, choices: dict[str, list[str]], notes: list[str]) -> list[str]:
    keys = swept_keys(choices)
    hits, moved = hit_columns(answers), byte_columns(answers)
    optimal = _OPT if answers.outcomes[0].optimal is not None else ""
    parts = [
        _head(answers, choices),
        page.section("At a glance", _charts(answers, choices)),
        page.section(
            "Hit ratio", page.note(f"Of the blocks asked for. {optimal}"),
            _table(answers, keys, hits),
        ),
        page.section("Bytes", page.note(_NODE), _table(answers, keys, moved)),
    ]  # fmt: skip
    worth = whatif_worth.columns(answers.outcomes)
    if any(each.worth is not None for each in answers.outcomes):
        table = _table(answers, keys, [Column(each.head, each.value) for each in worth])
        parts.append(page.section("Loads against recomputing", page.note(_WORTH), table))
    if answers.curves:
        heads, rows = curve_rows(answers)
        cells = [[Cell(_shown(head, value), _number(value)) for head, value in
                  zip(heads, row, strict=True)] for row in rows]  # fmt: skip
        table = page.table(heads, cells)
        parts.append(page.section("Miss ratio of one tier", page.folded("All sizes", table)))
    fixed = [(plot.short(key), values[0]) for key, values in choices.items() if key not in keys]
    first = answers.outcomes[0].stats
    about = [*fixed, ("requests", f"{first.requests:,}"), ("blocks asked for", f"{first.blocks:,}"),
             ("ideal hit ratio (prefixes, no limit)",
              f"{first.ideal_hits / max(1, first.blocks):.1%}")]  # fmt: skip
    noted = "".join(page.note(line) for line in notes)
    return [*parts, page.section("Requests", page.pairs(about), noted)]


def _head(answers: Answers, choices: dict[str, list[str]]) -> str:
    return page.header(_TITLE, headline(answers, swept_keys(choices)))


def _charts(answers: Answers, choices: dict[str, list[str]]) -> str:
    charts = [Chart(each.title, page.fitted(each.chart, each.height_px))
              for each in plot.plots(answers, choices)]  # fmt: skip
    return page.charts(charts, 0)


def _table(answers: Answers, keys: list[str], columns: Columns) -> str:
    heads = [*map(plot.short, keys), *(column.head for column in columns)]
    rows: list[list[Cell | str]] = []
    for outcome in answers.outcomes:
        values = [column.value(outcome) for column in columns]
        cells = [Cell(_shown(column.head, value), value)
                 for column, value in zip(columns, values, strict=True)]  # fmt: skip
        rows.append([*(str(outcome.options[key]) for key in keys), *cells])
    return page.table(heads, rows, texts=len(keys), dense=len(heads) > 9)


def _number(value: Any) -> float | None:
    return value if isinstance(value, int | float) else None


def _shown(head: str, value: Any) -> str:
    """Return a cell's text; None is unknown, or not of that combination."""
    if value is None:
        return "–"
    if head.endswith("ratio"):
        return f"{value:.1%}"
    return f"{value:,}" if isinstance(value, int) else short_number(value)
