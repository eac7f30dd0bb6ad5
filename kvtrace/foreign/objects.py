"""Objects as a foreign log shows them: which were there before, and how long deleted ones were."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from kvtrace.hashmap import MISSING, find, insert, insert_all, table_size
from kvtrace.header import RESIDENT_DTYPE
from kvtrace.jit import constant, kernel
from kvtrace.schema import Op, Tier

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kvtrace.reader import Columns

# Columns of an object's row. FOUND: bytes that it had at the start of the log, 0 if it wasn't
# there. STATE: READ_ONLY as long as only reads tell how long it is.
_KEY, _STATE, _SIZE, _FOUND = range(4)
_READ_ONLY, _WRITTEN, _DEAD = (constant(state) for state in (1, 2, 3))
_READ, _WRITE, _DELETE = constant(Op.READ), constant(Op.WRITE), constant(Op.DELETE)
_FIRST_ROWS = 1024


@kernel
def _enter(objects: Any, table: Any, count: Any, key: int, state: int, size: int) -> None:
    slot = count[0]
    count[0] += 1
    objects[slot, _KEY], objects[slot, _STATE], objects[slot, _SIZE] = key, state, size
    objects[slot, _FOUND] = size if state == _READ_ONLY else 0
    insert(table, objects, slot)


@kernel
def _settle(
    op: Any, key: Any, size: Any, end: Any, objects: Any, table: Any, count: Any, kept: Any
) -> None:
    """Follow the objects; give deletes their size, and take rows out of `kept` that can't be."""
    for i in range(op.shape[0]):
        if op[i] > _DELETE:
            continue
        slot = find(table, objects, key[i])
        if slot == MISSING:
            if op[i] == _DELETE:
                kept[i] = False
            else:
                state = _READ_ONLY if op[i] == _READ else _WRITTEN
                _enter(objects, table, count, key[i], state, end[i])
        elif op[i] == _WRITE:
            longest = 0 if objects[slot, _STATE] == _DEAD else objects[slot, _SIZE]
            objects[slot, _STATE], objects[slot, _SIZE] = _WRITTEN, max(longest, end[i])
        elif objects[slot, _STATE] == _DEAD:
            kept[i] = False
        elif op[i] == _DELETE:
            size[i] = objects[slot, _SIZE]
            objects[slot, _STATE] = _DEAD
        elif objects[slot, _STATE] == _READ_ONLY and end[i] > objects[slot, _SIZE]:
            objects[slot, _SIZE] = objects[slot, _FOUND] = end[i]


class _OfTier:
    def __init__(self) -> None:
        self._objects = np.zeros((_FIRST_ROWS, 4), np.int64)
        self._table = np.zeros(table_size(_FIRST_ROWS), np.int32)
        self._count = np.zeros(1, np.int64)

    def settle(
        self,
        op: NDArray[np.uint8],
        key: NDArray[np.uint64],
        size: NDArray[np.int64],
        end: NDArray[np.int64],
    ) -> NDArray[np.bool_]:
        """Follow rows, giving deletes their `size`; return which rows can be."""
        needed = int(self._count[0]) + len(op)
        if needed > len(self._objects):
            self._objects = np.pad(self._objects, ((0, needed), (0, 0)))
            self._table = np.zeros(table_size(len(self._objects)), np.int32)
            insert_all(self._table, self._objects, np.arange(self._count[0]))
        kept = np.ones(len(op), np.bool_)
        keys = key.view(np.int64)
        _settle(op, keys, size, end, self._objects, self._table, self._count, kept)
        return kept

    def resident(self) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
        objects = self._objects[: self._count[0]]
        there = objects[objects[:, _FOUND] > 0]
        return np.ascontiguousarray(there[:, _KEY]).view(np.uint64), there[:, _FOUND]


class Objects:
    """Completes rows of a log that says neither what was there before nor what deletes free.

    What is read before it is written was there before. Reads and deletes of what the log itself
    had deleted, and deletes of what nothing else tells of, are left out and counted. Memory grows
    with the number of objects.
    """

    def __init__(self) -> None:
        self._tiers = [_OfTier() for _ in Tier]
        self.dropped = {Op.READ: 0, Op.DELETE: 0}

    def settled(self, columns: Columns) -> Columns:
        """Return the rows that can be, deletes with the size of their object."""
        size = columns["size"].astype(np.int64)
        end = size + columns["offset"].astype(np.int64) if "offset" in columns else size.copy()
        kept = np.ones(len(size), np.bool_)
        for number, objects in enumerate(self._tiers):
            rows = np.flatnonzero(columns["tier"] == number)
            if len(rows):
                sizes = size[rows]
                kept[rows] = objects.settle(
                    columns["op"][rows], columns["key"][rows], sizes, end[rows]
                )
                size[rows] = sizes
        for op in self.dropped:
            self.dropped[op] += int((columns["op"][~kept] == op).sum())
        settled = columns | {"size": size.astype(np.uint64)}
        return {name: values[kept] for name, values in settled.items()}

    def resident(self) -> NDArray[np.void]:
        """Return the objects that were there before."""
        parts = []
        for number, objects in enumerate(self._tiers):
            keys, sizes = objects.resident()
            part = np.zeros(len(keys), RESIDENT_DTYPE)
            part["tier"], part["key"], part["size"] = number, keys, sizes
            parts.append(part[np.argsort(keys)])
        return np.concatenate(parts)
