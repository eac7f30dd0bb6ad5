"""Counts, bytes and latencies of ops by what they are and how large, all in one pass."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from kvtrace.compiled.jit import helper, kernel
from kvtrace.units import MIB
from replay.measure.histogram import BITS, Histogram, bucket_count, bucket_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from replay.ops.done import Done

NO_SIZE = 0xFF
"""In place of a size class: the op moves nothing, or sizes aren't told apart."""
Key = tuple[int, int]
"""What ops are (`Done.cell`), and their size class."""
_CODES = 1 << 16
_OPS, _BYTES, _ERRORS, _MOVING = range(4)
_MAX, _TOTAL = range(2)
_SERVICE, _RESPONSE, _PACE = range(3)
_TIMES = 3


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
            self._row[code],
            done.good,
            moves,
            done.error,
            done.size_bytes,
            done.complete_ns - done.submit_ns,
            done.complete_ns - done.due_ns,
            self._counts,
            self._times,
            self._stats,
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


@helper
def _add(times: Any, stats: Any, to: int, which: int, value: int) -> None:
    times[to, which, bucket_of(value, BITS)] += 1
    stats[to, which, _MAX] = max(stats[to, which, _MAX], value)
    stats[to, which, _TOTAL] += value


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
    times: NDArray[np.int64],
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
        took = max(0, service_ns[at])
        _add(times, stats, to, _SERVICE, took)
        _add(times, stats, to, _RESPONSE, max(0, response_ns[at]))
        _add(times, stats, to, _PACE, int(took * (MIB / max(size[at], MIB))))
