"""Spans of time side by side: each gets the first lane that is free when it begins."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from kvtrace.compiled.jit import kernel

if TYPE_CHECKING:
    from numpy.typing import NDArray


@kernel
def _place(start: Any, end: Any, free_at: Any, used: int, lane: Any) -> int:
    for i in range(start.shape[0]):
        at = 0
        while at < used and free_at[at] > start[i]:
            at += 1
        if at == used:
            used += 1
        free_at[at] = end[i]
        lane[i] = at
    return used


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
        self.used = _place(start, end, self._free_at, self.used, lane)
        return lane
