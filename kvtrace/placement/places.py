"""Compiled: where an object lives on its target, and which bytes of the arena it holds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from kvtrace.jit import helper, kernel

if TYPE_CHECKING:
    from numpy.typing import NDArray

Record = Any
"""One element of an array of one of these types; compiled code reads its fields as attributes."""

ARENA, BORN, FREE, FREED = range(4)
"""Places in an allocator's cursor: the arena's end so far; in the chunk of births; the first free
and the first never-used entry of the queues of freed extents."""

PLACE = np.dtype(
    [
        ("extent", "i8"),
        ("arena", "i8"),
        ("written", "i8"),
        ("length", "i8"),
        ("generation", "i4"),
        ("size_class", "i4"),
        ("live", "i4"),
    ],
    align=True,
)
"""Per (key, lane): where the object is, and which bytes it holds. `length` is aligned."""

CLASS = np.dtype(
    [("length", "i8"), ("quota", "i8"), ("used", "i8"), ("head", "i8"), ("tail", "i8")], align=True
)
"""One size class: extents taken from never-used space, and a queue of the freed ones."""

UNBOUNDED = 1 << 62
"""Quota of a class whose extents are never reused."""


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
def take_extent(
    classes: NDArray[np.void], kind: int, next_free: NDArray[np.int64], lane: int
) -> int:
    """Return never-used space for one more extent of a class, or -1."""
    item: Record = classes[kind]
    if item.used >= item.quota:
        return -1
    item.used += 1
    extent = int(next_free[lane])
    next_free[lane] += item.length
    return extent


@helper
def pop_freed(
    classes: NDArray[np.void], kind: int, freed_next: NDArray[np.int64], cursor: NDArray[np.int64]
) -> int:
    """Return the entry of the extent of a class that was freed longest ago; it may be used again.

    What the entry holds stays until something is freed.
    """
    item: Record = classes[kind]
    freed = int(item.head)
    item.head = freed_next[freed]
    if item.head == 0:
        item.tail = 0
    freed_next[freed] = cursor[FREE]
    cursor[FREE] = freed
    return freed


@helper
def push_freed(
    classes: NDArray[np.void], kind: int, freed_next: NDArray[np.int64], cursor: NDArray[np.int64]
) -> int:
    """Return an entry for a freed extent, last of its class's queue; -1 if none is used again."""
    item: Record = classes[kind]
    if item.quota == UNBOUNDED:
        return -1
    freed = int(cursor[FREE])
    if freed:
        cursor[FREE] = freed_next[freed]
    else:
        freed = int(cursor[FREED])
        cursor[FREED] = freed + 1
    freed_next[freed] = 0
    if item.tail == 0:
        item.head = freed
    else:
        freed_next[item.tail] = freed
    item.tail = freed
    return freed


@kernel
def take_originals(
    place: NDArray[np.void],
    classes: NDArray[np.void],
    next_free: NDArray[np.int64],
    index: NDArray[np.int64],
    lane: NDArray[np.int64],
    length: NDArray[np.int64],
    kinds: NDArray[np.int32],
    align_bytes: NDArray[np.int64],
) -> None:
    """Give extents to objects that are there before the first row."""
    for at in range(index.size):
        item: Record = place[index[at], lane[at]]
        align = align_bytes[lane[at]]
        item.size_class = kinds[at]
        item.length = -(-length[at] // align) * align
        item.written = item.length
        item.live = 1
        if kinds[at] >= 0:
            item.extent = take_extent(classes, kinds[at], next_free, lane[at])


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
