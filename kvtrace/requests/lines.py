"""Text files as pieces of lines, so that no file is held whole."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import IO, TYPE_CHECKING

from kvtrace.errors import TraceError
from kvtrace.files.textfile import open_text

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LINES_PER_PIECE = 4096
MAX_LINE_BYTES = 32 << 20
"""Longest line: the ids of a prompt of 2²³ tokens have some 10 MB."""
_PIECE_CHARACTERS = 32 << 20


@dataclass(frozen=True, slots=True)
class Lines:
    """Lines of one file that follow one another, none of them empty; `first`: 1-based number."""

    where: str
    first: int
    lines: list[str]


def pieces(path: Path, count: int | None = None, *, first: int = 1) -> Iterator[Lines]:
    """Yield the lines of `path` from number `first` on, `count` at a time.

    Empty lines are accepted at the end of a file only. Raises TraceError.
    """
    count, number, empty = count or LINES_PER_PIECE, first, 0
    with open_text(path, line_bytes=MAX_LINE_BYTES) as file:
        next(islice(file, first - 1, first - 1), None)
        while lines := _next_lines(file, count):
            kept = [line for line in lines if not line.isspace()]
            if kept and (empty or kept != lines[: len(kept)]):
                gap = empty or number + next(i for i, text in enumerate(lines) if text.isspace())
                raise TraceError("empty line between requests", where=f"{path}:{gap}")
            if len(kept) != len(lines):
                empty = empty or number + len(kept)
            if kept:
                yield Lines(str(path), number, kept)
            number += len(lines)


def _next_lines(file: IO[str], count: int) -> list[str]:
    """Return the next lines: `count`, or fewer long ones."""
    lines: list[str] = []
    held = 0
    for line in islice(file, count):
        lines.append(line)
        held += len(line)
        if held > _PIECE_CHARACTERS:
            break
    return lines
