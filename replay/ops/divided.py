"""Objects of several extents: compiled, where a plan's ops find their bytes; and back again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from kvtrace.compiled.jit import helper
from kvtrace.placement.ground import MIXED, REFS, Ground, Record
from kvtrace.placement.places import count_extents, most_extents, settle
from replay.ops.columns import DIVIDED, SECTOR_BYTES
from replay.ops.lists import EXTENTS, FLOOR, OPS, Lists, Ring, add_extent, cons, joined

if TYPE_CHECKING:
    from replay.ops.columns import Ops

_DIVIDED = np.uint64(DIVIDED)
EXTENT_ROOM = 1 << 21
"""Extents of divided objects that a plan's ring holds."""


@helper
def allocate(
    ground: Ground, lists: Lists, ring: Ring, place: Record, lane: int, due_ns: int, thread: int
) -> int:
    """Give an object its extents; return a ref of what freed them."""
    settle(ground, lane, place, int(ring.cursor[FLOOR]))
    freed = 0
    for at in range(ground.cursor[REFS]):
        freed = -cons(lists, int(ground.refs[at]) - 1, -freed if freed < 0 else 0)
        freed = joined(lists, ring, freed, due_ns, thread)
        if freed > 0:
            freed = -cons(lists, freed - 1, 0)
    return freed


@helper
def locate(place: Record, ground: Ground, ring: Ring) -> None:
    """Say where the bytes of the newest op are: it has an offset and a length in the object."""
    at = int(ring.cursor[OPS]) & ring.mask
    node = int(place.node)
    if node == 0 or ground.nodes[node].next == 0:
        ring.ops.offset_bytes[at] += place.extent
        return
    low = int(ring.ops.offset_bytes[at])
    high = low + int(ring.ops.length_sectors[at]) * SECTOR_BYTES
    ring.ops.offset_bytes[at] = np.uint64(ring.cursor[EXTENTS]) | _DIVIDED
    begin = 0
    while begin < high:
        item: Record = ground.nodes[node]
        end = begin + int(item.length)
        if end > low:
            start = max(low, begin)
            add_extent(ring, int(item.begin) + start - begin, min(end, high) - start)
        node, begin = int(item.next), end


@helper
def extents_of(ground: Ground, place: Record, lane: int, birth: bool, length: int) -> int:
    """Return how many extents a row's object has at most, 0 where it can't be divided."""
    if ground.lanes[lane].kind != MIXED:
        return 0
    if birth:
        return most_extents(ground, lane, length)
    return count_extents(ground, place)


def places(ops: Ops, at: int, begin: int, length: int) -> list[tuple[int, int]]:
    """Return (offset, length) of where bytes [begin, begin + length) of the op at an index are.

    Less than that where its extents end before, or one is empty: no plan has such an op.
    """
    offset = int(ops.offset_bytes[at])
    if not offset & DIVIDED:
        return [(offset + begin, length)]
    pieces, pair, first = [], offset ^ DIVIDED, 0
    for _ in range(len(ops.extents) // 2):
        word = 2 * pair & (len(ops.extents) - 1)
        start, size = int(ops.extents[word]), int(ops.extents[word + 1])
        low, high = max(begin, first), min(begin + length, first + size)
        if low < high:
            pieces.append((start + low - first, high - low))
        pair, first = pair + 1, first + size
        if size == 0 or first >= begin + length:
            break
    return pieces
