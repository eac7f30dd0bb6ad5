"""Least recently used: what was neither stored nor read for longest leaves first."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvtrace.jit import kernel
from kvtrace.policies import FIRST_LINK, NEWEST, NONE, OLDEST

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@kernel
def insert(links: NDArray[np.int64], ends: NDArray[np.int64], tier: int, slot: int) -> None:
    """Enter `slot` as the newest of `tier`."""
    older = FIRST_LINK + 2 * tier
    last = ends[tier, NEWEST]
    links[slot, older] = last
    links[slot, older + 1] = NONE
    if last == NONE:
        ends[tier, OLDEST] = slot
    else:
        links[last, older + 1] = slot
    ends[tier, NEWEST] = slot


@kernel
def remove(links: NDArray[np.int64], ends: NDArray[np.int64], tier: int, slot: int) -> None:
    """Take `slot` out of `tier`."""
    older = FIRST_LINK + 2 * tier
    before, after = links[slot, older], links[slot, older + 1]
    if before == NONE:
        ends[tier, OLDEST] = after
    else:
        links[before, older + 1] = after
    if after == NONE:
        ends[tier, NEWEST] = before
    else:
        links[after, older] = before


@kernel
def touch(links: NDArray[np.int64], ends: NDArray[np.int64], tier: int, slot: int) -> None:
    """Make `slot`, which is in `tier`, its newest."""
    if ends[tier, NEWEST] != slot:
        remove(links, ends, tier, slot)
        insert(links, ends, tier, slot)


@kernel
def victim(links: NDArray[np.int64], ends: NDArray[np.int64], tier: int) -> int:
    """Return the slot that leaves `tier` next, or NONE if the tier is empty."""
    return ends[tier, OLDEST]
