"""Where objects live on a target: extents in size classes, and how much space they need."""

from __future__ import annotations

import operator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from kvtrace.errors import TargetError
from kvtrace.jit import kernel
from kvtrace.placement.objects import LANE_BITS
from kvtrace.placement.places import UNBOUNDED
from kvtrace.schema import Tier
from kvtrace.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from kvtrace.placement.survey import Survey

EXACT_CLASSES = 256
"""Up to so many distinct lengths have a class each; more are rounded up by at most 1/16."""
NO_CLASS = -1
NO_LANE = -1
RESERVED_BYTES = 1 << 20
"""Of a device or file: extents start here, a replay's marker is before."""
SLACK_RATIO = 0.05
"""More space than the live set needs, unless asked otherwise."""


def lane_of_tier(tiers: tuple[Tier, ...]) -> NDArray[np.int8]:
    """Return the lane of each tier, `NO_LANE` where it isn't among `tiers`."""
    lanes = np.full(len(Tier), NO_LANE, np.int8)
    for lane, tier in enumerate(tiers):
        lanes[tier] = lane
    return lanes


def align_up(value: int, align: int) -> int:
    """Return the first multiple of `align` that isn't below `value`."""
    return -(-value // align) * align


@dataclass(frozen=True, slots=True)
class Space:
    """What a lane's target offers to extents: [begin, begin + size), `None` = as much as needed."""

    align_bytes: int
    begin_bytes: int = 0
    size_bytes: int | None = None
    unbounded: bool = False
    """Offsets mean nothing (null target): no extent is ever reused."""
    per_object: bool = False
    """Each object has a file of its own, in which its offsets are."""


@dataclass(frozen=True, slots=True)
class Need:
    """What the trace needs of one lane's target."""

    live_objects_max: int
    extent_bytes: int
    """Peak of live extents, class by class."""
    slack_bytes: int
    longest_bytes: int = 0
    """Longest extent."""

    @property
    def size_bytes(self) -> int:
        """Extents and slack."""
        return self.extent_bytes + self.slack_bytes


def pool_space(space: Space, need: Need) -> Space:
    """Return `space` of the size that it was given, or else that is needed."""
    size = align_up(max(1, space.size_bytes or need.size_bytes), space.align_bytes)
    return replace(space, size_bytes=size)


@dataclass(frozen=True, slots=True)
class Rounding:
    """How a lane's objects become extents: exactly, or by at most 1/16 longer."""

    align_bytes: int
    exact: bool

    def of(self, lengths: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the extent length of each object length above 0."""
        aligned = -(-lengths // self.align_bytes) * self.align_bytes
        if self.exact:
            return np.asarray(aligned, np.int64)
        exponent = np.floor(np.log2(np.maximum(aligned, 1))).astype(np.int64)
        step = np.maximum(np.left_shift(np.int64(1), np.maximum(exponent - 4, 0)), 1)
        step = -(-step // self.align_bytes) * self.align_bytes
        return np.asarray(-(-aligned // step) * step, np.int64)


@dataclass(frozen=True, slots=True)
class Classes:
    """Size classes of all lanes, those of one lane side by side, shortest first."""

    length_bytes: NDArray[np.int64]
    lane: NDArray[np.int64]
    peak: NDArray[np.int64]
    """Most extents that are live at once."""
    first: tuple[int, ...]
    """Per lane: its first class; one more for the end."""
    rounding: tuple[Rounding, ...]

    def of(self, lengths: NDArray[np.int64], lanes: NDArray[np.int64]) -> NDArray[np.int32]:
        """Return the class of each object, `NO_CLASS` for those of length 0."""
        found = np.full(len(lengths), NO_CLASS, np.int32)
        for lane, rounding in enumerate(self.rounding):
            mine = np.flatnonzero((lanes == lane) & (lengths > 0))
            begin, end = self.first[lane], self.first[lane + 1]
            rounded = rounding.of(lengths[mine])
            found[mine] = begin + np.searchsorted(self.length_bytes[begin:end], rounded)
        return found


def unpack(packed: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return lengths and lanes of what a survey has spooled."""
    return packed >> LANE_BITS, packed & ((1 << LANE_BITS) - 1)


def _lengths(survey: Survey) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yield lengths and lanes of all objects, some at a time."""
    yield survey.originals["length"], survey.originals["lane"].astype(np.int64)
    for packed in survey.lives.chunks():
        yield unpack(packed)


def _distinct(survey: Survey, lane: int, align: int) -> tuple[Rounding, NDArray[np.int64]]:
    """Return how a lane's lengths are rounded, and all extent lengths that come of it."""
    exact = _rounded(survey, lane, Rounding(align, exact=True), EXACT_CLASSES)
    if exact is not None:
        return Rounding(align, exact=True), exact
    rounding = Rounding(align, exact=False)
    rounded = _rounded(survey, lane, rounding, None)
    assert rounded is not None
    return rounding, rounded


def _rounded(
    survey: Survey, lane: int, rounding: Rounding, most: int | None
) -> NDArray[np.int64] | None:
    """Return all extent lengths of a lane; None if there are more than `most`."""
    found = np.zeros(0, np.int64)
    for lengths, lanes in _lengths(survey):
        found = np.union1d(found, rounding.of(lengths[(lanes == lane) & (lengths > 0)]))
        if most is not None and len(found) > most:
            return None
    return found


def classify(survey: Survey, spaces: tuple[Space, ...]) -> Classes:
    """Return the classes of the surveyed objects, with their peaks."""
    parts = [_distinct(survey, lane, space.align_bytes) for lane, space in enumerate(spaces)]
    counts = [len(lengths) for _, lengths in parts]
    classes = Classes(
        length_bytes=np.concatenate([lengths for _, lengths in parts]),
        lane=np.repeat(np.arange(len(spaces)), counts),
        peak=np.zeros(sum(counts), np.int64),
        first=(0, *np.cumsum(counts).tolist()),
        rounding=tuple(rounding for rounding, _ in parts),
    )
    _find_peaks(survey, classes)
    return classes


def _find_peaks(survey: Survey, classes: Classes) -> None:
    """Fill in how many extents of each class are live at most."""
    there = classes.of(survey.originals["length"], survey.originals["lane"].astype(np.int64))
    live = np.bincount(there[there >= 0], minlength=len(classes.peak)).astype(np.int64)
    classes.peak[:] = live
    born = 0
    for changes in survey.changes.chunks():
        births = changes == 0
        count = int(births.sum())
        kinds = np.empty(len(changes), np.int32)
        kinds[births] = classes.of(*unpack(survey.lives.read(born, count)))
        kinds[~births] = classes.of(*unpack(-1 - changes[~births]))
        born += count
        _follow(births, kinds, live, classes.peak)


@kernel
def _follow(
    births: NDArray[np.bool_],
    kinds: NDArray[np.int32],
    live: NDArray[np.int64],
    peak: NDArray[np.int64],
) -> None:
    for at in range(kinds.size):
        kind = kinds[at]
        if kind >= 0:
            live[kind] += 1 if births[at] else -1
            peak[kind] = max(peak[kind], live[kind])


def _total(counts: NDArray[np.int64], lengths: NDArray[np.int64]) -> int:
    """Return what all extents take; alignment may carry that beyond 64 bits."""
    return sum(map(operator.mul, counts.tolist(), lengths.tolist()))


def needs(classes: Classes, lanes: int, slack_ratio: float) -> tuple[Need, ...]:
    """Return what each lane needs."""
    found = []
    for lane in range(lanes):
        mine = classes.lane == lane
        peak, length = classes.peak[mine], classes.length_bytes[mine]
        extent_bytes = _total(peak, length)
        found.append(
            Need(
                int(peak.sum()),
                extent_bytes,
                int(extent_bytes * slack_ratio),
                int(length.max(initial=0)),
            )
        )
    return tuple(found)


def check_fits(need: Need, space: Space, where: object) -> None:
    """Return if the live set and its slack fit. Raises TargetError with the figures."""
    if space.unbounded or space.size_bytes is None or need.size_bytes <= space.size_bytes:
        return
    raise TargetError(
        "the trace's live set doesn't fit",
        where=where,
        got=f"{format_bytes(space.size_bytes)} for extents",
        accepted=f"{format_bytes(need.extent_bytes)} live at most in {need.live_objects_max:,} "
        f"objects, and {format_bytes(need.slack_bytes)} slack",
        hint="take a larger --size or device, a trace of a smaller tier, or less --slack",
    )


def quotas(classes: Classes, spaces: tuple[Space, ...]) -> NDArray[np.int64]:
    """Return how many extents each class may take from never-used space: all fit side by side.

    What a target has beyond the need is shared in proportion, so that the run uses all of it.
    """
    quota = classes.peak.copy()
    for lane, space in enumerate(spaces):
        mine = np.flatnonzero(classes.lane == lane)
        if space.unbounded:
            quota[mine] = UNBOUNDED
            continue
        need = _total(classes.peak[mine], classes.length_bytes[mine])
        assert space.size_bytes is not None
        assert need <= space.size_bytes
        if need:
            spare = space.size_bytes - need
            quota[mine] += [int(peak) * spare // need for peak in classes.peak[mine]]
    return quota
