"""S3-FIFO: a small queue for new blocks, a main queue for reused ones, a ghost of evicted keys.

Newcomers enter the small queue, a tenth of the tier; from its end those asked for at least twice
move to the main queue, the others leave and are remembered in the ghost. What the ghost remembers
enters the main queue, from whose end a block leaves unless it was asked for since. Until something
was evicted, newcomers that the small queue has no room for enter the main one.

Source: Yang et al., "FIFO queues are all you need for cache eviction", SOSP 2023, with the choices
of libCacheSim (ratios, threshold, the filling of an empty cache).
"""

from __future__ import annotations

from typing import Any

from kvtrace.compiled.jit import helper
from kvtrace.policies import (
    GHOST_BYTES,
    GHOST_NEWEST,
    GHOST_OLDEST,
    GHOST_USED,
    HAS_EVICTED,
    MAIN_BYTES,
    MAIN_USED,
    NEWEST,
    NONE,
    OLDEST,
    REMEMBERED,
    SMALL_BYTES,
    SMALL_NEWEST,
    SMALL_OLDEST,
    SMALL_USED,
    TOKENS,
    WHERE,
    mark,
    marks,
)
from kvtrace.policies.support.linked_list import append, unlink
from kvtrace.policies.support.sizes import size

SMALL_RATIO = 0.1
GHOST_RATIO = 0.9
_MOVES = 2
"""Requests of a block in the small queue before it moves to the main one."""

# In a slot's marks: how often it was asked for (up to 3), whether it is in the main queue, and
# whether it is to enter that.
_ASKED, _MAIN, _RETURNS = 3, 4, 8


def setup(row: Any, capacity_bytes: int) -> None:
    """Prepare an empty tier."""
    row[[SMALL_OLDEST, SMALL_NEWEST, GHOST_OLDEST, GHOST_NEWEST]] = NONE
    row[SMALL_BYTES] = int(capacity_bytes * SMALL_RATIO)
    row[MAIN_BYTES] = capacity_bytes - row[SMALL_BYTES]
    row[GHOST_BYTES] = int(capacity_bytes * GHOST_RATIO)


@helper
def _size(slots: Any, tiers: Any, tier: int, slot: int) -> int:
    return size(tiers, tier, slots[slot, TOKENS])


@helper
def _leave_ghost(slots: Any, tiers: Any, tier: int, slot: int) -> None:
    unlink(slots, tiers, tier, GHOST_OLDEST, GHOST_NEWEST, slot)
    tiers[tier, GHOST_USED] -= _size(slots, tiers, tier, slot)
    slots[slot, WHERE] ^= 1 << REMEMBERED + tier


@helper
def expect(slots: Any, tiers: Any, tier: int, slot: int) -> None:
    """Note whether `slot` comes back: what the ghost remembers enters the main queue."""
    if slots[slot, WHERE] >> REMEMBERED + tier & 1:
        _leave_ghost(slots, tiers, tier, slot)
        mark(slots, tier, slot, _RETURNS)


@helper
def _enter_main(slots: Any, tiers: Any, tier: int, slot: int, asked: int) -> None:
    append(slots, tiers, tier, OLDEST, NEWEST, slot)
    tiers[tier, MAIN_USED] += _size(slots, tiers, tier, slot)
    mark(slots, tier, slot, _MAIN | asked)


@helper
def insert(slots: Any, tiers: Any, tier: int, slot: int) -> None:
    """Enter `slot` into the small queue, or the main one if it comes back."""
    filling = not tiers[tier, HAS_EVICTED] and tiers[tier, SMALL_USED] >= tiers[tier, SMALL_BYTES]
    if marks(slots, tier, slot) & _RETURNS or filling:
        _enter_main(slots, tiers, tier, slot, 0)
        return
    append(slots, tiers, tier, SMALL_OLDEST, SMALL_NEWEST, slot)
    tiers[tier, SMALL_USED] += _size(slots, tiers, tier, slot)
    mark(slots, tier, slot, 0)


@helper
def touch(slots: Any, tiers: Any, tier: int, slot: int) -> None:
    """Count that `slot` was asked for."""
    known = marks(slots, tier, slot)
    if known & _ASKED < _ASKED:
        mark(slots, tier, slot, known + 1)


@helper
def _victim_of_main(slots: Any, tiers: Any, tier: int) -> int:
    while True:
        slot = tiers[tier, OLDEST]
        if slot == NONE:
            return NONE
        asked = marks(slots, tier, slot) & _ASKED
        if asked == 0:
            return slot
        unlink(slots, tiers, tier, OLDEST, NEWEST, slot)
        append(slots, tiers, tier, OLDEST, NEWEST, slot)
        mark(slots, tier, slot, _MAIN | (asked - 1))


@helper
def _victim_of_small(slots: Any, tiers: Any, tier: int) -> int:
    while True:
        slot = tiers[tier, SMALL_OLDEST]
        if slot == NONE or marks(slots, tier, slot) & _ASKED < _MOVES:
            return slot
        unlink(slots, tiers, tier, SMALL_OLDEST, SMALL_NEWEST, slot)
        tiers[tier, SMALL_USED] -= _size(slots, tiers, tier, slot)
        _enter_main(slots, tiers, tier, slot, 0)


@helper
def victim(slots: Any, tiers: Any, tier: int) -> int:
    """Return the block that leaves next, after moving on those that were asked for."""
    tiers[tier, HAS_EVICTED] = 1
    slot = NONE
    if tiers[tier, MAIN_USED] <= tiers[tier, MAIN_BYTES]:
        slot = _victim_of_small(slots, tiers, tier)
    return slot if slot != NONE else _victim_of_main(slots, tiers, tier)


@helper
def remove(slots: Any, tiers: Any, tier: int, slot: int) -> None:
    """Take `slot` out; one of the small queue is remembered."""
    taken = _size(slots, tiers, tier, slot)
    if marks(slots, tier, slot) & _MAIN:
        unlink(slots, tiers, tier, OLDEST, NEWEST, slot)
        tiers[tier, MAIN_USED] -= taken
        mark(slots, tier, slot, 0)
        return
    unlink(slots, tiers, tier, SMALL_OLDEST, SMALL_NEWEST, slot)
    tiers[tier, SMALL_USED] -= taken
    append(slots, tiers, tier, GHOST_OLDEST, GHOST_NEWEST, slot)
    tiers[tier, GHOST_USED] += taken
    slots[slot, WHERE] |= 1 << REMEMBERED + tier
    mark(slots, tier, slot, 0)


@helper
def forget(slots: Any, tiers: Any, tier: int) -> int:
    """Take the oldest out of a ghost that has grown too big and return it; else return NONE."""
    if tiers[tier, GHOST_USED] <= tiers[tier, GHOST_BYTES]:
        return NONE
    slot = tiers[tier, GHOST_OLDEST]
    _leave_ghost(slots, tiers, tier, slot)
    return slot
