"""Gives each row its place on a device or file, in the order of the trace."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from kvtrace.errors import UsageError
from kvtrace.native.core import function
from kvtrace.native.library import INT, POINTER, contiguous
from kvtrace.native.structures import Structure, fields
from kvtrace.placement.ground import make_ground
from kvtrace.placement.keys import KeyTable, carried
from kvtrace.placement.places import PLACE, place_originals
from kvtrace.placement.rehearsal import unpack
from kvtrace.placement.rows import rows_of
from kvtrace.units import format_bytes

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kvtrace.placement.extents import Space
    from kvtrace.placement.rows import Batch
    from kvtrace.placement.survey import Survey

PLACED, MORE_NODES, MORE_OUT, UNALIGNED = range(4)
_place_rows = function("kv_place_rows", POINTER, POINTER, returns=ctypes.c_int)


class _Placing(Structure):
    """`struct kv_placing` of allocator.c."""

    ARRAYS, _fields_ = fields(
        index=np.int32, lane=np.int64, place=PLACE, lanes=INT, ground=POINTER,
        born_length=np.int64, align_bytes=np.int64, per_object=np.bool_, out=np.int64, room=INT,
        row=INT, born=INT, count=INT,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Placed:
    """Where the rows of a slice are, extent by extent; rows that are nowhere aren't in it.

    Aligned bytes from the start of the device, or of the object's file.
    """

    row: NDArray[np.int64]
    begin_bytes: NDArray[np.int64]
    length_bytes: NDArray[np.int64]


class Allocator:
    """Places the rows of a surveyed trace, slice by slice. Memory follows the live objects.

    `where`: the trace, for messages.
    """

    def __init__(
        self,
        survey: Survey,
        lanes: NDArray[np.void],
        spaces: tuple[Space, ...],
        lane_of_tier: NDArray[np.int8],
        where: object,
    ) -> None:
        self._survey, self._where = survey, where
        self._lane_of_tier = lane_of_tier
        self._align = np.array([space.align_bytes for space in spaces], np.int64)
        self._per_object = np.array([space.per_object for space in spaces], np.bool_)
        self._table = KeyTable()
        self._place = np.zeros((self._table.capacity, len(spaces)), PLACE)
        self._ground = make_ground(lanes.copy())
        self._out = np.zeros((1 << 16, 3), np.int64)
        self._born = 0
        self._place_originals()

    def _place_originals(self) -> None:
        originals = self._survey.originals
        index = self._indices(contiguous(originals["key"])).astype(np.int64)
        lane = originals["lane"].astype(np.int64)
        length = contiguous(originals["length"])
        place_originals(self._place, self._ground, index, lane, length, self._align)

    def _indices(self, keys: NDArray[np.uint64]) -> NDArray[np.int32]:
        """Return the index of each key; the dead are forgotten where room is needed."""
        if not self._table.has_room(len(keys)):
            kept = (self._place[: self._table.count]["live"] != 0).any(axis=1)
            self._table.keep(kept, len(keys))
            self._place = carried(self._place, kept, self._table.capacity)
        return self._table.add(keys)

    def place(self, batch: Batch) -> Placed:
        """Return where the rows of the next slice are.

        Raises UsageError for a partial write that isn't aligned.
        """
        rows = len(batch.op)
        lengths, _ = unpack(self._survey.lives.read(self._born, rows))
        index, lane = self._indices(batch.key), self._lane_of_tier[batch.tier].astype(np.int64)
        placing = _Placing(
            index=index, lane=lane, place=self._place, lanes=self._place.shape[1],
            ground=self._ground, born_length=contiguous(lengths),
            align_bytes=self._align, per_object=self._per_object, out=self._out,
            room=len(self._out),
        )  # fmt: skip
        batch_rows = rows_of(batch)
        while (status := _place_rows(placing, batch_rows)) != PLACED:
            if status == UNALIGNED:
                raise self._unaligned(batch, placing.row)
            if status == MORE_NODES:
                self._ground.enlarge()
            else:
                self._out = np.concatenate((self._out, np.zeros_like(self._out)))
                placing.set(out=self._out, room=len(self._out))
        self._born += placing.born
        out = self._out[: placing.count].copy()
        return Placed(out[:, 0], out[:, 1], out[:, 2])

    def _unaligned(self, batch: Batch, row: int) -> UsageError:
        align = int(self._align[self._lane_of_tier[batch.tier[row]]])
        return UsageError(
            "partial write that isn't aligned",
            where=f"{self._where}: row {batch.first_row + row}",
            got=f"offset {int(batch.offset_bytes[row])}, size {int(batch.size_bytes[row])}",
            accepted=f"multiples of {format_bytes(align)}, or up to the object's end",
            hint="leave this tier out (--tiers)",
        )
