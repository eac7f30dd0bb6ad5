"""Counts, bytes and latencies of ops by what they are and how large, all in one pass."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from kvtrace.native.library import INT, POINTER, contiguous
from kvtrace.native.structures import Structure, fields
from replay.measure.histogram import BITS, Histogram, bucket_count
from replay.native import function

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from replay.ops.done import Done

NO_SIZE = 0xFF
"""In place of a size class: the op moves nothing, or sizes aren't told apart."""
Key = tuple[int, int]
"""What ops are (`Done.cell`), and their size class."""
_CODES = 1 << 16
_SERVICE, _RESPONSE, _PACE = range(3)
_TIMES = 3
_count = function("kv_count_groups", POINTER)


class _Counted(Structure):
    """Some ops, and the rows of what is counted: `struct kv_counted` of groups.c."""

    ARRAYS, _fields_ = fields(
        count=INT, row=np.int64, good=np.bool_, moves=np.bool_, error=np.int32, size=np.int64,
        service_ns=np.int64, response_ns=np.int64, counts=np.int64, times=np.int64,
        stats=np.int64,
    )  # fmt: skip


class Latencies:
    """Counts, bytes and latencies of some ops. `pace`: service time per MiB, shorter ops as one."""

    def __init__(self) -> None:
        self.ops = self.bytes = self.errors = 0
        self.moves = False
        self.service, self.response, self.pace = Histogram(), Histogram(), Histogram()

    def merge(self, other: Latencies) -> None:
        """Count what `other` has counted."""
        self.ops += other.ops
        self.bytes += other.bytes
        self.errors += other.errors
        self.moves |= other.moves
        self.service.merge(other.service)
        self.response.merge(other.response)
        self.pace.merge(other.pace)


class Cells:
    """Latencies of ops that succeeded, per cell and size class."""

    def __init__(self) -> None:
        self._row = np.full(_CODES, -1, np.int64)
        self._codes: list[int] = []
        self._counts = np.zeros((0, 4), np.int64)
        self._times = np.zeros((0, _TIMES, bucket_count(BITS)), np.int64)
        self._stats = np.zeros((0, _TIMES, 2), np.int64)

    def add(self, done: Done) -> None:
        """Count finished ops."""
        moves = done.moves
        size_class = np.frexp(np.maximum(done.size_bytes, 1).astype(np.float64))[1] - 1
        code = done.cell.astype(np.int64) << 8 | np.where(moves, size_class, NO_SIZE)
        present = np.flatnonzero(np.bincount(code, minlength=_CODES))
        self._make_rows(present[self._row[present] < 0])
        _count(
            _Counted(
                count=len(done),
                row=self._row[code],
                good=done.good,
                moves=moves,
                error=contiguous(done.error),
                size=contiguous(done.size_bytes),
                service_ns=done.complete_ns - done.submit_ns,
                response_ns=done.complete_ns - done.due_ns,
                counts=self._counts,
                times=self._times,
                stats=self._stats,
            )
        )

    def _make_rows(self, codes: NDArray[np.int64]) -> None:
        if not len(codes):
            return
        self._row[codes] = np.arange(len(self._codes), len(self._codes) + len(codes))
        self._codes += codes.tolist()
        for name in ("_counts", "_times", "_stats"):
            old = getattr(self, name)
            more = np.zeros((len(codes), *old.shape[1:]), np.int64)
            setattr(self, name, np.concatenate((old, more)))

    def items(self) -> Iterator[tuple[Key, Latencies]]:
        """Yield what was counted of each cell and size class that there was."""
        for row, code in enumerate(self._codes):
            latencies = Latencies()
            latencies.ops, latencies.bytes, latencies.errors, moving = self._counts[row].tolist()
            latencies.moves = bool(moving)
            latencies.service, latencies.response, latencies.pace = (
                self._histogram(row, which) for which in (_SERVICE, _RESPONSE, _PACE)
            )
            yield (code >> 8, code & 0xFF), latencies

    def _histogram(self, row: int, which: int) -> Histogram:
        largest, total = self._stats[row, which].tolist()
        return Histogram.counted(self._times[row, which].copy(), BITS, largest, total)
