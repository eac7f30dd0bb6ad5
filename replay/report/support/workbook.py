"""Workbooks: sheets with named columns, whose numbers are numbers."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Any

from kvtrace.show.printable import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

PACKAGES = ("xlsxwriter",)
Row = tuple[object, ...]
Sheet = tuple[str, Sequence[str], list[Row]]
"""Name, heads, rows."""
_WIDTH, _WIDTH_MAX = 12, 60
_CELL_CHARS_MAX = 32_767
"""What a cell holds. Source: Excel specifications and limits, Microsoft (2024)."""
WHOLE, BROKEN, SHARE, TIMES = "#,##0", "#,##0.000", "0.0%", '0.00" ×"'
"""Formats: whole numbers, others with three digits, per cent, ratios."""
_FORMATS = (
    (re.compile(r"_ns$|\(ns\)|bytes$|^(ops|rows|count|errors|samples|objects)$", re.I), WHOLE),
    (re.compile(r"_per_s$|_s$|\((s|ms|us|µs|GB/s|GiB/s|GiB|GiB/day)\)$", re.I), BROKEN),
    (re.compile(r"÷"), TIMES),
    (re.compile(r"[_ ]ratio$|\(%\)$|share|compliance", re.I), SHARE),
)
"""Patterns of heads, and how the numbers below them are shown; the first that fits counts."""


def _letters(value: object) -> int:
    """Return how wide a cell is shown: numbers have their format, not all their digits."""
    return len(f"{value:,.3f}") if isinstance(value, float) else len(str(value))


@dataclass(frozen=True, slots=True)
class Bars:
    """A bar chart beside a sheet's table: of its first `rows`, a series per column in `columns`."""

    sheet: str
    title: str
    unit: str
    rows: int
    columns: Sequence[int]
    names: Sequence[str]


def number_format(head: str, value: float) -> str | None:
    """Return how a number is shown below a head; None: as it is.

    Fractions are shown with three digits, below whatever head; the cell has all of them.
    """
    for pattern, shown in _FORMATS:
        if pattern.search(head):
            return shown
    return None if isinstance(value, int) or float(value).is_integer() else BROKEN


def write(path: Path, sheets: Iterable[Sheet], charts: Sequence[Bars] = ()) -> None:
    """Write the sheets to `path`, in their order; None and empty text are empty cells."""
    import xlsxwriter

    data = io.BytesIO()
    with xlsxwriter.Workbook(data, {"in_memory": True}) as book:
        formats: dict[str, Any] = {}

        def format_of(shown: str) -> Any:
            if shown not in formats:
                formats[shown] = book.add_format({"num_format": shown})
            return formats[shown]

        for name, heads, rows in sheets:
            _sheet(book, name, heads, rows, format_of)
            for chart in charts:
                if chart.sheet == name:
                    _bars(book, chart, len(heads))
    path.write_bytes(data.getvalue())


def _sheet(
    book: Any, name: str, heads: Sequence[str], rows: list[Row], format_of: Callable[[str], Any]
) -> None:
    sheet, bold = book.add_worksheet(name), book.add_format({"bold": True})
    for column, head in enumerate(heads):
        sheet.write_string(0, column, _text(head), bold)
    sheet.freeze_panes(1, 0)
    for at, row in enumerate(rows, start=1):
        for column, value in enumerate(row):
            if value is not None and value != "":
                _cell(sheet, at, column, value, heads[column], format_of)
    for column, head in enumerate(heads):
        longest = max([len(head), *(_letters(row[column]) for row in rows)])
        sheet.set_column(column, column, min(max(_WIDTH, longest), _WIDTH_MAX))


def _bars(book: Any, chart: Bars, columns: int) -> None:
    """Put a chart to the right of the sheet's table; the first column names its groups."""
    drawn = book.add_chart({"type": "bar"})
    for column, name in zip(chart.columns, chart.names, strict=True):
        drawn.add_series({
            "name": _text(name),
            "categories": [chart.sheet, 1, 0, chart.rows, 0],
            "values": [chart.sheet, 1, column, chart.rows, column],
        })  # fmt: skip
    drawn.set_title({"name": chart.title, "name_font": {"size": 12}})
    drawn.set_x_axis({"name": chart.unit, "min": 0})
    drawn.set_y_axis({"reverse": True})
    drawn.set_legend({"position": "bottom", "none": len(chart.names) < 2})
    drawn.set_size({"width": 720, "height": 120 + 24 * chart.rows * (1 + len(chart.names)) // 2})
    book.get_worksheet_by_name(chart.sheet).insert_chart(1, columns + 1, drawn)


def _cell(
    sheet: Any, row: int, column: int, value: object, head: str, format_of: Callable[[str], Any]
) -> None:
    """Write a number as a number, all else as text: never a formula or a link."""
    if isinstance(value, bool):
        sheet.write_boolean(row, column, value)
    elif isinstance(value, int | float) and math.isfinite(value):
        shown = number_format(head, value)
        sheet.write_number(row, column, value, None if shown is None else format_of(shown))
    elif isinstance(value, Real) and math.isfinite(value):
        sheet.write_number(row, column, value)
    else:
        sheet.write_string(row, column, _text(value))


def _text(value: object) -> str:
    return printable(value, keep_lines=True)[:_CELL_CHARS_MAX]
