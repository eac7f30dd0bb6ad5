"""Where objects live on a target: extents in size classes, and how much space they need."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from kvtrace.errors import TargetError
from kvtrace.jit import compiled
from kvtrace.units import format_bytes

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from replay.survey import Survey

EXACT_CLASSES = 256
"""Up to so many distinct lengths have a class each; more are rounded up by at most 1/16."""
UNBOUNDED = 1 << 62
NO_CLASS = -1


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


@dataclass(frozen=True, slots=True)
class Need:
    """What the trace needs of one lane's target."""

    live_objects_max: int
    extent_bytes: int
    """Peak of live extents, class by class."""
    slack_bytes: int

    @property
    def size_bytes(self) -> int:
        """Extents and slack."""
        return self.extent_bytes + self.slack_bytes


@dataclass(frozen=True, slots=True)
class Classes:
    """Size classes of all lanes. `of_object` is indexed [key index, lane]."""

    of_object: NDArray[np.int32]
    length_bytes: NDArray[np.int64]
    lane: NDArray[np.int64]
    peak: NDArray[np.int64]
    """Most extents that are live at once."""


def round_lengths(lengths: NDArray[np.int64], align: int) -> NDArray[np.int64]:
    """Return the extent length of each object length."""
    aligned = -(-lengths // align) * align
    if len(np.unique(aligned)) <= EXACT_CLASSES:
        return np.asarray(aligned, np.int64)
    exponent = np.floor(np.log2(np.maximum(aligned, 1))).astype(np.int64)
    step = np.maximum(np.left_shift(np.int64(1), np.maximum(exponent - 4, 0)), 1)
    step = -(-step // align) * align
    return np.asarray(-(-aligned // step) * step, np.int64)


def classify(survey: Survey, spaces: tuple[Space, ...]) -> Classes:
    """Return the classes of the surveyed objects, with their peaks."""
    objects = survey.objects
    of_object = np.full(objects.shape, NO_CLASS, np.int32)
    lengths: list[NDArray[np.int64]] = []
    lanes: list[int] = []
    first = 0
    for lane, space in enumerate(spaces):
        used = np.flatnonzero(objects["length"][:, lane] > 0)
        rounded = round_lengths(objects["length"][used, lane], space.align_bytes)
        unique, index = np.unique(rounded, return_inverse=True)
        of_object[used, lane] = first + index
        lengths.append(unique)
        lanes += [lane] * len(unique)
        first += len(unique)
    peak = _peaks(survey.births_deaths, of_object.reshape(-1), first)
    before = (objects["initial"] | objects["resident"]) > 0
    peak += np.bincount(of_object[before & (of_object >= 0)], minlength=first)
    joined = np.concatenate(lengths) if lengths else np.zeros(0, np.int64)
    return Classes(of_object, joined, np.array(lanes, np.int64), peak)


@compiled
def _peaks(
    births_deaths: NDArray[np.int64], class_of: NDArray[np.int32], classes: int
) -> NDArray[np.int64]:
    live = np.zeros(classes, np.int64)
    peak = np.zeros(classes, np.int64)
    for event in births_deaths:
        kind = class_of[abs(event) - 1]
        if kind < 0:
            continue
        live[kind] += 1 if event > 0 else -1
        peak[kind] = max(peak[kind], live[kind])
    return peak


def needs(classes: Classes, lanes: int, slack_ratio: float) -> tuple[Need, ...]:
    """Return what each lane needs."""
    found = []
    for lane in range(lanes):
        mine = classes.lane == lane
        peak, length = classes.peak[mine], classes.length_bytes[mine]
        extent_bytes = int((peak * length).sum())
        found.append(
            Need(
                int(peak.sum()),
                extent_bytes,
                int(extent_bytes * slack_ratio),
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
        need = int((classes.peak[mine] * classes.length_bytes[mine]).sum())
        assert space.size_bytes is not None
        assert need <= space.size_bytes
        if need:
            spare = space.size_bytes - need
            quota[mine] += [int(peak) * spare // need for peak in classes.peak[mine]]
    return quota
