"""Compiled: the space of each lane, as extents in use and holes between them.

A lane whose extents all have one length keeps freed ones in a queue. Other lanes keep every extent
and every freed part as a *node*, linked in order of address. Neighbouring free nodes are a *hole*,
kept in bins by length, the hole that changed longest ago first. A free node remembers the *ref* of
the op that freed it, so that its next user can wait for that op; nodes of one ref are joined.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from kvtrace.compiled.jit import helper

if TYPE_CHECKING:
    from numpy.typing import NDArray

Record = Any
"""One element of an array of one of these types; compiled code reads its fields as attributes."""

UNBOUNDED, UNIFORM, MIXED = range(3)
"""Kinds of lanes: no extent is used again; all have one length; lengths differ."""

LANE = np.dtype(
    [
        ("kind", "i8"),
        ("top", "i8"),
        ("limit", "i8"),
        ("cap", "i8"),
        ("part", "i8"),
        ("last", "i8"),
        ("head", "i8"),
        ("tail", "i8"),
        ("free", "i8"),
    ],
    align=True,
)
"""`top`: where never-used space begins; it is used up to `limit` before any is used again, and up
to `cap` before objects are divided at will. `part`: what else objects are divided into multiples
of. `last`: node below `top`. `head`, `tail`: a uniform lane's queue. `free`: free nodes."""

NODE = np.dtype(
    [
        ("begin", "i8"),
        ("length", "i8"),
        ("ref", "i8"),
        ("hole", "i8"),
        ("below", "i4"),
        ("above", "i4"),
        ("older", "i4"),
        ("newer", "i4"),
        ("other", "i4"),
        ("next", "i4"),
        ("free", "i4"),
    ],
    align=True,
)
"""`hole`, `older`, `newer`: in the first node of a hole, its length and its neighbours in the bin.
`other`: a hole's last node in its first one, and the reverse. `next`: the object's next extent."""

SPARE, NODES, REFS = range(3)
"""Places in `Ground.cursor`: first node to be used again, first never used, refs of `occupy`."""
_STEP_BITS = 4
BINS = 64 << _STEP_BITS
_WORD_BITS = 32
_LOOKS = 8
"""Holes of the wanted length's own bin, in which not all are long enough, that are looked at."""


class Ground(NamedTuple):
    """The space of all lanes."""

    lanes: NDArray[np.void]
    nodes: NDArray[np.void]
    """Node 0 is none."""
    oldest: NDArray[np.int32]
    """Per lane and bin: its first hole; `newest`: its last."""
    newest: NDArray[np.int32]
    words: NDArray[np.int64]
    """Per lane: a bit for each bin that has holes."""
    refs: NDArray[np.int64]
    """What freed the parts that `occupy` took."""
    cursor: NDArray[np.int64]


def make_ground(lanes: NDArray[np.void], nodes: int = 1 << 10) -> Ground:
    """Return the space of `lanes` with nothing in it, and room for `nodes` nodes."""
    count = len(lanes)
    cursor = np.zeros(3, np.int64)
    cursor[NODES] = 1
    return Ground(
        lanes,
        np.zeros(nodes, NODE),
        np.zeros((count, BINS), np.int32),
        np.zeros((count, BINS), np.int32),
        np.zeros((count, BINS // _WORD_BITS), np.int64),
        np.zeros(nodes, np.int64),
        cursor,
    )


def enlarged(ground: Ground) -> Ground:
    """Return the same space with room for twice as many nodes."""
    nodes = np.concatenate((ground.nodes, np.zeros_like(ground.nodes)))
    return ground._replace(nodes=nodes, refs=np.zeros(len(nodes), np.int64))


@helper
def nodes_have_room(ground: Ground, lane: int, length: int) -> bool:
    """Whether there are nodes for one more object of a length, and for an end of one."""
    divided = min(length // int(ground.lanes[lane].part), int(ground.lanes[lane].free))
    return bool(ground.cursor[NODES] + divided + 4 <= ground.nodes.shape[0])


@helper
def _log2(value: int) -> int:
    """Return floor(log2(value)) of a value from 1 to 2^63 - 1."""
    exponent = 0
    for step in (32, 16, 8, 4, 2, 1):
        if value >> step:
            value >>= step
            exponent += step
    return exponent


@helper
def _bin_of(length: int) -> int:
    """Return the bin of holes of a length: each power of two has 16."""
    exponent = _log2(length)
    if exponent < _STEP_BITS:
        return length
    return exponent << _STEP_BITS | (length >> (exponent - _STEP_BITS)) & ((1 << _STEP_BITS) - 1)


@helper
def insert_hole(ground: Ground, lane: int, head: int) -> None:
    """Put a hole last into its bin."""
    item: Record = ground.nodes[head]
    kind = _bin_of(int(item.hole))
    last = int(ground.newest[lane, kind])
    item.older, item.newer = last, 0
    if last:
        ground.nodes[last].newer = head
    else:
        ground.oldest[lane, kind] = head
        ground.words[lane, kind // _WORD_BITS] |= 1 << (kind % _WORD_BITS)
    ground.newest[lane, kind] = head


@helper
def remove_hole(ground: Ground, lane: int, head: int) -> None:
    """Take a hole out of its bin."""
    item: Record = ground.nodes[head]
    kind = _bin_of(int(item.hole))
    older, newer = int(item.older), int(item.newer)
    if older:
        ground.nodes[older].newer = newer
    else:
        ground.oldest[lane, kind] = newer
    if newer:
        ground.nodes[newer].older = older
    else:
        ground.newest[lane, kind] = older
    if older == 0 and newer == 0:
        ground.words[lane, kind // _WORD_BITS] &= ~(1 << (kind % _WORD_BITS))


@helper
def find_hole(ground: Ground, lane: int, length: int) -> int:
    """Return a hole that holds `length`, oldest of the shortest such bin; 0 if none."""
    kind = _bin_of(length)
    head = int(ground.oldest[lane, kind])
    looks = 0
    while head and looks < _LOOKS:
        if ground.nodes[head].hole >= length:
            return head
        head = int(ground.nodes[head].newer)
        looks += 1
    word = (kind + 1) // _WORD_BITS
    bits = int(ground.words[lane, word]) >> ((kind + 1) % _WORD_BITS) << ((kind + 1) % _WORD_BITS)
    while bits == 0:
        word += 1
        if word >= ground.words.shape[1]:
            return 0
        bits = int(ground.words[lane, word])
    return int(ground.oldest[lane, word * _WORD_BITS + _log2(bits & -bits)])


@helper
def largest_hole(ground: Ground, lane: int) -> int:
    """Return the oldest hole of the longest bin; 0 if there is none."""
    word = ground.words.shape[1] - 1
    while word >= 0 and ground.words[lane, word] == 0:
        word -= 1
    if word < 0:
        return 0
    return int(ground.oldest[lane, word * _WORD_BITS + _log2(int(ground.words[lane, word]))])
