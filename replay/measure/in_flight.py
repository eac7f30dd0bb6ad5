"""Ops in flight of a lane: mean over the run, and maximum."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from replay.measure.figures import Flight

if TYPE_CHECKING:
    from numpy.typing import NDArray

_NEVER = (1 << 63) - 1
KEPT = 1 << 16
"""Ops kept back for others that were submitted earlier."""


class FlightCounter:
    """Counts ops in flight. They come in the trace's order, whatever order they ran in.

    `start_ns`: when counting begins; None for the first submission.
    """

    def __init__(self, start_ns: int | None) -> None:
        self._start_ns = start_ns
        self.last_ns = start_ns or 0
        self._first_ns = _NEVER
        self._total_ns = self._max = 0
        self._running = np.zeros(0, np.int64)
        """When the ops end that were in flight at the last submit that was looked at."""
        self._pending: list[NDArray[np.int64]] = []
        self._count = 0

    def add(self, submit_ns: NDArray[np.int64], complete_ns: NDArray[np.int64]) -> None:
        """Take ops that have ended."""
        if not len(submit_ns):
            return
        self._total_ns += int((complete_ns - submit_ns).sum())
        self._first_ns = min(self._first_ns, int(submit_ns.min()))
        self.last_ns = max(self.last_ns, int(complete_ns.max()))
        self._pending.append(np.stack((submit_ns, complete_ns)))
        self._count += len(submit_ns)
        if self._count > 2 * KEPT:
            self._pass(self._count - KEPT)

    def _pass(self, count: int) -> None:
        """Look at the `count` ops that were submitted first, and forget them."""
        ops = self._by_submit()
        first, self._pending, self._count = ops[:, :count], [ops[:, count:]], KEPT
        ends = np.sort(np.concatenate((self._running, first[1])))
        self._max = max(self._max, self._most(first[0], ends))
        self._running = ends[ends > first[0, -1]]

    def _by_submit(self) -> NDArray[np.int64]:
        ops = np.concatenate(self._pending, axis=1)
        return ops[:, np.argsort(ops[0], kind="stable")]

    def _most(self, submit_ns: NDArray[np.int64], ends_ns: NDArray[np.int64]) -> int:
        """Return the most that were in flight at one of the submits; both are sorted."""
        begun = len(self._running) + 1 + np.arange(len(submit_ns))
        return int((begun - np.searchsorted(ends_ns, submit_ns, side="right")).max())

    def flight(self) -> Flight:
        """Return mean and maximum."""
        most = self._max
        if self._count:
            ops = self._by_submit()
            ends = np.sort(np.concatenate((self._running, ops[1])))
            most = max(most, self._most(ops[0], ends))
        length_ns = self.length_ns
        return Flight(mean=self._total_ns / length_ns if length_ns else 0.0, max=most)

    @property
    def length_ns(self) -> int:
        """From where counting begins to the last completion."""
        begin_ns = self._first_ns if self._start_ns is None else self._start_ns
        return max(0, self.last_ns - begin_ns)
