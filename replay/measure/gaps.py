"""Gaps between neighbouring times that come nearly in order."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from replay.measure.histogram import Histogram

if TYPE_CHECKING:
    from numpy.typing import NDArray

KEPT = 1 << 17
"""The number of the latest times kept back: an earlier one may still come."""


class Gaps:
    """Gaps of all times, as if sorted: exact unless one comes `KEPT` or more places late."""

    def __init__(self) -> None:
        self.histogram = Histogram()
        """Of the times that aren't kept back."""
        self.first_ns, self.last_ns = 1 << 62, -1
        self._pending: list[NDArray[np.int64]] = []
        self._count = 0

    def add(self, times_ns: NDArray[np.int64]) -> None:
        """Take some times, none below 0."""
        self.first_ns = min(self.first_ns, int(times_ns.min()))
        self.last_ns = max(self.last_ns, int(times_ns.max()))
        self._pending.append(times_ns)
        self._count += len(times_ns)
        if self._count > 2 * KEPT:
            self._take(self._count - KEPT)

    def finish(self) -> None:
        """Take what was kept back: no more times come."""
        self._take(self._count)

    def _take(self, count: int) -> None:
        """Count the gaps up to the `count`-th time; that one begins the next gap."""
        if not self._pending:
            return
        times = np.sort(np.concatenate(self._pending))
        self.histogram.add(np.diff(times[:count]))
        self._pending = [times[count - 1 :]]
        self._count = len(times) - count + 1
