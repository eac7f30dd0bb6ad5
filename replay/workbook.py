"""Workbooks: sheets with named columns, whose numbers are numbers."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from numbers import Real
from typing import TYPE_CHECKING, Any

from kvtrace.printable import printable

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

PACKAGES = ("xlsxwriter",)
Row = tuple[object, ...]
Sheet = tuple[str, Sequence[str], list[Row]]
"""Name, heads, rows."""
_WIDTH, _WIDTH_MAX = 12, 60
_CELL_CHARS_MAX = 32_767
"""What a cell holds. Source: Excel specifications and limits, Microsoft (2024)."""


def write(path: Path, sheets: Iterable[Sheet]) -> None:
    """Write the sheets to `path`, in their order; None and empty text are empty cells."""
    import xlsxwriter

    data = io.BytesIO()
    with xlsxwriter.Workbook(data, {"in_memory": True}) as book:
        for name, heads, rows in sheets:
            _sheet(book, name, heads, rows)
    path.write_bytes(data.getvalue())


def _sheet(book: Any, name: str, heads: Sequence[str], rows: list[Row]) -> None:
    sheet, bold = book.add_worksheet(name), book.add_format({"bold": True})
    for column, head in enumerate(heads):
        sheet.write_string(0, column, _text(head), bold)
    sheet.freeze_panes(1, 0)
    for at, row in enumerate(rows, start=1):
        for column, value in enumerate(row):
            if value is not None and value != "":
                _cell(sheet, at, column, value)
    for column, head in enumerate(heads):
        longest = max([len(head), *(len(str(row[column])) for row in rows)])
        sheet.set_column(column, column, min(max(_WIDTH, longest), _WIDTH_MAX))


def _cell(sheet: Any, row: int, column: int, value: object) -> None:
    """Write a number as a number, all else as text: never a formula or a link."""
    if isinstance(value, bool):
        sheet.write_boolean(row, column, value)
    elif isinstance(value, Real) and math.isfinite(value):
        sheet.write_number(row, column, value)
    else:
        sheet.write_string(row, column, _text(value))


def _text(value: object) -> str:
    return printable(value, keep_lines=True)[:_CELL_CHARS_MAX]
