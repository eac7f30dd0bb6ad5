"""Requests whose rows stand among those of others: which row is each one's last."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from kvtrace.native.hashmap import Interner

if TYPE_CHECKING:
    from numpy.typing import NDArray


class LastRows:
    """Learns, in a first pass over rows, the last row of each request; numbers requests.

    Memory grows with the number of requests.
    """

    def __init__(self) -> None:
        self._numbers = Interner()
        self._last = np.zeros(1024, np.int64)

    @property
    def last(self) -> NDArray[np.int64]:
        """The last row of each request, by its number."""
        return self._last[: len(self._numbers)]

    def note(self, requests: NDArray[np.uint64], rows: NDArray[np.int64]) -> None:
        """Take the requests of some rows, which are behind all that were given before."""
        number = self.numbers(requests)
        if len(self._numbers) > len(self._last):
            self._last = np.pad(self._last, (0, len(self._numbers)))
        self._last[number] = rows  # of several, the last one stays

    def numbers(self, requests: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Return each request's number, in order of their first rows."""
        return self._numbers.intern(requests.astype(np.uint64).view(np.int64))

    def of(self, request: int) -> int:
        """Return a request's last row, or 0 for one without any."""
        number = int(self._numbers.find(np.array([request], np.uint64).view(np.int64))[0])
        return int(self._last[number]) if number >= 0 else 0
