"""Text files as pieces of lines, so that no file is held whole."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from kvtrace.errors import TraceError
from kvtrace.textfile import open_text

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LINES_PER_PIECE = 4096


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
    with open_text(path) as file:
        next(islice(file, first - 1, first - 1), None)
        while lines := list(islice(file, count)):
            kept = [line for line in lines if not line.isspace()]
            if kept and (empty or kept != lines[: len(kept)]):
                gap = empty or number + next(i for i, text in enumerate(lines) if text.isspace())
                raise TraceError("empty line between requests", where=f"{path}:{gap}")
            if len(kept) != len(lines):
                empty = empty or number + len(kept)
            if kept:
                yield Lines(str(path), number, kept)
            number += len(lines)
