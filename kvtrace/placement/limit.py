"""The limit of a replay: how much of a trace it does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Limit:
    """How much of a trace is replayed: that many rows, or the rows before that time.

    Ops that had failed (`error`) are left out, unless `with_failed`; look-ups that missed aren't.
    """

    rows: int | None = None
    duration_ns: int | None = None
    with_failed: bool = False

    def cut(self, first_row: int, timestamps: NDArray[np.int64]) -> int:
        """Return how many of the rows that start at `first_row` are within the limit."""
        count = len(timestamps)
        if self.rows is not None:
            count = min(count, max(0, self.rows - first_row))
        if self.duration_ns is not None:
            count = min(count, int(timestamps.searchsorted(self.duration_ns)))
        return count


NO_LIMIT = Limit()
