"""Copies between the payload and a preallocated pool of memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kvtrace.errors import TargetError
from kvtrace.fields import Section
from kvtrace.placement.extents import Need, Space, pool_space
from kvtrace.trace.schema import Tier
from kvtrace.units import format_bytes
from replay.engine.native import allocate
from replay.ops.contract import Lane, LaneKind
from replay.payload.stamps import available_bytes
from replay.targets import Bookkeeper
from replay.targets.support import declared

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from replay.targets import RunMark, TargetSpec

TIERS = (Tier.CPU,)
_ALIGN_BYTES = 4096
_USABLE_RATIO = 0.8


class Options(Section):
    """What may be said of it."""

    extent_align_bytes: declared.ExtentAlign = None


def unavailable() -> str | None:
    """Return None: it is always there."""
    return None


@dataclass(slots=True)
class MemoryTarget(Bookkeeper):
    """A pool of memory, of the size that the trace needs."""

    spec: TargetSpec
    device: Path | None = None
    page_kind: str = ""
    _pool: NDArray[np.uint8] | None = None

    @property
    def title(self) -> str:
        """Size and pages of the pool."""
        if self._pool is None:
            return "memory"
        return f"memory, {format_bytes(len(self._pool))} on {self.page_kind} pages"

    def space(self) -> Space:
        """Return space for what is needed."""
        return Space(self.spec.extent_align_bytes or _ALIGN_BYTES, 0, self.spec.size_bytes)

    def authorise(self, *, writes: bool) -> None:
        """Nothing can be harmed."""

    def reserve(self, need: Need) -> Space:
        """Return space for what is needed. Raises TargetError if there isn't enough memory."""
        space = pool_space(self.space(), need)
        usable = int(available_bytes() * _USABLE_RATIO)
        if (size := space.size_bytes or 0) > usable:
            raise TargetError(
                "the trace needs more memory than there is",
                where="--cpu memory",
                got=f"{format_bytes(size)} needed: {need.text}",
                accepted=f"{format_bytes(usable)}, {_USABLE_RATIO:.0%} of what is free",
                hint="record with a smaller --cpu-mem, or use --cpu none",
            )
        return space

    def open(self, space: Space, mark: RunMark, *, writes: bool) -> None:
        """Take the memory."""
        assert space.size_bytes is not None
        self._pool, kind = allocate(space.size_bytes)
        self.page_kind = str(kind)

    def lane(self, queue_depth: int, io_bytes: int) -> Lane:
        """Return a lane that copies to and from the pool."""
        return Lane(LaneKind.MEMORY, queue_depth, io_bytes, pool=self._pool)

    def close(self) -> None:
        """Free the pool."""
        self._pool = None


def make(spec: TargetSpec) -> MemoryTarget:
    """Return a memory target."""
    return MemoryTarget(spec)
