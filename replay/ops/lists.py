"""Compiled: the ring that a plan is written to, and lists of ops that something waits for."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from kvtrace.compiled.jit import helper
from replay.ops.columns import EXTRA, NO_CLOCK
from replay.ops.contract import Action, power_of_two

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from replay.ops.columns import Ops

OPS, EDGES, FLOOR, DRAINED, EDGE_FLOOR, EXTENTS, EXTENT_FLOOR = range(7)
"""Places in `Ring.cursor`: ops and edges; the floor; ops that were taken out of the ring,
and edges before the first one that wasn't; extents, and those of ops taken out."""
NODES, NODE_FLOOR = range(2)
"""Places in `Lists.cursor`: nodes; those before it are of ops below the floor."""
JOIN_COUNT = 1 << 14
"""Length from which a list of ops is replaced by one op that waits for them."""
_DEDUPE = 16
_NOTHING = int(Action.NONE)
_EXTRA, _NO_CLOCK = int(EXTRA), int(NO_CLOCK)


class Ring(NamedTuple):
    """The ring of ops, and where in it the plan is."""

    ops: Ops
    cursor: NDArray[np.int64]
    mask: int
    edge_mask: int


class Lists(NamedTuple):
    """Nodes of lists, a ring: node n is at n & mask. Node 0 ends a list."""

    op: NDArray[np.uint32]
    next: NDArray[np.int64]
    length: NDArray[np.int64]
    cursor: NDArray[np.int64]
    mask: int
    floor: NDArray[np.int64]
    """The ring's cursor: where its floor is."""


def ring_of(ops: Ops) -> Ring:
    """Return `ops` as compiled code takes it."""
    if not len(ops.clock):  # of a type, with an address
        ops = ops._replace(clock=np.zeros(1, np.uint32))
    return Ring(ops, np.zeros(7, np.int64), ops.capacity - 1, len(ops.edges) - 1)


def make_lists(capacity: int, ring: Ring) -> Lists:
    """Return room for `capacity` nodes, a power of two."""
    cursor = np.zeros(2, np.int64)
    cursor[NODES] = cursor[NODE_FLOOR] = 1
    return Lists(
        np.zeros(capacity, np.uint32),
        np.zeros(capacity, np.int64),
        np.zeros(capacity, np.int64),
        cursor,
        capacity - 1,
        ring.cursor,
    )


def enlarged(lists: Lists, ring: Ring, extra_count: int) -> Lists:
    """Return the same lists with at least twice the room, and for `extra_count` more nodes."""
    needed = len(lists.op) * 2 + extra_count
    made = make_lists(power_of_two(needed), ring)
    made.cursor[:] = lists.cursor
    node = np.arange(lists.cursor[NODE_FLOOR], lists.cursor[NODES])
    made.op[node & made.mask] = lists.op[node & lists.mask]
    made.next[node & made.mask] = lists.next[node & lists.mask]
    made.length[node & made.mask] = lists.length[node & lists.mask]
    return made


@helper
def lists_have_room(lists: Lists, count: int) -> bool:
    """Whether that number of nodes fits."""
    used = lists.cursor[NODES] - lists.cursor[NODE_FLOOR]
    return bool(used + count <= lists.op.size)


@helper
def ring_has_room(ring: Ring, ops: int, edges: int) -> bool:
    """Whether that number of ops and edges fits."""
    cursor = ring.cursor
    if cursor[OPS] + ops - cursor[DRAINED] > ring.ops.due_ns.size:
        return False
    return bool(cursor[EDGES] + edges - cursor[EDGE_FLOOR] <= ring.ops.edges.size)


@helper
def extents_have_room(ring: Ring, count: int) -> bool:
    """Whether that number of extents fits."""
    cursor = ring.cursor
    return bool(2 * (cursor[EXTENTS] + count - cursor[EXTENT_FLOOR]) <= ring.ops.extents.size)


@helper
def add_extent(ring: Ring, begin: int, length: int) -> None:
    """Add an extent to the newest op's."""
    at = 2 * int(ring.cursor[EXTENTS]) & (ring.ops.extents.size - 1)
    ring.ops.extents[at], ring.ops.extents[at + 1] = begin, length
    ring.cursor[EXTENTS] += 1


@helper
def _edge(ring: Ring, waited: int, first: int) -> None:
    last = int(ring.cursor[EDGES])
    if last - first <= _DEDUPE:
        for at in range(first, last):
            if ring.ops.edges[at & ring.edge_mask] == waited:
                return
    ring.ops.edges[last & ring.edge_mask] = waited
    ring.cursor[EDGES] = last + 1


@helper
def wait(lists: Lists, ring: Ring, ref: int, first: int) -> None:
    """Let the newest op, whose edges start at `first`, wait for what `ref` names."""
    floor = ring.cursor[FLOOR]
    if ref > 0:
        if ref - 1 >= floor:
            _edge(ring, ref - 1, first)
        return
    node = -ref
    while node >= lists.cursor[NODE_FLOOR]:
        if lists.op[node & lists.mask] >= floor:
            _edge(ring, int(lists.op[node & lists.mask]), first)
        node = int(lists.next[node & lists.mask])


@helper
def cons(lists: Lists, op: int, tail: int) -> int:
    """Return a list of `op` and what is in the list `tail`."""
    node = int(lists.cursor[NODES])
    lists.cursor[NODES] = node + 1
    lists.op[node & lists.mask] = op
    lists.next[node & lists.mask] = tail
    length = 1
    if tail >= lists.cursor[NODE_FLOOR]:
        length += lists.length[tail & lists.mask]
    lists.length[node & lists.mask] = length
    return node


@helper
def size_of(lists: Lists, ref: int) -> int:
    """Return how many ops a ref names, at most."""
    if ref >= 0:
        return 1
    if -ref < lists.cursor[NODE_FLOOR]:
        return 0
    return int(lists.length[-ref & lists.mask])


@helper
def merge(lists: Lists, into: int, other: int) -> int:
    """Return a ref of what both refs name."""
    if other == 0 or other == into:
        return into
    if into == 0:
        return other
    head = cons(lists, into - 1, 0) if into > 0 else -into
    if other > 0:
        return -_add(lists, head, other - 1)
    node = -other
    while node >= lists.cursor[NODE_FLOOR]:
        head = _add(lists, head, int(lists.op[node & lists.mask]))
        node = int(lists.next[node & lists.mask])
    return -head


@helper
def _add(lists: Lists, head: int, op: int) -> int:
    node, steps = head, 0
    while node >= lists.cursor[NODE_FLOOR] and steps < 4 * _DEDUPE:
        if lists.op[node & lists.mask] == op:
            return head
        node = int(lists.next[node & lists.mask])
        steps += 1
    return cons(lists, op, head)


@helper
def finish_op(ring: Ring) -> None:
    """Count the newest op in: it has all its columns and edges."""
    number = int(ring.cursor[OPS])
    at = number & ring.mask
    begin = int(ring.ops.edge_begin[at])
    ring.ops.wait_count[at] = (ring.cursor[EDGES] - begin) & 0xFFFFFFFF
    ring.cursor[OPS] = number + 1


@helper
def begin_extra(ring: Ring, action: int, due_ns: int, thread: int, clock: int) -> None:
    """Begin an op that isn't one of the trace; its edges follow, then `finish_op`."""
    ops, at = ring.ops, int(ring.cursor[OPS]) & ring.mask
    ops.due_ns[at], ops.lane[at], ops.action[at], ops.cell[at] = due_ns, thread, action, 0
    ops.offset_bytes[at], ops.length_sectors[at], ops.pad_bytes[at] = 0, 0, _EXTRA
    ops.key[at], ops.sector[at], ops.generation[at], ops.arena_bytes[at] = 0, 0, 0, 0
    ops.edge_begin[at] = ring.cursor[EDGES] & 0xFFFFFFFF
    if ops.clock.size == ops.due_ns.size:
        ops.clock[at] = clock


@helper
def joined(lists: Lists, ring: Ring, ref: int, due_ns: int, thread: int) -> int:
    """Return a ref of what `ref` names: if that is a long list, an op that waits for it."""
    if ref >= 0 or size_of(lists, ref) < JOIN_COUNT:
        return ref
    first = int(ring.cursor[EDGES])
    begin_extra(ring, _NOTHING, due_ns, thread, _NO_CLOCK)
    wait(lists, ring, ref, first)
    finish_op(ring)
    return int(ring.cursor[OPS])
