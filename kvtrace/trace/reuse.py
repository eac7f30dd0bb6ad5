"""Reuse distances in one pass: how many other keys were touched since a key was touched last.

A Fenwick tree over the order of touches counts the keys whose last touch is later than a given one.
The order is renumbered whenever its end is reached, so that memory grows with the keys that are
followed, not with the touches. Source: Mattson et al., Evaluation techniques for storage
hierarchies, IBM Systems Journal 9(2), 1970 (stack distances); Fenwick, Software: Practice and
Experience 24(3), 1994 (the tree).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from kvtrace.compiled.jit import kernel

if TYPE_CHECKING:
    from numpy.typing import NDArray

FIRST = -1
"""Distance of a touch that has none before it."""
_LEAST_PLACES = 1 << 12
_NOW, _FOLLOWED = range(2)


@kernel
def _add(tree: Any, place: int, value: int) -> None:
    at = place + 1
    while at < tree.shape[0]:
        tree[at] += value
        at += at & -at


@kernel
def _up_to(tree: Any, place: int) -> int:
    at, total = place + 1, 0
    while at > 0:
        total += tree[at]
        at &= at - 1
    return total


@kernel
def _touch(numbers: Any, gone: Any, begin: int, last: Any, tree: Any, count: Any, out: Any) -> int:
    """Touch keys from `begin` on until the order is full; return where it stopped."""
    places = tree.shape[0] - 1
    for i in range(begin, numbers.shape[0]):
        if count[_NOW] == places:
            return i
        number = numbers[i]
        before = last[number]
        out[i] = FIRST
        if before >= 0:
            out[i] = count[_FOLLOWED] - _up_to(tree, before)
            _add(tree, before, -1)
            count[_FOLLOWED] -= 1
        last[number] = -1
        if not gone[i]:
            last[number] = count[_NOW]
            _add(tree, count[_NOW], 1)
            count[_NOW] += 1
            count[_FOLLOWED] += 1
    return numbers.shape[0]


class ReuseDistances:
    """Takes touches in order and tells the distance of each; keys are small numbers."""

    def __init__(self) -> None:
        self._last = np.full(0, -1, np.int64)
        self._tree = np.zeros(_LEAST_PLACES + 1, np.int64)
        self._count = np.zeros(2, np.int64)

    def add(
        self, numbers: NDArray[np.int64], gone: NDArray[np.bool_] | None = None
    ) -> NDArray[np.int64]:
        """Return the distance of each touch, FIRST where there is none.

        A key that is `gone` (deleted) is forgotten: its next touch is a first one.
        """
        gone = np.zeros(len(numbers), np.bool_) if gone is None else gone
        most = int(numbers.max(initial=-1)) + 1
        if most > len(self._last):
            fresh = np.full(most + len(self._last) - len(self._last) // 2, -1, np.int64)
            fresh[: len(self._last)] = self._last
            self._last = fresh
        out, at = np.empty(len(numbers), np.int64), 0
        while True:
            at = _touch(numbers, gone, at, self._last, self._tree, self._count, out)
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
        self._count[_NOW] = len(order)
