"""An open-addressing table from 64-bit identities to slots, for code compiled by numba.

The table is an int64 array of a power of two entries: the upper half of an identity's hash, then
slot + 1 (0: empty); the identities themselves lie in the caller's `slots[slot, 0]`, which is looked
at only where the hashes agree. Linear probing, backward-shift deletion.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from kvtrace.compiled.jit import kernel

if TYPE_CHECKING:
    from numpy.typing import NDArray

MISSING = -1
_SLOT = (1 << 32) - 1
_USED, _FREE = range(2)


def new_table(slots: int) -> NDArray[np.int64]:
    """Return an empty table for `slots` slots: at most half of its entries get full."""
    return np.zeros(1 << (max(slots, 8) * 2 - 1).bit_length(), np.int64)


def grown(table: NDArray[np.int64], slots: int) -> NDArray[np.int64]:
    """Return a table for `slots` slots with what is in `table`."""
    bigger = new_table(slots)
    _copy(table, bigger)
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


@kernel
def _hash(ident: int) -> Any:
    """Return 32 bits, signed. Source: the finalizer of MurmurHash3 (public domain)."""
    mixed = np.uint64(ident)
    mixed ^= mixed >> np.uint64(33)
    mixed *= np.uint64(0xFF51AFD7ED558CCD)
    mixed ^= mixed >> np.uint64(33)
    mixed *= np.uint64(0xC4CEB9FE1A85EC53)
    mixed ^= mixed >> np.uint64(33)
    return np.int64(mixed) >> 32


@kernel
def find(table: NDArray[np.int64], slots: NDArray[np.int64], ident: int) -> Any:
    """Return the slot of `ident`, or MISSING."""
    mask = table.shape[0] - 1
    wanted = _hash(ident)
    place = wanted & mask
    while table[place] != 0:
        if table[place] >> 32 == wanted:
            slot = (table[place] & _SLOT) - 1
            if slots[slot, 0] == ident:
                return slot
        place = (place + 1) & mask
    return MISSING


@kernel
def insert(table: NDArray[np.int64], slots: NDArray[np.int64], slot: int) -> None:
    """Enter `slot`, whose identity is set and isn't in the table."""
    mask = table.shape[0] - 1
    hashed = _hash(slots[slot, 0])
    place = hashed & mask
    while table[place] != 0:
        place = (place + 1) & mask
    table[place] = hashed << 32 | (slot + 1)


@kernel
def _copy(table: NDArray[np.int64], bigger: NDArray[np.int64]) -> None:
    mask = bigger.shape[0] - 1
    for entry in table:
        if entry != 0:
            place = (entry >> 32) & mask
            while bigger[place] != 0:
                place = (place + 1) & mask
            bigger[place] = entry


@kernel
def remove(table: NDArray[np.int64], slots: NDArray[np.int64], slot: int) -> None:
    """Take out `slot`, which is in the table."""
    mask = table.shape[0] - 1
    place = _hash(slots[slot, 0]) & mask
    while table[place] & _SLOT != slot + 1:
        place = (place + 1) & mask
    gap = place
    while True:
        place = (place + 1) & mask
        if table[place] == 0:
            break
        home = (table[place] >> 32) & mask
        # The entry may fill the gap unless its home lies cyclically behind it.
        if ((place - home) & mask) >= ((place - gap) & mask):
            table[gap] = table[place]
            gap = place
    table[gap] = 0


@kernel
def take(
    table: NDArray[np.int64], slots: NDArray[np.int64], count: NDArray[np.int64], ident: int
) -> Any:
    """Enter `ident` in a slot that is free; return that.

    `count`: slots that were ever used, and the first free one of these, or MISSING. Of a free slot
    column 1 is the next one.
    """
    slot = count[_FREE]
    if slot != MISSING:
        count[_FREE] = slots[slot, 1]
    else:
        slot = count[_USED]
        count[_USED] += 1
    slots[slot, 0] = ident
    insert(table, slots, slot)
    return slot


@kernel
def give_back(
    table: NDArray[np.int64], slots: NDArray[np.int64], count: NDArray[np.int64], slot: int
) -> None:
    """Take out `slot`, which is free then."""
    remove(table, slots, slot)
    slots[slot, 1] = count[_FREE]
    count[_FREE] = slot


@kernel
def _intern(
    table: NDArray[np.int64],
    slots: NDArray[np.int64],
    known: int,
    ids: NDArray[np.int64],
    out: NDArray[np.int64],
) -> int:
    for i in range(ids.shape[0]):
        slot = find(table, slots, ids[i])
        if slot == MISSING:
            slot = known
            slots[slot, 0] = ids[i]
            insert(table, slots, slot)
            known += 1
        out[i] = slot
    return known


@kernel
def find_all(
    table: NDArray[np.int64],
    slots: NDArray[np.int64],
    ids: NDArray[np.int64],
    out: NDArray[np.int64],
) -> None:
    """Write the slot of each id, or MISSING, to `out`."""
    for i in range(ids.shape[0]):
        out[i] = find(table, slots, ids[i])


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
        self._table, self._slots = with_room(self._table, self._slots, self._known + len(ids))
        out = np.empty(len(ids), np.int64)
        self._known = _intern(self._table, self._slots, self._known, ids, out)
        return out

    def find(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the number of each id, MISSING where it was never interned."""
        out = np.empty(len(ids), np.int64)
        find_all(self._table, self._slots, ids, out)
        return out
