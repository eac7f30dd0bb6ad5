"""Statistics of one figure over trials: mean, spread, confidence interval, outliers."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_T_95 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160,
    2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056,
    2.052, 2.048, 2.045, 2.042,
)  # fmt: skip
"""Student's t, two-sided 95 %, for 1 to 30 degrees of freedom. Source: NIST/SEMATECH e-Handbook of
Statistical Methods, 1.3.6.7.2."""
_T_95_MORE = 1.960
ODD_SCORE = 3.5
"""Source: Iglewicz and Hoaglin, How to Detect and Handle Outliers (1993): |modified z| above it."""
_TO_SIGMA = 0.6745


@dataclass(frozen=True, slots=True)
class Spread:
    """Of one figure over trials. Without a second trial nothing is known of its noise (None)."""

    count: int
    mean: float
    median: float
    low: float
    high: float
    deviation: float | None
    """Standard deviation of the trials."""
    cv_ratio: float | None
    """Deviation ÷ mean."""
    ci95: tuple[float, float] | None
    """The mean's confidence interval, 95 %; of values that can't be negative it is above 0."""
    odd: tuple[int, ...]
    """Indices of trials far from the others."""


def spread(values: Sequence[float]) -> Spread:
    """Return what `values`, at least one, say together."""
    count, mean = len(values), statistics.fmean(values)
    deviation = statistics.stdev(values) if count > 1 else None
    return Spread(
        count=count,
        mean=mean,
        median=statistics.median(values),
        low=min(values),
        high=max(values),
        deviation=deviation,
        cv_ratio=deviation / mean if deviation is not None and mean else None,
        ci95=None if deviation is None else _interval(values, mean, deviation),
        odd=odd(values),
    )


def _interval(values: Sequence[float], mean: float, deviation: float) -> tuple[float, float]:
    """Return the mean's interval by Student's t, on a log scale unless a value is negative.

    The logarithm of a mean has the standard error SE ÷ mean (delta method), so that the interval is
    mean × e^(± t · SE ÷ mean): never below 0, about the mean, and for small noise mean ± t · SE.
    """
    half = t_95(len(values) - 1) * deviation / math.sqrt(len(values))
    if min(values) < 0:
        return mean - half, mean + half
    if not mean:
        return 0.0, 0.0
    factor = math.exp(half / mean)  # of at most t, as no deviation exceeds mean · √n
    return mean / factor, mean * factor


def t_95(freedom: float) -> float:
    """Return Student's t for a two-sided 95 %; of a broken number of degrees that of the lower."""
    whole = int(freedom)
    return _T_95[max(1, whole) - 1] if whole <= len(_T_95) else _T_95_MORE


def odd(values: Sequence[float]) -> tuple[int, ...]:
    """Return the indices of values that lie far from the median, of at least four.

    Where more than half are equal, whatever differs from them by more than 1 % is odd.
    """
    if len(values) < 4:
        return ()
    middle = statistics.median(values)
    away = [abs(value - middle) for value in values]
    usual = statistics.median(away)
    if not usual:
        return tuple(at for at, far in enumerate(away) if far > abs(middle) * 0.01)
    return tuple(at for at, far in enumerate(away) if _TO_SIGMA * far / usual > ODD_SCORE)


def differs(one: Sequence[float], other: Sequence[float]) -> bool | None:
    """Return whether the means differ by more than the noise (Welch, 95 %); None: not known."""
    if min(len(one), len(other)) < 2:
        return None
    parts = [statistics.variance(values) / len(values) for values in (one, other)]
    gap = abs(statistics.fmean(one) - statistics.fmean(other))
    total = sum(parts)
    if not total:
        return gap > 0
    below = sum(
        part**2 / (len(values) - 1) for part, values in zip(parts, (one, other), strict=True)
    )
    return gap > t_95(total**2 / below) * math.sqrt(total)
