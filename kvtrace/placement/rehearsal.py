"""A surveyed trace's live set, and the space of its extents."""

from __future__ import annotations

import ctypes
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

from kvtrace.native.core import function
from kvtrace.native.library import I32, I64, INT, POINTER, contiguous
from kvtrace.native.structures import Structure, fields, records
from kvtrace.placement.ground import MIXED, UNIFORM, make_ground
from kvtrace.placement.objects import LANE_BITS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from kvtrace.placement.ground import Ground
    from kvtrace.placement.survey import Survey

PEAK = np.dtype(
    [
        (name, "i8")
        for name in ("objects", "bytes", "objects_max", "bytes_max", "shortest", "longest")
    ]
)
"""Of a lane: what is live, the most that ever was, and its shortest and longest extent."""
_measure = function("kv_measure_lives", POINTER, I64, I64, I64, I64, records(PEAK))
_follow = function("kv_follow_lives", POINTER, POINTER, I32, I64, I32, I64, returns=ctypes.c_bool)


class Changes(Structure):
    """Some changes, and the lives that begin among them: `struct kv_changes` of rehearsal.c."""

    ARRAYS, _fields_ = fields(
        changes=np.int64, count=INT, lengths=np.int64, lanes=np.int64, original_of=np.int64,
        at=INT, born=INT,
    )  # fmt: skip


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
        self.length = aligned(contiguous(originals["length"]), self.lane, align)

    def originals(self) -> Changes:
        """Return the births of the originals, as if the index of each were its slot."""
        return self._changes(np.arange(len(self.lane)) * 2, self.length, self.lane)

    def chunks(self) -> Iterator[Changes]:
        """Yield changes, with the lives that begin among them."""
        born = 0
        for changes in self._survey.changes.chunks():
            count = int(((changes >= 0) & (changes & 1 == 0)).sum())
            lengths, lanes = unpack(self._survey.lives.read(born, count))
            born += count
            yield self._changes(changes, aligned(lengths, lanes, self._align), lanes)

    def _changes(
        self, changes: NDArray[np.int64], lengths: NDArray[np.int64], lanes: NDArray[np.int64]
    ) -> Changes:
        original_of = self._survey.original_of
        return Changes(
            changes=changes, count=len(changes), lengths=lengths, lanes=lanes,
            original_of=original_of,
        )  # fmt: skip


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
    for changes in lives.chunks():
        _measure(changes, lives.length, lives.lane, slot_length, slot_lane, peaks)
    return peaks


def rehearse(survey: Survey, lanes: NDArray[np.void], align: Sequence[int]) -> NDArray[np.int64]:
    """Return where the space that the mixed ones of `lanes` use in all ends, lane by lane."""
    ground = make_ground(lanes.copy())
    lives = _Lives(survey, align)
    originals = np.zeros(len(lives.lane), np.int32)
    slots = np.zeros(survey.slots, np.int32)
    slot_lane = np.zeros(survey.slots, np.int64)
    zeros = np.zeros(len(originals), np.int64)
    _follow_all(lives.originals(), ground, originals, lives.lane, originals, zeros)
    for changes in lives.chunks():
        _follow_all(changes, ground, originals, lives.lane, slots, slot_lane)
    return np.asarray(ground.spaces["top"], np.int64)


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


def _follow_all(
    changes: Changes,
    ground: Ground,
    originals: NDArray[np.int32],
    original_lane: NDArray[np.int64],
    slots: NDArray[np.int32],
    slot_lane: NDArray[np.int64],
) -> None:
    """Follow all changes; `originals`, `slots`: the first node of what is live."""
    while not _follow(changes, ground, originals, original_lane, slots, slot_lane):
        ground.enlarge()
