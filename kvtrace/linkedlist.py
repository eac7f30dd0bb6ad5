"""Doubly linked lists of slots, of which the policies are made; a slot is in one list per tier."""

from __future__ import annotations

from typing import Any

from kvtrace.jit import kernel
from kvtrace.policies import FIRST_LINK, NONE


@kernel
def append(slots: Any, tiers: Any, tier: int, oldest: int, newest: int, slot: int) -> None:
    """Enter `slot` as the newest of the list whose ends are in these columns of the tier."""
    older = FIRST_LINK + 2 * tier
    last = tiers[tier, newest]
    slots[slot, older] = last
    slots[slot, older + 1] = NONE
    if last == NONE:
        tiers[tier, oldest] = slot
    else:
        slots[last, older + 1] = slot
    tiers[tier, newest] = slot


@kernel
def unlink(slots: Any, tiers: Any, tier: int, oldest: int, newest: int, slot: int) -> None:
    """Take `slot` out of its list."""
    older = FIRST_LINK + 2 * tier
    before, after = slots[slot, older], slots[slot, older + 1]
    if before == NONE:
        tiers[tier, oldest] = after
    else:
        slots[before, older + 1] = after
    if after == NONE:
        tiers[tier, newest] = before
    else:
        slots[after, older] = before
