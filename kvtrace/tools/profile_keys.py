"""Follows objects across tiers: unique bytes touched by time, and what one LRU cache would serve.

Objects are never forgotten here, so that their number has no bound. Up to a limit all are followed,
beyond it those whose hash lies below a threshold, which is halved as often as needed: one in two,
one in four. Source: Waldspurger et al., Efficient MRC Construction with SHARDS, FAST 2015 (sampling
by hash, distances divided by the sampling rate).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from kvtrace.compiled.hashmap import MISSING, find, give_back, new_table, take, with_room
from kvtrace.compiled.jit import kernel
from kvtrace.tools.distribution import Distribution
from kvtrace.tools.ids import mixed
from kvtrace.trace.reuse import FIRST, ReuseDistances

if TYPE_CHECKING:
    from numpy.typing import NDArray

FOLLOWED_MAX = 1 << 22
"""Objects that are followed: some 400 MB."""
_TOP = (1 << 64) - 1
_FIRST_ROWS = 1024
# Columns of an object's row behind its key; the first holds the next free row where it is unused.
_SIZE, _SLICE = 1, 2


@kernel
def _touch(
    key: Any, end: Any, at: Any, slots: Any, table: Any, count: Any, fresh: Any, numbers: Any
) -> int:
    """Touch objects; return how many are new. `fresh[slice]` gets bytes touched first in it."""
    new = 0
    for i in range(key.shape[0]):
        slot = find(table, slots, key[i])
        if slot == MISSING:
            slot = take(table, slots, count, key[i])
            slots[slot, _SIZE], slots[slot, _SLICE] = 0, at[i]
            new += 1
        grows = max(0, end[i] - slots[slot, _SIZE])
        slots[slot, _SIZE] += grows
        fresh[at[i]] += grows
        numbers[i] = slot
    return new


@kernel
def _drop(which: Any, slots: Any, table: Any, count: Any, fresh: Any) -> None:
    for i in range(which.shape[0]):
        slot = which[i]
        fresh[slots[slot, _SLICE]] -= slots[slot, _SIZE]
        give_back(table, slots, count, slot)


class KeyProfile:
    """Unique objects and bytes by time, and distances between requests' touches of an object."""

    def __init__(self, slices: int, followed_max: int = FOLLOWED_MAX) -> None:
        self.weight = 1
        """How many objects one that is followed stands for."""
        self.distances = Distribution()
        """Other objects asked for between two touches of one, of those that are asked for again."""
        self._followed, self._followed_max = 0, followed_max
        self._fresh = np.zeros(slices, np.int64)
        self._slots = np.zeros((_FIRST_ROWS, 3), np.int64)
        self._table = new_table(_FIRST_ROWS)
        self._count = np.array([0, MISSING], np.int64)
        self._live = np.zeros(0, np.bool_)
        self._reuse = ReuseDistances()

    @property
    def objects(self) -> int:
        """How many objects were touched; an estimate if `weight` isn't 1."""
        return self._followed * self.weight

    @property
    def bytes(self) -> int:
        """Bytes of the objects that were touched; an estimate if `weight` isn't 1."""
        return int(self._fresh.sum()) * self.weight

    def touched_bytes(self) -> NDArray[np.int64]:
        """Return the unique bytes touched up to the end of each time slice."""
        sums: NDArray[np.int64] = np.maximum.accumulate(np.cumsum(self._fresh)) * self.weight
        return sums

    def add(
        self,
        key: NDArray[np.uint64],
        end: NDArray[np.int64],
        at: NDArray[np.int64],
        stream: NDArray[np.bool_],
        asked: NDArray[np.bool_],
    ) -> None:
        """Take touches; those of the requests' `stream` have distances, counted where `asked`."""
        if self.weight > 1:
            kept = mixed(key, 0) <= np.uint64(_TOP // self.weight)
            key, end, at = key[kept], end[kept], at[kept]
            stream, asked = stream[kept], asked[kept]
        needed = int(self._count[0]) + len(key)
        self._table, self._slots = with_room(self._table, self._slots, needed)
        numbers = np.empty(len(key), np.int64)
        self._followed += _touch(
            key.view(np.int64), end, at, self._slots, self._table, self._count, self._fresh, numbers
        )
        self._mark(numbers)
        distances = self._reuse.add(numbers[stream])
        self.distances.add(
            distances[(distances != FIRST) & asked[stream]] * self.weight, self.weight
        )
        while self._followed > self._followed_max:
            self._thin()

    def _mark(self, numbers: NDArray[np.int64]) -> None:
        more = len(self._slots) - len(self._live)
        if more:
            self._live = np.concatenate((self._live, np.zeros(more, np.bool_)))
        self._live[numbers] = True

    def _thin(self) -> None:
        """Follow half as many objects from here on."""
        self.weight *= 2
        live = np.flatnonzero(self._live)
        hashes = mixed(self._slots[live, 0].view(np.uint64), 0)
        which = live[hashes > np.uint64(_TOP // self.weight)]
        _drop(which, self._slots, self._table, self._count, self._fresh)
        self._reuse.add(which, np.ones(len(which), np.bool_))
        self._live[which] = False
        self._followed -= len(which)
