"""Log-linear histograms: exact below 256, and within 1/256 above; two of them add up to one."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from kvtrace.native.library import I64, INT, contiguous
from replay.measure.summaries import QUANTILES, Distribution, Percentiles, has_few, rank_of
from replay.native import function

if TYPE_CHECKING:
    from numpy.typing import NDArray

BITS = 8
COARSE_BITS = 5
"""Of the many histograms of time slices and of single I/Os: within 1/32."""
ERROR_RATIO = 1 / (1 << BITS)
"""A percentile is never below the exact one, and above it by less than this part of it."""
_count = function("kv_count_values", I64, INT, I64, INT, I64, returns=INT)


class Histogram:
    """Counts of non-negative integers. `bits` sets the error: 2^−bits."""

    def __init__(self, bits: int = BITS) -> None:
        self.bits = bits
        self.counts = np.zeros(bucket_count(bits), np.int64)
        self.max = 0
        self._total: int | None = 0

    @classmethod
    def of(cls, values: NDArray[np.int64], bits: int = BITS) -> Histogram:
        """Return the histogram of `values`; those below 0 count as 0."""
        made = cls(bits)
        made.add(values)
        return made

    @classmethod
    def from_counts(cls, counts: NDArray[np.int64], bits: int) -> Histogram:
        """Return a histogram of what was counted elsewhere, in the same buckets."""
        made = cls(bits)
        made.counts = counts
        made._total = None
        filled = np.flatnonzero(counts)
        made.max = upper(int(filled[-1]), bits) if len(filled) else 0
        return made

    @classmethod
    def counted(cls, counts: NDArray[np.int64], bits: int, largest: int, total: int) -> Histogram:
        """Return a histogram of values that were counted elsewhere, with their largest and sum."""
        made = cls.from_counts(counts, bits)
        made.max, made._total = largest, total
        return made

    def add(self, values: NDArray[np.int64]) -> None:
        """Count `values`."""
        total = np.zeros(1, np.int64)
        values = contiguous(values, np.int64)
        self.max = max(self.max, _count(self.counts, self.bits, values, len(values), total))
        if self._total is not None:
            self._total += int(total[0])

    def merge(self, other: Histogram) -> None:
        """Count what `other` has counted."""
        assert self.bits == other.bits
        self.counts += other.counts
        self.max = max(self.max, other.max)
        known = self._total is not None and other._total is not None
        self._total = self._total + other._total if known else None  # type: ignore[operator]

    @property
    def count(self) -> int:
        """How many values were counted."""
        return int(self.counts.sum())

    def value_at(self, ten_thousandths: int) -> int:
        """Return the percentile's value; 0 without values."""
        return self._value_at(np.cumsum(self.counts), ten_thousandths)

    def _value_at(self, reached: NDArray[np.int64], ten_thousandths: int) -> int:
        """Return `value_at`, given how many values each bucket and those below it have."""
        rank = rank_of(int(reached[-1]), ten_thousandths)
        if rank == 0:
            return 0
        bucket = int(np.searchsorted(reached, rank))
        return min(upper(bucket, self.bits), self.max)

    def summary(self) -> Percentiles:
        """Return all percentiles."""
        reached = np.cumsum(self.counts)
        count = int(reached[-1])
        return Percentiles(
            **{name: self._value_at(reached, part) for name, part in QUANTILES.items()},
            max=self.max,
            mean=self._total / count if count and self._total is not None else None,
            count=count,
            few_samples=[name for name in QUANTILES if has_few(count, name)],
        )

    def distribution(self) -> Distribution:
        """Return the filled buckets; the last one ends at the largest value."""
        filled = np.flatnonzero(self.counts)
        ends = np.minimum(uppers(self.bits)[filled], self.max)
        return Distribution(upper=ends.tolist(), count=self.counts[filled].tolist())

    def distance(self, other: Histogram) -> float:
        """Return the mean distance between the sorted values of both (Wasserstein-1)."""
        if not self.count or not other.count:
            return 0.0
        parts = np.cumsum(self.counts) / self.count - np.cumsum(other.counts) / other.count
        used = max(np.flatnonzero(self.counts)[-1], np.flatnonzero(other.counts)[-1]) + 1
        widths = np.diff(uppers(self.bits)[: min(used + 1, len(self.counts))].astype(float))
        return float((np.abs(parts[: len(widths)]) * widths).sum())


def bucket_count(bits: int) -> int:
    """Return how many buckets there are."""
    return (1 << bits) * (64 - bits)


def upper(bucket: int, bits: int) -> int:
    """Return the largest value of a bucket."""
    return int(uppers(bits)[bucket])


@cache
def uppers(bits: int) -> NDArray[np.int64]:
    """Return the largest value of each bucket."""
    bucket = np.arange(bucket_count(bits))
    shift = np.maximum(bucket // (1 << bits) - 1, 0)
    ends: NDArray[np.int64] = ((bucket - shift * (1 << bits) + 1) << shift) - 1
    ends.flags.writeable = False
    return ends
