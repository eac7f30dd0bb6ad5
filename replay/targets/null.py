"""Completes at once: what is measured is the tool itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kvtrace.fields import Section
from kvtrace.placement.extents import Need, Space
from kvtrace.trace.schema import Tier
from replay.ops.contract import Lane, LaneKind
from replay.targets import Bookkeeper
from replay.targets.support import declared

if TYPE_CHECKING:
    from pathlib import Path

    from replay.targets import RunMark, TargetSpec

TIERS = tuple(Tier)
_ALIGN_BYTES = 4096


class Options(Section):
    """What may be said of it."""

    extent_align_bytes: declared.ExtentAlign = None


def unavailable() -> str | None:
    """Return None: it is always there."""
    return None


@dataclass(slots=True)
class NullTarget(Bookkeeper):
    """Nothing."""

    spec: TargetSpec
    title: str = "null"
    device: Path | None = None

    def space(self) -> Space:
        """Return space without end."""
        return Space(self.spec.extent_align_bytes or _ALIGN_BYTES, unbounded=True)

    def authorise(self, *, writes: bool) -> None:
        """Nothing can be harmed."""

    def reserve(self, need: Need) -> Space:
        """Return space without end."""
        return self.space()

    def open(self, space: Space, mark: RunMark, *, writes: bool) -> None:
        """Nothing to open."""

    def lane(self, queue_depth: int, io_bytes: int) -> Lane:
        """Return a lane whose ops complete at once."""
        return Lane(LaneKind.NULL, queue_depth, io_bytes)

    def close(self) -> None:
        """Nothing to release."""


def make(spec: TargetSpec) -> NullTarget:
    """Return a null target."""
    return NullTarget(spec)
