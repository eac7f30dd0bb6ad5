"""Cells of the terminal's tables: percentiles of times, short enough for 80 columns."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

from kvtrace.units import S_NS, format_duration_ns
from replay.measure.summaries import TITLES

if TYPE_CHECKING:
    from replay.measure.summaries import Percentiles

WIDTH = 80
"""Columns of the terminal's report."""
FEW_MARK = "*"
"""Behind a percentile with fewer than 10 samples beyond it."""
FEW_NOTE = f"{FEW_MARK} fewer than 10 samples beyond this percentile"


_LONG_S = 10_000


def table_of_times(title: str) -> Table:
    """Return a table for rows of `time_cells`, each behind a name."""
    table = Table(box=None, padding=(0, 1, 0, 0), title=None, header_style="dim")
    table.add_column(title, no_wrap=True)
    for name in (*TITLES.values(), "max", "count"):
        table.add_column(name, justify="right", no_wrap=True)
    return table


def short_time(time_ns: int) -> str:
    """Return a duration in at most seven characters, however long it is."""
    if time_ns >= _LONG_S * S_NS:
        return f"{time_ns / S_NS / 3600:.0f}h"
    return format_duration_ns(time_ns).replace(" ", "")


def time_cells(summary: Percentiles) -> list[str]:
    """Return percentiles, the longest, and how many there are."""
    cells = []
    for name in TITLES:
        mark = FEW_MARK if name in summary.few_samples else ""
        cells.append(short_time(summary[name]) + mark)
    longest = short_time(summary.max)
    return [*cells, longest, short_count(summary.count)]


def count_cells(count: int) -> list[str]:
    """Return the cells of ops that have no times."""
    return [*([""] * (len(TITLES) + 1)), short_count(count)]


def short_count(count: int) -> str:
    """Return a count in at most seven characters: `121.5M`."""
    for unit, factor in (("G", 10**9), ("M", 10**6)):
        if count >= factor:
            return f"{count / factor:.1f}{unit}"
    return f"{count:,}"
