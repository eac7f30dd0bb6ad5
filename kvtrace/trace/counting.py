"""Counts a trace's totals while its rows go by."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from kvtrace.native.core import function
from kvtrace.native.library import I64, INT, U8, U64, contiguous
from kvtrace.trace.header import Cell, Totals
from kvtrace.trace.schema import Op, Phase, Tier

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

_count_rows = function("kv_count_rows", U8, U8, U8, U64, INT, I64, U64)


class TotalsCounter:
    """Counts rows, bytes and duration, per tier × phase × op."""

    def __init__(self) -> None:
        shape = (len(Tier), len(Phase), len(Op))
        self._ops = np.zeros(shape, np.int64)
        self._bytes = np.zeros(shape, np.uint64)
        self._last_ns = 0

    def update(self, columns: Mapping[str, NDArray[Any]]) -> None:
        """Count some more rows."""
        names, types = ("op", "tier", "phase", "size"), (np.uint8,) * 3 + (np.uint64,)
        given = [
            contiguous(np.ma.getdata(columns[name]), kind)
            for name, kind in zip(names, types, strict=True)
        ]
        _count_rows(*given, len(given[0]), self._ops, self._bytes)
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
