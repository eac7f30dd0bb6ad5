"""I/O at offsets of files and devices, as rows of objects: what begins at one offset is one."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any

import numpy as np

from kvtrace.formats.common.incoming import phases
from kvtrace.native.core import function
from kvtrace.native.library import BOOL, BOOLEAN, I32, I64, INT, POINTER, U8, U64, contiguous
from kvtrace.placement.keys import KeyTable, carried
from kvtrace.trace.header import RESIDENT_DTYPE
from kvtrace.trace.schema import Tier

if TYPE_CHECKING:
    from numpy.typing import NDArray


COLUMNS = ("timestamp", "op", "size", "file", "place")
"""Of I/O: `file` is its number, `place` where in it the op begins; a trim is a delete."""
_PLACE_BITS = 50
PLACE_MAX = (1 << _PLACE_BITS) - 1
FILES_MAX = 1 << 14

Columns = dict[str, "NDArray[Any]"]

_OBJECT = np.dtype([("number", "i8"), ("length", "i8"), ("resident", "i8"), ("state", "i8")])
_RESIDENT = np.dtype([("number", "i8"), ("length", "i8")])


class BlockIoStruct(ctypes.Structure):
    """`struct kv_block_io` of `blockio.c`."""

    _fields_ = (
        ("objects", POINTER),
        ("places", INT),
        ("residents", POINTER),
        ("room", INT),
        ("resident_count", INT),
        ("numbers", INT),
        ("dropped", INT),
    )


_trace_rows = function("kv_block_io_rows", POINTER, U8, I64, I32, INT, U64, BOOL, returns=BOOLEAN)


class Objects:
    """Turns I/O into rows of objects. Memory grows with the places that are touched."""

    def __init__(self, tier: Tier = Tier.NVME) -> None:
        self._tier = tier
        self._table = KeyTable()
        self._objects = np.zeros(self._table.capacity, _OBJECT)
        self._residents = np.zeros(1 << 12, _RESIDENT)
        self._struct = BlockIoStruct()

    @property
    def dropped(self) -> int:
        """How many trims matched no object and were left out."""
        return int(self._struct.dropped)

    def rows(self, columns: Columns) -> Columns:
        """Return a trace's rows for some I/O; other columns than those of I/O stay with them."""
        count = len(columns["op"])
        packed = columns["file"].astype(np.uint64) << np.uint64(_PLACE_BITS)
        index = self._indices(packed | columns["place"].astype(np.uint64))
        size = columns["size"].astype(np.int64)
        keys, kept = np.empty(count, np.uint64), np.empty(count, np.bool_)
        self._make_room(count)
        op = contiguous(columns["op"])
        traced = _trace_rows(ctypes.byref(self._struct), op, size, index, count, keys, kept)
        assert traced
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
        missing = self._struct.resident_count + count - len(self._residents)
        if missing > 0:
            more = np.zeros(max(missing, len(self._residents)), _RESIDENT)
            self._residents = np.concatenate((self._residents, more))
        self._struct.objects, self._struct.places = self._objects.ctypes.data, len(self._objects)
        self._struct.residents = self._residents.ctypes.data
        self._struct.room = len(self._residents)

    def residents(self) -> NDArray[np.void]:
        """Return the objects that are there before the first row."""
        residents = self._residents[: self._struct.resident_count]
        made = np.zeros(len(residents), RESIDENT_DTYPE)
        made["tier"] = self._tier
        made["key"] = residents["number"]
        made["size"] = residents["length"]
        return made
