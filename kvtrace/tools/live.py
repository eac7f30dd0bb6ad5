"""Objects live while rows are read, and those that a part of the rows finds resident."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from kvtrace.compiled.hashmap import MISSING, find, give_back, new_table, take, with_room
from kvtrace.compiled.jit import constant, kernel
from kvtrace.trace.header import RESIDENT_DTYPE
from kvtrace.trace.schema import Op, Tier

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kvtrace.trace.reader import Columns

# Columns of an object's row behind its key. KNOWN: the kept rows have asked for it, so that it is
# decided whether they found it there.
_SIZE, _KNOWN = 1, 2
_FIRST_ROWS = 1024
_WRITE, _DELETE, _LOOKUP = constant(Op.WRITE), constant(Op.DELETE), constant(Op.LOOKUP)


@kernel
def _observe(
    op: Any, key: Any, end: Any, kept: Any, objects: Any, table: Any, count: Any, sizes: Any
) -> None:
    """Follow the objects.

    `sizes` gets an object's size where a kept row is the first to ask for it, not writing it.
    """
    for i in range(op.shape[0]):
        if op[i] == _LOOKUP:
            continue
        slot = find(table, objects, key[i])
        if kept[i] and op[i] != _WRITE and (slot == MISSING or not objects[slot, _KNOWN]):
            sizes[i] = end[i] if slot == MISSING else objects[slot, _SIZE]
        if op[i] == _DELETE:
            if slot != MISSING:
                give_back(table, objects, count, slot)
            continue
        if slot == MISSING:
            slot = take(table, objects, count, key[i])
            objects[slot, _SIZE] = objects[slot, _KNOWN] = 0
        objects[slot, _SIZE] = max(objects[slot, _SIZE], end[i])
        if kept[i]:
            objects[slot, _KNOWN] = 1


class _OfTier:
    """The objects of one tier."""

    def __init__(self) -> None:
        self._objects = np.zeros((_FIRST_ROWS, 3), np.int64)
        self._table = new_table(_FIRST_ROWS)
        self._count = np.array([0, MISSING], np.int64)

    def observe(
        self,
        op: NDArray[np.uint8],
        key: NDArray[np.uint64],
        end: NDArray[np.int64],
        kept: NDArray[np.bool_],
    ) -> NDArray[np.int64]:
        """Follow rows; return the size of what each kept row finds there first, else -1."""
        needed = int(self._count[0]) + len(op)
        self._table, self._objects = with_room(self._table, self._objects, needed)
        sizes = np.full(len(op), -1, np.int64)
        _observe(op, key.view(np.int64), end, kept, self._objects, self._table, self._count, sizes)
        return sizes


class LiveObjects:
    """Follows the objects of a trace; memory grows with those that are there, not with rows."""

    def __init__(self, resident: NDArray[np.void]) -> None:
        self._tiers = [_OfTier() for _ in Tier]
        self._found = [np.zeros(0, RESIDENT_DTYPE)]
        self._rows(
            np.full(len(resident), Op.WRITE, np.uint8),
            resident["tier"],
            np.ascontiguousarray(resident["key"]),
            resident["size"].astype(np.int64),
            np.zeros(len(resident), np.bool_),
        )

    def observe(self, columns: Columns, kept: NDArray[np.bool_]) -> None:
        """Follow some more rows, of which those that are `kept` make the new trace."""
        end = columns["size"].astype(np.int64)
        if "offset" in columns:
            end += np.ma.filled(columns["offset"], 0).astype(np.int64)
        self._rows(columns["op"], columns["tier"], columns["key"], end, kept)

    def _rows(
        self,
        op: NDArray[np.uint8],
        tier: NDArray[np.uint8],
        key: NDArray[np.uint64],
        end: NDArray[np.int64],
        kept: NDArray[np.bool_],
    ) -> None:
        for number, objects in enumerate(self._tiers):
            rows = np.flatnonzero(tier == number)
            if not len(rows):
                continue
            sizes = objects.observe(op[rows], key[rows], end[rows], kept[rows])
            present = sizes >= 0
            part = np.zeros(int(present.sum()), RESIDENT_DTYPE)
            part["tier"], part["key"], part["size"] = number, key[rows][present], sizes[present]
            self._found.append(part)

    def found(self) -> NDArray[np.void]:
        """Return what the kept rows asked for before writing it, in order of (tier, key)."""
        residents = np.concatenate(self._found)
        return residents[np.lexsort((residents["key"], residents["tier"]))]
