"""Follows one tier of a trace: ops and bytes over time, bytes held, sizes, reuse."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

import numpy as np

from kvtrace.native.core import function
from kvtrace.native.hashmap import Pool
from kvtrace.native.library import BOOLEAN, I64, INT, POINTER, contiguous
from kvtrace.tools.distribution import Distribution
from kvtrace.trace.reuse import FIRST, ReuseDistances
from kvtrace.trace.schema import Op

if TYPE_CHECKING:
    from numpy.typing import NDArray

_OBJECT = np.dtype([("key", "i8"), ("size", "i8"), ("last_ns", "i8")])


class TierStruct(ctypes.Structure):
    """`struct kv_tier` of `objects.c`."""

    _fields_ = (
        ("pool", POINTER),
        ("bins", POINTER),
        ("slices", INT),
        ("held", INT),
        ("derived", INT),
        ("peak", INT),
    )


class _RowsStruct(ctypes.Structure):
    _fields_ = tuple(
        (name, POINTER) for name in ("op", "key", "end", "time", "at", "numbers", "waits")
    )


_reside = function("kv_tier_reside", POINTER, I64, I64, INT, returns=BOOLEAN)
_follow = function("kv_tier_follow", POINTER, POINTER, INT, returns=BOOLEAN)


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
        self._pool = Pool(_OBJECT)
        self._struct = TierStruct(self._pool.address, self._held.ctypes.data, slices)
        self._reuse = ReuseDistances()
        self._resident_bytes = 0

    def add_resident(self, key: NDArray[np.uint64], size: NDArray[np.int64]) -> None:
        """Take the objects that are there before the first row."""
        self._pool.make_room(len(key))
        tier, key = ctypes.byref(self._struct), contiguous(key)
        taken = _reside(tier, key.view(np.int64), contiguous(size), len(key))
        assert taken
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
        self._pool.make_room(len(op))
        numbers, waits = np.empty(len(op), np.int64), np.empty(len(op), np.int64)
        columns = [contiguous(each, np.int64) for each in (key.view(np.int64), end, time, at)]
        op = contiguous(op, np.uint8)
        pointers = [each.ctypes.data for each in (*columns, numbers, waits)]
        rows = _RowsStruct(op.ctypes.data, *pointers)
        followed = _follow(ctypes.byref(self._struct), ctypes.byref(rows), len(op))
        assert followed
        gone = op == Op.DELETE
        distances = self._reuse.add(numbers, gone)
        self.reuse_distance.add(distances[(distances != FIRST) & ~gone])
        self.reuse_ns.add(waits[(distances != FIRST) & ~gone])

    @property
    def derived(self) -> int:
        """How many objects are read before any write: held from their first read on."""
        return int(self._struct.derived)

    @property
    def held_bytes_max(self) -> int:
        """Most bytes that the tier held."""
        return int(self._struct.peak)

    def held_bytes(self) -> NDArray[np.int64]:
        """Return the most bytes held in each time slice."""
        ends = np.concatenate(([self._resident_bytes], self._held[:, 1]))
        known = np.maximum.accumulate(np.where(ends >= 0, np.arange(len(ends)), 0))
        most: NDArray[np.int64] = np.maximum(ends[known][:-1], self._held[:, 0])
        return most

    def moved(self, op: Op) -> int:
        """Return the bytes of all rows of an op."""
        return int(self.bytes[:, op].sum())
