"""Tables of figures that fit a width: no number is cut or broken, whatever is in them."""

from __future__ import annotations

import re
import textwrap
from typing import TYPE_CHECKING

from kvtrace.show.printable import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    Row = Sequence[str]

_GAP = 2
_TIED = "\N{NO-BREAK SPACE}"
_NUMBER = re.compile(
    r"(\d[*]?) (?=(?:[nµm]?s|[KMGT]i?B(?:/s)?|[kMG]|min|h|d|%|ops|rows|max|mean)\b)"
)


_PERCENTILE = re.compile(r"\b(P\d[\d.]*[*]?) (?=\d)")


def fitting(
    heads: Sequence[str],
    rows: Sequence[Row],
    *,
    width: int,
    names: int = 0,
    title: str = "",
) -> RenderableType:
    """Return a table, or, where it would be too wide, its rows as text that is broken at spaces.

    `names`: how many columns, from the first on, are words that name the row; the others are
    figures, which keep their units.
    """
    heads = [printable(head) for head in heads]
    rows = [[printable(cell) for cell in row] for row in rows]
    if _natural(heads, rows) <= width:
        return _table(heads, rows, names, title)
    lines = [*([title] if title else [])]
    for row in rows:
        lines += _lines(heads, row, names, width)
    from rich.text import Text

    return Text("\n".join(lines))


def _natural(heads: Sequence[str], rows: Sequence[Row]) -> int:
    from rich.cells import cell_len

    columns = zip(heads, *rows, strict=True)
    return sum(max(map(cell_len, column)) + _GAP for column in columns) - _GAP


def _table(heads: Sequence[str], rows: Sequence[Row], names: int, title: str) -> RenderableType:
    from rich.table import Table

    table = Table(
        title=title or None, title_justify="left", title_style="bold", box=None,
        padding=(0, _GAP, 0, 0), header_style="dim", pad_edge=False,
    )  # fmt: skip
    for at, head in enumerate(heads):
        table.add_column(head, justify="left" if at < names else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table


def _lines(heads: Sequence[str], row: Row, names: int, width: int) -> list[str]:
    """Return one row as lines: what names it, then its figures, each behind its head."""
    cells = [f"{head} {cell}" for head, cell in zip(heads, row, strict=True) if cell.strip()]
    named = [row[0]] if names == 1 else cells[:names]
    figures = cells[names:]
    return [*filled(named, width), *filled(figures, width, "    ")]


def filled(parts: Sequence[str], width: int, indent: str = "") -> list[str]:
    """Return parts with commas between, as many on a line as fit; none is broken."""
    from rich.cells import cell_len

    lines: list[str] = []
    for at, part in enumerate(parts):
        word = part + ("," if at < len(parts) - 1 else "")
        if lines and cell_len(lines[-1]) + 1 + cell_len(word) <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(f"{indent}{word}")
    return lines


def wrapped(text: str, columns: int, indent: str = "", *, long_words: bool = False) -> list[str]:
    """Return the lines of a text, broken at spaces; a number and its unit stay together.

    `long_words`: break words, such as names of files, that are longer than a line.
    """
    for pattern in (_NUMBER, _PERCENTILE):
        text = pattern.sub(rf"\1{_TIED}", text)
    lines = textwrap.wrap(
        text, columns, initial_indent=indent,
        subsequent_indent=indent, break_on_hyphens=False, break_long_words=long_words,
    )  # fmt: skip
    return [line.replace(_TIED, " ") for line in lines]
