"""Counts ops and bytes of block events as their objects would, without making the objects."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

import numpy as np

from kvtrace.native.core import function
from kvtrace.native.library import I64, INT, POINTER, U8, address
from kvtrace.trace.cell import COUNT, op_of, pack
from kvtrace.trace.header import Cell
from kvtrace.trace.schema import Op, Phase, Tier

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kvtrace.hierarchy.events import BlockEvents, Tally
    from kvtrace.layouts import Layout

_OPS, _BYTES = range(2)


class Sizes(ctypes.Structure):
    """`struct kv_sizes`."""

    _fields_ = (
        ("part_bytes", POINTER),
        *(
            (name, INT)
            for name in (
                "parts", "divisor", "align_bytes", "constant_bytes", "window_token_bytes",
                "window_tokens", "state_align_bytes", "state_objects",
            )
        ),
    )  # fmt: skip


_SIZES = ctypes.POINTER(Sizes)
_object_bytes = function("kv_object_bytes", _SIZES, INT, returns=INT)
_count_events = function("kv_count_events", _SIZES, U8, U8, U8, I64, INT, I64)


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
        self._parts = np.array(part_bytes, np.int64)
        self._sizes = Sizes(address(self._parts), len(self._parts), divisor, align_bytes, *state)
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
        _count_events(
            self._sizes, events.op, events.tier, events.phase, events.tokens, len(events),
            self._cells,
        )  # fmt: skip
        self.duration_ns = max(self.duration_ns, int(events.timestamp_ns[-1]))

    def add_tally(self, tally: Tally) -> None:
        """Count events that are counted already."""
        if not tally.ops.any():
            return
        size = _object_bytes(self._sizes, tally.tokens)
        moving = op_of(np.arange(COUNT)) != Op.LOOKUP
        self._cells[:, _OPS] += tally.ops * len(self._parts)
        self._cells[:, _BYTES] += tally.ops * moving * size
        self.duration_ns = max(self.duration_ns, tally.last_ns)

    def object_bytes(self, tokens: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the bytes of all objects of each block; of checkpoints behind -`tokens`."""
        kinds, at = np.unique(tokens, return_inverse=True)
        sizes = [_object_bytes(self._sizes, kind) for kind in kinds.tolist()]
        return np.array(sizes, np.int64)[at]

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
