"""Counts ops and bytes of block events as their objects would, without making the objects."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from kvtrace.compiled.jit import constant, helper, kernel
from kvtrace.trace.cell import COUNT, op_of, pack
from kvtrace.trace.header import Cell
from kvtrace.trace.schema import Op, Phase, Tier

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kvtrace.hierarchy.events import BlockEvents, Tally
    from kvtrace.layouts import Layout

_pack = helper(pack)
_LOOKUP = constant(Op.LOOKUP)
_CONSTANT, _WINDOW_BYTES, _WINDOW_TOKENS, _ALIGN, _COUNT = range(5)
_OPS, _BYTES = range(2)


@kernel
def _rounded(count: int, align: int) -> int:
    return (count + align - 1) // align * align


@kernel
def _object_bytes(tokens: int, parts: Any, divisor: int, align: int, state: Any) -> int:
    """Return the bytes of a block's objects, or of a checkpoint's behind -`tokens`."""
    if tokens < 0:
        window = min(-tokens, state[_WINDOW_TOKENS])
        kept = state[_CONSTANT] + window * state[_WINDOW_BYTES]
        return state[_COUNT] * _rounded(kept, state[_ALIGN])
    total = 0
    for i in range(parts.shape[0]):
        total += _rounded(tokens * parts[i] // divisor, align)
    return total


@kernel
def _count(
    op: Any, tier: Any, phase: Any, tokens: Any, parts: Any, divisor: int, align: int, state: Any,
    cells: Any,
) -> None:  # fmt: skip
    last, size = tokens[0], _object_bytes(tokens[0], parts, divisor, align, state)
    for i in range(op.shape[0]):
        if tokens[i] != last:
            last = tokens[i]
            size = _object_bytes(last, parts, divisor, align, state)
        cell = _pack(tier[i], phase[i], op[i])
        cells[cell, _OPS] += parts.shape[0] if last >= 0 else state[_COUNT]
        if op[i] != _LOOKUP:
            cells[cell, _BYTES] += size


class Counter:
    """Counts per tier × phase × op: what a recording's `cells` are.

    A block of n tokens becomes an object of n · p / `divisor` bytes, rounded up to `align_bytes`,
    for each p of `part_bytes`.
    """

    def __init__(
        self,
        part_bytes: tuple[int, ...],
        align_bytes: int = 1,
        state: tuple[int, ...] = (0, 0, 0, 1, 0),
        divisor: int = 1,
    ) -> None:
        self._divisor = constant(divisor)
        self._parts = np.array(part_bytes, np.int64)
        self._align = constant(align_bytes)
        self._state = np.array(state, np.int64)
        self._cells = np.zeros((COUNT, 2), np.int64)
        self.duration_ns = 0

    @classmethod
    def of(cls, layout: Layout) -> Counter:
        """Return a counter of a layout's objects."""
        kept, count = layout.state, len(layout.state_ranks)
        return cls(
            layout.part_bytes,
            layout.align_bytes,
            (
                kept.constant_bytes,
                kept.window_token_bytes,
                kept.window_tokens,
                kept.align_bytes,
                count,
            ),
            layout.token_divisor,
        )

    def add(self, events: BlockEvents) -> None:
        """Count some more events."""
        if not len(events):
            return
        _count(
            events.op, events.tier, events.phase, events.tokens,
            self._parts, self._divisor, self._align, self._state, self._cells,
        )  # fmt: skip
        self.duration_ns = max(self.duration_ns, int(events.timestamp_ns[-1]))

    def add_tally(self, tally: Tally) -> None:
        """Count events that are counted already."""
        if not tally.ops.any():
            return
        size = _object_bytes(
            constant(tally.tokens), self._parts, self._divisor, self._align, self._state
        )
        moving = op_of(np.arange(COUNT)) != Op.LOOKUP
        self._cells[:, _OPS] += tally.ops * len(self._parts)
        self._cells[:, _BYTES] += tally.ops * moving * size
        self.duration_ns = max(self.duration_ns, tally.last_ns)

    @property
    def rows(self) -> int:
        """How many rows a trace would have."""
        return int(self._cells[:, _OPS].sum())

    def bytes(self, tier: Tier, op: Op) -> int:
        """Return the bytes that `op` moved on `tier`."""
        return int(sum(self._cells[pack(tier, phase, op), _BYTES] for phase in Phase))

    def cells(self) -> list[Cell]:
        """Return what was counted, in the order of a trace's totals."""
        cells = []
        for tier in Tier:
            for phase in Phase:
                for op in Op:
                    ops, moved = self._cells[pack(tier, phase, op)].tolist()
                    if ops:
                        cells.append(
                            Cell(
                                tier=tier.label, phase=phase.label, op=op.label, ops=ops,
                                bytes=moved,
                            )
                        )  # fmt: skip
        return cells


def stored_tokens(events: BlockEvents) -> NDArray[np.int64]:
    """Return the tokens of each block that is written; checkpoints are none."""
    tokens: NDArray[np.int64] = events.tokens[(events.op == Op.WRITE) & (events.tokens >= 0)]
    return tokens
