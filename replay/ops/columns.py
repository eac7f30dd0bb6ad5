"""The columns of ops and of their times: one table for planner, engines and measures.

A field is a column, its type the type of its elements. `native/columns.h` is the same for the loop
in C: `make bless` writes it, a test holds it to this table.
"""

from __future__ import annotations

from typing import NamedTuple, get_args, get_type_hints

import numpy as np
from numpy.typing import NDArray  # noqa: TC002 - the table is read from the annotations

SECTOR_BYTES = 512
"""Unit of lengths; each unit has its own stamp."""
NO_TIME_NS = -1
"""In a time column: it never happened. In `Ops.due_ns` (closed mode): when the op's gate opens."""
DIVIDED = 1 << 63
"""In `Ops.offset_bytes`: the rest says where in `Ops.extents` the op's extents begin."""
GATING = 1 << 31
"""In `Ops.clock`: the op's completion advances the clock."""
NO_CLOCK = GATING - 1
EXTRA = (1 << 32) - 1
"""In `Ops.pad_bytes`: the planner's own op (a gate, a join of many waits), not one of the trace."""
DEPENDENCY_FAILED = -1
"""In `Times.error`: not executed, since an op it waited for had failed."""
VERIFY_FAILED = -2
"""In `Times.error`: read, but not the bytes that had been written."""
INTERRUPTED = -3
"""In `Times.error`: not executed, since the run was stopped."""
NO_WAITER, FINISHED, FAILED = 0xFFFFFFFF, 0xFFFFFFFE, 0xFFFFFFFD
"""Low half of `Times.state`: no op waits for it; it is finished; it is, and has failed. Any
other value is the latest of the ops that wait for it. The high half is the op's number."""


class Ops(NamedTuple):
    """Columns of ops; op i is at index i & (capacity − 1), the capacity being a power of two."""

    due_ns: NDArray[np.int64]
    """Since clock zero; the engine fills it in for ops behind a gate."""
    lane: NDArray[np.uint8]
    action: NDArray[np.uint8]
    """An `Action`."""
    cell: NDArray[np.uint8]
    """The op's kind in the trace (`kvtrace.trace.cell`), for the measures; engines don't see it."""
    offset_bytes: NDArray[np.uint64]
    """On the target, aligned for the lane; or `DIVIDED` | k: pairs (offset, length) of the ring
    `extents`, from k on, are the op's own, as many as make up its length."""
    length_sectors: NDArray[np.uint32]
    """In units of `SECTOR_BYTES`, aligned for the lane."""
    pad_bytes: NDArray[np.uint32]
    """Bytes beyond what the trace asked for; `EXTRA` for ops that aren't in it."""
    key: NDArray[np.uint64]
    """Of the object, for stamps; as are `sector` and `generation`."""
    sector: NDArray[np.uint32]
    """Where in the object the op's first 512 bytes are."""
    generation: NDArray[np.uint32]
    arena_bytes: NDArray[np.uint64]
    """Where in the arena a write's bytes start (for a read with `Verify.FULL`: where the bytes it
    must find start): a virtual offset that grows without end, of which each piece's physical place
    is `virtual % arena size`; the planner never lets a piece straddle the end."""
    edge_begin: NDArray[np.uint32]
    """`edges[(edge_begin[i] + k) & (edge capacity − 1)]` for k < `wait_count[i]` are the ops that
    op i waits for, all of them before i."""
    wait_count: NDArray[np.uint16]
    edges: NDArray[np.uint32]
    """A ring of its own."""
    clock: NDArray[np.uint32]
    """Closed mode, else of length 0: index of a clock, and `GATING`."""
    extents: NDArray[np.uint64]
    """A ring of its own: pairs (offset, length)."""

    @property
    def capacity(self) -> int:
        """How many ops there is room for."""
        return len(self.due_ns)

    def bytes_per_op(self) -> float:
        """Return what the columns take per op of the capacity, edges included."""
        return sum(column.nbytes for column in self) / self.capacity

    @classmethod
    def empty(
        cls, capacity: int, edge_capacity: int, *, clocks: bool = False, extents: int = 1
    ) -> Ops:
        """Return room for ops, edges and pairs of `extents` (powers of two).

        Memory is taken as it is used.
        """
        for count in (capacity, edge_capacity, extents):
            assert count & (count - 1) == 0
        lengths = dict.fromkeys(OP_TYPES, capacity)
        lengths |= {"edges": edge_capacity, "extents": 2 * extents}
        lengths["clock"] = capacity if clocks else 0
        return cls(**{name: np.zeros(lengths[name], kind) for name, kind in OP_TYPES.items()})


class Times(NamedTuple):
    """What an engine found, per op, at the same index as in `Ops`.

    Times are ns on CLOCK_MONOTONIC; `NO_TIME_NS` where it never happened.
    """

    ready_ns: NDArray[np.int64]
    """When the last predecessor completed; clock zero without one, or if that was long before."""
    slot_ns: NDArray[np.int64]
    """When a queue slot was last found free after waiting for one; else max(due, ready)."""
    submit_ns: NDArray[np.int64]
    """When the first piece was submitted."""
    complete_ns: NDArray[np.int64]
    """When the last piece completed."""
    error: NDArray[np.int32]
    """0, an errno, or one of the negative values above."""
    bad_sector: NDArray[np.int64]
    """First bad sector in the op, of a read that failed verification; else −1."""
    state: NDArray[np.uint64]
    """Who waits for the op, or that it is finished; stored last."""

    @classmethod
    def empty(cls, capacity: int) -> Times:
        """Return columns for a ring of that capacity; `reset` makes a part of it usable."""
        return cls(**{name: np.zeros(capacity, kind) for name, kind in TIME_TYPES.items()})

    def reset(self, begin: int, end: int) -> None:
        """Make ops [begin, end) ones of which nothing has happened yet."""
        mask = len(self.state) - 1
        while begin < end:
            count = min(end - begin, len(self.state) - (begin & mask))
            at = slice(begin & mask, (begin & mask) + count)
            for column in (self.ready_ns, self.slot_ns, self.submit_ns, self.complete_ns):
                column[at] = NO_TIME_NS
            self.error[at] = INTERRUPTED
            self.bad_sector[at] = -1
            number = np.arange(begin, begin + count, dtype=np.uint64)
            self.state[at] = number << np.uint64(32) | np.uint64(NO_WAITER)
            begin += count

    def finished(self, begin: int, end: int) -> int:
        """Return up to where all ops from `begin` on are finished, at most `end`."""
        mask = len(self.state) - 1
        while begin < end:
            count = min(end - begin, len(self.state) - (begin & mask), 1 << 16)
            at = begin & mask
            low = self.state[at : at + count] & np.uint64(0xFFFFFFFF)
            going = (low != FINISHED) & (low != FAILED)
            first = int(going.argmax())
            if going[first]:
                return begin + first
            begin += count
        return begin


def types_of(table: type[NamedTuple]) -> dict[str, np.dtype[np.generic]]:
    """Return the element type of each column, in the table's order."""
    arrays = {name: get_args(hint) for name, hint in get_type_hints(table).items()}
    return {name: np.dtype(get_args(kind)[0]) for name, (_, kind) in arrays.items()}


OP_TYPES = types_of(Ops)
TIME_TYPES = types_of(Times)
NATIVE_OPS = tuple(name for name in OP_TYPES if name != "cell")
"""Columns of ops that the loop in C has."""
_WRITTEN = ("due_ns", *TIME_TYPES)


def header_text() -> str:
    """Return `native/columns.h`: the members of structures that are columns."""

    def members(types: dict[str, np.dtype[np.generic]]) -> str:
        lines = (
            f"\t{'' if name in _WRITTEN else 'const '}{kind.name}_t *{name};"
            for name, kind in types.items()
        )
        return " \\\n".join(lines)

    ops = {name: OP_TYPES[name] for name in NATIVE_OPS}
    planned = " \\\n".join(f"\t{kind.name}_t *{name};" for name, kind in OP_TYPES.items())
    return f"""\
/* Columns of struct kv_run, documented in replay/ops/columns.py: `make bless` writes this file
 * from there. */
#define KV_OP_COLUMNS \\
{members(ops)}

#define KV_TIME_COLUMNS \\
{members(TIME_TYPES)}

/* All columns of ops, as the planner writes them. */
#define KV_PLAN_COLUMNS \\
{planned}
"""
