"""A surveyed trace with space for its objects: what an exporter to offsets needs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from kvtrace.errors import UsageError
from kvtrace.placement import defaults, extents
from kvtrace.placement.allocator import Allocator
from kvtrace.placement.extents import RESERVED_BYTES, Need, Space, align_up, lane_of_tier
from kvtrace.placement.rows import TraceRows
from kvtrace.placement.survey import Survey, survey
from kvtrace.trace.schema import Op, Tier

if TYPE_CHECKING:
    from kvtrace.trace.reader import Trace


@dataclass(frozen=True, slots=True)
class Prepared:
    """What places the rows of a trace, and what was found of them."""

    allocator: Allocator
    survey: Survey
    needs: tuple[Need, ...]

    def count(self, tiers: tuple[Tier, ...], op: Op) -> int:
        """Return how many rows of some tiers do that."""
        return int(self.survey.cell_ops[list(tiers), :, op].sum())

    @property
    def before_bytes(self) -> tuple[int, int]:
        """Count and bytes of the objects that are read without having been written."""
        originals = self.survey.originals
        read = (originals["initial"] > 0) & (originals["deleted"] == 0)
        read |= (originals["resident"] > 0) & (originals["touched"] > 0)
        return int(read.sum()), int(originals["length"][read].sum())


def prepare(
    trace: Trace,
    tiers: tuple[Tier, ...],
    *,
    align_bytes: int,
    size_bytes: int | None = None,
    per_object: bool = False,
    part_bytes: int = defaults.PART_BYTES,
) -> Prepared:
    """Return what places the rows of `tiers`, as a replay with the same alignment and size does.

    Extents are behind the first MiB; those of one tier come after those of the one before.
    `size_bytes`: of the device, None where it is as large as needed. `part_bytes`: what an object
    is divided into where no free range holds it. Raises UsageError if the tiers move nothing,
    TraceError for a bad trace, TargetError if they need more space.
    """
    lanes = lane_of_tier(tiers)
    surveyed = survey(TraceRows(trace), lanes)
    moved = surveyed.cell_ops[list(tiers)][:, :, [Op.READ, Op.WRITE]]
    if not moved.any():
        tiers_with_rows = [tier.label for tier in Tier if surveyed.cell_ops[tier].any()]
        raise UsageError(
            "nothing to export",
            where=trace.path,
            got=f"no read or write of {', '.join(tier.label for tier in tiers)}",
            accepted=f"tiers of the trace: {', '.join(tiers_with_rows) or 'none'}",
            hint="name them by --tiers",
        )
    begin = 0 if per_object else align_up(RESERVED_BYTES, align_bytes)
    offered = (Space(align_bytes, begin, unbounded=per_object, per_object=per_object),) * len(tiers)
    needs = extents.needs(surveyed, offered, defaults.SLACK_RATIO, part_bytes)
    spaces = offered if per_object else _side_by_side(offered, needs, size_bytes, trace.path)
    made = extents.lanes(needs, spaces, defaults.SLACK_RATIO, part_bytes)
    allocator = Allocator(surveyed, made, spaces, lanes, trace.path)
    return Prepared(allocator, surveyed, needs)


def _side_by_side(
    offered: tuple[Space, ...], needs: tuple[Need, ...], size_bytes: int | None, where: object
) -> tuple[Space, ...]:
    """Return a space for each lane, one behind the other; the last has what is left."""
    begin = offered[0].begin_bytes
    align = offered[0].align_bytes
    sizes = [align_up(max(1, need.size_bytes), align) for need in needs]
    if size_bytes is not None:
        left = max(0, size_bytes - begin - sum(sizes[:-1])) // align * align
        extents.check_fits(needs[-1], replace(offered[-1], size_bytes=left), where)
        sizes[-1] = left
    begins = begin + np.cumsum([0, *sizes[:-1]])
    return tuple(
        replace(space, begin_bytes=int(at), size_bytes=size)
        for space, at, size in zip(offered, begins, sizes, strict=True)
    )
