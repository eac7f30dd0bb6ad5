"""Eviction policies: which block leaves a full tier. One file each.

A policy is a module of small functions compiled by numba on the arrays that the state machine has
anyway (`kvtrace.hierarchy.eviction` calls them):

insert(slots, tiers, tier, slot) the block enters
victim(slots, tiers, tier)       which one leaves next, NONE for an empty tier
remove(slots, tiers, tier, slot) the victim leaves

and where it needs them:

setup(row, capacity_bytes)       plain Python: prepare the tier's row for an empty tier
touch(slots, tiers, tier, slot)  a block was asked for again
expect(slots, tiers, tier, slot) a block is about to enter; room for it is made after this
forget(slots, tiers, tier)       a slot that isn't remembered any more although no tier holds it;
                                 NONE: there is none (`REMEMBERED` in WHERE says what is)

A slot has the links of a list per tier (`support.linked_list`), and `MARK_BITS` bits per tier in
its WHERE (`marks`, `mark`). A tier's row has the columns up to TIER_COLUMNS.
"""

from __future__ import annotations

from typing import Any

from kvtrace.compiled.jit import helper

NONE = -1

IDENT, KEY, TOKENS, WHERE, FIRST_LINK = range(5)
"""Columns of a slot; the links come behind them, one per tier, so that a slot is a cache line.

In WHERE, bit t: tier t holds it.
"""
REMEMBERED = 4
"""Bit of WHERE, plus the tier: the tier's policy remembers a block that it has evicted."""
MARK_BITS = 8
_FIRST_MARK = 24

(
    OLDEST,
    NEWEST,
    HAND,
    SMALL_OLDEST,
    SMALL_NEWEST,
    GHOST_OLDEST,
    GHOST_NEWEST,
    SMALL_USED,
    MAIN_USED,
    GHOST_USED,
    SMALL_BYTES,
    MAIN_BYTES,
    GHOST_BYTES,
    HAS_EVICTED,
    TOKEN_BYTES,
    BLOCK_BYTES,
    STATE_BYTES,
    WINDOW_BYTES,
    WINDOW_TOKENS,
    STATE_ALIGN,
) = range(20)
"""Columns of a tier: ends of its lists, what a policy counts, and what blocks take."""
TIER_COLUMNS = 20


@helper
def marks(slots: Any, tier: int, slot: int) -> int:
    """Return the policy's bits of `slot`."""
    return slots[slot, WHERE] >> (_FIRST_MARK + MARK_BITS * tier) & ((1 << MARK_BITS) - 1)


@helper
def mark(slots: Any, tier: int, slot: int, bits: int) -> None:
    """Set them."""
    shift = _FIRST_MARK + MARK_BITS * tier
    others = slots[slot, WHERE] & ~(((1 << MARK_BITS) - 1) << shift)
    slots[slot, WHERE] = others | bits << shift
