"""Identities of several traces kept apart, and numbers that look random but belong to an id."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from kvtrace.errors import UsageError
from kvtrace.tools.stream import IDS
from kvtrace.trace.schema import NODE_SHIFT

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kvtrace.trace.reader import Columns, Trace

MAX_NODES = 1 << 16


def mixed(values: NDArray[np.uint64], seed: int) -> NDArray[np.uint64]:
    """Return each value's number in [0, 2⁶⁴), equal values' being equal; a bijection.

    Source: the finalizer of SplitMix64 (public domain).
    """
    z = values + np.uint64((seed * 0x9E3779B97F4A7C15 + 0x9E3779B97F4A7C15) & ((1 << 64) - 1))
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


class Apart:
    """Gives a trace's ids the number of its node, so that they equal no other node's.

    The number goes into the top 16 bits. A column whose ids use those already has hashes: its ids
    are combined with a number of the node's own (xor), which keeps them apart as hashes are. Node
    0's ids stay as they are. `keep`: columns that aren't renamed.
    """

    def __init__(self, trace: Trace, node: int, *, keep: tuple[str, ...] = ()) -> None:
        if node >= MAX_NODES:
            raise UsageError("too many nodes", got=node + 1, accepted=f"up to {MAX_NODES:,}")
        self._masks = {
            name: self._mask(_largest(trace, name), node)
            for name in IDS
            if name in trace.columns and name not in keep and node
        }
        self.batches = _largest(trace, "batch") + 1 if "batch" in trace.columns else 0
        """Numbers that its batches take: 0 to this, exclusively."""

    @staticmethod
    def _mask(largest: int, node: int) -> np.uint64:
        if largest < 1 << NODE_SHIFT:
            return np.uint64(node << NODE_SHIFT)
        mask: np.uint64 = mixed(np.array([node], np.uint64), 0)[0]
        return mask

    def rename(self, columns: Columns) -> Columns:
        """Return the columns with ids of this node."""
        return columns | {name: columns[name] ^ mask for name, mask in self._masks.items()}

    def rename_resident(self, resident: NDArray[np.void]) -> NDArray[np.void]:
        """Return the objects with keys of this node."""
        renamed = resident.copy()
        if "key" in self._masks:
            renamed["key"] ^= self._masks["key"]
        return renamed


def _largest(trace: Trace, name: str) -> int:
    highest = trace.collect(trace.lazy().select(pl.col(name).max()), streaming=True).item() or 0
    resident = trace.resident()["key"] if name == "key" else np.zeros(0, np.uint64)
    return max(int(highest), int(resident.max(initial=0)))
