"""Compiled: extents are taken from holes and never-used space, and become holes again."""

from __future__ import annotations

from kvtrace.compiled.jit import helper
from kvtrace.placement.ground import (
    NODES,
    REFS,
    SPARE,
    UNBOUNDED,
    Ground,
    Record,
    find_hole,
    insert_hole,
    largest_hole,
    remove_hole,
)


@helper
def _new_node(ground: Ground, begin: int, length: int) -> int:
    at = int(ground.cursor[SPARE])
    if at:
        ground.cursor[SPARE] = ground.nodes[at].next
    else:
        at = int(ground.cursor[NODES])
        ground.cursor[NODES] = at + 1
    item: Record = ground.nodes[at]
    item.begin, item.length, item.ref, item.hole = begin, length, 0, 0
    item.below, item.above, item.older, item.newer = 0, 0, 0, 0
    item.other, item.next, item.free = 0, 0, 0
    return at


@helper
def _unlink(ground: Ground, lane: int, at: int) -> None:
    """Give up a free node whose bytes another one has taken over."""
    item: Record = ground.nodes[at]
    below, above = int(item.below), int(item.above)
    if below:
        ground.nodes[below].above = above
    if above:
        ground.nodes[above].below = below
    else:
        ground.lanes[lane].last = below
    item.next = ground.cursor[SPARE]
    ground.cursor[SPARE] = at
    ground.lanes[lane].free -= 1


@helper
def _fresh(ground: Ground, lane: int, length: int) -> int:
    """Return a node of never-used space."""
    item: Record = ground.lanes[lane]
    at = _new_node(ground, int(item.top), length)
    last = int(item.last)
    ground.nodes[at].below = last
    if last:
        ground.nodes[last].above = at
    item.last = at
    item.top += length
    return at


@helper
def _free_node(ground: Ground, lane: int, at: int, ref: int, floor: int) -> None:
    """Make a node a part of a hole. Refs of ops below `floor` are those of nothing."""
    item: Record = ground.nodes[at]
    ground.lanes[lane].free += 1
    item.free, item.ref, item.next = 1, ref, 0
    head, tail, length = at, at, int(item.length)
    below, above = int(item.below), int(item.above)
    if below and ground.nodes[below].free:
        head = int(ground.nodes[below].other)
        remove_hole(ground, lane, head)
        length += ground.nodes[head].hole
    if above and ground.nodes[above].free:
        tail = int(ground.nodes[above].other)
        remove_hole(ground, lane, above)
        length += ground.nodes[above].hole
        other: Record = ground.nodes[above]
        if other.ref <= floor:
            other.ref = 0
        if other.ref == ref:
            item.length += other.length
            tail = at if tail == above else tail
            _unlink(ground, lane, above)
    if head != at:
        under: Record = ground.nodes[below]
        if under.ref <= floor:
            under.ref = 0
        if under.ref == ref:
            under.length += item.length
            tail = below if tail == at else tail
            _unlink(ground, lane, at)
    ground.nodes[head].hole = length
    ground.nodes[head].other = tail
    ground.nodes[tail].other = head
    insert_hole(ground, lane, head)


@helper
def _note_ref(ground: Ground, ref: int, floor: int) -> None:
    """Add a ref to those that the one who occupies must wait for."""
    count = int(ground.cursor[REFS])
    if ref > floor and (count == 0 or ground.refs[count - 1] != ref):
        ground.refs[count] = ref
        ground.cursor[REFS] = count + 1


@helper
def _take(ground: Ground, lane: int, head: int, length: int, floor: int) -> int:
    """Return a node of the first `length` bytes of a hole, in use; what freed them is noted."""
    remove_hole(ground, lane, head)
    item: Record = ground.nodes[head]
    hole, tail = int(item.hole), int(item.other)
    _note_ref(ground, int(item.ref), floor)
    rest = 0
    while item.length < length:
        above = int(item.above)
        other: Record = ground.nodes[above]
        _note_ref(ground, int(other.ref), floor)
        missing = length - int(item.length)
        if other.length <= missing:
            item.length += other.length
            _unlink(ground, lane, above)
        else:
            item.length = length
            other.begin += missing
            other.length -= missing
            rest = above
    if item.length > length:
        rest = _new_node(ground, int(item.begin) + length, int(item.length) - length)
        item.length = length
        left: Record = ground.nodes[rest]
        left.free, left.ref, left.below, left.above = 1, item.ref, head, item.above
        ground.lanes[lane].free += 1
        if item.above:
            ground.nodes[item.above].below = rest
        else:
            ground.lanes[lane].last = rest
        item.above = rest
        tail = rest if tail == head else tail
    elif rest == 0 and hole > length:
        rest = int(item.above)
    if rest:
        ground.nodes[rest].hole = hole - length
        ground.nodes[rest].other = tail
        ground.nodes[tail].other = rest
        insert_hole(ground, lane, rest)
    item.free, item.next = 0, 0
    ground.lanes[lane].free -= 1
    return head


@helper
def _tail_hole(ground: Ground, lane: int) -> int:
    """Return the hole that ends where never-used space begins; 0 if there is none."""
    last = int(ground.lanes[lane].last)
    if last and ground.nodes[last].free:
        return int(ground.nodes[last].other)
    return 0


@helper
def _next_extent(ground: Ground, lane: int, length: int, floor: int) -> int:
    """Return a node for `length` bytes, or for the first of them where they have to be divided.

    In this order: never-used space up to the limit, a hole that holds all, whole parts of the
    largest hole, never-used space up to the cap, and what there is of the largest hole.
    """
    item: Record = ground.lanes[lane]
    if item.top + length <= item.limit:
        return _fresh(ground, lane, length)
    head, whole = find_hole(ground, lane, length), length
    while head == 0:
        tail = _tail_hole(ground, lane)
        more = length - int(ground.nodes[tail].hole)  # of node 0 it is 0
        largest = largest_hole(ground, lane)
        hole = int(ground.nodes[largest].hole)
        if item.top < item.limit:
            more = min(more, int(item.limit - item.top))
        elif length > item.part and hole >= item.part:
            head, whole = largest, hole // item.part * item.part
        elif item.top < item.cap:
            more = min(more, int(item.cap - item.top))
        elif hole > 0:
            head, whole = largest, hole
        if head == 0:
            _free_node(ground, lane, _fresh(ground, lane, more), 0, floor)
            head, whole = _tail_hole(ground, lane), length
            if ground.nodes[head].hole < length:
                head = 0
    return _take(ground, lane, head, min(whole, length), floor)


@helper
def occupy(ground: Ground, lane: int, length: int, floor: int) -> int:
    """Return the first node of a new object of a mixed lane; `REFS` says what it waits for.

    Refs up to `floor` are of what is over.
    """
    ground.cursor[REFS] = 0
    first, at, left = 0, 0, length
    while left > 0:
        following = _next_extent(ground, lane, left, floor)
        if first:
            ground.nodes[at].next = following
        else:
            first = following
        at = following
        left -= int(ground.nodes[at].length)
    return first


@helper
def vacate(ground: Ground, lane: int, first: int, ref: int, floor: int) -> None:
    """Free all extents of an object of a mixed lane."""
    at = first
    while at:
        following = int(ground.nodes[at].next)
        _free_node(ground, lane, at, ref, floor)
        at = following


@helper
def enqueue(ground: Ground, lane: int, begin: int, length: int, ref: int) -> None:
    """Put a freed extent last into the queue of a uniform lane."""
    at = _new_node(ground, begin, length)
    ground.nodes[at].ref = ref
    item: Record = ground.lanes[lane]
    if item.tail:
        ground.nodes[item.tail].next = at
    else:
        item.head = at
    item.tail = at


@helper
def next_uniform(ground: Ground, lane: int, length: int) -> int:
    """Return an extent of a lane that isn't mixed: never-used space, else freed longest ago.

    What freed it is noted.
    """
    item: Record = ground.lanes[lane]
    ground.cursor[REFS] = 0
    begin = int(item.top)
    if item.kind == UNBOUNDED or begin + length <= item.limit:
        item.top += length
        return begin
    at = int(item.head)
    node: Record = ground.nodes[at]
    item.head = node.next
    if item.head == 0:
        item.tail = 0
    _note_ref(ground, int(node.ref), 0)
    begin = int(node.begin)
    node.next = ground.cursor[SPARE]
    ground.cursor[SPARE] = at
    return begin
