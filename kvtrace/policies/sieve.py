"""SIEVE: a hand moves from old to new; evict the first block not requested since its visit.

Source: Zhang et al., "SIEVE is Simpler than LRU", NSDI 2024.
"""

from __future__ import annotations

from typing import Any

from kvtrace.compiled.jit import kernel
from kvtrace.policies import HAND, NEWEST, NONE, OLDEST, mark, marks
from kvtrace.policies.support.linked_list import append, newer, unlink


def setup(row: Any, capacity_bytes: int) -> None:
    """Prepare an empty tier."""
    row[HAND] = NONE


@kernel
def insert(slots: Any, tiers: Any, tier: int, slot: int) -> None:
    """Enter `slot` as the newest, not asked for."""
    mark(slots, tier, slot, 0)
    append(slots, tiers, tier, OLDEST, NEWEST, slot)


@kernel
def remove(slots: Any, tiers: Any, tier: int, slot: int) -> None:
    """Take `slot` out; the hand goes on to the next newer one."""
    if tiers[tier, HAND] == slot:
        tiers[tier, HAND] = newer(slots, tier, slot)
    unlink(slots, tiers, tier, OLDEST, NEWEST, slot)


@kernel
def touch(slots: Any, tiers: Any, tier: int, slot: int) -> None:
    """Note that `slot` was asked for."""
    mark(slots, tier, slot, 1)


@kernel
def victim(slots: Any, tiers: Any, tier: int) -> int:
    """Move the hand to the first block not asked for, forgiving those it passes; return it."""
    slot = tiers[tier, HAND]
    if slot == NONE:
        slot = tiers[tier, OLDEST]
    while slot != NONE and marks(slots, tier, slot):
        mark(slots, tier, slot, 0)
        slot = newer(slots, tier, slot)
        if slot == NONE:
            slot = tiers[tier, OLDEST]
    tiers[tier, HAND] = slot
    return slot
