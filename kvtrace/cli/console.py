"""Consoles of the command line; the package that draws tables is imported when one is drawn."""

from __future__ import annotations

import os
import sys
import textwrap
from typing import TYPE_CHECKING, Any

import typer

from kvtrace.show.columns import columns
from kvtrace.show.printable import printable

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.table import Table

    from kvtrace.cli.plain import PlainConsole


def plain_console(*, width_max: int | None = None, **options: Any) -> PlainConsole:
    """Return a console on stdout, or with `stderr=True` on stderr, at most so wide."""
    from kvtrace.cli.plain import PlainConsole

    console = PlainConsole(markup=False, emoji=False, highlight=False, **options)
    if width_max is not None:
        console.width = min(console.width, width_max)
    return console


def figures(names: Iterable[str], *, left: Iterable[str] = (), title: str = "") -> Table:
    """Return a table of numbers: columns that are never broken, those in `left` of words."""
    from rich.table import Table

    words = set(left)
    table = Table(
        title=title or None, title_justify="left", title_style="bold", box=None,
        padding=(0, 2, 0, 0), header_style="dim",
    )  # fmt: skip
    for name in names:
        table.add_column(name, justify="left" if name in words else "right", no_wrap=True)
    return table


def say(text: str, *, err: bool = False) -> None:
    """Print a line; on a terminal, or where COLUMNS says how wide it is, broken at spaces."""
    stream = sys.stderr if err else sys.stdout
    lines = [printable(text)]
    if stream.isatty() or os.environ.get("COLUMNS", "").isdigit():
        head = lines[0][: len(lines[0]) - len(lines[0].lstrip())]
        lines = textwrap.wrap(
            lines[0], columns(), subsequent_indent=f"{head}  ", break_on_hyphens=False,
            break_long_words=False,
        ) or [""]  # fmt: skip
    for line in lines:
        typer.echo(line, err=err)
