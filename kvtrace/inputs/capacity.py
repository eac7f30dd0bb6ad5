"""Deletes that a log doesn't have, inferred: what no longer fits, least recently used first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from kvtrace.errors import TraceError
from kvtrace.jit import kernel
from kvtrace.placement.keys import KeyTable, carried
from kvtrace.schema import Op, Phase
from kvtrace.units import format_bytes

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kvtrace.schema import Tier

Columns = dict[str, "NDArray[Any]"]

_OBJECT = np.dtype(
    [("key", "u8"), ("size", "i8"), ("before", "i8"), ("after", "i8"), ("state", "u1")], align=True
)
"""One object in a ring in order of use, entry 0 being its end: index + 1 of its neighbours."""
_UNKNOWN, _LIVE, _DEAD = range(3)
_USED, _DELETED, _LIVE_COUNT = range(3)
_FINE, _DEAD_READ, _TOO_LARGE = range(3)
_READ = int(Op.READ)


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


class Capacity:
    """Adds deletes of one tier, so that it never holds more than its capacity.

    Objects are used by reads and writes. Memory: 40 bytes for each key that was ever there.
    """

    def __init__(self, tier: Tier, capacity_bytes: int, where: object) -> None:
        self._tier, self._capacity, self._where = tier, capacity_bytes, where
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

        Raises TraceError if an object is read that had to go: the capacity was larger.
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
            raise self._error(status, columns, int(rows[at]))
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

    def _error(self, status: int, columns: Columns, row: int) -> TraceError:
        key, size = int(columns["key"][row]), int(columns["size"][row])
        if status == _TOO_LARGE:
            return TraceError(
                f"an object is larger than the {self._tier.label} tier",
                where=self._where,
                got=format_bytes(size),
                accepted=f"up to {format_bytes(self._capacity)}",
                hint="give the capacity that the file was made with",
            )
        return TraceError(
            f"read of an object for which there was no room any more on {self._tier.label}",
            where=self._where,
            got=f"key {key:016x} at {int(columns['timestamp'][row])} ns, capacity "
            f"{format_bytes(self._capacity)}",
            hint="give the capacity that the file was made with",
        )
