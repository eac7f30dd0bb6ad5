"""An open-addressing table from 64-bit identities to slots; `hashmap.h` has the rules.

The table is an int64 array of a power of two entries; each slot begins with its identity.
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any

import numpy as np

from kvtrace.native.core import function
from kvtrace.native.library import BOOLEAN, I64, INT, POINTER, contiguous

if TYPE_CHECKING:
    from numpy.typing import NDArray

MISSING = -1
_copy = function("kv_table_copy", I64, INT, I64, INT)
_interned = function("kv_interned", I64, INT, I64, I64, INT, I64)
_pool_find = function("kv_pool_find", POINTER, I64, INT, I64)
_pool_take = function("kv_pool_take", POINTER, I64, INT, I64, returns=BOOLEAN)
_pool_give_back = function("kv_pool_give_back", POINTER, I64, INT)
_intern = function("kv_intern", I64, INT, I64, INT, I64, INT, I64, returns=INT)


def new_table(slots: int) -> NDArray[np.int64]:
    """Return an empty table for `slots` slots: at most half of its entries get full."""
    return np.zeros(1 << (max(slots, 8) * 2 - 1).bit_length(), np.int64)


def grown(table: NDArray[np.int64], slots: int) -> NDArray[np.int64]:
    """Return a table for `slots` slots with what is in `table`."""
    bigger = new_table(slots)
    _copy(table, len(table), bigger, len(bigger) - 1)
    return bigger


class PoolStruct(ctypes.Structure):
    """`struct kv_pool` of `hashmap.h`."""

    _fields_ = (
        ("entries", POINTER),
        ("mask", INT),
        ("slots", POINTER),
        ("slot_bytes", INT),
        ("room", INT),
        ("used", INT),
        ("first_free", INT),
    )


class Pool:
    """Structs of one dtype by identity, in slots that are taken and given back.

    The dtype begins with the identity, an int64, and has 16 bytes at least. `address` is that of
    the `struct kv_pool`, and stays.
    """

    def __init__(self, dtype: np.dtype[Any], slots: int = 1024) -> None:
        self._slots = np.zeros(slots, dtype)
        self._table = new_table(slots)
        self._struct = PoolStruct(used=0, first_free=MISSING, slot_bytes=dtype.itemsize)
        self.address = ctypes.addressof(self._struct)
        self._point()

    def _point(self) -> None:
        self._struct.entries, self._struct.mask = self._table.ctypes.data, len(self._table) - 1
        self._struct.slots, self._struct.room = self._slots.ctypes.data, len(self._slots)

    @property
    def used(self) -> int:
        """How many slots were ever taken."""
        return int(self._struct.used)

    @property
    def rows(self) -> NDArray[np.void]:
        """The slots that were ever taken; valid until room is made."""
        return self._slots[: self.used]

    def make_room(self, more: int) -> None:
        """Make room for `more` slots; slots grow in place, by a quarter at least."""
        needed = self.used + more
        if needed <= len(self._slots):
            return
        self._slots.resize(max(needed, len(self._slots) * 5 // 4), refcheck=False)
        if 2 * len(self._slots) > len(self._table):
            self._table = grown(self._table, len(self._slots))
        self._point()

    def find(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the slot of each id, or MISSING."""
        ids, out = contiguous(ids, np.int64), np.empty(len(ids), np.int64)
        _pool_find(self.address, ids, len(ids), out)
        return out

    def take(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return a slot for each id, of which none is there."""
        self.make_room(len(ids))
        ids, out = contiguous(ids, np.int64), np.empty(len(ids), np.int64)
        taken = _pool_take(self.address, ids, len(ids), out)
        assert taken
        return out

    def give_back(self, slots: NDArray[np.int64]) -> None:
        """Free slots that are in use."""
        assert not len(slots) or (slots.min() >= 0 and slots.max() < self.used)
        _pool_give_back(self.address, contiguous(slots, np.int64), len(slots))


class Interner:
    """Numbers 64-bit ids densely in order of first appearance."""

    def __init__(self) -> None:
        self._ids = np.zeros(1 << 12, np.int64)
        self._table = new_table(len(self._ids))
        self._known = 0

    def __len__(self) -> int:
        return self._known

    def _make_room(self, more: int) -> None:
        """Make room for `more` ids, for a quarter more than there is at least."""
        needed = self._known + more
        if needed > len(self._ids):
            self._ids.resize(max(needed, len(self._ids) * 5 // 4), refcheck=False)
            if 2 * len(self._ids) > len(self._table):
                self._table = grown(self._table, len(self._ids))

    def intern(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the number of each id; u64 ids come as their int64 view."""
        self._make_room(len(ids))
        ids, out = contiguous(ids, np.int64), np.empty(len(ids), np.int64)
        mask = len(self._table) - 1
        self._known = _intern(self._table, mask, self._ids, self._known, ids, len(ids), out)
        return out

    def find(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the number of each id, MISSING where it was never interned."""
        ids, out = contiguous(ids, np.int64), np.empty(len(ids), np.int64)
        _interned(self._table, len(self._table) - 1, self._ids, ids, len(ids), out)
        return out
