"""Eviction policies: which block leaves a full tier. One file each.

A policy is a module of small functions compiled by numba on one `PolicyState`: `insert`, `touch`,
`victim`, `remove`. All policies use the same tuple of integer arrays.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

NONE = -1


class PolicyState(NamedTuple):
    """Order of the blocks of each tier: a doubly linked list per tier, indexed [tier, slot]."""

    older: NDArray[np.int32]
    newer: NDArray[np.int32]
    oldest: NDArray[np.int32]
    newest: NDArray[np.int32]


def init(tiers: int, slots: int) -> PolicyState:
    """Return empty lists for `tiers` tiers and `slots` slots."""
    return PolicyState(
        np.full((tiers, slots), NONE, np.int32),
        np.full((tiers, slots), NONE, np.int32),
        np.full(tiers, NONE, np.int32),
        np.full(tiers, NONE, np.int32),
    )


def grow(state: PolicyState, slots: int) -> PolicyState:
    """Return the same lists with room for `slots` slots."""
    extra = ((0, 0), (0, slots - state.older.shape[1]))
    return state._replace(
        older=np.pad(state.older, extra, constant_values=NONE),
        newer=np.pad(state.newer, extra, constant_values=NONE),
    )
