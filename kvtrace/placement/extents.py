"""Placement of objects on a target: the space offered, needed and granted."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from kvtrace.errors import TargetError
from kvtrace.placement.defaults import PART_BYTES
from kvtrace.placement.ground import LANE, MIXED, UNBOUNDED, UNIFORM
from kvtrace.placement.rehearsal import measure, rehearse
from kvtrace.trace.schema import Tier
from kvtrace.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from kvtrace.placement.survey import Survey

NO_LANE = -1
RESERVED_BYTES = 1 << 20
"""Of a device or file: extents start here, a replay's marker is before."""
SPACE_RATIO = 1.15
"""Most that is needed of a target, ÷ the live set, if the slack isn't more."""


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
    live_bytes: int
    """Most bytes that are live at once, each object rounded up to the alignment."""
    size_bytes: int
    """Space in which all extents find room: slack included, and what lies idle between them."""
    longest_bytes: int = 0
    """The longest object."""
    uniform_bytes: int = 0
    """Length of all objects; 0 where they differ."""

    @property
    def space_ratio(self) -> float:
        """Space needed ÷ live set."""
        return self.size_bytes / max(1, self.live_bytes)

    @property
    def text(self) -> str:
        """Live set and space needed, for people."""
        return (
            f"live at most {format_bytes(self.live_bytes)} in {self.live_objects_max:,} objects; "
            f"space needed {format_bytes(self.size_bytes)} ({self.space_ratio:.2f} x)"
        )


def pool_space(space: Space, need: Need) -> Space:
    """Return `space` of the size that it was given, or else that is needed."""
    size = align_up(max(1, space.size_bytes or need.size_bytes), space.align_bytes)
    return replace(space, size_bytes=size)


def needs(
    survey: Survey,
    spaces: tuple[Space, ...],
    slack_ratio: float,
    part_bytes: int = PART_BYTES,
) -> tuple[Need, ...]:
    """Return what each lane needs, so that `lanes` finds room for all extents in it.

    At most `SPACE_RATIO` times its live set, or that and slack if this is more. `part_bytes`: what
    an object is divided into where no free range holds it.
    """
    align = [space.align_bytes for space in spaces]
    peaks = measure(survey, align)
    needs: list[Need] = []
    for lane, space in enumerate(spaces):
        live_bytes = int(peaks["bytes_max"][lane])
        shortest, longest = int(peaks["shortest"][lane]), int(peaks["longest"][lane])
        needs.append(
            Need(
                live_objects_max=int(peaks["objects_max"][lane]),
                live_bytes=live_bytes,
                size_bytes=align_up(live_bytes + int(live_bytes * slack_ratio), space.align_bytes),
                longest_bytes=longest,
                uniform_bytes=longest if shortest == longest else 0,
            )
        )
    caps = [int(need.live_bytes * SPACE_RATIO) for need in needs]
    made = _lanes(needs, spaces, [need.size_bytes for need in needs], caps, part_bytes)
    if not any_mixed(made):
        return tuple(needs)
    tops = rehearse(survey, made, align)
    return tuple(
        replace(need, size_bytes=max(need.size_bytes, int(top) - space.begin_bytes))
        if kind == MIXED
        else need
        for need, space, kind, top in zip(needs, spaces, made["kind"], tops, strict=True)
    )


def lanes(
    wanted: tuple[Need, ...],
    spaces: tuple[Space, ...],
    slack_ratio: float,
    part_bytes: int = PART_BYTES,
) -> NDArray[np.void]:
    """Return how extents are laid out in `spaces`, which hold at least what is needed.

    All of a space is used before any of it is used again; of a space of just the size that is
    needed, the live set and the slack, as it was when the need was found.
    """
    caps = [space.size_bytes or need.size_bytes for space, need in zip(spaces, wanted, strict=True)]
    limits = [
        align_up(need.live_bytes + int(need.live_bytes * slack_ratio), space.align_bytes)
        if cap == need.size_bytes
        else cap
        for need, space, cap in zip(wanted, spaces, caps, strict=True)
    ]
    return _lanes(wanted, spaces, limits, caps, part_bytes)


def _lanes(
    wanted: Sequence[Need],
    spaces: tuple[Space, ...],
    limits: Sequence[int],
    caps: Sequence[int],
    part_bytes: int,
) -> NDArray[np.void]:
    """Return lanes without extents; `limits` and `caps` count from where their spaces begin."""
    made = np.zeros(len(spaces), LANE)
    for lane, (need, space) in enumerate(zip(wanted, spaces, strict=True)):
        kind = UNIFORM if need.uniform_bytes or not need.longest_bytes else MIXED
        align, begin = space.align_bytes, space.begin_bytes
        item = made[lane : lane + 1]
        item["kind"] = UNBOUNDED if space.unbounded else kind
        item["top"], item["limit"] = begin, begin + limits[lane] // align * align
        item["cap"] = max(begin + caps[lane] // align * align, int(item["limit"][0]))
        item["part"] = align_up(part_bytes, align)
    return made


def any_mixed(made: NDArray[np.void]) -> bool:
    """Whether some lane's objects may have several extents."""
    return bool((made["kind"] == MIXED).any())


def check_fits(need: Need, space: Space, where: object) -> None:
    """Return if the space needed is there. Raises TargetError with the figures."""
    if space.unbounded or space.size_bytes is None or need.size_bytes <= space.size_bytes:
        return
    raise TargetError(
        "the target is smaller than the trace needs",
        where=where,
        got=f"{format_bytes(space.size_bytes)} for extents",
        accepted=f"at least {format_bytes(need.size_bytes)}: {need.text}",
        hint="take a larger --size or device, a trace of a smaller tier, or less --slack",
    )
