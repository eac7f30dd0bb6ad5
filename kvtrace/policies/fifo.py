"""First in, first out: evict the block stored longest ago, however often it was read."""

from __future__ import annotations

from typing import Any

from kvtrace.compiled.jit import kernel
from kvtrace.policies import NEWEST, OLDEST
from kvtrace.policies.support.linked_list import append, unlink


@kernel
def insert(slots: Any, tiers: Any, tier: int, slot: int) -> None:
    """Enter `slot` as the newest."""
    append(slots, tiers, tier, OLDEST, NEWEST, slot)


@kernel
def remove(slots: Any, tiers: Any, tier: int, slot: int) -> None:
    """Take `slot` out."""
    unlink(slots, tiers, tier, OLDEST, NEWEST, slot)


@kernel
def victim(slots: Any, tiers: Any, tier: int) -> int:
    """Return the oldest."""
    return tiers[tier, OLDEST]
