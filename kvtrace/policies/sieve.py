"""SIEVE: a hand goes from old to new and evicts the first block not asked for since its visit.

Source: Zhang et al., "SIEVE is Simpler than LRU", NSDI 2024.
"""

from __future__ import annotations

from typing import Any

from kvtrace.jit import kernel
from kvtrace.linkedlist import append, unlink
from kvtrace.policies import FIRST_LINK, HAND, MARK_BITS, MARKS, NEWEST, NONE, OLDEST


def setup(row: Any, capacity_bytes: int) -> None:
    """Prepare an empty tier."""
    row[HAND] = NONE


@kernel
def insert(slots: Any, tiers: Any, tier: int, slot: int) -> None:
    """Enter `slot` as the newest, not asked for."""
    slots[slot, MARKS] &= ~(1 << MARK_BITS * tier)
    append(slots, tiers, tier, OLDEST, NEWEST, slot)


@kernel
def remove(slots: Any, tiers: Any, tier: int, slot: int) -> None:
    """Take `slot` out; the hand goes on to the next newer one."""
    if tiers[tier, HAND] == slot:
        tiers[tier, HAND] = slots[slot, FIRST_LINK + 2 * tier + 1]
    unlink(slots, tiers, tier, OLDEST, NEWEST, slot)


@kernel
def touch(slots: Any, tiers: Any, tier: int, slot: int) -> None:
    """Note that `slot` was asked for."""
    slots[slot, MARKS] |= 1 << MARK_BITS * tier


@kernel
def victim(slots: Any, tiers: Any, tier: int) -> int:
    """Move the hand to the first block not asked for, forgiving those it passes; return it."""
    asked = 1 << MARK_BITS * tier
    slot = tiers[tier, HAND]
    if slot == NONE:
        slot = tiers[tier, OLDEST]
    while slot != NONE and slots[slot, MARKS] & asked:
        slots[slot, MARKS] ^= asked
        slot = slots[slot, FIRST_LINK + 2 * tier + 1]
        if slot == NONE:
            slot = tiers[tier, OLDEST]
    tiers[tier, HAND] = slot
    return slot
