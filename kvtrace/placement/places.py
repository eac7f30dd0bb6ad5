"""Compiled: where an object lives on its target, and which bytes of the arena it holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from kvtrace.compiled.jit import helper, kernel
from kvtrace.placement.ground import MIXED, REFS, UNIFORM, Ground, Record, enlarged, nodes_have_room
from kvtrace.placement.holes import enqueue, next_uniform, occupy, vacate

if TYPE_CHECKING:
    from numpy.typing import NDArray

ARENA, BORN = range(2)
"""Places in an allocator's cursor: the arena's end; in the chunk of births."""
ALIGN_BYTES_MIN = 512
"""No extent is shorter."""

PLACE = np.dtype(
    [
        ("extent", "i8"),
        ("arena", "i8"),
        ("written", "i8"),
        ("length", "i8"),
        ("generation", "i4"),
        ("node", "i4"),
        ("live", "i4"),
    ],
    align=True,
)
"""Per (key, lane): where the object is, and which bytes it holds. `length` is aligned. `node`: its
first extent in a mixed lane."""


@helper
def reserve_arena(cursor: int, length: int, arena_bytes: int, io_bytes: int) -> int:
    """Return where `length` bytes may start at or after `cursor`: no piece straddles the end."""
    at = cursor % arena_bytes
    if at + length <= arena_bytes:
        return cursor
    if length <= arena_bytes:
        return cursor - at + arena_bytes
    # Longer than the arena: it wraps, between pieces.
    return -(-cursor // io_bytes) * io_bytes


@helper
def settle(ground: Ground, lane: int, place: Record, floor: int) -> None:
    """Give an object its extents. `REFS` of the ground says what it waits for."""
    place.node = 0
    if place.length == 0:
        ground.cursor[REFS] = 0
    elif ground.lanes[lane].kind == MIXED:
        place.node = occupy(ground, lane, place.length, floor)
        place.extent = ground.nodes[place.node].begin
    else:
        place.extent = next_uniform(ground, lane, place.length)


@helper
def leave(ground: Ground, lane: int, place: Record, ref: int, floor: int) -> None:
    """Free an object's extents; `ref` is of what does that."""
    if place.length == 0:
        return
    kind = ground.lanes[lane].kind
    if kind == MIXED:
        vacate(ground, lane, place.node, ref, floor)
        place.node = 0
    elif kind == UNIFORM:
        enqueue(ground, lane, place.extent, place.length, ref)


@helper
def count_extents(ground: Ground, place: Record) -> int:
    """Return how many extents an object has."""
    count, node = 1, int(ground.nodes[place.node].next)
    while node:
        count += 1
        node = int(ground.nodes[node].next)
    return count


@helper
def most_extents(ground: Ground, lane: int, length: int) -> int:
    """Return how many extents a new object of such a length has at most."""
    return min(int(ground.lanes[lane].free) + 3, length // ALIGN_BYTES_MIN + 1)


def place_originals(
    place: NDArray[np.void],
    ground: Ground,
    index: NDArray[np.int64],
    lane: NDArray[np.int64],
    length: NDArray[np.int64],
    align_bytes: NDArray[np.int64],
) -> Ground:
    """Give extents to objects that are there before the first row; return the ground."""
    done = _take_originals(place, ground, index, lane, length, align_bytes, 0)
    while done < len(index):
        ground = enlarged(ground)
        done = _take_originals(place, ground, index, lane, length, align_bytes, done)
    return ground


@kernel
def _take_originals(
    place: NDArray[np.void],
    ground: Ground,
    index: NDArray[np.int64],
    lane: NDArray[np.int64],
    length: NDArray[np.int64],
    align_bytes: NDArray[np.int64],
    begin: int,
) -> int:
    """Give extents to objects that are there before the first row; return how many have them.

    Fewer than all, from `begin` on: there have to be more nodes first.
    """
    for at in range(begin, index.size):
        item: Record = place[index[at], lane[at]]
        align = align_bytes[lane[at]]
        item.length = -(-length[at] // align) * align
        if not nodes_have_room(ground, lane[at], item.length):
            return int(at)
        item.written = item.length
        item.live = 1
        settle(ground, lane[at], item, 0)
    return int(index.size)


@kernel
def give_arena(
    place: NDArray[np.void],
    index: NDArray[np.int64],
    lane: NDArray[np.int64],
    cursor: NDArray[np.int64],
    arena_bytes: int,
    io_bytes: int,
) -> None:
    """Give objects their places in the arena, one after the other."""
    for at in range(index.size):
        item: Record = place[index[at], lane[at]]
        begin = reserve_arena(int(cursor[ARENA]), item.length, arena_bytes, io_bytes)
        item.arena = begin
        cursor[ARENA] = begin + item.length
