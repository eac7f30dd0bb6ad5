"""Ids that name a block's own tokens made ids of the block and all before it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from kvtrace.native.core import function
from kvtrace.native.hashmap import Interner
from kvtrace.native.library import I64, INT
from kvtrace.requests.request import Ragged

if TYPE_CHECKING:
    from numpy.typing import NDArray

_group_ids = function("kv_group_ids", I64, I64, I64, INT, INT, I64)


def chained(ids: Ragged) -> Ragged:
    """Return a hash of each id and all before it in its list."""
    values = np.empty(len(ids.values), np.int64)
    _group_ids(ids.values, ids.begin[:-1].copy(), ids.counts, len(ids.counts), 1, values)
    return Ragged(ids.begin, values)


class Rechained:
    """Counts what chaining changes: how often an id comes again, and how often behind others."""

    def __init__(self) -> None:
        self._plain, self._chained = Interner(), Interner()
        self.repeated = 0
        self.changed = 0

    def count(self, plain: Ragged, chained_ids: Ragged) -> None:
        """Count the references of some requests, in the order in which they come."""
        again = _come_again(self._plain, plain.values)
        self.repeated += int(again.sum())
        self.changed += int((again & ~_come_again(self._chained, chained_ids.values)).sum())

    def notes(self) -> list[str]:
        """Return what the header says of it; nothing where chaining changed nothing."""
        if not self.changed:
            return []
        share = 100 * self.changed / self.repeated
        return [
            f"{self.changed:,} of {self.repeated:,} repeated ids ({share:.2f} %) follow other ids "
            "than before: a prefix cache has no such block, so they are blocks of their own"
        ]


def _come_again(interner: Interner, values: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return whether each value has come before, in these or earlier ones."""
    known = len(interner)
    numbers = interner.intern(values)
    highest = np.maximum.accumulate(np.concatenate(([known - 1], numbers)))
    return numbers <= highest[:-1]
