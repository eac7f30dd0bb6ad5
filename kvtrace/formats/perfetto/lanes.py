"""Spans of time side by side: each gets the first lane that is free when it begins."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from kvtrace.native.core import function
from kvtrace.native.library import I64, INT, contiguous

if TYPE_CHECKING:
    from numpy.typing import NDArray


_place = function("kv_lanes", I64, I64, INT, I64, INT, INT, I64, returns=INT)


class Lanes:
    """Puts spans, in order of their start, on lanes on which they don't overlap."""

    def __init__(self) -> None:
        self._free_at = np.zeros(64, np.int64)
        self.used = 0

    def of(self, start: NDArray[np.int64], end: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return each span's lane."""
        if self.used + len(start) > len(self._free_at):
            self._free_at = np.pad(self._free_at[: self.used], (0, len(start)))
        lane = np.empty(len(start), np.int64)
        start, end = (contiguous(each, np.int64) for each in (start, end))
        assert len(start) == len(end)
        free_at = self._free_at
        used = _place(start, end, len(start), free_at, len(free_at), self.used, lane)
        assert used >= 0
        self.used = used
        return lane
