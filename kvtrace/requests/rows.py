"""Requests as a file has them: columns that can be selected from and joined."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np

from kvtrace.requests.request import Ragged

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

MAX_TOKENS = (1 << 23) - 1
"""Tokens of a prompt or an answer: together they stay below the 2²⁴ that `blocks` can number."""
MAX_TIME_NS = 1 << 62
U64_MAX = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class FileRows:
    """Requests whose arrival the file tells, in its order.

    `time_ns` is of the file's own clock until the source has made it an arrival; `session` counts
    from 0 in order of appearance; `ids` are the file's u64 ids, viewed as int64; `end_ns`, where
    the file tells it, is when a request's answer ended, by the same clock.
    """

    time_ns: NDArray[np.int64]
    input_tokens: NDArray[np.int64]
    output_tokens: NDArray[np.int64]
    session: NDArray[np.int64]
    turn: NDArray[np.int64]
    last_turn: NDArray[np.bool_]
    ids: Ragged | None = None
    end_ns: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.time_ns)

    def take(self, rows: NDArray[np.int64]) -> FileRows:
        """Return the requests at `rows`, in that order, repeated where it repeats one."""
        columns = {name: getattr(self, name)[rows] for name in _COLUMNS}
        return FileRows(
            **columns,
            ids=None if self.ids is None else self.ids.take(rows),
            end_ns=None if self.end_ns is None else self.end_ns[rows],
        )

    def split(self, at: int) -> tuple[FileRows, FileRows]:
        """Return the first `at` requests and the others."""
        return self.take(np.arange(at)), self.take(np.arange(at, len(self)))


_COLUMNS = [column.name for column in fields(FileRows) if column.name not in ("ids", "end_ns")]


@dataclass(frozen=True, slots=True)
class Piece:
    """Some requests of one file, with the line (or record) that each stands on."""

    where: str
    line: NDArray[np.int64]
    rows: FileRows
    mark: str = ":"
    """What stands between the file and the number."""

    def place(self, row: int) -> str:
        """Return file and line of a request."""
        return f"{self.where}{self.mark}{self.line[row]}"


def alone(
    first: int,
    time_ns: NDArray[np.int64],
    input_tokens: NDArray[np.int64],
    output_tokens: NDArray[np.int64],
    ids: Ragged | None = None,
    end_ns: NDArray[np.int64] | None = None,
) -> FileRows:
    """Return requests each of which is a session of its own, numbered from `first` on."""
    count = len(time_ns)
    return FileRows(
        time_ns,
        input_tokens,
        output_tokens,
        session=first + np.arange(count),
        turn=np.zeros(count, np.int64),
        last_turn=np.ones(count, np.bool_),
        ids=ids,
        end_ns=end_ns,
    )


def join(parts: Sequence[FileRows]) -> FileRows:
    """Return all requests of `parts`, one part after the other."""
    if len(parts) == 1:
        return parts[0]
    columns = {name: np.concatenate([getattr(part, name) for part in parts]) for name in _COLUMNS}
    lists = [part.ids for part in parts if part.ids is not None]
    ends = [part.end_ns for part in parts if part.end_ns is not None]
    return FileRows(
        **columns,
        ids=Ragged.joined(lists) if lists else None,
        end_ns=np.concatenate(ends) if ends else None,
    )
