"""Gives each row its place on a device or file, in the order of the trace."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from kvtrace.compiled.jit import helper, kernel
from kvtrace.errors import UsageError
from kvtrace.placement.ground import Ground, Record, enlarged, make_ground, nodes_have_room
from kvtrace.placement.keys import KeyTable, carried
from kvtrace.placement.places import (
    BORN,
    PLACE,
    count_extents,
    leave,
    most_extents,
    place_originals,
    settle,
)
from kvtrace.placement.rehearsal import unpack
from kvtrace.trace.schema import Op
from kvtrace.units import format_bytes

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kvtrace.placement.extents import Space
    from kvtrace.placement.rows import Batch
    from kvtrace.placement.survey import Survey

_READ, _WRITE, _DELETE = int(Op.READ), int(Op.WRITE), int(Op.DELETE)
_OUT = 0
"""Place in the cursor, beside `BORN`: extents filled in."""
PLACED, MORE_NODES, MORE_OUT, UNALIGNED = range(4)


@helper
def _emit(
    ground: Ground, item: Record, on_device: int, low: int, high: int, row: int,
    out: NDArray[np.int64], cursor: NDArray[np.int64],
) -> None:  # fmt: skip
    """Fill in where the bytes [low, high) of an object are."""
    node, begin = int(item.node), 0
    while True:
        end = begin + int(ground.nodes[node].length) if node else high
        if end > low:
            at = int(cursor[_OUT])
            cursor[_OUT] = at + 1
            start = int(ground.nodes[node].begin) - begin if node else on_device * int(item.extent)
            out[at, 0], out[at, 1] = row, start + max(low, begin)
            out[at, 2] = min(end, high) - max(low, begin)
        if end >= high:
            return
        node, begin = int(ground.nodes[node].next), end


@kernel
def _place_rows(
    begin_row: int,
    op: NDArray[np.uint8],
    size: NDArray[np.uint64],
    offset: NDArray[np.uint64],
    index: NDArray[np.int32],
    lane: NDArray[np.int64],
    place: NDArray[np.void],
    ground: Ground,
    born_length: NDArray[np.int64],
    align_bytes: NDArray[np.int64],
    per_object: NDArray[np.bool_],
    cursor: NDArray[np.int64],
    out: NDArray[np.int64],
) -> tuple[int, int]:
    """Fill in where each row's bytes are, from one on; return (status, rows placed)."""
    for row in range(begin_row, op.size):
        what = op[row]
        if lane[row] < 0 or what > _DELETE:
            continue
        item: Record = place[index[row], lane[row]]
        align = align_bytes[lane[row]]
        on_device = 0 if per_object[lane[row]] else 1
        birth = what == _WRITE and item.live == 0
        length = int(item.length)
        if birth:
            length = -(-born_length[cursor[BORN]] // align) * align
            if not nodes_have_room(ground, lane[row], length):
                return MORE_NODES, row
        extents = most_extents(ground, lane[row], length) if birth else count_extents(ground, item)
        if cursor[_OUT] + extents > out.shape[0]:
            return MORE_OUT, row
        if birth:
            cursor[BORN] += 1
            item.length = length
            item.live = 1
            settle(ground, lane[row], item, 0)
        low = int(offset[row]) // align * align
        end = int(offset[row]) + int(size[row])
        high = -(-end // align) * align
        if what == _WRITE and (low != offset[row] or (high != end and high != item.length)):
            return UNALIGNED, row
        if what == _DELETE:
            low, high = 0, length * int(item.live)
        if high > low:
            _emit(ground, item, on_device, low, high, row, out, cursor)
        if what == _DELETE:
            if item.live == 1:
                leave(ground, lane[row], item, 0, 0)
            item.live = 0
    return PLACED, int(op.size)


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
        self._cursor = np.zeros(2, np.int64)
        self._out = np.zeros((1 << 16, 3), np.int64)
        self._born = 0
        self._place_originals()

    def _place_originals(self) -> None:
        originals = self._survey.originals
        index = self._indices(np.ascontiguousarray(originals["key"])).astype(np.int64)
        lane = originals["lane"].astype(np.int64)
        length = np.ascontiguousarray(originals["length"])
        self._ground = place_originals(self._place, self._ground, index, lane, length, self._align)

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
        self._cursor[:] = 0
        index, lane = self._indices(batch.key), self._lane_of_tier[batch.tier].astype(np.int64)
        status, row = MORE_OUT, 0
        while status != PLACED:
            status, row = _place_rows(
                row, batch.op, batch.size_bytes, batch.offset_bytes, index, lane, self._place,
                self._ground, lengths, self._align, self._per_object, self._cursor, self._out,
            )  # fmt: skip
            if status == UNALIGNED:
                raise self._unaligned(batch, row)
            if status == MORE_NODES:
                self._ground = enlarged(self._ground)
            elif status == MORE_OUT:
                self._out = np.concatenate((self._out, np.zeros_like(self._out)))
        self._born += int(self._cursor[BORN])
        out = self._out[: self._cursor[_OUT]].copy()
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
