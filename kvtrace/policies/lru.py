"""Least recently used: evict the block whose last store or read is oldest."""

from __future__ import annotations

from typing import Any

from kvtrace.compiled.jit import helper
from kvtrace.policies import NEWEST, OLDEST
from kvtrace.policies.support.linked_list import append, unlink


@helper
def insert(slots: Any, tiers: Any, tier: int, slot: int) -> None:
    """Enter `slot` as the newest."""
    append(slots, tiers, tier, OLDEST, NEWEST, slot)


@helper
def remove(slots: Any, tiers: Any, tier: int, slot: int) -> None:
    """Take `slot` out."""
    unlink(slots, tiers, tier, OLDEST, NEWEST, slot)


@helper
def touch(slots: Any, tiers: Any, tier: int, slot: int) -> None:
    """Make `slot` the newest."""
    if tiers[tier, NEWEST] != slot:
        unlink(slots, tiers, tier, OLDEST, NEWEST, slot)
        append(slots, tiers, tier, OLDEST, NEWEST, slot)


@helper
def victim(slots: Any, tiers: Any, tier: int) -> int:
    """Return the oldest."""
    return tiers[tier, OLDEST]
