"""Workbooks: sheets with named columns, whose numbers are numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

PACKAGES = ("xlsxwriter",)
Row = tuple[object, ...]
Sheet = tuple[str, Sequence[str], list[Row]]
"""Name, heads, rows."""
_WIDTH, _WIDTH_MAX = 12, 60


def write(path: Path, sheets: Iterable[Sheet]) -> None:
    """Write the sheets to `path`, in their order; None and empty text are empty cells."""
    import xlsxwriter

    with xlsxwriter.Workbook(str(path), {"strings_to_formulas": False}) as book:
        for name, heads, rows in sheets:
            _sheet(book, name, heads, rows)


def _sheet(book: Any, name: str, heads: Sequence[str], rows: list[Row]) -> None:
    sheet, bold = book.add_worksheet(name), book.add_format({"bold": True})
    sheet.write_row(0, 0, heads, bold)
    sheet.freeze_panes(1, 0)
    for at, row in enumerate(rows, start=1):
        for column, value in enumerate(row):
            if value is not None and value != "":
                sheet.write(at, column, value)
    for column, head in enumerate(heads):
        longest = max([len(head), *(len(str(row[column])) for row in rows)])
        sheet.set_column(column, column, min(max(_WIDTH, longest), _WIDTH_MAX))
