"""Follows one tier of a trace: ops and bytes over time, bytes held, sizes, reuse."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from kvtrace.compiled.hashmap import MISSING, find, give_back, new_table, take, with_room
from kvtrace.compiled.jit import constant, kernel
from kvtrace.tools.distribution import Distribution
from kvtrace.trace.reuse import FIRST, ReuseDistances
from kvtrace.trace.schema import Op

if TYPE_CHECKING:
    from numpy.typing import NDArray

_READ, _WRITE, _DELETE = constant(Op.READ), constant(Op.WRITE), constant(Op.DELETE)
# Columns of an object's row behind its key; the first holds the next free row where it is unused.
_SIZE, _LAST_NS = 1, 2
_HELD, _DERIVED, _PEAK = range(3)
_NEVER = constant(-1)
_FIRST_ROWS = 1024


@kernel
def _reside(key: Any, size: Any, slots: Any, table: Any, count: Any, state: Any) -> None:
    for i in range(key.shape[0]):
        slot = take(table, slots, count, key[i])
        slots[slot, _SIZE], slots[slot, _LAST_NS] = size[i], _NEVER
        state[_HELD] += size[i]
    state[_PEAK] = max(state[_PEAK], state[_HELD])


@kernel
def _follow(
    op: Any, key: Any, end: Any, time: Any, at: Any, slots: Any, table: Any, count: Any, state: Any,
    held: Any, numbers: Any, waits: Any,
) -> None:  # fmt: skip
    """Follow rows: `numbers` gets each object's row, `waits` the time since it was touched last.

    `held[bin]`: most bytes held in a bin, and those held at its end.
    """
    for i in range(op.shape[0]):
        slot = find(table, slots, key[i])
        if slot == MISSING:
            slot = take(table, slots, count, key[i])
            slots[slot, _SIZE], slots[slot, _LAST_NS] = 0, _NEVER
            state[_DERIVED] += op[i] == _READ
            if op[i] == _READ:
                slots[slot, _SIZE] = end[i]
                state[_HELD] += end[i]
        before = slots[slot, _LAST_NS]
        numbers[i], waits[i] = slot, time[i] - before if before >= 0 else _NEVER
        slots[slot, _LAST_NS] = time[i]
        if op[i] == _WRITE:
            state[_HELD] += max(0, end[i] - slots[slot, _SIZE])
            slots[slot, _SIZE] = max(end[i], slots[slot, _SIZE])
        elif op[i] == _DELETE:
            state[_HELD] -= slots[slot, _SIZE]
            give_back(table, slots, count, slot)
        state[_PEAK] = max(state[_PEAK], state[_HELD])
        held[at[i], 0] = max(held[at[i], 0], state[_HELD])
        held[at[i], 1] = state[_HELD]


class TierProfile:
    """One tier's ops and bytes per time slice and op, bytes held, and distributions.

    Memory grows with the objects that the tier holds at a time. `sizes`: of reads and of writes, in
    bytes. `reuse_distance`: other objects touched on the tier between two touches of one;
    `reuse_ns`: the time between these. A deleted object begins anew.
    """

    def __init__(self, slices: int) -> None:
        self.ops = np.zeros((slices, len(Op)), np.int64)
        self.bytes = np.zeros((slices, len(Op)), np.int64)
        self.sizes = {Op.READ: Distribution(), Op.WRITE: Distribution()}
        self.reuse_distance, self.reuse_ns = Distribution(), Distribution()
        self._held = np.full((slices, 2), -1, np.int64)
        self._slots = np.zeros((_FIRST_ROWS, 3), np.int64)
        self._table = new_table(_FIRST_ROWS)
        self._count = np.array([0, MISSING], np.int64)
        self._state = np.zeros(3, np.int64)
        self._reuse = ReuseDistances()
        self._resident_bytes = 0

    def add_resident(self, key: NDArray[np.uint64], size: NDArray[np.int64]) -> None:
        """Take the objects that are there before the first row."""
        self._make_room(len(key))
        _reside(key.view(np.int64), size, self._slots, self._table, self._count, self._state)
        self._resident_bytes += int(size.sum())

    def add(
        self,
        op: NDArray[np.uint8],
        key: NDArray[np.uint64],
        size: NDArray[np.int64],
        end: NDArray[np.int64],
        time: NDArray[np.int64],
        at: NDArray[np.int64],
    ) -> None:
        """Take the tier's next rows; `end`: where in the object each ends, `at`: its slice."""
        np.add.at(self.ops, (at, op), 1)
        np.add.at(self.bytes, (at, op), size)
        for kind, sizes in self.sizes.items():
            sizes.add(size[op == kind])
        touches = op != Op.LOOKUP
        op, key, end = op[touches], key[touches], end[touches]
        time, at = time[touches], at[touches]
        self._make_room(len(op))
        numbers, waits = np.empty(len(op), np.int64), np.empty(len(op), np.int64)
        _follow(
            op, key.view(np.int64), end, time, at, self._slots, self._table, self._count,
            self._state, self._held, numbers, waits,
        )  # fmt: skip
        gone = op == Op.DELETE
        distances = self._reuse.add(numbers, gone)
        self.reuse_distance.add(distances[(distances != FIRST) & ~gone])
        self.reuse_ns.add(waits[(distances != FIRST) & ~gone])

    def _make_room(self, more: int) -> None:
        needed = int(self._count[0]) + more
        self._table, self._slots = with_room(self._table, self._slots, needed)

    @property
    def derived(self) -> int:
        """How many objects are read before any write: held from their first read on."""
        return int(self._state[_DERIVED])

    @property
    def held_bytes_max(self) -> int:
        """Most bytes that the tier held."""
        return int(self._state[_PEAK])

    def held_bytes(self) -> NDArray[np.int64]:
        """Return the most bytes held in each time slice."""
        ends = np.concatenate(([self._resident_bytes], self._held[:, 1]))
        known = np.maximum.accumulate(np.where(ends >= 0, np.arange(len(ends)), 0))
        most: NDArray[np.int64] = np.maximum(ends[known][:-1], self._held[:, 0])
        return most

    def moved(self, op: Op) -> int:
        """Return the bytes of all rows of an op."""
        return int(self.bytes[:, op].sum())
