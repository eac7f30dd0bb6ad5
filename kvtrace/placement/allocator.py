"""Gives each row its place on a device or file, in the order of the trace."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from kvtrace.errors import UsageError
from kvtrace.jit import kernel
from kvtrace.placement.extents import unpack
from kvtrace.placement.keys import KeyTable, carried
from kvtrace.placement.places import (
    BORN,
    CLASS,
    FREED,
    PLACE,
    Record,
    pop_freed,
    push_freed,
    take_extent,
    take_originals,
)
from kvtrace.schema import Op
from kvtrace.units import format_bytes

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kvtrace.placement.extents import Classes, Space
    from kvtrace.placement.rows import Batch
    from kvtrace.placement.survey import Survey

_READ, _WRITE, _DELETE = int(Op.READ), int(Op.WRITE), int(Op.DELETE)
_FREED_ROOM = 1 << 12
_ALL_PLACED = -1


@kernel
def _place_rows(
    op: NDArray[np.uint8],
    size: NDArray[np.uint64],
    offset: NDArray[np.uint64],
    index: NDArray[np.int32],
    lane: NDArray[np.int64],
    place: NDArray[np.void],
    classes: NDArray[np.void],
    next_free: NDArray[np.int64],
    freed_extent: NDArray[np.int64],
    freed_next: NDArray[np.int64],
    born_class: NDArray[np.int32],
    born_length: NDArray[np.int64],
    align_bytes: NDArray[np.int64],
    per_object: NDArray[np.bool_],
    cursor: NDArray[np.int64],
    begin_bytes: NDArray[np.int64],
    length_bytes: NDArray[np.int64],
) -> int:
    """Fill in where each row's bytes begin and how many there are; return a row that can't be."""
    for row in range(op.size):
        what = op[row]
        if lane[row] < 0 or what > _DELETE:
            continue
        item: Record = place[index[row], lane[row]]
        align = align_bytes[lane[row]]
        on_device = 0 if per_object[lane[row]] else 1
        if what == _DELETE:
            if item.live == 1 and item.size_class >= 0:
                begin_bytes[row], length_bytes[row] = on_device * item.extent, item.length
                freed = push_freed(classes, item.size_class, freed_next, cursor)
                if freed >= 0:
                    freed_extent[freed] = item.extent
            item.live = 0
            continue
        low = int(offset[row]) // align * align
        end = int(offset[row]) + int(size[row])
        high = -(-end // align) * align
        if what == _WRITE and item.live == 0:
            born = cursor[BORN]
            cursor[BORN] = born + 1
            item.size_class = born_class[born]
            item.length = -(-born_length[born] // align) * align
            item.live = 1
            extent = take_extent(classes, item.size_class, next_free, lane[row])
            if extent < 0:
                extent = freed_extent[pop_freed(classes, item.size_class, freed_next, cursor)]
            item.extent = extent
        if what == _WRITE and (low != offset[row] or (high != end and high != item.length)):
            return row
        begin_bytes[row], length_bytes[row] = on_device * item.extent + low, high - low
    return _ALL_PLACED


@dataclass(frozen=True, slots=True)
class Placed:
    """Where the rows of a slice are: bytes from the start of the device, or of the object's file.

    Aligned; length 0 is nowhere.
    """

    begin_bytes: NDArray[np.int64]
    length_bytes: NDArray[np.int64]


class Allocator:
    """Places the rows of a surveyed trace, slice by slice. Memory follows the live objects.

    `where`: the trace, for messages.
    """

    def __init__(
        self,
        survey: Survey,
        classes: Classes,
        quotas: NDArray[np.int64],
        spaces: tuple[Space, ...],
        lane_of_tier: NDArray[np.int8],
        where: object,
    ) -> None:
        self._survey, self._classes, self._where = survey, classes, where
        self._lane_of_tier = lane_of_tier
        self._align = np.array([space.align_bytes for space in spaces], np.int64)
        self._per_object = np.array([space.per_object for space in spaces], np.bool_)
        self._table = KeyTable()
        self._place = np.zeros((self._table.capacity, len(spaces)), PLACE)
        self._states = np.zeros(len(quotas), CLASS)
        self._states["length"], self._states["quota"] = classes.length_bytes, quotas
        self._next_free = np.array([space.begin_bytes for space in spaces], np.int64)
        self._freed_extent = np.zeros(_FREED_ROOM, np.int64)
        self._freed_next = np.zeros(_FREED_ROOM, np.int64)
        self._cursor = np.zeros(5, np.int64)
        self._cursor[FREED] = 1  # 0 ends a queue
        self._born = 0
        self._place_originals()

    def _place_originals(self) -> None:
        there = self._survey.originals
        index = self._indices(np.ascontiguousarray(there["key"])).astype(np.int64)
        lane = there["lane"].astype(np.int64)
        length = np.ascontiguousarray(there["length"])
        kinds = self._classes.of(length, lane)
        take_originals(
            self._place, self._states, self._next_free, index, lane, length, kinds, self._align
        )

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
        self._make_room(rows)
        lengths, lanes = unpack(self._survey.lives.read(self._born, rows))
        self._cursor[BORN] = 0
        placed = Placed(np.zeros(rows, np.int64), np.zeros(rows, np.int64))
        bad = _place_rows(
            batch.op,
            batch.size_bytes,
            batch.offset_bytes,
            self._indices(batch.key),
            self._lane_of_tier[batch.tier].astype(np.int64),
            self._place,
            self._states,
            self._next_free,
            self._freed_extent,
            self._freed_next,
            self._classes.of(lengths, lanes),
            lengths,
            self._align,
            self._per_object,
            self._cursor,
            placed.begin_bytes,
            placed.length_bytes,
        )
        self._born += int(self._cursor[BORN])
        if bad != _ALL_PLACED:
            raise self._unaligned(batch, bad)
        return placed

    def _make_room(self, rows: int) -> None:
        missing = int(self._cursor[FREED]) + rows - len(self._freed_next)
        if missing > 0:
            more = max(missing, len(self._freed_next))
            self._freed_extent = np.pad(self._freed_extent, (0, more))
            self._freed_next = np.pad(self._freed_next, (0, more))

    def _unaligned(self, batch: Batch, row: int) -> UsageError:
        align = int(self._align[self._lane_of_tier[batch.tier[row]]])
        return UsageError(
            "partial write that isn't aligned",
            where=f"{self._where}: row {batch.first_row + row}",
            got=f"offset {int(batch.offset_bytes[row])}, size {int(batch.size_bytes[row])}",
            accepted=f"multiples of {format_bytes(align)}, or up to the object's end",
            hint="leave this tier out (--tiers)",
        )
