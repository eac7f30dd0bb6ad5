"""Numbers as sentences have them: three digits, with their unit."""

from __future__ import annotations

import math


def short(value: float) -> str:
    """Return a number with three digits, larger ones whole: ``0.427``, ``5.86``, ``1,234``."""
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    if value == 0 or abs(value) >= 99.95:
        return f"{value:,.0f}"
    return f"{value:#.3g}"


def short_rate(bytes_per_s: float) -> str:
    """Return a rate in decimal GB/s with three digits."""
    return f"{short(bytes_per_s / 1e9)} GB/s"


def short_seconds(seconds: float) -> str:
    """Return a time in the unit that keeps it short: ``0.251 s``, ``36.0 ms``."""
    if abs(seconds) >= 0.1 or seconds == 0:
        return f"{short(seconds)} s"
    return f"{short(seconds * 1e3)} ms" if abs(seconds) >= 1e-4 else f"{short(seconds * 1e6)} µs"


def short_tokens(tokens: float) -> str:
    """Return a count of tokens, from ten thousand on in thousands: ``14 k``."""
    return f"{tokens / 1000:,.0f} k" if tokens >= 10_000 else f"{tokens:,.0f}"
