"""A table from u64 keys to dense indices."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvtrace.native.core import function
from kvtrace.native.library import I32, INT, U64, contiguous

Keys = NDArray[np.uint64]
_add = function("kv_keys_add", U64, INT, U64, INT, U64, INT, I32, returns=INT)
_fill = function("kv_keys_fill", U64, INT, U64, INT)


class KeyTable:
    """Keys and their indices. `count` is set by whatever adds keys to `entries` itself.

    Memory follows the keys that are kept: `keep` drops the others and renumbers.
    """

    def __init__(self) -> None:
        self.count = 0
        self.keys: Keys = np.zeros(1 << 12, np.uint64)
        self.entries: Keys = np.zeros(1 << 13, np.uint64)

    @property
    def capacity(self) -> int:
        """How many keys there is room for."""
        return self.keys.size

    @property
    def mask(self) -> int:
        """Number of `entries`, a power of two, less one."""
        return self.entries.size - 1

    def has_room(self, extra_count: int) -> bool:
        """Whether `extra_count` more keys can be added."""
        return self.count + extra_count <= self.capacity

    def add(self, keys: Keys) -> NDArray[np.int32]:
        """Return the index of each key; new ones are added."""
        if not self.has_room(len(keys)):
            self.keep(np.ones(self.count, bool), len(keys))
        indices = np.empty(len(keys), np.int32)
        keys = contiguous(keys, np.uint64)
        self.count = _add(self.entries, self.mask, self.keys, self.count, keys, len(keys), indices)
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
        self.entries = np.zeros(2 * size, np.uint64)
        _fill(self.entries, self.mask, self.keys, self.count)


def carried(column: NDArray[Any], kept: NDArray[np.bool_], capacity: int) -> NDArray[Any]:
    """Return a column of state per key after `KeyTable.keep(kept, …)`: renumbered like the keys."""
    made = np.zeros((capacity, *column.shape[1:]), column.dtype)
    raw = np.dtype((np.void, column.itemsize))  # numpy copies records field by field
    left = np.compress(kept, column[: len(kept)].view(raw), axis=0)
    made.view(raw)[: len(left)] = left
    return made
