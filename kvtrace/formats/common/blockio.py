"""I/O at offsets of files and devices, as rows of objects: what begins at one offset is one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from kvtrace.compiled.jit import kernel
from kvtrace.formats.common.incoming import phases
from kvtrace.placement.keys import KeyTable, carried
from kvtrace.trace.header import RESIDENT_DTYPE
from kvtrace.trace.schema import Op, Tier

if TYPE_CHECKING:
    from numpy.typing import NDArray


COLUMNS = ("timestamp", "op", "size", "file", "place")
"""Of I/O: `file` is its number, `place` where in it the op begins; a trim is a delete."""
_PLACE_BITS = 50
PLACE_MAX = (1 << _PLACE_BITS) - 1
FILES_MAX = 1 << 14
_READ, _WRITE, _DELETE = int(Op.READ), int(Op.WRITE), int(Op.DELETE)

Columns = dict[str, "NDArray[Any]"]

_NONE, _FOUND, _WRITTEN, _DEAD = range(4)
_OBJECT = np.dtype(
    [("number", "i8"), ("length", "i8"), ("resident", "i8"), ("state", "u1")], align=True
)
"""What begins at one place: its number, or key; how far it is known; its entry among the residents
while nothing was written (`_FOUND`)."""
_RESIDENT = np.dtype([("number", "i8"), ("length", "i8")])
_NUMBERS, _RESIDENTS, _DROPPED = range(3)


@kernel
def _trace_rows(
    op: NDArray[np.uint8],
    size: NDArray[np.int64],
    index: NDArray[np.int32],
    objects: NDArray[np.void],
    residents: NDArray[np.void],
    tally: NDArray[np.int64],
    keys: NDArray[np.uint64],
    kept: NDArray[np.bool_],
) -> None:
    """Fill in keys; `size` of a delete becomes the object's. A trim of less than that is dropped.

    A read of what was trimmed, or of more than was written, is of an object that was there all the
    time and begins at the same place.
    """
    for row in range(op.size):
        item: Any = objects[index[row]]
        what, length = op[row], size[row]
        if what == _DELETE:
            whole = item.state in (_FOUND, _WRITTEN) and length >= item.length
            kept[row] = whole
            if not whole:
                tally[_DROPPED] += 1
                continue
            size[row] = item.length
            item.state = _DEAD
        elif what == _WRITE:
            if item.state == _NONE:
                item.number = tally[_NUMBERS]
                tally[_NUMBERS] += 1
            if item.state in (_NONE, _DEAD):
                item.length = 0
            item.length = max(item.length, length)
            item.state = _WRITTEN
        elif item.state == _FOUND:
            item.length = max(item.length, length)
            residents[item.resident].length = item.length
        elif item.state != _WRITTEN or length > item.length:
            item.number = tally[_NUMBERS]
            item.resident = tally[_RESIDENTS]
            item.length = length
            item.state = _FOUND
            residents[item.resident].number = item.number
            residents[item.resident].length = length
            tally[_NUMBERS] += 1
            tally[_RESIDENTS] += 1
        keys[row] = item.number


class Objects:
    """Turns I/O into rows of objects. Memory grows with the places that are touched."""

    def __init__(self, tier: Tier = Tier.NVME) -> None:
        self._tier = tier
        self._table = KeyTable()
        self._objects = np.zeros(self._table.capacity, _OBJECT)
        self._residents = np.zeros(1 << 12, _RESIDENT)
        self._tally = np.zeros(3, np.int64)

    @property
    def dropped(self) -> int:
        """How many trims matched no object and were left out."""
        return int(self._tally[_DROPPED])

    def rows(self, columns: Columns) -> Columns:
        """Return a trace's rows for some I/O; other columns than those of I/O stay with them."""
        count = len(columns["op"])
        packed = columns["file"].astype(np.uint64) << np.uint64(_PLACE_BITS)
        index = self._indices(packed | columns["place"].astype(np.uint64))
        size = columns["size"].astype(np.int64)
        keys, kept = np.zeros(count, np.uint64), np.ones(count, np.bool_)
        self._make_room(count)
        _trace_rows(
            columns["op"], size, index, self._objects, self._residents, self._tally, keys, kept
        )
        made: Columns = {
            name: values for name, values in columns.items() if name not in ("file", "place")
        }
        made |= {
            "size": size.astype(np.uint64),
            "key": keys,
            "tier": np.full(count, self._tier, np.uint8),
            "phase": phases(columns["op"]),
        }
        return made if kept.all() else {name: values[kept] for name, values in made.items()}

    def _indices(self, packed: NDArray[np.uint64]) -> NDArray[np.int32]:
        if not self._table.has_room(len(packed)):
            kept = np.ones(self._table.count, np.bool_)
            self._table.keep(kept, len(packed))
            self._objects = carried(self._objects, kept, self._table.capacity)
        return self._table.add(packed)

    def _make_room(self, count: int) -> None:
        missing = int(self._tally[_RESIDENTS]) + count - len(self._residents)
        if missing > 0:
            more = np.zeros(max(missing, len(self._residents)), _RESIDENT)
            self._residents = np.concatenate((self._residents, more))

    def residents(self) -> NDArray[np.void]:
        """Return the objects that are there before the first row."""
        residents = self._residents[: int(self._tally[_RESIDENTS])]
        made = np.zeros(len(residents), RESIDENT_DTYPE)
        made["tier"] = self._tier
        made["key"] = residents["number"]
        made["size"] = residents["length"]
        return made
