"""Checks from the times of ops that order was kept. Shares no code with the planner's rules."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from kvtrace.compiled.jit import kernel
from kvtrace.placement.keys import KeyTable, carried
from kvtrace.trace.schema import Op, Phase, Tier
from replay.measure.overlaps import Overlaps
from replay.ops.columns import SECTOR_BYTES

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from replay.ops.done import Done

_READ, _WRITE, _DELETE, _LOOKUP = (int(op) for op in Op)
_EVICT, _PROMOTE = int(Phase.EVICT), int(Phase.PROMOTE)
_TIERS = len(Tier)

_TIER = np.dtype(
    [("all_done", "i8"), ("alone_done", "i8"), ("evict_row", "i8"), ("evict_done", "i8")],
    align=True,
)
"""Of one key on one tier: when all earlier ops, and all writes and deletes, are done; the last
evict write, 1 + its place in the trace, and when it is done."""
_PLACE = np.dtype([("all_done", "i8"), ("write_done", "i8")], align=True)


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
        self.count += int(
            _check_keys(
                self._keys.index(np.ascontiguousarray(ran.key), first, last),
                ran.number,
                ran.tier,
                ran.op,
                ran.phase,
                ran.submit_ns,
                ran.complete_ns,
                self._keys.values,
            )
        )
        for lane, overlaps in self._mixed.items():
            self.count += _check_overlaps(overlaps, ran.select(ran.moves & (ran.lane == lane)))
        moved = ran.select(ran.moves & ~np.isin(ran.lane, self._elsewhere))
        begin = moved.offset_bytes - moved.sector * np.uint64(SECTOR_BYTES)
        place = begin | moved.lane.astype(np.uint64) << np.uint64(56)
        index = self._places.index(place, first, last)
        self.count += int(
            _check_places(index, moved.op, moved.submit_ns, moved.complete_ns, self._places.values)
        )


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


@kernel
def _check_keys(
    index: NDArray[np.int32],
    number: NDArray[np.int64],
    tier: NDArray[np.uint8],
    op: NDArray[np.uint8],
    phase: NDArray[np.uint8],
    submit: NDArray[np.int64],
    complete: NDArray[np.int64],
    values: NDArray[np.void],
) -> int:
    """Count what breaks a rule between the ops of one key: on a tier, and across tiers.

    When the last transferring read of a key is done stands in the field `evict_done` of tier 0,
    which no evict write can have: nothing is above it.
    """
    violations = 0
    for row in range(index.size):
        where, what = tier[row], op[row]
        mine: Any = values[index[row], where]
        top: Any = values[index[row], 0]
        needed = mine.alone_done if what == _READ else mine.all_done
        violations += submit[row] < needed
        if what == _WRITE:
            violations += submit[row] < top.evict_done
            if phase[row] == _EVICT and where > 0:
                mine.evict_row = number[row] + 1
                mine.evict_done = complete[row]
        elif what == _DELETE:
            latest, done = 0, 0
            for below in range(where + 1, _TIERS):
                other: Any = values[index[row], below]
                if other.evict_row > latest:
                    latest, done = other.evict_row, other.evict_done
            violations += submit[row] < done
        elif phase[row] in (_EVICT, _PROMOTE):
            top.evict_done = complete[row]
        mine.all_done = max(mine.all_done, complete[row])
        if what != _READ:
            mine.alone_done = max(mine.alone_done, complete[row])
    return violations


@kernel
def _check_places(
    index: NDArray[np.int32],
    op: NDArray[np.uint8],
    submit: NDArray[np.int64],
    complete: NDArray[np.int64],
    values: NDArray[np.void],
) -> int:
    """Count I/O that begins before what must be over at its extent: all for a write."""
    violations = 0
    for row in range(index.size):
        mine: Any = values[index[row], 0]
        if op[row] == _WRITE:
            violations += submit[row] < mine.all_done
            mine.write_done = max(mine.write_done, complete[row])
        else:
            violations += submit[row] < mine.write_done
        mine.all_done = max(mine.all_done, complete[row])
    return violations
