"""An open-addressing table from 64-bit identities to slots; `hashmap.h` has the rules.

The table is an int64 array of a power of two entries. The identities lie in the caller's
`slots[slot, 0]`, an int64 array of one row per slot.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from kvtrace.native.core import function
from kvtrace.native.library import I64, INT

if TYPE_CHECKING:
    from numpy.typing import NDArray

MISSING = -1
_copy = function("kv_table_copy", I64, INT, I64, INT)
_find_all = function("kv_table_find_all", I64, INT, I64, INT, I64, INT, I64)
_intern = function("kv_intern", I64, INT, I64, INT, I64, INT, I64, returns=INT)


def new_table(slots: int) -> NDArray[np.int64]:
    """Return an empty table for `slots` slots: at most half of its entries get full."""
    return np.zeros(1 << (max(slots, 8) * 2 - 1).bit_length(), np.int64)


def grown(table: NDArray[np.int64], slots: int) -> NDArray[np.int64]:
    """Return a table for `slots` slots with what is in `table`."""
    bigger = new_table(slots)
    _copy(table, len(table), bigger, len(bigger) - 1)
    return bigger


def with_room(
    table: NDArray[np.int64], slots: NDArray[np.int64], needed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return table and slots, larger if there are fewer than `needed` slots.

    Slots grow in place, by a quarter at least: no views of them may be about.
    """
    if needed > len(slots):
        slots.resize((max(needed, len(slots) * 5 // 4), slots.shape[1]), refcheck=False)
        if 2 * len(slots) > len(table):
            table = grown(table, len(slots))
    return table, slots


def find_all(
    table: NDArray[np.int64], slots: NDArray[np.int64], ids: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return the slot of each id, or MISSING."""
    out = np.empty(len(ids), np.int64)
    _find_all(table, len(table) - 1, slots, slots.shape[1], ids, len(ids), out)
    return out


class Interner:
    """Numbers 64-bit ids densely in order of first appearance."""

    def __init__(self) -> None:
        self._slots = np.zeros((1 << 12, 1), np.int64)
        self._table = new_table(1 << 12)
        self._known = 0

    def __len__(self) -> int:
        return self._known

    def intern(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the number of each id; u64 ids come as their int64 view."""
        ids = np.ascontiguousarray(ids, np.int64)
        self._table, self._slots = with_room(self._table, self._slots, self._known + len(ids))
        out = np.empty(len(ids), np.int64)
        mask = len(self._table) - 1
        self._known = _intern(self._table, mask, self._slots, self._known, ids, len(ids), out)
        return out

    def find(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the number of each id, MISSING where it was never interned."""
        return find_all(self._table, self._slots, np.ascontiguousarray(ids, np.int64))
