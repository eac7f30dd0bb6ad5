"""A compiled table from u64 keys to dense indices, in order of first appearance."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kvtrace.jit import helper, kernel

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
def find_all(slots: Slots, keys: Keys, wanted: Keys, found: NDArray[np.int32]) -> None:
    """Fill in the index of each of `wanted`. In a loop of its own, misses of the cache overlap."""
    for at in range(wanted.size):
        found[at] = find(slots, keys, wanted[at])


@kernel
def _fill(slots: Slots, keys: Keys, count: int) -> None:
    mask = np.uint64(slots.size - 1)
    for index in range(count):
        at = home(keys[index], mask)
        while slots[at] != 0:
            at = (at + np.uint64(1)) & mask
        slots[at] = index + 1


class KeyTable:
    """Keys and their indices. `count` is set by the compiled code that adds keys."""

    def __init__(self) -> None:
        self.count = 0
        self.keys: Keys = np.zeros(1 << 12, np.uint64)
        self.slots: Slots = np.zeros(1 << 13, np.int32)

    def reserve(self, extra_count: int) -> None:
        """Make room for `extra_count` more keys at a load of at most one half."""
        needed = self.count + extra_count
        if needed <= self.keys.size:
            return
        size = 1 << (needed - 1).bit_length()
        self.keys = np.concatenate((self.keys[: self.count], np.zeros(size - self.count, "u8")))
        self.slots = np.zeros(2 * size, np.int32)
        _fill(self.slots, self.keys, self.count)
