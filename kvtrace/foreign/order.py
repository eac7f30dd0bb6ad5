"""Rows of a log that is nearly in order of time, such as one written in order of completion."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from kvtrace.reader import Columns

_LAST_NS = np.iinfo(np.int64).max


class Reordered:
    """Batches of rows, sorted by column `by` across batches; ties keep their order.

    They are made twice: the first time to learn from when on each of them has rows, so that the
    second time only those rows wait that something later may come before. Memory grows with how far
    rows are out of place, not with how many there are.
    """

    def __init__(
        self,
        by: str,
        make: Callable[[], Iterator[Columns]],
        survey: Callable[[], Iterator[Columns]] | None = None,
    ) -> None:
        """`survey`: makes but the column `by`, of as many batches, with no time that is later."""
        self._by, self._make = by, make
        starts: list[int] = []
        self.disorder = 0
        """Rows that come behind one of a later time."""
        self.rows = 0
        latest = None
        for columns in (survey or make)():
            times = columns[by]
            before = times[:1] if latest is None else np.array([latest])
            running = np.maximum.accumulate(np.concatenate((before, times)))
            self.disorder += int((times < running[:-1]).sum())
            latest = int(running[-1])
            starts.append(int(times.min()))
            self.rows += len(times)
        self.first = min(starts, default=0)
        later = np.minimum.accumulate(np.array([*starts, _LAST_NS], np.int64)[::-1])[::-1]
        self._later = later[1:]
        self.base = 0
        """What the times of the rows are less than those of the survey."""

    def __iter__(self) -> Iterator[Columns]:
        """Yield the rows in order."""
        waiting: Columns = {}
        for later, columns in zip(self._later - self.base, self._make(), strict=True):
            joined = _sorted(_joined(waiting, columns), self._by) if self.disorder else columns
            # What is as late as something to come stands before it, too.
            end = int(np.searchsorted(joined[self._by], later, side="right"))
            if end:
                yield {name: values[:end] for name, values in joined.items()}
            waiting = {name: values[end:] for name, values in joined.items()}


def _joined(before: Columns, behind: Columns) -> Columns:
    if not before or not len(next(iter(before.values()))):
        return behind
    return {name: _concatenated([before[name], behind[name]]) for name in behind}


def _concatenated(parts: list[NDArray[Any]]) -> NDArray[Any]:
    masked = any(np.ma.isMaskedArray(part) for part in parts)
    joined: NDArray[Any] = (np.ma.concatenate if masked else np.concatenate)(parts)
    return joined


def _sorted(columns: Columns, by: str) -> Columns:
    if (np.diff(columns[by]) >= 0).all():
        return columns
    order = np.argsort(columns[by], kind="stable")
    return {name: values[order] for name, values in columns.items()}
