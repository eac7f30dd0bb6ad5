"""Requests whose files list them in another order than that of their arrivals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from kvtrace.requests.request import ranges
from kvtrace.requests.rows import FileRows, Piece, join

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

REQUESTS_PER_PIECE = 1 << 14


@dataclass(frozen=True, slots=True)
class Listed(Piece):
    """Some requests of several files; `file` is the index in `files` of each one's file."""

    files: tuple[str, ...] = ()
    file: NDArray[np.int64] | None = None

    def place(self, row: int) -> str:
        """Return file and line of a request."""
        assert self.file is not None
        return f"{self.files[self.file[row]]}{self.mark}{self.line[row]}"


def by_arrival(pieces: Iterable[Piece]) -> Iterator[Piece]:
    """Yield the requests in order of arrival, those of one time in the order of their files.

    Holds all requests, and their ids, in memory.
    """
    held = list(pieces)
    if not held:
        return
    files = tuple(dict.fromkeys(piece.where for piece in held))
    at = np.concatenate([np.full(len(piece.rows), files.index(piece.where)) for piece in held])
    lines = np.concatenate([piece.line for piece in held])
    rows, mark = join([piece.rows for piece in held]), held[0].mark
    held.clear()
    order = np.argsort(rows.time_ns, kind="stable")
    for first in range(0, len(order), REQUESTS_PER_PIECE):
        some = order[first : first + REQUESTS_PER_PIECE]
        yield Listed("", lines[some], rows.take(some), mark, files, at[some])


class Numbering:
    """Numbers sessions, and the requests of each, in the order in which they come."""

    def __init__(self) -> None:
        self._number: dict[int, int] = {}
        self._requests: dict[int, int] = {}

    def follow(self, rows: FileRows) -> None:
        """Set `session` and `turn` of requests whose `session` names sessions in any way."""
        names, first, place = np.unique(rows.session, return_index=True, return_inverse=True)
        for name in names[np.argsort(first)].tolist():
            self._number.setdefault(name, len(self._number))
        seen = np.array([self._requests.get(name, 0) for name in names.tolist()], np.int64)
        counts = np.bincount(place, minlength=len(names))
        by_session = np.argsort(place, kind="stable")
        rows.turn[by_session] = ranges(counts) + np.repeat(seen, counts)
        for name, count in zip(names.tolist(), (seen + counts).tolist(), strict=True):
            self._requests[name] = count
        rows.session[:] = np.array([self._number[name] for name in names.tolist()])[place]
