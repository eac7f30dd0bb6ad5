"""Consoles of the command line: text is never markup and never steers the terminal."""

from __future__ import annotations

import os
import sys
import textwrap
from collections.abc import Iterable
from typing import Any

import typer
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from kvtrace.show.printable import printable


class PlainConsole(Console):
    """A console on which brackets, colons and control characters in strings are printed as text."""

    def render_str(self, text: str, **options: Any) -> Text:
        """Return a string as text of one line."""
        return super().render_str(printable(text), **options)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Yield segments, each of printable characters."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else _plain(segment)


def _plain(segment: Segment) -> Segment:
    text = segment.text
    if text.isprintable() or text == "\n":
        return segment
    return Segment(printable(text, keep_lines=True), segment.style)


def plain_console(*, width_max: int | None = None, **options: Any) -> PlainConsole:
    """Return a console on stdout, or with `stderr=True` on stderr, at most so wide."""
    console = PlainConsole(markup=False, emoji=False, highlight=False, **options)
    if width_max is not None:
        console.width = min(console.width, width_max)
    return console


def figures(names: Iterable[str], *, left: Iterable[str] = (), title: str = "") -> Table:
    """Return a table of numbers: columns that are never broken, those in `left` of words."""
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
            lines[0], Console().width, subsequent_indent=f"{head}  ", break_on_hyphens=False,
            break_long_words=False,
        ) or [""]  # fmt: skip
    for line in lines:
        typer.echo(line, err=err)
