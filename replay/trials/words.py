"""Figures of comparisons as people read them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvtrace.units import format_count, format_duration_ns, format_rate
from replay.trials.figures import BYTES_PER_S, NS, PER_S, RATIO

if TYPE_CHECKING:
    from replay.trials.document import FigureDocument, SpreadDocument


def value(number: float, unit: str) -> str:
    """Return a number with its unit."""
    if unit == BYTES_PER_S:
        return format_rate(number)
    if unit == NS:
        return format_duration_ns(number)
    if unit == PER_S:
        return f"{number:.2f}/s" if number < 100 else f"{format_count(number)}/s"
    return f"{number:.3f}" if unit == RATIO else format_count(number)


def sure(found: SpreadDocument, unit: str) -> str:
    """Return how far the mean may be off, at 95 % confidence; empty if it isn't known."""
    if found.ci95 is None:
        return ""
    return f"± {value(found.ci95[1] - found.mean, unit)}"


def percent(ratio: float | None) -> str:
    """Return a coefficient of variation; empty if it isn't known."""
    return "" if ratio is None else f"{ratio:.1%}"


def judged(figure: FigureDocument, found: SpreadDocument) -> str:
    """Return whether a side is better or worse than the first, or the same within the noise."""
    if found.ratio is None or found.beyond_noise is None:
        return ""
    if not found.beyond_noise:
        return "within noise"
    if figure.higher_is_better is None or found.ratio == 1:
        return "differs"
    return "better" if (found.ratio > 1) == figure.higher_is_better else "worse"
