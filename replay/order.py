"""Pass 2, compiled: rows in, columns of ops and what each waits for out.

All rules of order are here. A *ref* names what completes a row: 0 nothing, i + 1 the op i, and
−node the ops of a list (a row of a tier that isn't executed stands for what it waits for).
Lists share their tails and never change, so a ref stays good.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from kvtrace.jit import compiled, helper, kernel
from kvtrace.schema import Op, Phase
from replay.loop import Action

if TYPE_CHECKING:
    from numpy.typing import NDArray

_READ, _WRITE, _DELETE, _LOOKUP = (int(op) for op in Op)
_EVICT, _PROMOTE = int(Phase.EVICT), int(Phase.PROMOTE)
_DO_NOTHING, _DO_READ, _DO_WRITE = (int(action) for action in Action)
GENERATION_MASK = (1 << 17) - 1
_DEDUPE = 16

ORDER = np.dtype(
    [
        ("exclusive", "i8"),
        ("reads", "i8"),
        ("read_count", "i8"),
        ("evict_write", "i8"),
        ("evict_row", "i8"),
    ],
    align=True,
)
"""Per (key, tier): ref of the last write or delete; list of the reads since; ref and row of the
last write of phase evict."""

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

Record = Any
"""One element of an array of one of these types; compiled code reads its fields as attributes."""

OPS, EDGES, NODES, FREED, ARENA, TOUCHED = range(6)
"""Places in `State.cursor`."""
_AHEAD = 12
DONE, MORE_ROOM, UNALIGNED = range(3)


class Rows(NamedTuple):
    """A slice of a trace."""

    timestamp: NDArray[np.int64]
    op: NDArray[np.uint8]
    size: NDArray[np.uint64]
    tier: NDArray[np.uint8]
    key: NDArray[np.uint64]
    key_index: NDArray[np.int32]
    """Of the key in its table."""
    phase: NDArray[np.uint8]
    offset: NDArray[np.uint64]


class State(NamedTuple):
    """What is known between slices."""

    order: NDArray[np.void]
    place: NDArray[np.void]
    transfer_read: NDArray[np.int64]
    """Per key: ref of the last read of phase evict or promote."""
    classes: NDArray[np.void]
    next_free: NDArray[np.int64]
    """Per lane: start of never-used space."""
    freed_extent: NDArray[np.int64]
    freed_ref: NDArray[np.int64]
    freed_next: NDArray[np.int64]
    node_op: NDArray[np.uint32]
    node_next: NDArray[np.int64]
    node_length: NDArray[np.int64]
    edges: NDArray[np.uint32]
    """The op that is waited for, edge by edge, in order of the op that waits."""
    cursor: NDArray[np.int64]


class Fixed(NamedTuple):
    """What doesn't change during a plan."""

    lane_of_tier: NDArray[np.int8]
    align: NDArray[np.int64]
    arena_bytes: int
    io_bytes: int
    speed: float


class Out(NamedTuple):
    """Columns that are filled, one element per executed row."""

    row: NDArray[np.int64]
    tier: NDArray[np.uint8]
    op: NDArray[np.uint8]
    phase: NDArray[np.uint8]
    size: NDArray[np.uint64]
    due: NDArray[np.int64]
    lane: NDArray[np.uint8]
    action: NDArray[np.uint8]
    offset: NDArray[np.uint64]
    length: NDArray[np.uint64]
    key: NDArray[np.uint64]
    sector: NDArray[np.uint32]
    generation: NDArray[np.uint32]
    arena: NDArray[np.uint64]
    wait_count: NDArray[np.uint32]


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
def _edge(state: State, waited: int, first: int) -> None:
    last = int(state.cursor[EDGES])
    if last - first <= _DEDUPE:
        for at in range(first, last):
            if state.edges[at] == waited:
                return
    state.edges[last] = waited
    state.cursor[EDGES] = last + 1


@helper
def _wait(state: State, ref: int, first: int) -> None:
    if ref > 0:
        _edge(state, ref - 1, first)
        return
    node = -ref
    while node > 0:
        _edge(state, int(state.node_op[node]), first)
        node = int(state.node_next[node])


@helper
def _cons(state: State, op: int, tail: int) -> int:
    node = int(state.cursor[NODES])
    state.cursor[NODES] = node + 1
    state.node_op[node] = op
    state.node_next[node] = tail
    state.node_length[node] = state.node_length[tail] + 1
    return node


@helper
def _size(state: State, ref: int) -> int:
    return 1 if ref > 0 else int(state.node_length[-ref])


@helper
def _merge(state: State, into: int, other: int) -> int:
    """Return a ref of what both refs name."""
    if other == 0 or other == into:
        return into
    if into == 0:
        return other
    head = _cons(state, into - 1, 0) if into > 0 else -into
    if other > 0:
        return -_add(state, head, other - 1)
    node = -other
    while node > 0:
        head = _add(state, head, int(state.node_op[node]))
        node = int(state.node_next[node])
    return -head


@helper
def _add(state: State, head: int, op: int) -> int:
    node, steps = head, 0
    while node > 0 and steps < 4 * _DEDUPE:
        if state.node_op[node] == op:
            return head
        node = int(state.node_next[node])
        steps += 1
    return _cons(state, op, head)


@helper
def _evict_below(state: State, index: int, tier: int) -> int:
    """Return the ref of the latest evict write of a key on a slower tier."""
    ref, latest = 0, -1
    for lower in range(tier + 1, state.order.shape[1]):
        item: Record = state.order[index, lower]
        if item.evict_row - 1 > latest:
            latest = int(item.evict_row) - 1
            ref = int(item.evict_write)
    return ref


@helper
def _allocate(state: State, place: Record, lane: int, first: int) -> int:
    """Return an extent; what freed it is waited for."""
    extent = take_extent(state.classes, place.size_class, state.next_free, lane)
    if extent >= 0:
        return extent
    item: Record = state.classes[place.size_class]
    freed = int(item.head)
    item.head = state.freed_next[freed]
    if item.head == 0:
        item.tail = 0
    _wait(state, int(state.freed_ref[freed]), first)
    return int(state.freed_extent[freed])


@helper
def _free(state: State, place: Record, ref: int) -> None:
    freed = int(state.cursor[FREED])
    state.cursor[FREED] = freed + 1
    state.freed_extent[freed] = place.extent
    state.freed_ref[freed] = ref
    state.freed_next[freed] = 0
    item: Record = state.classes[place.size_class]
    if item.tail == 0:
        item.head = freed
    else:
        state.freed_next[item.tail] = freed
    item.tail = freed


@helper
def _has_room(state: State, index: int, tier: int, below: int) -> bool:
    item: Record = state.order[index, tier]
    transfer = int(state.transfer_read[index])
    most = int(item.read_count) + _size(state, item.exclusive) + _size(state, transfer)
    most += _size(state, below) + 4
    edges_left = state.edges.size - state.cursor[EDGES]
    return bool(edges_left > most and state.node_op.size - state.cursor[NODES] > most)


@helper
def _begin_generation(place: Record, state: State, fixed: Fixed) -> None:
    place.generation += 1
    place.arena = reserve_arena(
        int(state.cursor[ARENA]), place.length, fixed.arena_bytes, fixed.io_bytes
    )
    state.cursor[ARENA] = place.arena + place.length


@helper
def _execute(rows: Rows, row: int, index: int, state: State, fixed: Fixed, out: Out) -> bool:
    """Fill in all columns of one executed row but its waits; False where it isn't aligned."""
    at = int(state.cursor[OPS])
    tier, what = rows.tier[row], rows.op[row]
    lane = int(fixed.lane_of_tier[tier])
    out.tier[at], out.op[at], out.phase[at] = tier, what, rows.phase[row]
    out.size[at] = rows.size[row]
    out.due[at] = int(rows.timestamp[row] / fixed.speed)
    out.lane[at] = lane
    out.key[at] = rows.key[row]
    place: Record = state.place[index, lane]
    out.action[at] = _DO_NOTHING
    out.offset[at], out.length[at], out.sector[at], out.arena[at] = 0, 0, 0, 0
    if what in (_READ, _WRITE):
        align = int(fixed.align[lane])
        begin = int(rows.offset[row])
        end = begin + int(rows.size[row])
        low = begin // align * align
        high = -(-end // align) * align
        if what == _WRITE and (low != begin or (high != end and high != place.length)):
            return False
        if what == _WRITE:
            if place.live == 0 or (begin == 0 and end >= place.written):
                _begin_generation(place, state, fixed)
                place.written = end
            else:
                place.written = max(place.written, end)
        out.action[at] = _DO_READ if what == _READ else _DO_WRITE
        out.offset[at] = low
        out.length[at] = high - low
        out.sector[at] = low // 512
        out.arena[at] = place.arena + low
    out.generation[at] = place.generation & GENERATION_MASK
    state.cursor[OPS] = at + 1
    return True


@helper
def _order_executed(
    what: int, index: int, tier: int, lane: int, below: int, state: State, out: Out
) -> int:
    """Give the newest op its waits; return its ref."""
    at = int(state.cursor[OPS]) - 1
    first = int(state.cursor[EDGES])
    item: Record = state.order[index, tier]
    place: Record = state.place[index, lane]
    _wait(state, item.exclusive, first)
    if what == _READ:
        item.reads = _cons(state, at, item.reads)
        item.read_count += 1
    else:
        _wait(state, -item.reads, first)
        item.reads = 0
        item.read_count = 0
        item.exclusive = at + 1
    if what == _WRITE:
        _wait(state, int(state.transfer_read[index]), first)
        if place.live == 0:
            place.live = 1
            place.extent = _allocate(state, place, lane, first)
    elif what == _DELETE:
        _wait(state, below, first)
        if place.live == 1:
            place.live = 0
            _free(state, place, at + 1)
    out.offset[at] += place.extent if out.length[at] > 0 else 0
    out.wait_count[at] = state.cursor[EDGES] - first
    return at + 1


@helper
def _order_skipped(what: int, index: int, tier: int, below: int, state: State) -> int:
    """Note what a row of a tier that isn't executed stands for; return its ref."""
    item: Record = state.order[index, tier]
    if what == _WRITE:
        item.exclusive = _merge(state, item.exclusive, int(state.transfer_read[index]))
    elif what == _DELETE:
        item.exclusive = _merge(state, item.exclusive, below)
    return int(item.exclusive)


@helper
def _look_ahead(rows: Rows, row: int, state: State, fixed: Fixed) -> None:
    """Touch what a later row will need, so that it is in the cache by then."""
    if row < rows.op.size:
        index, tier = rows.key_index[row], rows.tier[row]
        state.cursor[TOUCHED] ^= state.order[index, tier].reads
        lane = fixed.lane_of_tier[tier]
        if lane >= 0:
            state.cursor[TOUCHED] ^= state.place[index, lane].extent


@kernel
def plan_rows(
    rows: Rows, begin: int, first_row: int, state: State, fixed: Fixed, out: Out
) -> tuple[int, int]:
    """Plan the rows from `begin` on; return (status, rows planned).

    `MORE_ROOM`: enlarge the lists and call again from there. `UNALIGNED`: that row is a partial
    write that the target can't do.
    """
    for row in range(begin, rows.op.size):
        _look_ahead(rows, row + _AHEAD, state, fixed)
        what = int(rows.op[row])
        tier = int(rows.tier[row])
        lane = int(fixed.lane_of_tier[tier])
        at = int(state.cursor[OPS])
        if what == _LOOKUP:
            if lane >= 0:
                index = int(rows.key_index[row])
                out.row[at] = first_row + row
                _execute(rows, row, index, state, fixed, out)
                out.wait_count[at] = 0
            continue
        index = int(rows.key_index[row])
        below = _evict_below(state, index, tier) if what == _DELETE else 0
        if not _has_room(state, index, tier, below):
            return MORE_ROOM, row
        if lane >= 0:
            out.row[at] = first_row + row
            if not _execute(rows, row, index, state, fixed, out):
                return UNALIGNED, row
            ref = _order_executed(what, index, tier, lane, below, state, out)
        else:
            ref = _order_skipped(what, index, tier, below, state)
        phase = rows.phase[row]
        if what == _READ and phase in (_EVICT, _PROMOTE):
            state.transfer_read[index] = ref
        elif what == _WRITE and phase == _EVICT:
            state.order[index, tier].evict_write = ref
            state.order[index, tier].evict_row = first_row + row + 1
    return DONE, rows.op.size


@compiled
def successors(
    edges: NDArray[np.uint32], wait_count: NDArray[np.uint32]
) -> tuple[NDArray[np.uint64], NDArray[np.uint32]]:
    """Return who waits for each op (begin and list), from whom each op waits for."""
    ops = wait_count.size
    begin = np.zeros(ops + 1, np.uint64)
    for waited in edges:
        begin[waited + 1] += np.uint64(1)
    for at in range(ops):
        begin[at + 1] += begin[at]
    place = begin[:-1].copy()
    found = np.empty(edges.size, np.uint32)
    edge = 0
    for at in range(ops):
        for _ in range(wait_count[at]):
            waited = edges[edge]
            found[place[waited]] = at
            place[waited] += np.uint64(1)
            edge += 1
    return begin, found
