"""Rows that are almost in order of time, in order, without all of them in memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from kvtrace.foreign.order import in_order_of, joined_columns

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

    Columns = dict[str, NDArray[Any]]


@dataclass(slots=True)
class Disorder:
    """What a first pass over the rows' times finds."""

    rows: int = 0
    late: int = 0
    """Rows that come after one of a later time."""
    window_ns: int = 0
    """By how much a row is late at most."""
    first_ns: int = 0
    """The earliest time."""
    _latest_ns: int = 0

    def note(self, times_ns: NDArray[np.int64]) -> None:
        """Take the times of the next rows."""
        if not len(times_ns):
            return
        earliest = int(times_ns.min())
        self.first_ns = min(self.first_ns, earliest) if self.rows else earliest
        if not self.rows:
            self._latest_ns = int(times_ns[0])
        before = np.maximum.accumulate(np.concatenate(([self._latest_ns], times_ns)))
        lag = before[:-1] - times_ns
        self.late += int((lag > 0).sum())
        self.window_ns = max(self.window_ns, int(lag.max()))
        self._latest_ns = int(before[-1])
        self.rows += len(times_ns)


def in_order(batches: Iterable[Columns], window_ns: int) -> Iterator[Columns]:
    """Yield the rows in order of `timestamp`, ties as they came.

    `window_ns`: by how much a row is late at most. Memory: the rows of such a span of time.
    """
    held: Columns = {}
    latest_ns = 0
    for batch in batches:
        if not len(batch["timestamp"]):
            continue
        latest_ns = max(latest_ns, int(batch["timestamp"].max()))
        held = in_order_of(joined_columns(held, batch), "timestamp")
        # What is to come is at least `latest − window`: what is before that can't be overtaken.
        sure = int(np.searchsorted(held["timestamp"], latest_ns - window_ns, "left"))
        if sure:
            yield {name: values[:sure] for name, values in held.items()}
            held = {name: values[sure:] for name, values in held.items()}
    if held and len(held["timestamp"]):
        yield held
