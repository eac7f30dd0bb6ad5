"""Least recently used: what was neither stored nor read for longest leaves first."""

from __future__ import annotations

from numba import njit

from kvtrace.policies import NONE, PolicyState


@njit(cache=True)
def insert(state: PolicyState, tier: int, slot: int) -> None:
    """Enter `slot` as the newest of `tier`."""
    last = state.newest[tier]
    state.older[tier, slot] = last
    state.newer[tier, slot] = NONE
    if last == NONE:
        state.oldest[tier] = slot
    else:
        state.newer[tier, last] = slot
    state.newest[tier] = slot


@njit(cache=True)
def remove(state: PolicyState, tier: int, slot: int) -> None:
    """Take `slot` out of `tier`."""
    before = state.older[tier, slot]
    after = state.newer[tier, slot]
    if before == NONE:
        state.oldest[tier] = after
    else:
        state.newer[tier, before] = after
    if after == NONE:
        state.newest[tier] = before
    else:
        state.older[tier, after] = before


@njit(cache=True)
def touch(state: PolicyState, tier: int, slot: int) -> None:
    """Make `slot`, which is in `tier`, its newest."""
    if state.newest[tier] != slot:
        remove(state, tier, slot)
        insert(state, tier, slot)


@njit(cache=True)
def victim(state: PolicyState, tier: int) -> int:
    """Return the slot that leaves `tier` next, or NONE if the tier is empty."""
    return state.oldest[tier]
