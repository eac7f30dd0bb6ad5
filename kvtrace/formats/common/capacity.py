"""Deletes that a log doesn't have, inferred: of what no longer fits, and of what was demoted."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any

import numpy as np

from kvtrace.native.core import function
from kvtrace.native.library import I32, INT, POINTER, U8, U64
from kvtrace.placement.keys import KeyTable, carried
from kvtrace.trace.schema import MAX_TOTAL_BYTES, Op, Phase

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kvtrace.trace.schema import Tier

Columns = dict[str, "NDArray[Any]"]

_OBJECT = np.dtype(
    [("key", "u8"), ("size", "i8"), ("before", "i8"), ("after", "i8"), ("state", "i8")]
)
"""One object in a ring in order of use, entry 0 being its end: the indices of its neighbours."""
_FINE, _DEAD_READ, _TOO_LARGE = range(3)
_KEYS_AT_ONCE = 1 << 16


class CapacityStruct(ctypes.Structure):
    """`struct kv_capacity` of `capacity.c`."""

    _fields_ = (
        ("objects", POINTER),
        ("entries", INT),
        ("capacity", INT),
        ("used", INT),
        ("deleted", INT),
        ("live", INT),
        ("status", INT),
        ("row", INT),
    )


class DeletesStruct(ctypes.Structure):
    """`struct kv_deletes` of `capacity.c`."""

    _fields_ = (("row", POINTER), ("key", POINTER), ("size", POINTER), ("room", INT))


_use = function("kv_capacity_use", POINTER, U8, U64, U64, I32, INT, POINTER, returns=INT)


class _Deletes:
    """Deletes that rows make necessary, `room` of them at most."""

    def __init__(self, room: int) -> None:
        self.row = np.empty(room, np.int64)
        self.key, self.size = np.empty(room, np.uint64), np.empty(room, np.uint64)
        pointers = (each.ctypes.data for each in (self.row, self.key, self.size))
        self.struct = DeletesStruct(*pointers, room)


def _use_rows(
    tier: CapacityStruct, objects: NDArray[np.void], columns: Columns, index: NDArray[np.int32],
    deletes: _Deletes,
) -> int:  # fmt: skip
    """Fill in what must go before each row; return how many. `tier` has why and where it ended."""
    tier.objects, tier.entries = objects.ctypes.data, len(objects)
    op, size, key = (columns[name] for name in ("op", "size", "key"))
    assert len(op) == len(size) == len(key) == len(index)
    count: int = _use(
        ctypes.byref(tier), op, size, key, index, len(op), ctypes.byref(deletes.struct)
    )
    assert tier.status in (_FINE, _DEAD_READ, _TOO_LARGE)
    return count


class TooSmallError(Exception):
    """There is no room for an object that is used: it had to go before, or is larger."""

    def __init__(self, key: int, timestamp_ns: int, *, larger: bool) -> None:
        super().__init__(key)
        self.key, self.timestamp_ns, self.larger = key, timestamp_ns, larger


class Capacity:
    """Adds deletes of one tier, so that it never holds more than its capacity.

    Objects are used by reads and writes. Memory: 40 bytes for each key that was ever there.
    """

    def __init__(self, tier: Tier, capacity_bytes: int) -> None:
        self._tier = tier
        self._table = KeyTable()
        self._objects = np.zeros(self._table.capacity + 1, _OBJECT)
        self._struct = CapacityStruct(capacity=min(capacity_bytes, MAX_TOTAL_BYTES))

    @property
    def deleted(self) -> int:
        """How many deletes were added."""
        return int(self._struct.deleted)

    @property
    def live(self) -> int:
        """How many objects are there now."""
        return int(self._struct.live)

    def completed(self, columns: Columns) -> Columns:
        """Return the rows with the deletes, each before the row that needs the room.

        Raises TooSmallError if an object is read that had to go: the capacity was larger.
        """
        rows = np.flatnonzero((columns["tier"] == self._tier) & (columns["op"] <= Op.WRITE))
        mine = {name: columns[name][rows] for name in ("op", "size", "key")}
        deletes = _Deletes(self.live + len(rows))
        index = self._indices(mine["key"])
        count = _use_rows(self._struct, self._objects, mine, index, deletes)
        if self._struct.status != _FINE:
            row = int(rows[self._struct.row])
            raise TooSmallError(
                int(columns["key"][row]),
                int(columns["timestamp"][row]),
                larger=self._struct.status == _TOO_LARGE,
            )
        places = rows[deletes.row[:count]]
        added = {
            "timestamp": columns["timestamp"][places],
            "op": np.full(count, Op.DELETE, np.uint8),
            "size": deletes.size[:count],
            "tier": np.full(count, self._tier, np.uint8),
            "key": deletes.key[:count],
            "phase": np.full(count, Phase.EVICT, np.uint8),
        }
        return {name: np.insert(columns[name], places, added[name]) for name in added}

    def _indices(self, keys: NDArray[np.uint64]) -> NDArray[np.int32]:
        if not self._table.has_room(len(keys)):
            kept = np.ones(self._table.count, np.bool_)
            self._table.keep(kept, len(keys))
            with_end = np.ones(self._table.count + 1, np.bool_)
            self._objects = carried(self._objects, with_end, self._table.capacity + 1)
        return self._table.add(keys)


def sufficient(
    op: NDArray[np.uint8], size: NDArray[np.uint64], key: NDArray[np.uint64], failed_bytes: int
) -> int:
    """Return a capacity with which no object is read that had to go, found by halving.

    `failed_bytes`: one that was too small. The smallest, unless sizes differ: then a capacity
    between may serve all reads, and one above it not.
    """
    table = KeyTable()
    index = np.empty(len(key), np.int32)
    for begin in range(0, len(key), _KEYS_AT_ONCE):
        some = slice(begin, begin + _KEYS_AT_ONCE)
        if not table.has_room(len(key[some])):
            table.keep(np.ones(table.count, np.bool_), len(key[some]))
        index[some] = table.add(key[some])
    low, high = failed_bytes, int(size.astype(np.int64).sum())
    while high - low > 1:
        middle = (low + high) // 2
        fits = _fits(op, size, key, index, table.count, middle)
        low, high = (low, middle) if fits else (middle, high)
    return high


def _fits(
    op: NDArray[np.uint8], size: NDArray[np.uint64], key: NDArray[np.uint64],
    index: NDArray[np.int32], count: int, capacity: int,
) -> bool:  # fmt: skip
    tier = CapacityStruct(capacity=capacity)
    columns: Columns = {"op": op, "size": size, "key": key}
    _use_rows(tier, np.zeros(count + 1, _OBJECT), columns, index, _Deletes(len(op) + 1))
    return bool(tier.status == _FINE)


class Evictions:
    """Adds to each pair of Read and Write with phase Evict the delete that it means."""

    def __init__(self) -> None:
        self.added = 0
        self._pending: dict[int, tuple[int, int]] = {}

    def completed(self, columns: Columns) -> Columns:
        """Return the rows with the deletes, each right behind its pair's Write."""
        evicts = np.flatnonzero((columns["phase"] == Phase.EVICT) & (columns["op"] <= Op.WRITE))
        behind, tiers, sizes = [], [], []
        for row in evicts.tolist():
            key, tier = int(columns["key"][row]), int(columns["tier"][row])
            if columns["op"][row] == Op.READ:
                self._pending[key] = (tier, int(columns["size"][row]))
            elif key in self._pending:
                from_tier, size = self._pending.pop(key)
                behind.append(row)
                tiers.append(from_tier)
                sizes.append(size)
        self.added += len(behind)
        places = np.array(behind, np.int64) + 1
        added = {
            "timestamp": columns["timestamp"][behind],
            "op": np.full(len(behind), Op.DELETE, np.uint8),
            "size": np.array(sizes, np.uint64),
            "tier": np.array(tiers, np.uint8),
            "key": columns["key"][behind],
            "phase": np.full(len(behind), Phase.EVICT, np.uint8),
        }
        return {name: np.insert(columns[name], places, added[name]) for name in columns}
