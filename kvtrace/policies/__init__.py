"""Eviction policies: which block leaves a full tier. One file each.

A policy is a module of small functions compiled by numba: `insert`, `touch`, `victim`, `remove`.
All policies keep their state in the same integer arrays: `links[slot, FIRST_LINK + 2 · tier]` and
the column after it are the slot's own, `ends[tier, OLDEST]` and `ends[tier, NEWEST]` the tier's.
Columns before these belong to the caller.
"""

from __future__ import annotations

NONE = -1

FIRST_LINK = 4
"""Column of the first link in a slot's row; two for each tier."""
OLDEST, NEWEST = 0, 1
"""Columns of a tier's ends."""
