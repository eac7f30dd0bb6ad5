"""Deletes that a log doesn't have, inferred: of what no longer fits, and of what was demoted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from kvtrace.compiled.jit import kernel
from kvtrace.placement.keys import KeyTable, carried
from kvtrace.trace.schema import Op, Phase

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kvtrace.trace.schema import Tier

Columns = dict[str, "NDArray[Any]"]

_OBJECT = np.dtype(
    [("key", "u8"), ("size", "i8"), ("before", "i8"), ("after", "i8"), ("state", "u1")], align=True
)
"""One object in a ring in order of use, entry 0 being its end: index + 1 of its neighbours."""
_UNKNOWN, _LIVE, _DEAD = range(3)
_USED, _DELETED, _LIVE_COUNT = range(3)
_FINE, _DEAD_READ, _TOO_LARGE = range(3)
_READ = int(Op.READ)
_KEYS_AT_ONCE = 1 << 16


@kernel
def _unlink(objects: NDArray[np.void], at: int) -> None:
    before, after = objects[at].before, objects[at].after
    objects[before].after = after
    objects[after].before = before


@kernel
def _append(objects: NDArray[np.void], at: int) -> None:
    last = objects[0].before
    objects[at].before, objects[at].after = last, 0
    objects[last].after = at
    objects[0].before = at


@kernel
def _use_rows(
    op: NDArray[np.uint8],
    size: NDArray[np.uint64],
    key: NDArray[np.uint64],
    index: NDArray[np.int32],
    objects: NDArray[np.void],
    capacity: int,
    tally: NDArray[np.int64],
    deleted_row: NDArray[np.int64],
    deleted_key: NDArray[np.uint64],
    deleted_size: NDArray[np.uint64],
) -> tuple[int, int, int]:
    """Fill in what must go before each row; return how many, whether all is well, and where not."""
    count = 0
    for row in range(op.size):
        at = index[row] + 1
        item: Any = objects[at]
        length = int(size[row])
        if op[row] == _READ and item.state == _DEAD:
            return count, _DEAD_READ, row
        if item.state == _LIVE:
            _unlink(objects, at)
            length = max(length, item.size)
            tally[_USED] -= item.size
        else:
            item.key = key[row]
            tally[_LIVE_COUNT] += 1
        while tally[_USED] + length > capacity:
            oldest = objects[0].after
            if oldest == 0:
                return count, _TOO_LARGE, row
            gone: Any = objects[oldest]
            _unlink(objects, oldest)
            gone.state = _DEAD
            tally[_USED] -= gone.size
            tally[_DELETED] += 1
            tally[_LIVE_COUNT] -= 1
            deleted_row[count], deleted_key[count] = row, gone.key
            deleted_size[count] = gone.size
            count += 1
        item.size = length
        item.state = _LIVE
        tally[_USED] += length
        _append(objects, at)
    return count, _FINE, 0


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
        self._tier, self._capacity = tier, capacity_bytes
        self._table = KeyTable()
        self._objects = np.zeros(self._table.capacity + 1, _OBJECT)
        self._tally = np.zeros(3, np.int64)

    @property
    def deleted(self) -> int:
        """How many deletes were added."""
        return int(self._tally[_DELETED])

    @property
    def live(self) -> int:
        """How many objects are there now."""
        return int(self._tally[_LIVE_COUNT])

    def completed(self, columns: Columns) -> Columns:
        """Return the rows with the deletes, each before the row that needs the room.

        Raises TooSmallError if an object is read that had to go: the capacity was larger.
        """
        rows = np.flatnonzero((columns["tier"] == self._tier) & (columns["op"] <= Op.WRITE))
        mine = {name: columns[name][rows] for name in ("op", "size", "key")}
        room = self.live + len(rows)
        gone_row = np.empty(room, np.int64)
        gone_key, gone_size = np.empty(room, np.uint64), np.empty(room, np.uint64)
        index = self._indices(mine["key"])
        count, status, at = _use_rows(
            mine["op"], mine["size"], mine["key"], index, self._objects, self._capacity,
            self._tally, gone_row, gone_key, gone_size,
        )  # fmt: skip
        if status != _FINE:
            row = int(rows[at])
            raise TooSmallError(
                int(columns["key"][row]),
                int(columns["timestamp"][row]),
                larger=status == _TOO_LARGE,
            )
        places = rows[gone_row[:count]]
        added = {
            "timestamp": columns["timestamp"][places],
            "op": np.full(count, Op.DELETE, np.uint8),
            "size": gone_size[:count],
            "tier": np.full(count, self._tier, np.uint8),
            "key": gone_key[:count],
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
    objects, gone = np.zeros(count + 1, _OBJECT), len(op) + 1
    _, status, _ = _use_rows(
        op, size, key, index, objects, capacity, np.zeros(3, np.int64),
        np.empty(gone, np.int64), np.empty(gone, np.uint64), np.empty(gone, np.uint64),
    )  # fmt: skip
    return bool(status == _FINE)


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
