"""A log-linear histogram: exact below 256, and within 1/256 above; two of them add up to one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_BITS = 8
_SUB = 1 << _BITS
_BUCKETS = _SUB * (64 - _BITS)
ERROR_RATIO = 1 / _SUB
"""A percentile is never below the exact one, and above it by less than this part of it."""
FEW_SAMPLES = 10
QUANTILES = {
    "p50": 5000,
    "p90": 9000,
    "p95": 9500,
    "p99": 9900,
    "p999": 9990,
    "p9999": 9999,
}
"""Name and ten-thousandths."""


@dataclass(frozen=True, slots=True)
class Summary:
    """Percentiles by name, and which of them have fewer than 10 samples beyond them."""

    percentiles: dict[str, int]
    max: int
    count: int
    few_samples: tuple[str, ...]

    def __getitem__(self, name: str) -> int:
        return self.percentiles[name]


class Histogram:
    """Counts of non-negative integers."""

    def __init__(self) -> None:
        self.counts = np.zeros(_BUCKETS, np.int64)
        self.max = 0

    @classmethod
    def of(cls, values: NDArray[np.int64]) -> Histogram:
        """Return the histogram of `values`; those below 0 count as 0."""
        made = cls()
        made.add(values)
        return made

    def add(self, values: NDArray[np.int64]) -> None:
        """Count `values`."""
        if not len(values):
            return
        values = np.maximum(values, 0)
        self.counts += np.bincount(_bucket(values), minlength=_BUCKETS)
        self.max = max(self.max, int(values.max()))

    def merge(self, other: Histogram) -> None:
        """Count what `other` has counted."""
        self.counts += other.counts
        self.max = max(self.max, other.max)

    @property
    def count(self) -> int:
        """How many values were counted."""
        return int(self.counts.sum())

    def value_at(self, ten_thousandths: int) -> int:
        """Return the smallest value that so many of all don't exceed; 0 if there are none."""
        rank = _rank(self.count, ten_thousandths)
        if rank == 0:
            return 0
        bucket = int(np.searchsorted(np.cumsum(self.counts), rank))
        return min(_upper(bucket), self.max)

    def summary(self) -> Summary:
        """Return all percentiles."""
        count = self.count
        return Summary(
            {name: self.value_at(part) for name, part in QUANTILES.items()},
            self.max,
            count,
            tuple(
                name for name, part in QUANTILES.items() if count - _rank(count, part) < FEW_SAMPLES
            ),
        )


def _rank(count: int, ten_thousandths: int) -> int:
    return -(-count * ten_thousandths // 10_000)


def _bucket(values: NDArray[np.int64]) -> NDArray[np.int64]:
    exponent = np.frexp(values.astype(np.float64))[1].astype(np.int64) - 1
    shift = np.maximum(exponent - _BITS, 0)
    # Rounding to float may have carried a value just below a power of two up to it.
    shift -= (shift > 0) & (np.right_shift(values, shift) < _SUB)
    return np.where(values < _SUB, values, shift * _SUB + np.right_shift(values, shift))


def _upper(bucket: int) -> int:
    if bucket < 2 * _SUB:
        return bucket
    shift = bucket // _SUB - 1
    return ((bucket - shift * _SUB + 1) << shift) - 1
