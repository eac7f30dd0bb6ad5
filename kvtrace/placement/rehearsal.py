"""A surveyed trace's live set, and the space of its extents."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from kvtrace.compiled.jit import kernel
from kvtrace.placement.ground import (
    MIXED,
    UNIFORM,
    Ground,
    Record,
    enlarged,
    make_ground,
    nodes_have_room,
)
from kvtrace.placement.holes import occupy, vacate
from kvtrace.placement.objects import LANE_BITS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from kvtrace.placement.survey import Survey

_CHANGES, _BIRTHS = range(2)
"""Places in `_follow`'s cursor: how many of both were followed."""
PEAK = np.dtype(
    [
        (name, "i8")
        for name in ("objects", "bytes", "objects_max", "bytes_max", "shortest", "longest")
    ]
)
"""Of a lane: what is live, the most that ever was, and its shortest and longest extent."""


def unpack(packed: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return lengths and lanes of what a survey has spooled."""
    return packed >> LANE_BITS, packed & ((1 << LANE_BITS) - 1)


def aligned(
    lengths: NDArray[np.int64], lanes: NDArray[np.int64], align: Sequence[int]
) -> NDArray[np.int64]:
    """Return the lengths rounded up to the alignment of their lanes."""
    units = np.asarray(align, np.int64)[lanes]
    return np.asarray(-(-lengths // units) * units, np.int64)


class _Lives:
    """The lives of a survey: originals first, then one after the other."""

    def __init__(self, survey: Survey, align: Sequence[int]) -> None:
        self._survey, self._align = survey, align
        originals = survey.originals
        self.lane = originals["lane"].astype(np.int64)
        self.length = aligned(np.ascontiguousarray(originals["length"]), self.lane, align)

    def chunks(
        self,
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]]:
        """Yield changes, and lengths and lanes of the lives that begin among them."""
        born = 0
        for changes in self._survey.changes.chunks():
            count = int(((changes >= 0) & (changes & 1 == 0)).sum())
            lengths, lanes = unpack(self._survey.lives.read(born, count))
            born += count
            yield changes, aligned(lengths, lanes, self._align), lanes


def measure(survey: Survey, align: Sequence[int]) -> NDArray[np.void]:
    """Return the peaks of each lane."""
    peaks = np.zeros(len(align), PEAK)
    peaks["shortest"] = np.iinfo(np.int64).max
    lives = _Lives(survey, align)
    for lane in range(len(align)):
        mine = lives.length[(lives.lane == lane) & (lives.length > 0)]
        peaks["objects"][lane], peaks["bytes"][lane] = len(mine), mine.sum()
        if len(mine):
            peaks["shortest"][lane], peaks["longest"][lane] = mine.min(), mine.max()
    peaks["objects_max"], peaks["bytes_max"] = peaks["objects"], peaks["bytes"]
    slot_length, slot_lane = np.zeros(survey.slots, np.int64), np.zeros(survey.slots, np.int64)
    for changes, lengths, lanes in lives.chunks():
        _measure(
            changes, lengths, lanes, survey.original_of, lives.length, lives.lane, slot_length,
            slot_lane, peaks,
        )  # fmt: skip
    return peaks


@kernel
def _measure(
    changes: NDArray[np.int64],
    lengths: NDArray[np.int64],
    lanes: NDArray[np.int64],
    original_of: NDArray[np.int64],
    original_length: NDArray[np.int64],
    original_lane: NDArray[np.int64],
    slot_length: NDArray[np.int64],
    slot_lane: NDArray[np.int64],
    peaks: NDArray[np.void],
) -> None:
    born = 0
    for at in range(changes.size):
        change = changes[at]
        slot = change >> 1
        if change < 0:
            if change == -1:
                continue
            original = original_of[-2 - change]
            if original < 0:
                continue
            length, lane, sign = original_length[original], original_lane[original], -1
        elif change & 1:
            length, lane, sign = slot_length[slot], slot_lane[slot], -1
        else:
            length, lane, sign = lengths[born], lanes[born], 1
            slot_length[slot], slot_lane[slot] = length, lane
            born += 1
        if length == 0:
            continue
        peak: Record = peaks[lane]
        peak.bytes += sign * length
        peak.objects += sign
        if sign > 0:
            peak.bytes_max = max(peak.bytes_max, peak.bytes)
            peak.objects_max = max(peak.objects_max, peak.objects)
            peak.shortest = min(peak.shortest, length)
            peak.longest = max(peak.longest, length)


def rehearse(survey: Survey, lanes: NDArray[np.void], align: Sequence[int]) -> NDArray[np.int64]:
    """Return where the space that the mixed ones of `lanes` use in all ends, lane by lane."""
    ground = make_ground(lanes.copy())
    lives = _Lives(survey, align)
    originals = np.zeros(len(lives.lane), np.int32)
    slots = np.zeros(survey.slots, np.int32)
    slot_lane = np.zeros(survey.slots, np.int64)
    births = np.arange(len(originals), dtype=np.int64) * 2
    ground = _follow_all(
        ground, births, lives.length, lives.lane, survey.original_of, originals, lives.lane,
        originals, np.zeros(len(originals), np.int64),
    )  # fmt: skip
    for changes, lengths, of_lane in lives.chunks():
        ground = _follow_all(
            ground, changes, lengths, of_lane, survey.original_of, originals, lives.lane, slots,
            slot_lane,
        )  # fmt: skip
    return np.asarray(ground.lanes["top"], np.int64)


def space_ends(
    survey: Survey, lanes: NDArray[np.void], align: NDArray[np.int64]
) -> tuple[int, ...]:
    """Return, per lane, where the space that the surveyed rows may use ends.

    Never-used space comes first: of a lane whose extents all have one length, each life takes
    some while there is any. Rows that are repeated for ever take all of it.
    """
    count, length = _extents(survey, lanes, align)
    room = (lanes["limit"] - lanes["top"]) // np.maximum(length, 1)
    endless = survey.repeats_from is not None
    if endless:
        count = room
    taken = np.where(lanes["kind"] == UNIFORM, np.minimum(count, room), count)
    ends = lanes["top"] + taken * length
    mixed = lanes["kind"] == MIXED
    if mixed.any():
        tops = rehearse(survey, lanes, align.tolist())
        ends = np.where(mixed, np.maximum(tops, lanes["limit"]) if endless else tops, ends)
    return tuple(ends.tolist())


def _extents(
    survey: Survey, lanes: NDArray[np.void], align: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return how many extents each lane gives in all, and the length of one of them."""
    count = np.zeros(len(lanes), np.int64)
    length = np.zeros(len(lanes), np.int64)
    originals = survey.originals
    first = (originals["length"], originals["lane"].astype(np.int64))
    for lengths, of_lane in chain([first], map(unpack, survey.lives.chunks())):
        of_lane, lengths = of_lane[lengths > 0], lengths[lengths > 0]
        count += np.bincount(of_lane, minlength=len(lanes))
        length[of_lane] = -(-lengths // align[of_lane]) * align[of_lane]
    return count, length


def _follow_all(ground: Ground, *columns: NDArray[Any]) -> Ground:
    """Follow all changes; return the ground, with as much room as they took."""
    cursor = np.zeros(2, np.int64)
    follow: Callable[..., bool] = _follow
    while not follow(ground, *columns, cursor):
        ground = enlarged(ground)
    return ground


@kernel
def _follow(
    ground: Ground,
    changes: NDArray[np.int64],
    lengths: NDArray[np.int64],
    lanes: NDArray[np.int64],
    original_of: NDArray[np.int64],
    originals: NDArray[np.int32],
    original_lane: NDArray[np.int64],
    slots: NDArray[np.int32],
    slot_lane: NDArray[np.int64],
    cursor: NDArray[np.int64],
) -> bool:
    """Follow the changes from `cursor` on; False where there have to be more nodes first."""
    for at in range(cursor[_CHANGES], changes.size):
        change = changes[at]
        slot = change >> 1
        lane, node = 0, 0
        if change < -1:
            original = original_of[-2 - change]
            if original >= 0:
                lane, node = original_lane[original], originals[original]
        elif change & 1:
            if change > 0:
                lane, node = slot_lane[slot], slots[slot]
        else:
            length, of_lane = lengths[cursor[_BIRTHS]], lanes[cursor[_BIRTHS]]
            slots[slot], slot_lane[slot] = 0, of_lane
            if length > 0 and ground.lanes[of_lane].kind == MIXED:
                if not nodes_have_room(ground, of_lane, length):
                    cursor[_CHANGES] = at
                    return False
                slots[slot] = occupy(ground, of_lane, length, 0)
            cursor[_BIRTHS] += 1
        if node:
            vacate(ground, lane, node, 0, 0)
    return True
