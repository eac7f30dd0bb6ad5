"""Steady-state test of SNIA's SSD performance test specification."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

WINDOWS = 5
RANGE_RATIO_MAX = 0.20
SLOPE_RATIO_MAX = 0.10


@dataclass(frozen=True, slots=True)
class Steadiness:
    """The last five windows: their average, and range and slope as parts of it.

    `slope_ratio` is how far the best straight line through them rises or falls within them.
    """

    average: float
    range_ratio: float
    slope_ratio: float

    @property
    def steady(self) -> bool:
        """Whether both are within their limits."""
        return self.range_ratio <= RANGE_RATIO_MAX and self.slope_ratio <= SLOPE_RATIO_MAX


def assess(rates: Sequence[float]) -> Steadiness | None:
    """Return how steady the last five of `rates` are; None if there are fewer.

    Source: SNIA Solid State Storage Performance Test Specification 2.0.2, "steady state": range at
    most 20 % of the average, excursion of the least-squares line at most 10 % of it.
    """
    if len(rates) < WINDOWS:
        return None
    last = np.asarray(rates[-WINDOWS:], float)
    average = float(last.mean())
    if average <= 0:
        return Steadiness(average, float("inf"), float("inf"))
    slope = float(np.polyfit(np.arange(WINDOWS), last, 1)[0])
    return Steadiness(average, float(np.ptp(last)) / average, abs(slope) * (WINDOWS - 1) / average)
