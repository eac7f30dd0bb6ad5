"""Reuse distances in one pass: how many other keys were touched since a key was touched last.

A Fenwick tree over the order of touches counts the keys whose last touch is later than a given one.
The order is renumbered whenever its end is reached, so that memory grows with the keys that are
followed, not with the touches. Source: Mattson et al., Evaluation techniques for storage
hierarchies, IBM Systems Journal 9(2), 1970 (stack distances); Fenwick, Software: Practice and
Experience 24(3), 1994 (the tree).
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

import numpy as np

from kvtrace.native.core import function
from kvtrace.native.library import BOOL, I64, INT, POINTER, contiguous

if TYPE_CHECKING:
    from numpy.typing import NDArray

FIRST = -1
"""Distance of a touch that has none before it."""
_LEAST_PLACES = 1 << 12


class ReuseStruct(ctypes.Structure):
    """`struct kv_reuse` of `reuse.c`."""

    _fields_ = (
        ("last", POINTER),
        ("keys", INT),
        ("tree", POINTER),
        ("places", INT),
        ("now", INT),
        ("followed", INT),
    )


_touch = function("kv_reuse_touch", POINTER, I64, BOOL, INT, INT, I64, returns=INT)


class ReuseDistances:
    """Takes touches in order and tells the distance of each; keys are small numbers."""

    def __init__(self) -> None:
        self._last = np.full(0, -1, np.int64)
        self._tree = np.zeros(_LEAST_PLACES + 1, np.int64)
        self._struct = ReuseStruct()
        self._point()

    def _point(self) -> None:
        self._struct.last, self._struct.keys = self._last.ctypes.data, len(self._last)
        self._struct.tree, self._struct.places = self._tree.ctypes.data, len(self._tree) - 1

    def add(
        self, numbers: NDArray[np.int64], gone: NDArray[np.bool_] | None = None
    ) -> NDArray[np.int64]:
        """Return the distance of each touch, FIRST where there is none.

        A key that is `gone` (deleted) is forgotten: its next touch is a first one.
        """
        gone = np.zeros(len(numbers), np.bool_) if gone is None else gone
        gone, numbers = contiguous(gone), contiguous(numbers)
        assert len(gone) == len(numbers)
        assert numbers.min(initial=0) >= 0
        most = int(numbers.max(initial=-1)) + 1
        if most > len(self._last):
            fresh = np.full(most + len(self._last) - len(self._last) // 2, -1, np.int64)
            fresh[: len(self._last)] = self._last
            self._last = fresh
            self._point()
        out, at = np.empty(len(numbers), np.int64), 0
        while True:
            at = _touch(ctypes.byref(self._struct), numbers, gone, at, len(numbers), out)
            if at == len(numbers):
                return out
            self._renumber()

    def _renumber(self) -> None:
        """Give the last touches the numbers from 0 on, with room for as many again."""
        followed = np.flatnonzero(self._last >= 0)
        order = followed[np.argsort(self._last[followed])]
        self._last[order] = np.arange(len(order))
        places = max(_LEAST_PLACES, 2 * len(order))
        at = np.arange(places + 1)
        self._tree = np.minimum(at, len(order)) - np.minimum(at & (at - 1), len(order))
        self._struct.now = len(order)
        self._point()
