"""Follows objects across tiers: unique bytes touched by time, and what one LRU cache would serve.

Objects are never forgotten here, so that their number has no bound. Up to a limit all are followed,
beyond it those whose hash lies below a threshold, which is halved as often as needed: one in two,
one in four. Source: Waldspurger et al., Efficient MRC Construction with SHARDS, FAST 2015 (sampling
by hash, distances divided by the sampling rate).
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

import numpy as np

from kvtrace.native.core import function
from kvtrace.native.hashmap import Pool
from kvtrace.native.library import BOOLEAN, I64, INT, POINTER
from kvtrace.tools.distribution import Distribution
from kvtrace.tools.ids import mixed
from kvtrace.trace.reuse import FIRST, ReuseDistances

if TYPE_CHECKING:
    from numpy.typing import NDArray

FOLLOWED_MAX = 1 << 22
"""Objects that are followed: some 400 MB."""
_TOP = (1 << 64) - 1
_OBJECT = np.dtype([("key", "i8"), ("size", "i8"), ("slice", "i8")])


class TouchesStruct(ctypes.Structure):
    """`struct kv_touches` of `objects.c`."""

    _fields_ = (("pool", POINTER), ("fresh", POINTER), ("slices", INT), ("added", INT))


_touch = function("kv_touch_objects", POINTER, I64, I64, I64, INT, I64, returns=BOOLEAN)


class KeyProfile:
    """Unique objects and bytes by time, and distances between requests' touches of an object."""

    def __init__(self, slices: int, followed_max: int = FOLLOWED_MAX) -> None:
        self.weight = 1
        """How many objects one that is followed stands for."""
        self.distances = Distribution()
        """Other objects asked for between two touches of one, of those that are asked for again."""
        self._followed, self._followed_max = 0, followed_max
        self._fresh = np.zeros(slices, np.int64)
        self._pool = Pool(_OBJECT)
        self._struct = TouchesStruct(self._pool.address, self._fresh.ctypes.data, slices)
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
        self._pool.make_room(len(key))
        numbers = np.empty(len(key), np.int64)
        touches = ctypes.byref(self._struct)
        touched = _touch(touches, key.view(np.int64), end, at, len(key), numbers)
        assert touched
        self._followed += self._struct.added
        self._mark(numbers)
        distances = self._reuse.add(numbers[stream])
        self.distances.add(
            distances[(distances != FIRST) & asked[stream]] * self.weight, self.weight
        )
        while self._followed > self._followed_max:
            self._thin()

    def _mark(self, numbers: NDArray[np.int64]) -> None:
        more = self._pool.used - len(self._live)
        if more > 0:
            self._live = np.concatenate(
                (self._live, np.zeros(max(more, len(self._live)), np.bool_))
            )
        self._live[numbers] = True

    def _thin(self) -> None:
        """Follow half as many objects from here on."""
        self.weight *= 2
        live = np.flatnonzero(self._live)
        rows = self._pool.rows
        hashes = mixed(rows["key"][live].view(np.uint64), 0)
        which = live[hashes > np.uint64(_TOP // self.weight)]
        np.subtract.at(self._fresh, rows["slice"][which], rows["size"][which])
        self._pool.give_back(which)
        self._reuse.add(which, np.ones(len(which), np.bool_))
        self._live[which] = False
        self._followed -= len(which)
