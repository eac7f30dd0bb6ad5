"""Counts, bytes and latencies of ops by what they are and how large, all in one pass."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from kvtrace.jit import kernel
from replay.histogram import BITS, Histogram, bucket_count, bucket_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from replay.done import Done

NO_SIZE = 0xFF
"""In place of a size class: the op moves nothing, or sizes aren't told apart."""
Key = tuple[int, int]
"""What ops are (`Done.cell`), and their size class."""
_CODES = 1 << 16
_OPS, _BYTES, _ERRORS, _MOVING = range(4)
_MAX, _TOTAL = range(2)


class Latencies:
    """Counts, bytes and latencies of some ops."""

    def __init__(self) -> None:
        self.ops = self.bytes = self.errors = 0
        self.moves = False
        self.service, self.response = Histogram(), Histogram()

    def merge(self, other: Latencies) -> None:
        """Count what `other` has counted."""
        self.ops += other.ops
        self.bytes += other.bytes
        self.errors += other.errors
        self.moves |= other.moves
        self.service.merge(other.service)
        self.response.merge(other.response)


class Cells:
    """Latencies of ops that succeeded, per cell and size class."""

    def __init__(self) -> None:
        self._row = np.full(_CODES, -1, np.int64)
        self._codes: list[int] = []
        buckets = bucket_count(BITS)
        self._counts = np.zeros((0, 4), np.int64)
        self._service, self._response = (np.zeros((0, buckets), np.int64) for _ in range(2))
        self._stats = np.zeros((0, 2, 2), np.int64)

    def add(self, done: Done) -> None:
        """Count finished ops."""
        moves = done.moves
        size_class = np.frexp(np.maximum(done.size_bytes, 1).astype(np.float64))[1] - 1
        code = done.cell.astype(np.int64) << 8 | np.where(moves, size_class, NO_SIZE)
        present = np.flatnonzero(np.bincount(code, minlength=_CODES))
        self._make_rows(present[self._row[present] < 0])
        _count(
            self._row[code],
            done.good,
            moves,
            done.error,
            done.size_bytes,
            done.complete_ns - done.submit_ns,
            done.complete_ns - done.due_ns,
            self._counts,
            self._service,
            self._response,
            self._stats,
        )

    def _make_rows(self, codes: NDArray[np.int64]) -> None:
        if not len(codes):
            return
        self._row[codes] = np.arange(len(self._codes), len(self._codes) + len(codes))
        self._codes += codes.tolist()
        for name in ("_counts", "_service", "_response", "_stats"):
            old = getattr(self, name)
            more = np.zeros((len(codes), *old.shape[1:]), np.int64)
            setattr(self, name, np.concatenate((old, more)))

    def items(self) -> Iterator[tuple[Key, Latencies]]:
        """Yield what was counted of each cell and size class that there was."""
        for row, code in enumerate(self._codes):
            found = Latencies()
            found.ops, found.bytes, found.errors, moving = self._counts[row].tolist()
            found.moves = bool(moving)
            found.service = self._histogram(self._service, row, 0)
            found.response = self._histogram(self._response, row, 1)
            yield (code >> 8, code & 0xFF), found

    def _histogram(self, counts: NDArray[np.int64], row: int, which: int) -> Histogram:
        largest, total = self._stats[row, which].tolist()
        return Histogram.counted(counts[row].copy(), BITS, largest, total)


@kernel
def _count(
    row: NDArray[np.int64],
    good: NDArray[np.bool_],
    moves: NDArray[np.bool_],
    error: NDArray[np.int32],
    size: NDArray[np.int64],
    service_ns: NDArray[np.int64],
    response_ns: NDArray[np.int64],
    counts: NDArray[np.int64],
    service: NDArray[np.int64],
    response: NDArray[np.int64],
    stats: NDArray[np.int64],
) -> None:
    """Count each op in its row; times below 0 as 0."""
    for at in range(row.size):
        to = row[at]
        counts[to, _OPS] += good[at]
        counts[to, _ERRORS] += error[at] != 0
        counts[to, _MOVING] |= moves[at]
        if not (good[at] and moves[at]):
            continue
        counts[to, _BYTES] += size[at]
        took, answered = max(0, service_ns[at]), max(0, response_ns[at])
        service[to, bucket_of(took, BITS)] += 1
        response[to, bucket_of(answered, BITS)] += 1
        stats[to, 0, _MAX] = max(stats[to, 0, _MAX], took)
        stats[to, 0, _TOTAL] += took
        stats[to, 1, _MAX] = max(stats[to, 1, _MAX], answered)
        stats[to, 1, _TOTAL] += answered
