"""Accesses to a cache as a trace shows them, for tools that simulate caches."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from kvtrace.native.core import function
from kvtrace.native.hashmap import Pool
from kvtrace.native.library import I64, INT, POINTER, contiguous
from kvtrace.trace.schema import Op, Phase

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from kvtrace.trace.reader import Columns
    from kvtrace.trace.schema import Tier

_OBJECT = np.dtype([("key", "i8"), ("next", "i8")])
PENDING = -2
"""In place of the number of a next access that isn't known yet."""


class OfRequests:
    """Tells which rows say that a request asked for an object, or made it.

    Reads and writes of phases prefill and decode: what the hierarchy does by itself (demotions,
    promotions, deletions) is no access. Of one object that a request writes on several tiers at
    once (write-through) it is the first row, which stands before the others.
    """

    def __init__(self) -> None:
        self._last: list[NDArray[np.int64]] = [np.zeros(0, np.int64)] * 3

    def accesses(self, columns: Columns) -> NDArray[np.bool_]:
        """Return which rows are; batches come in the order of the trace."""
        op = columns["op"]
        asked: NDArray[np.bool_] = (op <= Op.WRITE) & (columns["phase"] <= Phase.DECODE)
        written = np.flatnonzero(asked & (op == Op.WRITE))
        request = np.ma.filled(columns.get("request", np.zeros(len(op))), 0)
        writes = [columns["timestamp"], columns["key"].view(np.int64), request.astype(np.int64)]
        joined = [
            np.concatenate((before, values[written]))
            for before, values in zip(self._last, writes, strict=True)
        ]
        asked[written[_repeated(joined)[len(self._last[0]) :]]] = False
        if len(written):
            newest = joined[0] == joined[0][-1]
            self._last = [values[newest] for values in joined]
        return asked


def _repeated(columns: Sequence[NDArray[np.int64]]) -> NDArray[np.bool_]:
    """Return which rows equal an earlier one."""
    order = np.lexsort(tuple(columns))
    same = np.ones(max(0, len(order) - 1), np.bool_)
    for values in columns:
        same &= np.diff(values[order]) == 0
    repeated = np.zeros(len(order), np.bool_)
    repeated[order[1:][same]] = True
    return repeated


def of_tiers(columns: Columns, tiers: Sequence[Tier]) -> NDArray[np.bool_]:
    """Return which rows some tiers see as accesses: their reads and writes.

    Reads that only carry an object away (demotions) are none.
    """
    op = columns["op"]
    leaves = (op == Op.READ) & (columns["phase"] == Phase.EVICT)
    on_tier = np.isin(columns["tier"], [int(tier) for tier in tiers])
    accesses: NDArray[np.bool_] = (op <= Op.WRITE) & ~leaves & on_tier
    return accesses


_link = function("kv_link", POINTER, I64, INT, INT, INT, I64, returns=INT)


class NextAccess:
    """Tells of each access where its object's next one is, going through them from the end.

    It does so for `most` objects at a time: what is then still PENDING needs another one. Memory
    is 32 to 64 bytes for each of these objects.
    """

    def __init__(self, most: int) -> None:
        self._pool = Pool(_OBJECT)
        self._most = most
        self.left = 0

    def before(self, keys: NDArray[np.uint64], first: int, following: NDArray[np.int64]) -> bool:
        """Fill in the numbers of the next accesses, or −1, of those accesses that are PENDING.

        `first` is the number of the first access; those behind these must have been given before.
        Returns whether any was filled in.
        """
        pending = int(np.count_nonzero(following == PENDING))
        self._pool.make_room(min(pending, self._most - self._pool.used))
        ids = contiguous(keys).view(np.int64)
        assert len(ids) == len(following)
        left = _link(self._pool.address, ids, len(ids), first, self._most, following)
        assert left >= 0
        self.left += left
        return bool(left < pending)
