"""Doubly linked lists of slots, of which the policies are made; a slot is in one list per tier.

Both links are in one integer: the older neighbour's slot + 1 above, the newer one's below.
"""

from __future__ import annotations

from typing import Any

from kvtrace.compiled.jit import helper
from kvtrace.policies import FIRST_LINK, NONE

_BITS = 32
_LOW = (1 << _BITS) - 1


@helper
def newer(slots: Any, tier: int, slot: int) -> int:
    """Return the neighbour of `slot` that came after it, or NONE."""
    return (slots[slot, FIRST_LINK + tier] & _LOW) - 1


@helper
def append(slots: Any, tiers: Any, tier: int, oldest: int, newest: int, slot: int) -> None:
    """Enter `slot` as the newest of the list whose ends are in these columns of the tier."""
    links = FIRST_LINK + tier
    last = tiers[tier, newest]
    slots[slot, links] = (last + 1) << _BITS
    if last == NONE:
        tiers[tier, oldest] = slot
    else:
        slots[last, links] |= slot + 1
    tiers[tier, newest] = slot


@helper
def unlink(slots: Any, tiers: Any, tier: int, oldest: int, newest: int, slot: int) -> None:
    """Take `slot` out of its list."""
    links = FIRST_LINK + tier
    before, after = (slots[slot, links] >> _BITS) - 1, (slots[slot, links] & _LOW) - 1
    if before == NONE:
        tiers[tier, oldest] = after
    else:
        slots[before, links] = slots[before, links] & ~_LOW | (after + 1)
    if after == NONE:
        tiers[tier, newest] = before
    else:
        slots[after, links] = slots[after, links] & _LOW | (before + 1) << _BITS
