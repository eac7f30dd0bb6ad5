"""A distribution of whole numbers, counted as they come, and how far two of them are apart."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

KEPT_BITS = 10
"""Leading bits of a number that are kept: values are right to 0.2 %, numbers below 1,024 exact."""


class Distribution:
    """Counts of numbers from 0 on, to `KEPT_BITS` leading bits; memory doesn't grow with them."""

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()

    def add(self, values: NDArray[np.int64], weight: int = 1) -> None:
        """Count some more numbers, each `weight` times."""
        exponents = np.frexp(values.astype(np.float64))[1]
        shift = np.maximum(0, exponents - KEPT_BITS)
        kept, counts = np.unique(values >> shift << shift, return_counts=True)
        counts *= weight
        self._counts.update(dict(zip(kept.tolist(), counts.tolist(), strict=True)))

    @property
    def count(self) -> int:
        """How many numbers there are."""
        return self._counts.total()

    def sorted(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the values in order, and the share of numbers up to each."""
        values = sorted(self._counts)
        running = np.cumsum([self._counts[value] for value in values])
        return np.array(values, np.float64), running / max(1, self.count)

    @property
    def mean(self) -> float:
        """Their mean; 0 without any."""
        return sum(v * n for v, n in self._counts.items()) / max(1, self.count)

    def quantile(self, share: float) -> float:
        """Return the least number that `share` of the numbers doesn't exceed; 0 without numbers."""
        values, up_to = self.sorted()
        if not len(values):
            return 0.0
        at = min(len(values) - 1, int(np.searchsorted(up_to, share - 1e-12)))
        return float(values[at])


def distances(a: Distribution, b: Distribution) -> tuple[float, float | None]:
    """Return Kolmogorov–Smirnov (0 to 1) and Wasserstein-1 (in the numbers' unit) distances.

    Between something and nothing the former is 1 and the latter isn't defined.
    """
    if not a.count or not b.count:
        return (0.0, 0.0) if a.count == b.count else (1.0, None)
    (values_a, up_to_a), (values_b, up_to_b) = a.sorted(), b.sorted()
    values = np.union1d(values_a, values_b)

    def share(of: NDArray[np.float64], up_to: NDArray[np.float64]) -> NDArray[np.float64]:
        padded: NDArray[np.float64] = np.concatenate(([0.0], up_to))
        return padded[np.searchsorted(of, values, "right")]

    apart = np.abs(share(values_a, up_to_a) - share(values_b, up_to_b))
    return float(apart.max()), float((apart[:-1] * np.diff(values)).sum())
