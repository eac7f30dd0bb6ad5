"""Checks from the times of ops that order was kept. Shares no code with the planner's rules."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from kvtrace.native.library import INT, POINTER, contiguous
from kvtrace.native.structures import Structure, fields, records
from kvtrace.placement.keys import KeyTable, carried
from kvtrace.trace.schema import Op, Tier
from replay.measure.overlaps import Overlaps
from replay.native import function
from replay.ops.columns import SECTOR_BYTES

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from replay.ops.done import Done

_LOOKUP = int(Op.LOOKUP)
_TIERS = len(Tier)

_TIER = np.dtype(
    [("all_done", "i8"), ("alone_done", "i8"), ("evict_row", "i8"), ("evict_done", "i8")],
    align=True,
)
"""Of one key on one tier: when all earlier ops, and all writes and deletes, are done; the last
evict write, 1 + its place in the trace, and when it is done."""
_PLACE = np.dtype([("all_done", "i8"), ("write_done", "i8")], align=True)
_check_keys = function("kv_check_keys", POINTER, records(_TIER), returns=INT)
_check_places = function("kv_check_places", POINTER, records(_PLACE), returns=INT)


class _Ran(Structure):
    """Columns of ops, with the index of each one's key or place: `struct kv_ran`."""

    ARRAYS, _fields_ = fields(
        index=np.int32, number=np.int64, tier=np.uint8, op=np.uint8, phase=np.uint8,
        submit=np.int64, complete=np.int64, count=INT,
    )  # fmt: skip


class _Remembered:
    """State per key, dropped for keys that were not seen among the last `reach` ops."""

    def __init__(self, dtype: np.dtype[np.void], width: int, reach: int) -> None:
        self.reach = reach
        self.table = KeyTable()
        self.values = np.zeros((self.table.capacity, width), dtype)
        self.seen = np.zeros(self.table.capacity, np.int64)

    def index(self, keys: NDArray[np.uint64], first: int, last: int) -> NDArray[np.int32]:
        """Return the index of each key; `first`, `last`: number of the first and last op."""
        table = self.table
        if not table.has_room(len(keys)):
            kept = self.seen[: table.count] > first - self.reach
            table.keep(kept, len(keys))
            self.values = carried(self.values, kept, table.capacity)
            self.seen = carried(self.seen, kept, table.capacity)
        indices = table.add(keys)
        self.seen[indices] = last
        return indices


class OrderChecker:
    """Counts how often an op was submitted before something it had to wait for had completed.

    An op that breaks several rules counts once for each. Ops that weren't executed don't count.
    What lies further back than `reach` ops had completed before an op of today was planned.
    `unplaced`: lanes without extents. `mixed`: lanes whose objects differ in length.
    """

    def __init__(
        self, reach: int, unplaced: tuple[int, ...] = (), mixed: tuple[int, ...] = ()
    ) -> None:
        self.count = 0
        self._keys = _Remembered(_TIER, _TIERS, reach)
        self._places = _Remembered(_PLACE, 1, reach)
        self._mixed = {lane: Overlaps() for lane in mixed if lane not in unplaced}
        self._elsewhere = np.array((*unplaced, *self._mixed), np.uint8)

    def add(self, done: Done) -> None:
        """Check finished ops, in the trace's order."""
        ran = done.select(done.ran & (done.op != _LOOKUP))
        if not len(ran):
            return
        first, last = int(ran.number[0]), int(ran.number[-1])
        index = self._keys.index(contiguous(ran.key), first, last)
        self.count += int(_check_keys(_columns(ran, index), self._keys.values))
        for lane, overlaps in self._mixed.items():
            self.count += _check_overlaps(overlaps, ran.select(ran.moves & (ran.lane == lane)))
        moved = ran.select(ran.moves & ~np.isin(ran.lane, self._elsewhere))
        begin = moved.offset_bytes - moved.sector * np.uint64(SECTOR_BYTES)
        place = begin | moved.lane.astype(np.uint64) << np.uint64(56)
        index = self._places.index(place, first, last)
        self.count += int(_check_places(_columns(moved, index), self._places.values))


def _columns(done: Done, index: NDArray[np.int32]) -> _Ran:
    return _Ran(
        index=index, number=done.number, tier=done.tier, op=done.op, phase=done.phase,
        submit=done.submit_ns, complete=done.complete_ns, count=len(done),
    )  # fmt: skip


def _check_overlaps(overlaps: Overlaps, moved: Done) -> int:
    """Return how many of a mixed lane's ops began too early where their bytes are."""
    several = [moved.extents.get(number) for number in moved.number.tolist()]
    counts = np.array([1 if extents is None else len(extents) for extents in several], np.int64)
    of = np.repeat(np.arange(len(moved)), counts)
    begin, length = moved.offset_bytes[of].astype(np.int64), moved.length_bytes[of]
    ends = np.cumsum(counts)
    for at in np.flatnonzero(counts > 1).tolist():
        part = slice(ends[at] - counts[at], ends[at])
        begin[part], length[part] = zip(*(several[at] or ()), strict=True)
    return overlaps.add(
        moved.number[of], begin, length, moved.op[of], moved.submit_ns[of], moved.complete_ns[of]
    )
