"""Open arrivals: when sessions begin so that requests come at a rate."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from kvtrace.units import S_NS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kvtrace.requests.source_config import SourceConfig

ARRIVAL_KEYS = frozenset(
    {"users", "rate", "arrival", "gamma_shape", "diurnal_amplitude", "diurnal_period"}
)
"""Configuration keys of every source whose sessions begin by an arrival process."""


def gaps_ns(
    config: SourceConfig, rng: np.random.Generator, mean_turns: float, count: int
) -> NDArray[np.int64]:
    """Return gaps between sessions: their rate times the mean turns is the request rate."""
    assert config.rate is not None
    mean_ns = S_NS * mean_turns / config.rate
    if config.arrival == "constant":
        gaps = np.full(count, mean_ns)
    elif config.arrival in ("poisson", "diurnal"):
        gaps = rng.exponential(mean_ns, count)
    else:
        gaps = rng.gamma(config.gamma_shape, mean_ns / config.gamma_shape, count)
    rounded: NDArray[np.int64] = np.maximum(np.rint(gaps), 1).astype(np.int64)
    return rounded


def of_the_day(config: SourceConfig, even_ns: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return arrivals at the mean rate moved to where the day's rate has brought as many.

    The rate is R · (1 + a · sin(2πt / P)), its integral t + aP/2π · (1 − cos(2πt / P)) times R.
    """
    if config.arrival != "diurnal":
        return even_ns
    period, swing = config.diurnal_period, config.diurnal_amplitude
    scale = swing * period / (2 * np.pi)
    low, high = even_ns - 2.0 * scale, even_ns.astype(np.float64)
    for _ in range(64):
        middle = (low + high) / 2
        early = middle + scale * (1 - np.cos(2 * np.pi * middle / period)) < even_ns
        low, high = np.where(early, middle, low), np.where(early, high, middle)
    moved: NDArray[np.int64] = np.maximum.accumulate(np.rint(high).astype(np.int64))
    return moved
