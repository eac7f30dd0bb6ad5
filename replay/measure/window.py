"""Reads and writes that a lane completed between the end of the warm-up and its last submit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from kvtrace.units import S_NS
from replay.ops.contract import Action

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from replay.ops.done import Done

_COMPLETE, _SIZE, _WRITE = range(3)


@dataclass(frozen=True, slots=True)
class Completed:
    """Ops that completed within `window_ns`, and their bytes: the base of every rate."""

    window_ns: int
    reads: int = 0
    writes: int = 0
    read_bytes: int = 0
    write_bytes: int = 0

    @property
    def ops(self) -> int:
        """Reads and writes."""
        return self.reads + self.writes

    @property
    def bytes(self) -> int:
        """Bytes read and written."""
        return self.read_bytes + self.write_bytes

    def per_s(self, amount: int) -> float | None:
        """Return an amount per second of the window; None for a window of no length."""
        return amount * S_NS / self.window_ns if self.window_ns else None


class Window:
    """Counts ops that completed between `begin_ns` and a lane's last submit, `end_ns`."""

    def __init__(self, begin_ns: int) -> None:
        self.begin_ns = self.end_ns = self.last_ns = begin_ns
        self._ops, self._bytes = np.zeros(2, np.int64), np.zeros(2, np.int64)
        self._after = np.zeros((0, 3), np.int64)

    def add(self, done: Done, moved: NDArray[np.bool_]) -> None:
        """Take ops; `moved`: those that moved bytes and succeeded."""
        if not moved.any():
            return
        complete_ns = done.complete_ns[moved]
        self.end_ns = max(self.end_ns, int(done.submit_ns[moved].max()))
        self.last_ns = max(self.last_ns, int(complete_ns.max()))
        writes = done.action[moved] == Action.WRITE
        coming = np.stack((complete_ns, done.size_bytes[moved], writes), axis=1)
        waiting = np.concatenate((self._after, coming))
        after = waiting[:, _COMPLETE] > self.end_ns
        self._count(waiting[~after])
        self._after = waiting[after]

    def _count(self, ops: NDArray[np.int64]) -> None:
        inside = ops[ops[:, _COMPLETE] >= self.begin_ns]
        np.add.at(self._ops, inside[:, _WRITE], 1)
        np.add.at(self._bytes, inside[:, _WRITE], inside[:, _SIZE])

    def completed(self, window_ns: int) -> Completed:
        """Return what completed within the window, whose length the lane knows."""
        return Completed(window_ns, *self._ops.tolist(), *self._bytes.tolist())
