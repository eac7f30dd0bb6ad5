"""Figures of comparisons as people read them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvtrace.units import MS_NS, S_NS, US_NS, format_count
from replay.compare.figures import BYTES_PER_S, NS, PER_S, RATIO
from replay.report.support.cells import FEW_MARK, FEW_NOTE

if TYPE_CHECKING:
    from replay.compare.document import FigureDocument, SpreadDocument

__all__ = ["FEW_MARK", "FEW_NOTE"]
_SCALES = {
    NS: (("s", S_NS), ("ms", MS_NS), ("µs", US_NS), ("ns", 1)),
    BYTES_PER_S: (("GB/s", 10**9), ("MB/s", 10**6), ("kB/s", 10**3), ("B/s", 1)),
}
_FAR_APART = 100
"""Ends whose ratio is larger have no unit that shows both."""
_GB_FROM = 10**7
"""Rates are in GB/s from here on: 0.010 GB/s."""


def scale(number: float, unit: str) -> tuple[str, float]:
    """Return the unit in which people read a figure of that size, and what it is divided by."""
    if unit == BYTES_PER_S and abs(number) >= _GB_FROM:
        return _SCALES[unit][0]
    for name, factor in _SCALES.get(unit, ()):
        if abs(number) >= factor:
            return name, factor
    return _SCALES[unit][-1] if unit in _SCALES else ("" if unit in (RATIO, "count") else unit, 1)


def value(number: float, unit: str) -> str:
    """Return a number with its unit."""
    return _numbers((number,), unit)


def against(one: float, other: float, unit: str) -> str:
    """Return two numbers in one unit: `1.2 against 0.4 GB/s`."""
    return _numbers((one, other), unit, " against ")


def interval(ends: tuple[float, float], unit: str) -> str:
    """Return both ends of an interval: in one unit, unless they are far apart."""
    low, high = ends
    if 0 < low * _FAR_APART < high:
        return f"{value(low, unit)}–{value(high, unit)}"
    return _numbers(ends, unit, "–")


def _numbers(numbers: tuple[float, ...], unit: str, between: str = "") -> str:
    """Return numbers in the unit of the largest."""
    largest = max(numbers, key=abs)
    if unit == PER_S:
        texts = [f"{n:.2f}" if abs(largest) < 100 else format_count(n) for n in numbers]
        return f"{between.join(texts)}/s"
    name, factor = scale(largest, unit)
    texts = [_number(n / factor, largest / factor, name, unit) for n in numbers]
    return f"{between.join(texts)} {name}".rstrip()


def _number(scaled: float, largest: float, name: str, unit: str) -> str:
    if unit == RATIO or name == "GB/s":
        return f"{scaled:.3f}"
    if unit in _SCALES:
        return (
            f"{scaled:.0f}"
            if name in ("ns", "B/s")
            else f"{scaled:.{3 if abs(largest) < 10 else 1}f}"
        )
    return format_count(scaled)


def marked(spread: SpreadDocument, unit: str, *, median: bool = False) -> str:
    """Return a figure's mean (or median) over trials, with a mark if too few samples bear it."""
    text = value(spread.median if median else spread.mean, unit)
    return text + FEW_MARK if spread.few_samples else text


def sure(spread: SpreadDocument, unit: str) -> str:
    """Return where the mean is, at 95 % confidence; empty if it isn't known."""
    return "" if spread.ci95 is None else interval(spread.ci95, unit)


def times(ratio: float | None) -> str:
    """Return a ratio of means; empty if there is none."""
    return "" if ratio is None else f"{ratio:,.3g} ×" if ratio < 1000 else f"{ratio:,.0f} ×"


def percent(ratio: float | None) -> str:
    """Return a coefficient of variation; empty if it isn't known."""
    return "" if ratio is None else f"{ratio:.1%}"


def judged(figure: FigureDocument, spread: SpreadDocument) -> str:
    """Return whether a side is better or worse than the first, or the same within the noise."""
    if spread.ratio is None or spread.beyond_noise is None:
        return ""
    if not spread.beyond_noise:
        return "within noise"
    if figure.higher_is_better is None or spread.ratio == 1:
        return "differs"
    return "better" if (spread.ratio > 1) == figure.higher_is_better else "worse"
