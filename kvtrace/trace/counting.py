"""Counts a trace's totals while its rows go by."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from kvtrace.trace.header import Cell, Totals
from kvtrace.trace.schema import Op, Phase, Tier

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

_FLOAT_EXACT = 1 << 53  # floats count whole numbers exactly below it


class TotalsCounter:
    """Counts rows, bytes and duration, per tier × phase × op."""

    def __init__(self) -> None:
        shape = (len(Tier), len(Phase), len(Op))
        self._ops = np.zeros(shape, np.int64)
        self._bytes = np.zeros(shape, np.int64)
        self._last_ns = 0

    def update(self, columns: Mapping[str, NDArray[Any]]) -> None:
        """Count some more rows."""
        shape = self._ops.shape
        cell = columns["tier"].astype(np.uint8)
        cell = (cell * shape[1] + columns["phase"]) * shape[2] + columns["op"]
        count = self._ops.size
        ops = np.bincount(cell, minlength=count)
        self._ops += ops.reshape(shape)
        sizes = columns["size"]
        if int(sizes.max()) * len(sizes) < _FLOAT_EXACT:
            summed = np.bincount(cell, weights=sizes, minlength=count)
            self._bytes += summed.astype(np.int64).reshape(shape)
        else:
            for index in np.flatnonzero(ops):
                total = int(sizes[cell == index].sum(dtype=np.uint64))
                self._bytes.reshape(-1)[index] += total
        self._last_ns = int(columns["timestamp"][-1])

    def totals(self) -> Totals:
        """Return the counts."""
        cells = [
            Cell(
                tier=tier.label,
                phase=phase.label,
                op=op.label,
                ops=int(self._ops[tier, phase, op]),
                bytes=int(self._bytes[tier, phase, op]),
            )
            for tier in Tier
            for phase in Phase
            for op in Op
            if self._ops[tier, phase, op]
        ]
        return Totals(
            rows=int(self._ops.sum()),
            bytes=sum(cell.bytes for cell in cells),
            duration_ns=self._last_ns,
            cells=cells,
        )
