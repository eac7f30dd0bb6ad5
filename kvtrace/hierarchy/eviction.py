"""Calls the eviction policy of a tier. A new policy is a file in `policies` and its lines here."""

from __future__ import annotations

from typing import Any

from kvtrace import plugins
from kvtrace.compiled.jit import helper
from kvtrace.policies import fifo, lru, s3_fifo, sieve

NAMES = ("lru", "fifo", "sieve", "s3-fifo")
"""By their number in a tier's row."""

_LRU, _FIFO, _SIEVE = range(3)
POLICY = 20
"""Column of a tier's row, behind those that policies use."""


def setup(row: Any, name: str, capacity_bytes: int) -> None:
    """Prepare the row of an empty tier. Raises UsageError for an unknown policy."""
    module = plugins.load(plugins.POLICY, name)
    row[POLICY] = NAMES.index(name)
    if hasattr(module, "setup"):
        module.setup(row, capacity_bytes)


@helper
def expect(slots: Any, tiers: Any, tier: int, slot: int) -> None:
    """Tell the policy that `slot` is about to enter."""
    if tiers[tier, POLICY] > _SIEVE:
        s3_fifo.expect(slots, tiers, tier, slot)


@helper
def insert(slots: Any, tiers: Any, tier: int, slot: int) -> None:
    """Enter `slot` into `tier`."""
    policy = tiers[tier, POLICY]
    if policy == _LRU:
        lru.insert(slots, tiers, tier, slot)
    elif policy == _FIFO:
        fifo.insert(slots, tiers, tier, slot)
    elif policy == _SIEVE:
        sieve.insert(slots, tiers, tier, slot)
    else:
        s3_fifo.insert(slots, tiers, tier, slot)


@helper
def touch(slots: Any, tiers: Any, tier: int, slot: int) -> None:
    """Note that `slot`, which `tier` holds, was asked for."""
    policy = tiers[tier, POLICY]
    if policy == _LRU:
        lru.touch(slots, tiers, tier, slot)
    elif policy == _SIEVE:
        sieve.touch(slots, tiers, tier, slot)
    elif policy > _SIEVE:
        s3_fifo.touch(slots, tiers, tier, slot)


@helper
def victim(slots: Any, tiers: Any, tier: int) -> int:
    """Return the slot that leaves `tier` next, or NONE if the tier is empty."""
    policy = tiers[tier, POLICY]
    if policy == _LRU:
        return lru.victim(slots, tiers, tier)
    if policy == _FIFO:
        return fifo.victim(slots, tiers, tier)
    if policy == _SIEVE:
        return sieve.victim(slots, tiers, tier)
    return s3_fifo.victim(slots, tiers, tier)


@helper
def remove(slots: Any, tiers: Any, tier: int, slot: int) -> None:
    """Take `slot`, the victim, out of `tier`."""
    policy = tiers[tier, POLICY]
    if policy == _LRU:
        lru.remove(slots, tiers, tier, slot)
    elif policy == _FIFO:
        fifo.remove(slots, tiers, tier, slot)
    elif policy == _SIEVE:
        sieve.remove(slots, tiers, tier, slot)
    else:
        s3_fifo.remove(slots, tiers, tier, slot)


@helper
def forget(slots: Any, tiers: Any, tier: int) -> int:
    """Return a slot that the policy no longer remembers, or NONE."""
    if tiers[tier, POLICY] <= _SIEVE:
        return -1
    return s3_fifo.forget(slots, tiers, tier)
