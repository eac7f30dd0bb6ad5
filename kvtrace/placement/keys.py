"""A compiled table from u64 keys to dense indices."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvtrace.compiled.jit import helper, kernel

Keys = NDArray[np.uint64]
Slots = NDArray[np.int32]


@helper
def home(key: np.uint64, mask: np.uint64) -> np.uint64:
    """Return where a key is looked for first. Source: the finaliser of MurmurHash3."""
    key ^= key >> np.uint64(33)
    key *= np.uint64(0xFF51AFD7ED558CCD)
    key ^= key >> np.uint64(33)
    key *= np.uint64(0xC4CEB9FE1A85EC53)
    key ^= key >> np.uint64(33)
    return key & mask


@helper
def find(slots: Slots, keys: Keys, key: np.uint64) -> int:
    """Return the index of `key`, or -1."""
    mask = np.uint64(slots.size - 1)
    at = home(key, mask)
    while slots[at] != 0:
        index = int(slots[at]) - 1
        if keys[index] == key:
            return int(index)
        at = (at + np.uint64(1)) & mask
    return -1


@helper
def find_or_add(slots: Slots, keys: Keys, count: int, key: np.uint64) -> int:
    """Return the index of `key`; it is `count` if the key was new, and now is there."""
    mask = np.uint64(slots.size - 1)
    at = home(key, mask)
    while slots[at] != 0:
        index = int(slots[at]) - 1
        if keys[index] == key:
            return int(index)
        at = (at + np.uint64(1)) & mask
    slots[at] = count + 1
    keys[count] = key
    return count


@kernel
def find_or_add_all(
    slots: Slots, keys: Keys, count: int, wanted: Keys, indices: NDArray[np.int32]
) -> int:
    """Fill in the index of each of `wanted`; return how many keys there are now.

    In a loop of its own, misses of the cache overlap.
    """
    for at in range(wanted.size):
        index = find_or_add(slots, keys, count, wanted[at])
        count = max(count, index + 1)
        indices[at] = index
    return count


@kernel
def _fill(slots: Slots, keys: Keys, count: int) -> None:
    mask = np.uint64(slots.size - 1)
    for index in range(count):
        at = home(keys[index], mask)
        while slots[at] != 0:
            at = (at + np.uint64(1)) & mask
        slots[at] = index + 1


class KeyTable:
    """Keys and their indices. `count` is set by the compiled code that adds keys.

    Memory follows the keys that are kept: `keep` drops the others and renumbers.
    """

    def __init__(self) -> None:
        self.count = 0
        self.keys: Keys = np.zeros(1 << 12, np.uint64)
        self.slots: Slots = np.zeros(1 << 13, np.int32)

    @property
    def capacity(self) -> int:
        """How many keys there is room for."""
        return self.keys.size

    def has_room(self, extra_count: int) -> bool:
        """Whether `extra_count` more keys can be added."""
        return self.count + extra_count <= self.capacity

    def add(self, keys: Keys) -> NDArray[np.int32]:
        """Return the index of each key; new ones are added."""
        if not self.has_room(len(keys)):
            self.keep(np.ones(self.count, bool), len(keys))
        indices = np.empty(len(keys), np.int32)
        self.count = find_or_add_all(self.slots, self.keys, self.count, keys, indices)
        return indices

    def keep(self, kept: NDArray[np.bool_], extra_count: int) -> None:
        """Keep the keys (by index) that are marked, with room for `extra_count` more.

        Afterwards at least `count + extra_count` keys can be added before this is needed again,
        so that its cost per added key is bounded.
        """
        left = self.keys[: self.count][kept]
        self.count = len(left)
        size = 1 << (2 * (self.count + extra_count) - 1).bit_length()
        size = max(size, 1 << 12)
        self.keys = np.zeros(size, np.uint64)
        self.keys[: self.count] = left
        self.slots = np.zeros(2 * size, np.int32)
        _fill(self.slots, self.keys, self.count)


def carried(column: NDArray[Any], kept: NDArray[np.bool_], capacity: int) -> NDArray[Any]:
    """Return a column of state per key after `KeyTable.keep(kept, …)`: renumbered like the keys."""
    made = np.zeros((capacity, *column.shape[1:]), column.dtype)
    raw = np.dtype((np.void, column.itemsize))  # numpy copies records field by field
    left = np.compress(kept, column[: len(kept)].view(raw), axis=0)
    made.view(raw)[: len(left)] = left
    return made
