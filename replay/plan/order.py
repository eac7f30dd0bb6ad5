"""Pass 2, compiled: rows in, a ring of ops and what each waits for out.

All rules of order are here. A *ref* names what completes a row: 0 nothing, i + 1 the op i, and
−node the ops of a list (a row of a tier that isn't executed stands for what it waits for). Lists
share their tails and never change, so a ref stays good. Ops below the *floor* were taken out of the
ring before the slice began, so whatever waited for them need not: refs to them are dropped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from kvtrace.compiled.jit import helper, kernel
from kvtrace.placement.ground import Ground, Record, nodes_have_room
from kvtrace.placement.places import ARENA, BORN, leave, reserve_arena
from kvtrace.trace.cell import URGENCY_BITS, pack
from kvtrace.trace.schema import Op, Phase
from replay.ops.columns import SECTOR_BYTES
from replay.ops.contract import Action
from replay.ops.divided import allocate, extents_of, locate
from replay.ops.lists import (
    EDGES,
    FLOOR,
    JOIN_COUNT,
    OPS,
    Lists,
    Ring,
    cons,
    extents_have_room,
    finish_op,
    joined,
    lists_have_room,
    merge,
    ring_has_room,
    size_of,
    wait,
)
from replay.payload.stamps import GENERATION_MASK
from replay.plan import gates

if TYPE_CHECKING:
    from numpy.typing import NDArray

_pack = helper(pack)
_READ, _WRITE, _DELETE, _LOOKUP = (int(op) for op in Op)
_EVICT, _PROMOTE = int(Phase.EVICT), int(Phase.PROMOTE)
_DO_NOTHING, _DO_READ, _DO_WRITE, _DO_DELETE = (
    int(action) for action in (Action.NONE, Action.READ, Action.WRITE, Action.DELETE)
)
SLOTS_PER_ROW = 6
"""Ops that one row may become at most: itself, a gate, joins."""

ORDER = np.dtype(
    [("exclusive", "i8"), ("reads", "i8"), ("evict_write", "i8"), ("evict_row", "i8")], align=True
)
"""Per (key, tier): ref of the last write or delete; list of the reads since; ref and row of the
last write of phase evict."""

TOUCHED = 2
"""Place in `State.cursor`, behind the allocator's: what looking ahead has read."""
_AHEAD = 12
DONE, MORE_ROOM, UNALIGNED, RING_FULL, MORE_BIRTHS, DEAD_READ, MORE_NODES = range(7)


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
    qos: NDArray[np.uint8]
    """0 unknown, else 1 + the word's value."""
    group: gates.GroupRows


class State(NamedTuple):
    """What is known between slices, beside the lists."""

    order: NDArray[np.void]
    place: NDArray[np.void]
    transfer_read: NDArray[np.int64]
    """Per key: ref of the last read of phase evict or promote."""
    touched: NDArray[np.int64]
    """Per key: how many ops there were when it was last in a row."""
    ground: Ground
    next_thread: NDArray[np.int64]
    """Per lane: ops."""
    born_length: NDArray[np.int64]
    """Of the lives that are about to begin, in order."""
    cursor: NDArray[np.int64]


class Fixed(NamedTuple):
    """What doesn't change during a plan. Arrays are per lane."""

    lane_of_tier: NDArray[np.int8]
    align: NDArray[np.int64]
    threads: NDArray[np.int64]
    first_thread: NDArray[np.int64]
    per_object: NDArray[np.bool_]
    """Offsets are within the object's own file."""
    deletes: NDArray[np.bool_]
    """Whether a delete is work for the target."""
    arena_bytes: int
    io_bytes: int
    speed: float
    closed: bool
    sync_stores: bool
    fresh: bool
    """Each write takes new bytes of the payload's stream: those before it may be overwritten."""


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
def _begin_generation(place: Record, state: State, fixed: Fixed) -> None:
    place.generation += 1
    if fixed.fresh:
        return
    place.arena = reserve_arena(
        int(state.cursor[ARENA]), place.length, fixed.arena_bytes, fixed.io_bytes
    )
    state.cursor[ARENA] = place.arena + place.length


@helper
def _be_born(place: Record, state: State, fixed: Fixed, lane: int) -> None:
    """Give a new life's object its length; its extents come with its order."""
    born = int(state.cursor[BORN])
    state.cursor[BORN] = born + 1
    align = int(fixed.align[lane])
    place.length = -(-state.born_length[born] // align) * align
    place.written = 0
    place.live = 0


@helper
def _transfer(rows: Rows, row: int, place: Record, state: State, fixed: Fixed, ring: Ring) -> bool:
    """Fill in what a read or write moves; False where it isn't aligned."""
    at = int(ring.cursor[OPS]) & ring.mask
    what = rows.op[row]
    lane = int(fixed.lane_of_tier[rows.tier[row]])
    align = int(fixed.align[lane])
    begin = int(rows.offset[row])
    end = begin + int(rows.size[row])
    low = begin // align * align
    high = -(-end // align) * align
    if what == _WRITE:
        if low != begin or (high != end and high != place.length):
            return False
        if place.live == 0 or (begin == 0 and end >= place.written):
            _begin_generation(place, state, fixed)
            place.written = end
        else:
            place.written = max(place.written, end)
    ops = ring.ops
    ops.action[at] = _DO_READ if what == _READ else _DO_WRITE
    ops.offset_bytes[at] = low
    ops.length_sectors[at] = (high - low) // SECTOR_BYTES
    ops.pad_bytes[at] = high - low - rows.size[row]
    ops.sector[at] = low // SECTOR_BYTES
    ops.arena_bytes[at] = place.arena + low
    if fixed.fresh and what == _WRITE:
        cursor = int(state.cursor[ARENA])
        begin_arena = reserve_arena(cursor, high - low, fixed.arena_bytes, fixed.io_bytes)
        ops.arena_bytes[at] = begin_arena
        state.cursor[ARENA] = begin_arena + high - low
    return True


@helper
def _fill(rows: Rows, row: int, lane: int, state: State, fixed: Fixed, ring: Ring) -> None:
    """Fill in all columns of one executed row but what it moves and what it waits for."""
    ops, at = ring.ops, int(ring.cursor[OPS]) & ring.mask
    kind = _pack(int(rows.tier[row]), int(rows.phase[row]), int(rows.op[row]))
    ops.cell[at] = kind << URGENCY_BITS | rows.qos[row]
    ops.due_ns[at] = int(rows.timestamp[row] / fixed.speed)
    turn = int(state.next_thread[lane])
    state.next_thread[lane] = turn + 1
    ops.lane[at] = fixed.first_thread[lane] + turn % fixed.threads[lane]
    ops.key[at] = rows.key[row]
    ops.action[at] = _DO_NOTHING
    ops.offset_bytes[at], ops.length_sectors[at], ops.pad_bytes[at] = 0, 0, 0
    ops.sector[at], ops.arena_bytes[at] = 0, 0
    ops.edge_begin[at] = ring.cursor[EDGES] & 0xFFFFFFFF
    ops.wait_count[at] = 0


@helper
def _order_executed(
    rows: Rows,
    row: int,
    index: int,
    lane: int,
    below: int,
    freed: int,
    state: State,
    lists: Lists,
    fixed: Fixed,
    ring: Ring,
) -> int:
    """Give the newest op its waits and its place; return its ref. `freed`: what freed its space."""
    number = int(ring.cursor[OPS])
    at = number & ring.mask
    first = int(ring.cursor[EDGES])
    what, tier = int(rows.op[row]), int(rows.tier[row])
    item: Record = state.order[index, tier]
    place: Record = state.place[index, lane]
    dies = what == _DELETE and place.live == 1
    wait(lists, ring, item.exclusive, first)
    if what == _READ:
        item.reads = cons(lists, number, item.reads)
    else:
        wait(lists, ring, -item.reads, first)
        item.reads = 0
        item.exclusive = number + 1
    if what == _WRITE:
        wait(lists, ring, int(state.transfer_read[index]), first)
        wait(lists, ring, freed, first)
        place.live = 1
    elif what == _DELETE:
        wait(lists, ring, below, first)
        if dies:
            place.live = 0
            if fixed.deletes[lane] and place.length > 0:
                ring.ops.action[at] = _DO_DELETE
                ring.ops.length_sectors[at] = place.length // SECTOR_BYTES
    if ring.ops.length_sectors[at] > 0 and not fixed.per_object[lane]:
        locate(place, state.ground, ring)
    if dies:
        leave(state.ground, lane, place, number + 1, int(ring.cursor[FLOOR]))
    ring.ops.generation[at] = place.generation & GENERATION_MASK
    return number + 1


@helper
def _order_skipped(what: int, index: int, tier: int, below: int, state: State, lists: Lists) -> int:
    """Note what a row of a tier that isn't executed stands for; return its ref."""
    item: Record = state.order[index, tier]
    if what == _WRITE:
        item.exclusive = merge(lists, item.exclusive, int(state.transfer_read[index]))
    elif what == _DELETE:
        item.exclusive = merge(lists, item.exclusive, below)
    return int(item.exclusive)


@helper
def _join_long(item: Record, due_ns: int, lane: int, lists: Lists, ring: Ring) -> None:
    """Let an op of its own stand for a list that has become too long to wait for."""
    item.exclusive = joined(lists, ring, item.exclusive, due_ns, lane)
    reads = joined(lists, ring, -item.reads, due_ns, lane)
    item.reads = cons(lists, reads - 1, 0) if reads > 0 else -reads


@helper
def _has_room(
    rows: Rows, row: int, state: State, lists: Lists, fixed: Fixed, ring: Ring, gating: int
) -> int:
    """Return DONE if everything that one row needs is there."""
    index, tier = int(rows.key_index[row]), int(rows.tier[row])
    lane = int(fixed.lane_of_tier[tier])
    item: Record = state.order[index, tier]
    most = size_of(lists, -item.reads) + size_of(lists, item.exclusive) + size_of(lists, -gating)
    most += size_of(lists, int(state.transfer_read[index]))
    for lower in range(tier + 1, state.order.shape[1]):
        most += size_of(lists, int(state.order[index, lower].evict_write))
    freed = 0
    if lane >= 0 and rows.op[row] != _LOOKUP:
        birth = rows.op[row] == _WRITE and state.place[index, lane].live == 0
        length = 0
        if birth:
            if state.cursor[BORN] >= state.born_length.size:
                return MORE_BIRTHS
            align = int(fixed.align[lane])
            length = -(-int(state.born_length[state.cursor[BORN]]) // align) * align
            freed = min(length // align + 1, int(state.ground.lanes[lane].free))
        if not nodes_have_room(state.ground, lane, length):
            return MORE_NODES
        extents = extents_of(state.ground, state.place[index, lane], lane, birth, length)
        if not extents_have_room(ring, extents):
            return RING_FULL
    most = 2 * (most + freed) + 16
    if not lists_have_room(lists, most):
        return MORE_ROOM
    slots = SLOTS_PER_ROW + freed // JOIN_COUNT
    return DONE if ring_has_room(ring, slots, most) else RING_FULL


@helper
def _look_ahead(rows: Rows, row: int, state: State, fixed: Fixed) -> None:
    """Touch what a later row will need, so that it is in the cache by then."""
    if row < rows.op.size:
        index, tier = rows.key_index[row], rows.tier[row]
        state.cursor[TOUCHED] ^= state.order[index, tier].reads
        lane = fixed.lane_of_tier[tier]
        if lane >= 0:
            state.cursor[TOUCHED] ^= state.place[index, lane].extent


@helper
def _plan_row(
    rows: Rows,
    row: int,
    first_row: int,
    state: State,
    lists: Lists,
    fixed: Fixed,
    ring: Ring,
) -> int:
    """Plan one row that isn't a lookup; return DONE, or what is in the way."""
    what, tier, phase = int(rows.op[row]), int(rows.tier[row]), int(rows.phase[row])
    index = int(rows.key_index[row])
    lane = int(fixed.lane_of_tier[tier])
    item: Record = state.order[index, tier]
    freed, birth = 0, False
    if lane >= 0:
        place: Record = state.place[index, lane]
        birth = what == _WRITE and place.live == 0
        if birth:
            _be_born(place, state, fixed, lane)
        elif what == _READ and place.live == 0:
            return DEAD_READ
    due_ns = int(rows.timestamp[row] / fixed.speed)
    _join_long(item, due_ns, max(lane, 0), lists, ring)
    if birth:
        born: Record = state.place[index, lane]
        thread = int(fixed.first_thread[lane])
        freed = allocate(state.ground, lists, ring, born, lane, due_ns, thread)
    below = _evict_below(state, index, tier) if what == _DELETE else 0
    if lane >= 0:
        _fill(rows, row, lane, state, fixed, ring)
        if fixed.closed:  # the gate comes first among what an op waits for
            gates.attach(rows.group, row, what, phase, lane, 0, fixed.sync_stores, lists, ring)
        moves = what in (_READ, _WRITE)
        if moves and not _transfer(rows, row, state.place[index, lane], state, fixed, ring):
            return UNALIGNED
        ref = _order_executed(rows, row, index, lane, below, freed, state, lists, fixed, ring)
    else:
        ref = _order_skipped(what, index, tier, below, state, lists)
        if fixed.closed:
            gates.attach(rows.group, row, what, phase, lane, ref, fixed.sync_stores, lists, ring)
    state.touched[index] = ring.cursor[OPS]
    if what == _READ and phase in (_EVICT, _PROMOTE):
        state.transfer_read[index] = ref
    elif what == _WRITE and phase == _EVICT:
        item.evict_write = ref
        item.evict_row = first_row + row + 1
    if lane >= 0:
        finish_op(ring)
    return DONE


@kernel
def plan_rows(
    rows: Rows,
    begin: int,
    first_row: int,
    state: State,
    lists: Lists,
    fixed: Fixed,
    ring: Ring,
) -> tuple[int, int]:
    """Plan the rows from `begin` on; return (status, rows planned).

    `MORE_ROOM`, `MORE_NODES`, `RING_FULL`, `MORE_BIRTHS`: make room and call again from there.
    `UNALIGNED`: that row is a partial write that the target can't do; `DEAD_READ`: it reads what
    was deleted.
    """
    for row in range(begin, rows.op.size):
        _look_ahead(rows, row + _AHEAD, state, fixed)
        what, tier = int(rows.op[row]), int(rows.tier[row])
        lane = int(fixed.lane_of_tier[tier])
        gating = gates.gating_of(rows.group, row) if fixed.closed else 0
        status = _has_room(rows, row, state, lists, fixed, ring, gating)
        if status != DONE:
            return status, row
        if fixed.closed:
            gate_lane = fixed.first_thread[max(lane, 0)]
            gates.open_group(rows, row, gate_lane, fixed.speed, lists, ring)
        if what != _LOOKUP:
            status = _plan_row(rows, row, first_row, state, lists, fixed, ring)
            if status != DONE:
                return status, row
        elif lane >= 0:
            _fill(rows, row, lane, state, fixed, ring)
            ring.ops.generation[ring.cursor[OPS] & ring.mask] = 0
            if fixed.closed:
                phase = int(rows.phase[row])
                gates.attach(rows.group, row, what, phase, lane, 0, fixed.sync_stores, lists, ring)
            finish_op(ring)
        elif fixed.closed:
            phase = int(rows.phase[row])
            gates.attach(rows.group, row, what, phase, lane, 0, fixed.sync_stores, lists, ring)
    return DONE, rows.op.size
