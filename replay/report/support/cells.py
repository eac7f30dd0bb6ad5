"""Cells of the terminal's tables: percentiles of times, short enough for 80 columns."""

from __future__ import annotations

from kvtrace.units import S_NS, format_duration_ns

WIDTH = 80
"""Columns of the terminal's report."""
FEW_MARK = "*"
"""Behind a percentile with fewer than 10 samples beyond it."""
FEW_NOTE = f"{FEW_MARK} fewer than 10 samples beyond this percentile"


_LONG_S = 10_000


def short_time(time_ns: int) -> str:
    """Return a duration in at most seven characters, however long it is."""
    if time_ns >= _LONG_S * S_NS:
        return f"{time_ns / S_NS / 3600:.0f}h"
    return format_duration_ns(time_ns).replace(" ", "")


def short_count(count: int) -> str:
    """Return a count in at most seven characters: `121.5M`."""
    for unit, factor in (("G", 10**9), ("M", 10**6)):
        if count >= factor:
            return f"{count / factor:.1f}{unit}"
    return f"{count:,}"
