"""The tier state machine in virtual time, compiled by numba: requests in, block events out.

Everything lives in a few preallocated integer arrays with named columns: few, since each array
that a compiled function passes on costs at every call. `run` works until it needs something that
only its caller can give (requests, room) and says so by its status; calling it again goes on
where it stopped, so that the events don't depend on how the requests were cut into batches.

The arrays:

slots   a row per block that some tier holds or that may be asked for again
table   from a block's identity to its slot (`hashmap`); empty: the identity is the slot
tiers   a row per tier: ends of its list, bytes in use, limits, hits; the stack of `_make_room`
count   counters, settings, the context of the event being made; histograms, slots of the GPUs
rows    a row per loaded request; row numbers grow for ever, index = row - count[ROW_BASE]
blocks  the blocks of all loaded requests; index from count[ID_BASE]
heap    what happens next, by (time, order); at most one entry per request
events  what was made; its owner keeps room for MAX_EVENTS and the longest step behind them

The rules are those of docs/workload.md, "The hierarchy".
"""

from __future__ import annotations

from typing import Any

from kvtrace.compiled.hashmap import MISSING
from kvtrace.compiled.hashmap import find as table_find
from kvtrace.compiled.hashmap import insert as table_insert
from kvtrace.compiled.hashmap import remove as table_remove
from kvtrace.compiled.jit import constant, helper, kernel
from kvtrace.hierarchy.eviction import POLICY, expect, forget, insert, remove, touch, victim
from kvtrace.policies import FIRST_LINK, IDENT, KEY, NONE, TOKENS, WHERE
from kvtrace.policies.support.sizes import size
from kvtrace.requests.request import FOLLOW_ASK, FOLLOW_NONE
from kvtrace.trace.cell import COUNT, pack
from kvtrace.trace.schema import Op, Phase, Tier

_pack = helper(pack)
TIERS = len(Tier)
_TOP, _CPU, _NVME = constant(0), constant(Tier.CPU), constant(Tier.NVME)
_READ, _WRITE, _DELETE, _LOOKUP = (constant(op) for op in (Op.READ, Op.WRITE, Op.DELETE, Op.LOOKUP))
_PREFILL, _DECODE, _EVICT, _PROMOTE = (constant(phase) for phase in Phase)

# What `run` returns: why it stopped.
DONE, NEED_ROWS, NEED_CHAIN, NEED_SLOTS, EVENTS_FULL, PAUSED = range(6)

# Columns of `slots`: those of `policies`. A free slot's KEY is the next free one. In WHERE, beside
# the tiers' bits: never asked for again, forgotten when no tier holds it; stored before, or meant
# to be; asked for since.
SLOT_COLUMNS = FIRST_LINK + TIERS
HELD = (1 << TIERS) - 1
_RETIRED, _SEEN, _AGAIN = 1 << 8, 1 << 9, 1 << 10
_KNOWN = (1 << 9) - 1
"""Holders of the block: tiers, policies, sessions that may request it again."""

# Columns of `tiers`, behind those of the policies. HIGH and LOW are the watermarks, 0 for a tier
# that is absent.
USED, PEAK, HITS, HIGH, LOW, EVICTED, _WANTING, _WANTED, _CHOSEN = range(POLICY + 1, POLICY + 10)
TIER_COLUMNS = POLICY + 10

# Columns of `events`.
EV_TIME, EV_CELL, EV_KEY, EV_TOKENS, EV_REQUEST, EV_SESSION, EV_QOS = range(7)
STEP_SHIFT = 8
"""In `EV_CELL`: the request's step is above the cell (`trace.cell`)."""
EVENT_COLUMNS = 7

# Columns of `rows`. PROMPT: blocks of the context; the generated ones follow it up to END.
ARRIVAL, THINK, FOLLOW, CHAIN, SESSION, LAST_TURN, INPUT, OUTPUT, QOS, PROMPT, BEGIN, END = range(
    12
)
# PREFILLED: when its prompt is computed. DECODING: when it begins to generate.
REQUEST, STEP, HIT_BLOCKS, PREFILLED, DECODING = range(12, 17)
ROW_COLUMNS = 17

# Columns of `blocks`. B_AT: of a prompt's block, tokens from the start of its run to its end; of a
# generated one, tokens generated when it is complete. B_SLOT: as a request's look-up found it,
# MISSING where the block is no hit. Then of `heap`.
B_IDENT, B_TOKENS, B_AT, B_FLAGS, _B_SLOT = range(5)
BLOCK_COLUMNS = 5
H_TIME, H_ORDER, H_ROW = range(3)

# In B_FLAGS. A run is a prefix of its own: what is resident behind its first hole is no hit. A
# checkpoint is the constant state of a hybrid model behind the block; its identity is the block's,
# inverted. A hit ends at a checkpoint: _HIT_END marks where.
RUN, SHARED, CHECKPOINT, _HIT_END = 1, 2, 4, 8

# Blocks of count[TALLIED] tokens make no events: places from TALLY on count them, by their cell.
TALLIES = COUNT

# Histograms of durations: bins for each power of two of microseconds, of which the first are exact.
SUB_BINS = 32
BINS = 38 * SUB_BINS

# Places in `count`: positions, counters, settings, context of the event.
STREAM, LOADED, NO_MORE, HEAP, FIRST_FREE, FREE, EVENTS, ROW_BASE, ID_BASE = range(9)
ASKED, KEYS, REQUESTS, BLOCKS, HIT_TOKENS, IDEAL_HITS = range(9, 15)
GENERATED_TOKENS, PROMPT_TOKENS = range(15, 17)
WRITE_THROUGH, PROMOTE, TAIL_FIRST, GENERATION_NS, PREFILL_PS = range(17, 22)
REREAD_TOKENS, MAX_REQUESTS, END_NS, MAX_EVENTS = range(22, 26)
NOW, NOW_STEP, NOW_REQUEST, NOW_SESSION, NOW_QOS = range(26, 31)
LOOKUPS, SECOND_USE, HYBRID, PAUSE_NS, PAUSE_REQUESTS, PAUSE_TIER, STATES = range(31, 38)
FRESH, TALLIED, TALLIED_NS = range(38, 41)
SHARED_BLOCKS, SHARED_HITS, SHARED_HIT_TOKENS, SHARED_IDEAL_HITS = range(41, 45)
PREFILL_SLOTS, DECODE_SLOTS, PREFILL_TOKENS, PREFILL_BUSY_NS, DECODE_WAIT_NS = range(45, 50)
PREFILL_END_NS, TALLY = range(50, 52)
FIRST_TOKEN = TALLY + TALLIES
PREFILL_WAIT = FIRST_TOKEN + BINS
SLOTS = PREFILL_WAIT + BINS
"""From here on: when each slot for prefill is free, then each slot for decode."""

# Steps of a request (schema: column `step`); -1: done.
LOOK_UP, LOAD, STORE, FIRST_DECODE = range(4)
_MAX_STEP = (1 << 16) - 1

# Arrivals come after everything that earlier requests do at the same time.
_ARRIVAL = 1 << 62


@helper
def _emit(count: Any, events: Any, op: int, tier: int, phase: int, key: int, tokens: int) -> None:
    cell = _pack(tier, phase, op)
    if tokens == count[TALLIED]:
        count[TALLY + cell] += 1
        count[TALLIED_NS] = count[NOW]
        return
    n = count[EVENTS]
    events[n, EV_TIME] = count[NOW]
    events[n, EV_CELL] = cell | count[NOW_STEP] << STEP_SHIFT
    events[n, EV_KEY] = key
    events[n, EV_TOKENS] = tokens
    events[n, EV_REQUEST] = count[NOW_REQUEST]
    events[n, EV_SESSION] = count[NOW_SESSION]
    events[n, EV_QOS] = count[NOW_QOS]
    count[EVENTS] = n + 1


@helper
def _next_tier(tiers: Any, tier: int, tokens: int) -> int:
    """Return the first tier from `tier` on that takes a block of `tokens`, or NONE."""
    for lower in range(tier, TIERS):
        if 0 < size(tiers, lower, tokens) <= tiers[lower, HIGH]:
            return lower
    return NONE


@kernel
def _slowest(tiers: Any, tokens: int) -> int:
    """Return the last tier that takes a block of `tokens`, or NONE."""
    slowest = NONE
    for tier in range(TIERS):
        if 0 < size(tiers, tier, tokens) <= tiers[tier, HIGH]:
            slowest = tier
    return slowest


@helper
def _holds(slots: Any, tier: int, slot: int) -> bool:
    return (slots[slot, WHERE] >> tier) & 1 == 1


@helper
def _fastest(slots: Any, slot: int) -> int:
    """Return the fastest tier that holds `slot`, or NONE."""
    for tier in range(TIERS):
        if _holds(slots, tier, slot):
            return tier
    return NONE


@helper
def find(table: Any, slots: Any, ident: int) -> int:
    """Return the slot of a block, or MISSING."""
    if table.shape[0]:
        return table_find(table, slots, ident)
    return ident if slots[ident, IDENT] == ident else MISSING


@helper
def _take_slot(slots: Any, table: Any, count: Any, ident: int, tokens: int) -> int:
    slot = ident
    if table.shape[0]:
        slot = count[FIRST_FREE]
        if slot != NONE:
            count[FIRST_FREE] = slots[slot, KEY]
        else:
            slot = count[FRESH]
            count[FRESH] += 1
        count[FREE] -= 1
    slots[slot, IDENT] = ident
    slots[slot, KEY] = NONE
    slots[slot, TOKENS] = tokens
    slots[slot, WHERE] = 0
    if table.shape[0]:
        table_insert(table, slots, slot)
    return slot


@kernel
def _free_slot(slots: Any, table: Any, count: Any, slot: int) -> None:
    if table.shape[0]:
        table_remove(table, slots, slot)
        slots[slot, KEY] = count[FIRST_FREE]
        count[FIRST_FREE] = slot
        count[FREE] += 1
    else:
        slots[slot, IDENT] = 0


@helper
def _enter(slots: Any, tiers: Any, tier: int, slot: int) -> None:
    insert(slots, tiers, tier, slot)
    slots[slot, WHERE] |= 1 << tier
    tiers[tier, USED] += size(tiers, tier, slots[slot, TOKENS])
    tiers[tier, PEAK] = max(tiers[tier, PEAK], tiers[tier, USED])


@helper
def _free_if_unknown(slots: Any, table: Any, count: Any, slot: int) -> None:
    """Forget a block that won't be asked for again, unless a tier or its policy still knows it."""
    if slots[slot, WHERE] & _KNOWN == _RETIRED:
        _free_slot(slots, table, count, slot)


@helper
def _leave(slots: Any, table: Any, tiers: Any, count: Any, tier: int, slot: int) -> None:
    remove(slots, tiers, tier, slot)
    slots[slot, WHERE] ^= 1 << tier
    tiers[tier, USED] -= size(tiers, tier, slots[slot, TOKENS])
    _free_if_unknown(slots, table, count, slot)
    forgotten = forget(slots, tiers, tier)
    while forgotten != NONE:
        _free_if_unknown(slots, table, count, forgotten)
        forgotten = forget(slots, tiers, tier)


@helper
def _let_in(slots: Any, count: Any, tier: int, slot: int) -> int:
    """Return `tier`, or NONE if the block may not enter it.

    With admission at second use, nvme and what is below it take only what was asked for twice.
    """
    if tier >= _NVME and count[SECOND_USE] and not slots[slot, WHERE] & _AGAIN:
        return NONE
    return tier


@helper
def _admitted(slots: Any, tiers: Any, count: Any, tier: int, slot: int) -> int:
    """Return the first tier from `tier` on that takes `slot`, or NONE."""
    return _let_in(slots, count, _next_tier(tiers, tier, slots[slot, TOKENS]), slot)


@helper
def _demoted_to(slots: Any, tiers: Any, count: Any, tier: int, slot: int) -> int:
    """Return the tier that a block evicted from `tier` moves to, or NONE: it is only deleted."""
    if count[WRITE_THROUGH]:
        return NONE
    below = _admitted(slots, tiers, count, tier + 1, slot)
    if below != NONE and _holds(slots, below, slot):
        touch(slots, tiers, below, slot)
        return NONE
    return below


@helper
def _evict(
    slots: Any, table: Any, tiers: Any, count: Any, events: Any, tier: int, slot: int, below: int
) -> None:
    """Move `slot` from `tier` to the tier `below`, where there is room; NONE: delete it."""
    tokens, key = slots[slot, TOKENS], slots[slot, KEY]
    if below != NONE:
        _emit(count, events, _READ, tier, _EVICT, key, tokens)
        _emit(count, events, _WRITE, below, _EVICT, key, tokens)
        _enter(slots, tiers, below, slot)
    _emit(count, events, _DELETE, tier, _EVICT, key, tokens)
    tiers[tier, EVICTED] += 1
    _leave(slots, table, tiers, count, tier, slot)


@helper
def _make_room(
    slots: Any, table: Any, tiers: Any, count: Any, events: Any, tier: int, need: int
) -> None:
    """Evict from `tier` down to its low watermark if `need` more bytes would exceed the high one.

    A stack instead of recursion, in `tiers`: entry i + 1 is where the block that entry i has chosen
    wants room.
    """
    if tiers[tier, USED] + need <= tiers[tier, HIGH]:
        return
    depth = 0
    tiers[depth, _WANTING], tiers[depth, _WANTED], tiers[depth, _CHOSEN] = tier, need, NONE
    while depth >= 0:
        here, slot = tiers[depth, _WANTING], tiers[depth, _CHOSEN]
        if slot != NONE:
            tiers[depth, _CHOSEN] = NONE
            _evict(slots, table, tiers, count, events, here, slot, tiers[depth + 1, _WANTING])
            continue
        if tiers[here, USED] + tiers[depth, _WANTED] > tiers[here, LOW]:
            slot = victim(slots, tiers, here)
        if slot == NONE:
            depth -= 1
            continue
        below = _demoted_to(slots, tiers, count, here, slot)
        if below != NONE:
            expect(slots, tiers, below, slot)
            wanted = size(tiers, below, slots[slot, TOKENS])
            if tiers[below, USED] + wanted > tiers[below, HIGH]:
                tiers[depth, _CHOSEN] = slot
                depth += 1
                tiers[depth, _WANTING], tiers[depth, _CHOSEN] = below, NONE
                tiers[depth, _WANTED] = wanted
                continue
        _evict(slots, table, tiers, count, events, here, slot, below)


@helper
def _name(slots: Any, count: Any, slot: int) -> int:
    """Return a block's key; it gets the next one when it first appears in the trace."""
    if slots[slot, KEY] == NONE:
        slots[slot, KEY] = count[KEYS]
        count[KEYS] += 1
        count[STATES] += slots[slot, TOKENS] < 0
    return slots[slot, KEY]


@kernel
def _write(
    slots: Any, table: Any, tiers: Any, count: Any, events: Any, tier: int, slot: int, phase: int
) -> None:
    """Write a block to a tier that takes it and doesn't hold it."""
    tokens = slots[slot, TOKENS]
    expect(slots, tiers, tier, slot)
    _make_room(slots, table, tiers, count, events, tier, size(tiers, tier, tokens))
    _emit(count, events, _WRITE, tier, phase, _name(slots, count, slot), tokens)
    _enter(slots, tiers, tier, slot)


@kernel
def _store(
    slots: Any, table: Any, tiers: Any, count: Any, events: Any, slot: int, ident: int, tokens: int,
    phase: int,
) -> None:  # fmt: skip
    """Store a block that no tier holds: on the fastest, under write-through on all that take it.

    `slot`: its slot, or MISSING.
    """
    tier = _next_tier(tiers, _TOP, tokens)
    if tier == NONE:
        return
    if slot == MISSING:
        slot = _take_slot(slots, table, count, ident, tokens)
    slots[slot, WHERE] |= _SEEN
    tier = _let_in(slots, count, tier, slot)
    while tier != NONE:
        _write(slots, table, tiers, count, events, tier, slot, phase)
        tier = NONE if not count[WRITE_THROUGH] else _admitted(slots, tiers, count, tier + 1, slot)


@kernel
def _admit(slots: Any, table: Any, tiers: Any, count: Any, events: Any, slot: int) -> None:
    """Under write-through, store on the lower tiers a block that they now take."""
    tier = _admitted(slots, tiers, count, _NVME, slot)
    while tier != NONE:
        if not _holds(slots, tier, slot):
            _write(slots, table, tiers, count, events, tier, slot, _DECODE)
        tier = _admitted(slots, tiers, count, tier + 1, slot)


@kernel
def _hit(slots: Any, table: Any, tiers: Any, count: Any, events: Any, slot: int, tier: int) -> None:
    """Read a block from the fastest tier that holds it; promote it where that is on."""
    tokens = slots[slot, TOKENS]
    _emit(count, events, _READ, tier, _DECODE, slots[slot, KEY], tokens)
    touch(slots, tiers, tier, slot)
    if count[WRITE_THROUGH] and count[SECOND_USE] and slots[slot, WHERE] & _AGAIN:
        _admit(slots, table, tiers, count, events, slot)
    if not count[PROMOTE]:
        return
    top = _next_tier(tiers, _TOP, tokens)
    if count[WRITE_THROUGH] and top < _CPU < tier and _next_tier(tiers, _CPU, tokens) == _CPU:
        _write(slots, table, tiers, count, events, _CPU, slot, _PROMOTE)
    if top < tier and not _holds(slots, top, slot):
        _write(slots, table, tiers, count, events, top, slot, _PROMOTE)


@helper
def _held(slots: Any, slot: int) -> bool:
    """Return whether some tier holds a block; none holds one whose slot is MISSING."""
    return slot != MISSING and slots[slot, WHERE] & HELD != 0


@kernel
def _resident(slots: Any, table: Any, ident: int) -> int:
    """Return the slot of a block that some tier holds, or MISSING."""
    slot = find(table, slots, ident)
    return slot if _held(slots, slot) else MISSING


@kernel
def _end_run(count: Any, blocks: Any, begin: int, end: int, deepest: int) -> int:
    """Close a run of hits [begin, end): of a hybrid model it ends at the `deepest` checkpoint."""
    if count[HYBRID]:
        for at in range(max(begin, deepest + 1), end):
            blocks[at, _B_SLOT] = MISSING
        if deepest >= begin:
            blocks[deepest, B_FLAGS] |= _HIT_END
    return end


@kernel
def _note_again(slots: Any, slot: int) -> None:
    if slot != MISSING and slots[slot, WHERE] & _SEEN:
        slots[slot, WHERE] |= _AGAIN


@kernel
def _look_up(slots: Any, table: Any, count: Any, blocks: Any, begin: int, end: int) -> int:
    """Note the slot of each block that is a hit; return how many an endless cache would hit."""
    ideal, run, deepest = 0, begin, NONE
    resident = known = True
    for at in range(begin, end):
        if blocks[at, B_FLAGS] & RUN:
            run, deepest = _end_run(count, blocks, run, at, deepest), NONE
            resident = known = True
        slot = find(table, slots, blocks[at, B_IDENT])
        known = known and slot != MISSING and slots[slot, WHERE] & _SEEN != 0
        resident = resident and _held(slots, slot)
        _note_again(slots, slot)
        ideal += known
        if blocks[at, B_FLAGS] & SHARED:
            count[SHARED_BLOCKS] += 1
            count[SHARED_IDEAL_HITS] += known
        blocks[at, _B_SLOT] = slot if resident else MISSING
        blocks[at, B_FLAGS] &= ~_HIT_END
        if count[HYBRID]:
            state = find(table, slots, ~blocks[at, B_IDENT])
            _note_again(slots, state)
            if resident and _held(slots, state):
                deepest = at
    _end_run(count, blocks, run, end, deepest)
    return ideal


@kernel
def _ask(
    slots: Any, table: Any, tiers: Any, count: Any, events: Any, rows: Any, blocks: Any, i: int
) -> None:
    """Look up each of a prompt's blocks: on its tier, or as a miss on the slowest."""
    begin = rows[i, BEGIN] - count[ID_BASE]
    for at in range(begin, begin + rows[i, PROMPT]):
        ident, tokens = blocks[at, B_IDENT], blocks[at, B_TOKENS]
        slowest = _slowest(tiers, tokens)
        if slowest == NONE:
            continue
        slot = find(table, slots, ident)
        if slot == MISSING:
            slot = _take_slot(slots, table, count, ident, tokens)
        tier = _fastest(slots, slot)
        if tier == NONE:
            tier = slowest
        _emit(count, events, _LOOKUP, tier, _DECODE, _name(slots, count, slot), tokens)


@kernel
def _read_checkpoint(
    slots: Any, table: Any, tiers: Any, count: Any, events: Any, ident: int
) -> None:
    slot = _resident(slots, table, ~ident)
    if slot != MISSING:
        _hit(slots, table, tiers, count, events, slot, _fastest(slots, slot))


@helper
def _bin(duration_ns: int) -> int:
    """Return the bin of a duration: exact below SUB_BINS µs, then within 1 / SUB_BINS of it."""
    value = duration_ns // 1000
    shift = 0
    while value >= 2 * SUB_BINS:
        value >>= 1
        shift += 1
    return min(BINS - 1, shift * SUB_BINS + value)


@helper
def _take_turn(count: Any, first: int, slots: int, ready_ns: int, takes_ns: int) -> int:
    """Return when work that is ready begins in the first of `slots` that is free; occupy it."""
    chosen = first
    for slot in range(first + 1, first + slots):
        if count[slot] < count[chosen]:
            chosen = slot
    begin_ns = max(ready_ns, count[chosen])
    count[chosen] = begin_ns + takes_ns
    return begin_ns


@kernel
def _schedule(count: Any, rows: Any, i: int, missed: int) -> None:
    """Note when a request's missed tokens are computed, and when it begins to generate.

    Requests take turns in order of arrival: the node computes what it can, and no more.
    """
    begin_ns = now = count[NOW]
    takes_ns = missed * count[PREFILL_PS] // 1000 * count[PREFILL_SLOTS]
    if takes_ns:
        begin_ns = _take_turn(count, SLOTS, count[PREFILL_SLOTS], now, takes_ns)
        count[PREFILL_BUSY_NS] += takes_ns // count[PREFILL_SLOTS]
    prefilled = begin_ns + takes_ns
    decoding = prefilled
    generates_ns = rows[i, OUTPUT] * count[GENERATION_NS]
    if count[DECODE_SLOTS] and generates_ns:
        behind = SLOTS + count[PREFILL_SLOTS]
        decoding = _take_turn(count, behind, count[DECODE_SLOTS], prefilled, generates_ns)
    rows[i, PREFILLED], rows[i, DECODING] = prefilled, decoding
    count[PREFILL_TOKENS] += missed
    count[PREFILL_END_NS] = max(count[PREFILL_END_NS], prefilled)
    count[DECODE_WAIT_NS] += decoding - prefilled
    count[FIRST_TOKEN + _bin(prefilled - now)] += 1
    count[PREFILL_WAIT + _bin(begin_ns - now)] += 1


@kernel
def _load(
    slots: Any, table: Any, tiers: Any, count: Any, events: Any, rows: Any, blocks: Any, i: int
) -> None:
    """Look up a prompt's blocks and read those that are hits; note the end of prefill.

    Blocks are handled one after the other: a promotion may push out a block whose turn comes later
    in the same request, which then is read from where it is, or missed.
    """
    n = rows[i, PROMPT]
    begin = rows[i, BEGIN] - count[ID_BASE]
    count[BLOCKS] += n
    count[IDEAL_HITS] += _look_up(slots, table, count, blocks, begin, begin + n)
    hit_blocks = hit_tokens = 0
    broken = False
    for j in range(n):
        at = begin + (n - 1 - j if count[TAIL_FIRST] else j)
        flags, slot = blocks[at, B_FLAGS], blocks[at, _B_SLOT]
        broken = broken and not flags & RUN
        tier = NONE if slot == MISSING or broken else _fastest(slots, slot)
        if tier == NONE:
            blocks[at, _B_SLOT] = MISSING
            broken = not count[TAIL_FIRST]
            continue
        if flags & _HIT_END and count[TAIL_FIRST]:
            _read_checkpoint(slots, table, tiers, count, events, blocks[at, B_IDENT])
            tier = _fastest(slots, slot)
            if tier == NONE:
                blocks[at, _B_SLOT] = MISSING
                continue
        _hit(slots, table, tiers, count, events, slot, tier)
        if flags & _HIT_END and not count[TAIL_FIRST]:
            _read_checkpoint(slots, table, tiers, count, events, blocks[at, B_IDENT])
        tiers[tier, HITS] += 1
        if flags & SHARED:
            count[SHARED_HITS] += 1
            count[SHARED_HIT_TOKENS] += blocks[at, B_TOKENS]
        hit_blocks += 1
        hit_tokens += blocks[at, B_TOKENS]
    count[HIT_TOKENS] += hit_tokens
    rows[i, HIT_BLOCKS] = hit_blocks
    _schedule(count, rows, i, max(0, rows[i, INPUT] - hit_tokens))


@kernel
def _store_checkpoint(
    slots: Any, table: Any, tiers: Any, count: Any, events: Any, blocks: Any, at: int, tokens: int,
    phase: int,
) -> None:  # fmt: skip
    """Store the state behind a block that was computed, if it is one of those that are kept."""
    if count[HYBRID] and blocks[at, B_FLAGS] & CHECKPOINT:
        ident = ~blocks[at, B_IDENT]
        slot = find(table, slots, ident)
        if not _held(slots, slot):
            _store(slots, table, tiers, count, events, slot, ident, -tokens, phase)


@kernel
def _store_prompt(
    slots: Any, table: Any, tiers: Any, count: Any, events: Any, rows: Any, blocks: Any, i: int
) -> None:
    """Store the prompt's blocks that no tier holds; touch those that were computed anew.

    Tail first, all are touched, so that the head of the prefix ends up the most recent.
    """
    n = rows[i, PROMPT]
    begin = rows[i, BEGIN] - count[ID_BASE]
    for j in range(n):
        at = begin + (n - 1 - j if count[TAIL_FIRST] else j)
        ident, tokens = blocks[at, B_IDENT], blocks[at, B_TOKENS]
        computed = blocks[at, _B_SLOT] == MISSING
        if computed and count[TAIL_FIRST]:
            _store_checkpoint(
                slots, table, tiers, count, events, blocks, at, blocks[at, B_AT], _PREFILL
            )
        slot = blocks[at, _B_SLOT]
        # A hit is where it was found, unless it has left since and another block is there.
        if computed or slots[slot, IDENT] != ident:
            slot = find(table, slots, ident)
        if not _held(slots, slot):
            _store(slots, table, tiers, count, events, slot, ident, tokens, _PREFILL)
        elif count[TAIL_FIRST] or computed:
            touch(slots, tiers, _fastest(slots, slot), slot)
        if computed and not count[TAIL_FIRST]:
            _store_checkpoint(
                slots, table, tiers, count, events, blocks, at, blocks[at, B_AT], _PREFILL
            )


@kernel
def _decodes(count: Any, rows: Any, i: int) -> int:
    """Return how many decode events a request has."""
    reread = count[REREAD_TOKENS]
    if reread:
        return (rows[i, OUTPUT] + reread - 1) // reread if rows[i, PROMPT] else 0
    return rows[i, END] - rows[i, BEGIN] - rows[i, PROMPT]


@kernel
def _decode_ns(count: Any, rows: Any, blocks: Any, i: int, index: int) -> int:
    """Return when decode event `index` of a request happens; behind the last: when it ends."""
    decodes = _decodes(count, rows, i)
    if index >= decodes:
        tokens = rows[i, OUTPUT]
    elif count[REREAD_TOKENS]:
        tokens = rows[i, OUTPUT] * index // decodes
    else:
        tokens = blocks[rows[i, BEGIN] - count[ID_BASE] + rows[i, PROMPT] + index, B_AT]
    return rows[i, DECODING] + tokens * count[GENERATION_NS]


@kernel
def _decode(
    slots: Any, table: Any, tiers: Any, count: Any, events: Any, rows: Any, blocks: Any, i: int,
    index: int,
) -> None:  # fmt: skip
    """Store a generated block; under a layout that re-reads, read the turn's own object again."""
    at = rows[i, BEGIN] - count[ID_BASE] + rows[i, PROMPT]
    if count[REREAD_TOKENS]:
        slot = _resident(slots, table, blocks[at - 1, B_IDENT])
        if slot != MISSING:
            _hit(slots, table, tiers, count, events, slot, _fastest(slots, slot))
        return
    at += index
    ident, tokens = blocks[at, B_IDENT], blocks[at, B_TOKENS]
    slot = find(table, slots, ident)
    if not _held(slots, slot):
        _store(slots, table, tiers, count, events, slot, ident, tokens, _DECODE)
    behind = rows[i, INPUT] + blocks[at, B_AT]
    _store_checkpoint(slots, table, tiers, count, events, blocks, at, behind, _DECODE)


@kernel
def _retire_one(slots: Any, table: Any, count: Any, ident: int) -> None:
    slot = find(table, slots, ident)
    if slot != MISSING:
        slots[slot, WHERE] |= _RETIRED
        _free_if_unknown(slots, table, count, slot)


@kernel
def _retire(slots: Any, table: Any, count: Any, rows: Any, blocks: Any, i: int) -> None:
    """Forget the blocks of a session that has ended, as soon as no tier holds them."""
    base = count[ID_BASE]
    for at in range(rows[i, BEGIN] - base, rows[i, END] - base):
        if blocks[at, B_FLAGS] & SHARED:
            continue
        _retire_one(slots, table, count, blocks[at, B_IDENT])
        if count[HYBRID]:
            _retire_one(slots, table, count, ~blocks[at, B_IDENT])


@kernel
def _before(heap: Any, a: int, b: int) -> bool:
    return heap[a, H_TIME] < heap[b, H_TIME] or (
        heap[a, H_TIME] == heap[b, H_TIME] and heap[a, H_ORDER] < heap[b, H_ORDER]
    )


@kernel
def _swap(heap: Any, a: int, b: int) -> None:
    for column in range(heap.shape[1]):
        heap[a, column], heap[b, column] = heap[b, column], heap[a, column]


@kernel
def _push(heap: Any, count: Any, time_ns: int, order: int, row: int) -> None:
    at = count[HEAP]
    count[HEAP] += 1
    heap[at, H_TIME], heap[at, H_ORDER], heap[at, H_ROW] = time_ns, order, row
    while at > 0 and _before(heap, at, (at - 1) >> 1):
        _swap(heap, at, (at - 1) >> 1)
        at = (at - 1) >> 1


@kernel
def _pop(heap: Any, count: Any) -> None:
    count[HEAP] -= 1
    size = count[HEAP]
    _swap(heap, 0, size)
    at = 0
    while True:
        child = 2 * at + 1
        if child + 1 < size and _before(heap, child + 1, child):
            child += 1
        if child >= size or not _before(heap, child, at):
            return
        _swap(heap, at, child)
        at = child


@kernel
def _finish(
    slots: Any, table: Any, count: Any, rows: Any, blocks: Any, heap: Any, row: int
) -> None:
    """End a request: forget an ended session's blocks, let the next one of its chain follow."""
    i = row - count[ROW_BASE]
    rows[i, STEP] = NONE
    if rows[i, LAST_TURN]:
        _retire(slots, table, count, rows, blocks, i)
    if rows[i, FOLLOW] > FOLLOW_NONE:
        following = row + rows[i, FOLLOW]
        arrival_ns = count[NOW] + rows[following - count[ROW_BASE], THINK]
        _push(heap, count, arrival_ns, _ARRIVAL + following, following)


@kernel
def _advance(
    slots: Any, table: Any, tiers: Any, count: Any, events: Any, rows: Any, blocks: Any, heap: Any,
    row: int,
) -> None:  # fmt: skip
    """Do all that a request does now, then put it on the heap for what comes next."""
    i = row - count[ROW_BASE]
    count[NOW_REQUEST], count[NOW_SESSION] = rows[i, REQUEST], rows[i, SESSION]
    count[NOW_QOS] = rows[i, QOS]
    next_ns = count[NOW]
    # A request may do many steps at once, each of which makes as many events as there is room for.
    while next_ns == count[NOW] and count[EVENTS] < count[MAX_EVENTS]:
        step = rows[i, STEP]
        count[NOW_STEP] = min(step, _MAX_STEP)
        if step == LOOK_UP:
            _ask(slots, table, tiers, count, events, rows, blocks, i)
            rows[i, STEP] = LOAD
            continue
        if step == LOAD:
            _load(slots, table, tiers, count, events, rows, blocks, i)
            step = STORE if rows[i, HIT_BLOCKS] < rows[i, PROMPT] else FIRST_DECODE
        elif step == STORE:
            _store_prompt(slots, table, tiers, count, events, rows, blocks, i)
            step = FIRST_DECODE
        elif step - FIRST_DECODE < _decodes(count, rows, i):
            _decode(slots, table, tiers, count, events, rows, blocks, i, step - FIRST_DECODE)
            step += 1
        else:
            _finish(slots, table, count, rows, blocks, heap, row)
            return
        rows[i, STEP] = step
        next_ns = rows[i, PREFILLED]
        if step != STORE:
            next_ns = _decode_ns(count, rows, blocks, i, step - FIRST_DECODE)
    _push(heap, count, next_ns, rows[i, REQUEST], row)


@kernel
def _next_stream_row(count: Any, rows: Any) -> bool:
    """Move to the next loaded row with an arrival of its own; return whether there is one."""
    while count[STREAM] < count[LOADED]:
        if rows[count[STREAM] - count[ROW_BASE], ARRIVAL] >= 0:
            return True
        count[STREAM] += 1
    return False


@kernel
def _stream_is_next(count: Any, rows: Any, heap: Any) -> bool:
    """Return whether the stream's next arrival comes before all that the heap holds."""
    if count[HEAP] == 0:
        return True
    arrival_ns = rows[count[STREAM] - count[ROW_BASE], ARRIVAL]
    order = _ARRIVAL + count[STREAM]
    return arrival_ns < heap[0, H_TIME] or (
        arrival_ns == heap[0, H_TIME] and order < heap[0, H_ORDER]
    )


@kernel
def _accept(count: Any) -> bool:
    """Return whether a request that arrives now still belongs to the recording."""
    return count[NOW] < count[END_NS] and count[REQUESTS] < count[MAX_REQUESTS]


@kernel
def _begin(count: Any, rows: Any, i: int) -> None:
    rows[i, REQUEST] = count[REQUESTS]
    rows[i, STEP] = LOOK_UP if count[LOOKUPS] else LOAD
    count[REQUESTS] += 1
    count[PROMPT_TOKENS] += rows[i, INPUT]
    count[GENERATED_TOKENS] += rows[i, OUTPUT]


@kernel
def _pauses(tiers: Any, count: Any) -> bool:
    """Return, once, whether the point is reached at which the caller wants to look."""
    if (
        count[NOW] < count[PAUSE_NS]
        and count[REQUESTS] < count[PAUSE_REQUESTS]
        and (count[PAUSE_TIER] == NONE or not tiers[count[PAUSE_TIER], EVICTED])
    ):
        return False
    count[PAUSE_NS] = count[PAUSE_REQUESTS] = _ARRIVAL
    count[PAUSE_TIER] = NONE
    return True


@kernel
def run(
    slots: Any, table: Any, tiers: Any, count: Any, events: Any, rows: Any, blocks: Any, heap: Any
) -> int:
    """Process what happens next, in order of (time, request, step), until something is needed."""
    while count[EVENTS] < count[MAX_EVENTS]:
        streams = _next_stream_row(count, rows)
        if not streams and not count[NO_MORE]:
            return NEED_ROWS
        if not streams and count[HEAP] == 0:
            return DONE
        from_stream = streams and _stream_is_next(count, rows, heap)
        row = count[STREAM] if from_stream else heap[0, H_ROW]
        i = row - count[ROW_BASE]
        count[NOW] = rows[i, ARRIVAL] if from_stream else heap[0, H_TIME]
        if _pauses(tiers, count):
            return PAUSED
        arrives = from_stream or heap[0, H_ORDER] >= _ARRIVAL
        accepted = not arrives or _accept(count)
        if accepted and rows[i, FOLLOW] == FOLLOW_ASK:
            count[ASKED] = row
            return NEED_CHAIN
        wanted = (rows[i, END] - rows[i, BEGIN]) * (1 + count[HYBRID])
        if table.shape[0] and count[FREE] < wanted:
            count[ASKED] = wanted
            return NEED_SLOTS
        if from_stream:
            count[STREAM] += 1
        else:
            _pop(heap, count)
        if not accepted:
            rows[i, STEP] = NONE
            if from_stream:  # those behind it arrive later still
                count[STREAM], count[NO_MORE] = count[LOADED], 1
            continue
        if arrives:
            _begin(count, rows, i)
        _advance(slots, table, tiers, count, events, rows, blocks, heap, row)
    return EVENTS_FULL


@kernel
def preload(
    slots: Any, table: Any, tiers: Any, count: Any, idents: Any, tokens: Any, tier: int
) -> int:
    """Enter blocks that are there at the start; return how many fitted. Slots are free for all."""
    for index in range(idents.shape[0]):
        taken = size(tiers, tier, tokens[index])
        if tiers[tier, USED] + taken > tiers[tier, HIGH]:
            return index
        slot = _take_slot(slots, table, count, idents[index], tokens[index])
        slots[slot, WHERE] |= _SEEN
        _name(slots, count, slot)
        expect(slots, tiers, tier, slot)
        _enter(slots, tiers, tier, slot)
    return idents.shape[0]
