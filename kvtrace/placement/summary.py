"""Space that each tier of a trace needs, from a file or from rows as they are made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kvtrace.placement import defaults, extents
from kvtrace.placement.extents import Need, Space, lane_of_tier
from kvtrace.placement.rows import Chunk, TraceRows, batches_of
from kvtrace.placement.survey import Surveyor, survey
from kvtrace.trace.schema import Op, Tier

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from kvtrace.placement.survey import Survey
    from kvtrace.trace.reader import Trace

ALIGN_BYTES = 4096
"""Alignment of extents on most targets."""
_ALL = tuple(Tier)


def needs_of(trace: Trace) -> dict[Tier, Need]:
    """Return what each tier that holds objects needs. Raises TraceError for a dead read."""
    return _needs(survey(TraceRows(trace), lane_of_tier(_ALL)))


def _needs(surveyed: Survey) -> dict[Tier, Need]:
    needs = extents.needs(surveyed, (Space(ALIGN_BYTES),) * len(_ALL), defaults.SLACK_RATIO)
    used = surveyed.cell_ops.sum(axis=1)
    return {
        tier: need
        for tier, need in zip(_ALL, needs, strict=True)
        if need.live_objects_max or used[tier, [Op.READ, Op.WRITE, Op.DELETE]].any()
    }


class NeedCounter:
    """Takes the rows of a trace as they are made. Nothing is read before it was written."""

    def __init__(self) -> None:
        self._lanes = lane_of_tier(_ALL)
        self._surveyor = Surveyor(len(_ALL))
        self._rows = 0

    def add_resident(self, resident: NDArray[np.void]) -> None:
        """Take the objects that are there before the first row."""
        self._surveyor.add_resident(resident, self._lanes)

    def add(self, columns: dict[str, NDArray[Any]]) -> None:
        """Take the next rows."""
        for batch in batches_of(Chunk(columns), self._rows):
            self._surveyor.add(batch, self._lanes)
        self._rows += len(columns["timestamp"])

    def needs(self) -> dict[Tier, Need]:
        """Return each tier's need."""
        self._surveyor.finish()
        return _needs(self._surveyor.result(self._rows, 0, None, 0))
