"""The tier state machine in virtual time, compiled by numba: requests in, block events out.

Everything lives in preallocated integer arrays. `run` works until it needs something that only
its caller can give (requests, room) and says so by its status; calling it again goes on where it
stopped, so that the events don't depend on how the requests were cut into batches.

The rules are those of docs/workload.md, "The hierarchy".
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from kvtrace.hashmap import MISSING, find
from kvtrace.hashmap import insert as table_insert
from kvtrace.hashmap import remove as table_remove
from kvtrace.policies import NONE, PolicyState
from kvtrace.policies.lru import insert, remove, touch, victim
from kvtrace.request import FOLLOW_ASK, FOLLOW_NONE
from kvtrace.schema import Op, Phase, Tier

TIERS = len(Tier)
_CPU = int(Tier.CPU)
_READ, _WRITE, _DELETE = int(Op.READ), int(Op.WRITE), int(Op.DELETE)
_PREFILL, _DECODE = int(Phase.PREFILL), int(Phase.DECODE)
_EVICT, _PROMOTE = int(Phase.EVICT), int(Phase.PROMOTE)

# What `run` returns: why it stopped.
DONE, NEED_ROWS, NEED_CHAIN, NEED_SLOTS, EVENTS_FULL = range(5)

# Fields of an event row.
TIME, CODE, KEY, TOKENS, REQUEST, SESSION, QOS = range(7)
EVENT_FIELDS = 7

# Counters.
STREAM, LOADED, NO_MORE, HEAP, FREE, KEYS, REQUESTS, EVENTS, ASKED_CHAIN, ASKED_SLOTS = range(10)
BLOCKS, BLOCK_TOKENS, HIT_TOKENS, IDEAL_HITS, GENERATED, PROMPT = range(10, 16)
LAST_REQUEST, ROW_BASE, ID_BASE = range(16, 19)
COUNTERS = 19

# Steps of a request (schema: column `step`).
LOAD, STORE, FIRST_DECODE = 1, 2, 3

# Arrivals come after everything that earlier requests do at the same time.
_ARRIVAL = 1 << 62


class Config(NamedTuple):
    """What is simulated. Bytes of a block on a tier: tokens · `token_bytes` + `block_bytes`.

    `high_bytes`, `low_bytes`: watermarks; 0 for a tier that is absent.
    """

    high_bytes: NDArray[np.int64]
    low_bytes: NDArray[np.int64]
    token_bytes: NDArray[np.int64]
    block_bytes: NDArray[np.int64]
    write_through: bool
    promote: bool
    tail_first: bool
    prefix_rule: bool
    generation_ns: int
    prefill_ns: float
    reread_tokens: int
    max_requests: int
    end_ns: int
    max_events: int


class State(NamedTuple):
    """What the tiers hold. Per slot: a block that some tier holds or may be asked for again."""

    ident: NDArray[np.int64]
    key: NDArray[np.int64]
    tokens: NDArray[np.int32]
    where: NDArray[np.uint8]
    retired: NDArray[np.uint8]
    free: NDArray[np.int32]
    table: NDArray[np.int32]
    policy: PolicyState
    used_bytes: NDArray[np.int64]
    peak_bytes: NDArray[np.int64]
    hits: NDArray[np.int64]
    count: NDArray[np.int64]


class Rows(NamedTuple):
    """Requests that are loaded. Row numbers grow for ever; index = row − `count[ROW_BASE]`.

    `ids` and `tokens`: blocks of all rows; those of a row are `prompt` ones of its context, then
    the generated ones, between `begin[i]` and `begin[i + 1]` (less `count[ID_BASE]`).
    """

    arrival_ns: NDArray[np.int64]
    think_ns: NDArray[np.int64]
    follow: NDArray[np.int64]
    chain: NDArray[np.int64]
    session: NDArray[np.int64]
    last_turn: NDArray[np.bool_]
    input_tokens: NDArray[np.int64]
    output_tokens: NDArray[np.int64]
    qos: NDArray[np.int64]
    prompt: NDArray[np.int64]
    begin: NDArray[np.int64]
    ids: NDArray[np.int64]
    tokens: NDArray[np.int32]
    request: NDArray[np.int64]
    step: NDArray[np.int64]
    hit_blocks: NDArray[np.int64]
    prefilled_ns: NDArray[np.int64]


class Heap(NamedTuple):
    """What happens next: a binary heap by (time, order); at most one entry per row."""

    time_ns: NDArray[np.int64]
    order: NDArray[np.int64]
    row: NDArray[np.int64]


@njit(cache=True)
def _emit(events: Any, count: Any, context: Any, op: int, tier: int, phase: int,
          key: int, tokens: int) -> None:
    rows = events[0]
    n = count[EVENTS]
    if n == rows.shape[0]:
        bigger = np.empty((2 * n, EVENT_FIELDS), np.int64)
        bigger[:n] = rows
        events[0] = bigger
        rows = bigger
    rows[n, TIME] = context[TIME]
    rows[n, CODE] = op | tier << 2 | phase << 4 | context[CODE] << 8
    rows[n, KEY] = key
    rows[n, TOKENS] = tokens
    rows[n, REQUEST] = context[REQUEST]
    rows[n, SESSION] = context[SESSION]
    rows[n, QOS] = context[QOS]
    count[EVENTS] = n + 1


@njit(cache=True)
def _size(config: Any, tier: int, tokens: int) -> int:
    return tokens * config.token_bytes[tier] + config.block_bytes[tier]


@njit(cache=True)
def _holds(state: Any, tier: int, slot: int) -> bool:
    return (state.where[slot] >> tier) & 1 == 1


@njit(cache=True)
def _next_tier(config: Any, tier: int, tokens: int) -> int:
    """Return the first tier from `tier` on that takes a block of `tokens`, or NONE."""
    for lower in range(tier, TIERS):
        if 0 < _size(config, lower, tokens) <= config.high_bytes[lower]:
            return lower
    return NONE


@njit(cache=True)
def _fastest(state: Any, slot: int) -> int:
    """Return the fastest tier that holds `slot`, or NONE."""
    for tier in range(TIERS):
        if (state.where[slot] >> tier) & 1:
            return tier
    return NONE


@njit(cache=True)
def _release(state: Any, slot: int) -> None:
    table_remove(state.table, state.ident, state.ident[slot])
    state.free[state.count[FREE]] = slot
    state.count[FREE] += 1


@njit(cache=True)
def _enter(state: Any, config: Any, tier: int, slot: int) -> None:
    insert(state.policy, tier, slot)
    state.where[slot] |= np.uint8(1 << tier)
    state.used_bytes[tier] += _size(config, tier, state.tokens[slot])
    state.peak_bytes[tier] = max(state.peak_bytes[tier], state.used_bytes[tier])


@njit(cache=True)
def _leave(state: Any, config: Any, tier: int, slot: int) -> None:
    remove(state.policy, tier, slot)
    state.where[slot] &= np.uint8(255 ^ (1 << tier))
    state.used_bytes[tier] -= _size(config, tier, state.tokens[slot])
    if state.where[slot] == 0 and state.retired[slot]:
        _release(state, slot)


@njit(cache=True)
def _make_room(state: Any, config: Any, events: Any, context: Any, tier: int, need: int) -> None:
    """Evict from `tier` until `need` more bytes fit, making room in lower tiers as it goes.

    A stack instead of recursion: entry i is a tier that is being drained for entry i − 1.
    """
    tiers = np.empty(TIERS, np.int64)
    needs = np.empty(TIERS, np.int64)
    draining = np.zeros(TIERS, np.bool_)
    tiers[0], needs[0], depth = tier, need, 0
    while depth >= 0:
        here = tiers[depth]
        wanted = state.used_bytes[here] + needs[depth]
        if wanted > config.high_bytes[here]:
            draining[depth] = True
        slot = victim(state.policy, here)
        if slot == NONE or not draining[depth] or wanted <= config.low_bytes[here]:
            draining[depth] = False
            depth -= 1
            continue
        tokens, key = state.tokens[slot], state.key[slot]
        below = NONE if config.write_through else _next_tier(config, here + 1, tokens)
        if below != NONE and _holds(state, below, slot):
            touch(state.policy, below, slot)
        elif below != NONE:
            size = _size(config, below, tokens)
            if state.used_bytes[below] + size > config.high_bytes[below]:
                depth += 1
                tiers[depth], needs[depth] = below, size
                continue
            _emit(events, state.count, context, _READ, here, _EVICT, key, tokens)
            _emit(events, state.count, context, _WRITE, below, _EVICT, key, tokens)
            _enter(state, config, below, slot)
        _emit(events, state.count, context, _DELETE, here, _EVICT, key, tokens)
        _leave(state, config, here, slot)


@njit(cache=True)
def _write(state: Any, config: Any, events: Any, context: Any, tier: int, slot: int,
           phase: int) -> None:
    """Write a block to a tier that takes it and doesn't hold it."""
    tokens = state.tokens[slot]
    _make_room(state, config, events, context, tier, _size(config, tier, tokens))
    if state.key[slot] == NONE:
        state.key[slot] = state.count[KEYS]
        state.count[KEYS] += 1
    _emit(events, state.count, context, _WRITE, tier, phase, state.key[slot], tokens)
    _enter(state, config, tier, slot)


@njit(cache=True)
def _slot_for(state: Any, ident: int, tokens: int) -> int:
    state.count[FREE] -= 1
    slot = state.free[state.count[FREE]]
    state.ident[slot] = ident
    state.key[slot] = NONE
    state.tokens[slot] = tokens
    state.where[slot] = 0
    state.retired[slot] = 0
    table_insert(state.table, state.ident, slot)
    return slot


@njit(cache=True)
def _store_new(state: Any, config: Any, events: Any, context: Any, ident: int, tokens: int,
               phase: int) -> None:
    """Store a block that no tier holds: on the fastest, under write-through on all that take it."""
    top = _next_tier(config, 0, tokens)
    if top == NONE:
        return
    slot = find(state.table, state.ident, ident)
    if slot == MISSING:
        slot = _slot_for(state, ident, tokens)
    _write(state, config, events, context, top, slot, phase)
    if not config.write_through:
        return
    tier = _next_tier(config, top + 1, tokens)
    while tier != NONE:
        if not _holds(state, tier, slot):
            _write(state, config, events, context, tier, slot, phase)
        tier = _next_tier(config, tier + 1, tokens)


@njit(cache=True)
def _hit(state: Any, config: Any, events: Any, context: Any, slot: int, tier: int) -> None:
    """Read a block from the fastest tier that holds it; promote it where that is on."""
    tokens = state.tokens[slot]
    _emit(events, state.count, context, _READ, tier, _DECODE, state.key[slot], tokens)
    touch(state.policy, tier, slot)
    if not config.promote:
        return
    top = _next_tier(config, 0, tokens)
    if config.write_through and top < _CPU < tier and _next_tier(config, _CPU, tokens) == _CPU:
        _write(state, config, events, context, _CPU, slot, _PROMOTE)
    if top < tier and not _holds(state, top, slot):
        _write(state, config, events, context, top, slot, _PROMOTE)


@njit(cache=True)
def _resident(state: Any, ident: int) -> int:
    """Return the slot of a block that some tier holds, or MISSING."""
    slot = find(state.table, state.ident, ident)
    return slot if slot != MISSING and state.where[slot] else MISSING


@njit(cache=True)
def _leading_run(state: Any, ids: Any, only_resident: bool) -> int:
    run = 0
    while run < ids.shape[0]:
        slot = find(state.table, state.ident, ids[run])
        if slot == MISSING or (only_resident and state.where[slot] == 0):
            break
        run += 1
    return run


@njit(cache=True)
def _load(state: Any, config: Any, rows: Any, events: Any, context: Any, i: int) -> None:
    """Look up a prompt's blocks and read those that are hits; note the end of prefill."""
    count = state.count
    begin = rows.begin[i] - count[ID_BASE]
    ids = rows.ids[begin : begin + rows.prompt[i]]
    tokens = rows.tokens[begin : begin + rows.prompt[i]]
    n = ids.shape[0]
    count[BLOCKS] += n
    count[BLOCK_TOKENS] += tokens.sum()
    count[IDEAL_HITS] += _leading_run(state, ids, False)
    if config.tail_first and config.prefix_rule:
        n = _leading_run(state, ids, True)
    hit_blocks = hit_tokens = 0
    for j in range(n):
        at = n - 1 - j if config.tail_first else j
        slot = _resident(state, ids[at])
        if slot == MISSING:
            if config.prefix_rule and not config.tail_first:
                break
            continue
        tier = _fastest(state, slot)
        _hit(state, config, events, context, slot, tier)
        state.hits[tier] += 1
        hit_blocks += 1
        hit_tokens += tokens[at]
    count[HIT_TOKENS] += hit_tokens
    rows.hit_blocks[i] = hit_blocks
    missed = max(0, rows.input_tokens[i] - hit_tokens)
    rows.prefilled_ns[i] = context[TIME] + np.int64(missed * config.prefill_ns)


@njit(cache=True)
def _store_prompt(state: Any, config: Any, rows: Any, events: Any, context: Any, i: int) -> None:
    """Store the prompt's blocks that no tier holds; touch those that were computed anew."""
    begin = rows.begin[i] - state.count[ID_BASE]
    n = rows.prompt[i]
    for j in range(n):
        at = n - 1 - j if config.tail_first else j
        ident = rows.ids[begin + at]
        slot = _resident(state, ident)
        if slot == MISSING:
            _store_new(state, config, events, context, ident, rows.tokens[begin + at], _PREFILL)
        elif config.tail_first or at >= rows.hit_blocks[i]:
            touch(state.policy, _fastest(state, slot), slot)


@njit(cache=True)
def _decodes(rows: Any, config: Any, i: int) -> int:
    """Return how many decode events a request has."""
    if config.reread_tokens:
        if rows.prompt[i] == 0:
            return 0
        return (rows.output_tokens[i] + config.reread_tokens - 1) // config.reread_tokens
    return rows.begin[i + 1] - rows.begin[i] - rows.prompt[i]


@njit(cache=True)
def _decode_ns(state: Any, rows: Any, config: Any, i: int, index: int) -> int:
    """Return when decode event `index` of a request happens."""
    if config.reread_tokens:
        tokens = rows.output_tokens[i] * index // _decodes(rows, config, i)
    else:
        # A generated block is complete when the last of its tokens is.
        begin = rows.begin[i] - state.count[ID_BASE]
        last = rows.prompt[i] + index + 1
        tokens = rows.tokens[begin : begin + last].sum() - rows.input_tokens[i]
    return rows.prefilled_ns[i] + tokens * config.generation_ns


@njit(cache=True)
def _decode(state: Any, config: Any, rows: Any, events: Any, context: Any, i: int,
            index: int) -> None:
    """Store a generated block; under a layout that re-reads, read the turn's own object again."""
    begin = rows.begin[i] - state.count[ID_BASE]
    if config.reread_tokens:
        slot = _resident(state, rows.ids[begin + rows.prompt[i] - 1])
        if slot != MISSING:
            _hit(state, config, events, context, slot, _fastest(state, slot))
        return
    at = begin + rows.prompt[i] + index
    if _resident(state, rows.ids[at]) == MISSING:
        _store_new(state, config, events, context, rows.ids[at], rows.tokens[at], _DECODE)


@njit(cache=True)
def _retire(state: Any, rows: Any, i: int) -> None:
    """Forget the blocks of a session that has ended, as soon as no tier holds them."""
    base = state.count[ID_BASE]
    for at in range(rows.begin[i] - base, rows.begin[i + 1] - base):
        slot = find(state.table, state.ident, rows.ids[at])
        if slot != MISSING and not state.retired[slot]:
            state.retired[slot] = 1
            if state.where[slot] == 0:
                _release(state, slot)


@njit(cache=True)
def _before(time_a: int, order_a: int, time_b: int, order_b: int) -> bool:
    return time_a < time_b or (time_a == time_b and order_a < order_b)


@njit(cache=True)
def _push(heap: Any, count: Any, time_ns: int, order: int, row: int) -> None:
    at = count[HEAP]
    count[HEAP] += 1
    while at > 0:
        parent = (at - 1) >> 1
        if not _before(time_ns, order, heap.time_ns[parent], heap.order[parent]):
            break
        heap.time_ns[at] = heap.time_ns[parent]
        heap.order[at] = heap.order[parent]
        heap.row[at] = heap.row[parent]
        at = parent
    heap.time_ns[at], heap.order[at], heap.row[at] = time_ns, order, row


@njit(cache=True)
def _pop(heap: Any, count: Any) -> None:
    count[HEAP] -= 1
    size = count[HEAP]
    time_ns, order, row = heap.time_ns[size], heap.order[size], heap.row[size]
    at = 0
    while True:
        child = 2 * at + 1
        if child >= size:
            break
        if child + 1 < size and _before(
            heap.time_ns[child + 1], heap.order[child + 1], heap.time_ns[child], heap.order[child]
        ):
            child += 1
        if not _before(heap.time_ns[child], heap.order[child], time_ns, order):
            break
        heap.time_ns[at] = heap.time_ns[child]
        heap.order[at] = heap.order[child]
        heap.row[at] = heap.row[child]
        at = child
    heap.time_ns[at], heap.order[at], heap.row[at] = time_ns, order, row


@njit(cache=True)
def _finish(state: Any, rows: Any, heap: Any, row: int, now: int) -> None:
    """End a request: forget an ended session's blocks, let the next one of its chain follow."""
    i = row - state.count[ROW_BASE]
    rows.step[i] = NONE
    if rows.last_turn[i]:
        _retire(state, rows, i)
    if rows.follow[i] > FOLLOW_NONE:
        following = row + rows.follow[i]
        think_ns = rows.think_ns[following - state.count[ROW_BASE]]
        _push(heap, state.count, now + think_ns, _ARRIVAL + following, following)


@njit(cache=True)
def _advance(state: Any, config: Any, rows: Any, heap: Any, events: Any, context: Any,
             row: int, now: int) -> None:
    """Do all that a request does at `now`, then put it on the heap for what comes next."""
    i = row - state.count[ROW_BASE]
    context[TIME], context[REQUEST] = now, rows.request[i]
    context[SESSION], context[QOS] = rows.session[i], rows.qos[i]
    while True:
        step = rows.step[i]
        context[CODE] = min(step, 65535)
        if step == LOAD:
            _load(state, config, rows, events, context, i)
            stores = rows.hit_blocks[i] < rows.prompt[i]
            rows.step[i] = STORE if stores else FIRST_DECODE
        elif step == STORE:
            _store_prompt(state, config, rows, events, context, i)
            rows.step[i] = FIRST_DECODE
        elif step - FIRST_DECODE < _decodes(rows, config, i):
            _decode(state, config, rows, events, context, i, step - FIRST_DECODE)
            rows.step[i] = step + 1
        else:
            _finish(state, rows, heap, row, now)
            return
        step = rows.step[i]
        if step == STORE:
            next_ns = rows.prefilled_ns[i]
        elif step - FIRST_DECODE < _decodes(rows, config, i):
            next_ns = _decode_ns(state, rows, config, i, step - FIRST_DECODE)
        else:
            next_ns = rows.prefilled_ns[i] + rows.output_tokens[i] * config.generation_ns
        if next_ns > now:
            _push(heap, state.count, next_ns, rows.request[i], row)
            return


@njit(cache=True)
def _begin(state: Any, rows: Any, i: int) -> None:
    count = state.count
    rows.request[i] = count[REQUESTS]
    rows.step[i] = LOAD
    count[REQUESTS] += 1
    count[PROMPT] += rows.input_tokens[i]
    count[GENERATED] += rows.output_tokens[i]


@njit(cache=True)
def _next_stream_row(state: Any, rows: Any) -> bool:
    """Move to the next loaded row with an arrival of its own; return whether there is one."""
    count = state.count
    while count[STREAM] < count[LOADED]:
        if rows.arrival_ns[count[STREAM] - count[ROW_BASE]] >= 0:
            return True
        count[STREAM] += 1
    return False


@njit(cache=True, nogil=True)
def run(state: Any, config: Any, rows: Any, heap: Any, events: Any, context: Any) -> int:
    """Process what happens next, in order of (time, request, step), until something is needed."""
    count = state.count
    while True:
        if count[EVENTS] >= config.max_events:
            return EVENTS_FULL
        streams = _next_stream_row(state, rows)
        if not streams and not count[NO_MORE]:
            return NEED_ROWS
        if not streams and count[HEAP] == 0:
            return DONE
        row, stream_ns = count[STREAM], np.int64(0)
        from_stream = streams
        if streams:
            stream_ns = rows.arrival_ns[row - count[ROW_BASE]]
            if count[HEAP]:
                from_stream = _before(stream_ns, _ARRIVAL + row, heap.time_ns[0], heap.order[0])
        now = stream_ns
        arrives = True
        if not from_stream:
            row, now = heap.row[0], heap.time_ns[0]
            arrives = heap.order[0] >= _ARRIVAL
        i = row - count[ROW_BASE]
        accepted = not arrives or (now < config.end_ns and count[REQUESTS] < config.max_requests)
        if accepted and rows.follow[i] == FOLLOW_ASK:
            count[ASKED_CHAIN] = row
            return NEED_CHAIN
        blocks = rows.begin[i + 1] - rows.begin[i]
        if count[FREE] < blocks:
            count[ASKED_SLOTS] = blocks
            return NEED_SLOTS
        if from_stream:
            count[STREAM] += 1
        else:
            _pop(heap, count)
        if not accepted:
            rows.step[i] = NONE
            if from_stream:  # those behind it arrive later still
                count[STREAM], count[NO_MORE] = count[LOADED], 1
            continue
        if arrives:
            _begin(state, rows, i)
        _advance(state, config, rows, heap, events, context, row, now)
