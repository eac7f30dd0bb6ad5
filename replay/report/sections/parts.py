"""Parts of a section: columns, rows, notes and figures; and their values as people read them."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from kvtrace.units import GIB, US_NS, format_bytes, format_count, format_duration_ns, format_rate
from replay.measure.summaries import TITLES
from replay.report.support.cells import FEW_MARK

if TYPE_CHECKING:
    from collections.abc import Callable

    from replay.measure.summaries import Percentiles


class Kind(StrEnum):
    """What a value is, by which writers show and sort it."""

    TEXT = "text"
    COUNT = "count"
    BYTES = "bytes"
    NS = "ns"
    US = "us"
    RATE = "bytes/s"
    PER_S = "1/s"
    SHARE = "share"
    SECONDS = "s"


@dataclass(frozen=True, slots=True)
class Time:
    """A time; `few`: a percentile with fewer than 10 samples beyond it."""

    ns: int
    few: bool = False


@dataclass(frozen=True, slots=True)
class Words:
    """Words in a column that is sorted by `value`."""

    text: str
    value: float | None


@dataclass(frozen=True, slots=True)
class Column:
    """A column. `detail`: left out where there is room for 80 columns only."""

    title: str
    kind: Kind = Kind.TEXT
    detail: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """A row: a value per column; None is an empty cell.

    `short`: its name where columns of detail are left out. `detail`: it is left out with them.
    """

    cells: tuple[object, ...]
    short: str = ""
    detail: bool = False


FACTS = (Column("figure"), Column("value"))
"""Columns of a section whose rows are figures of one thing."""


@dataclass(frozen=True, slots=True)
class Section:
    """A table with a title, or, with the columns `FACTS`, figures of one thing.

    `under`: the title of the section that this one is a part of. `detail`: pages and files have it,
    a terminal doesn't.
    """

    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()
    under: str = ""
    detail: bool = False

    @property
    def facts(self) -> list[tuple[str, str]]:
        """Names and figures, of a section of such."""
        return [(str(row.cells[0]), str(row.cells[1])) for row in self.rows]


@dataclass(frozen=True, slots=True)
class Figure:
    """A row that shows one figure: the field `key` of what it is of, or what `of` returns.

    One that is None has no row. `column`: whether tables for scripts have a column of it.
    """

    title: str
    key: str
    kind: Kind = Kind.TEXT
    of: Callable[[Any], object] | None = field(default=None, compare=False)
    column: bool = False

    def value(self, owner: object) -> object:
        """Return the figure of `owner`."""
        return getattr(owner, self.key) if self.of is None else self.of(owner)


def facts(
    title: str, figures: tuple[Figure, ...], owner: object, *, under: str = "", detail: bool = False
) -> Section:
    """Return a section with the figures of `owner` that are known."""
    known = [(each, each.value(owner)) for each in figures]
    rows = tuple(
        Row((each.title, shown(value, each.kind))) for each, value in known if value is not None
    )
    return Section(title, FACTS, rows, under=under, detail=detail)


def times(title: str = "") -> tuple[Column, ...]:
    """Return the columns of `time_cells`; `title`: of a column of names before them."""
    heads = (*TITLES.values(), "max")
    names = (Column(title),) if title else ()
    return (*names, *(Column(head, Kind.NS) for head in heads), Column("count", Kind.COUNT))


def time_cells(summary: Percentiles) -> tuple[object, ...]:
    """Return percentiles, the longest, and how many there are."""
    shares = (Time(summary[name], name in summary.few_samples) for name in TITLES)
    return (*shares, Time(summary.max), summary.count)


def shown(value: object, kind: Kind) -> str:
    """Return a value as people read it."""
    if isinstance(value, Words):
        return value.text
    if isinstance(value, Time):
        return format_duration_ns(value.ns) + (FEW_MARK if value.few else "")
    if value is None or isinstance(value, str):
        return value or ""
    return _number(value, kind)


def _number(value: Any, kind: Kind) -> str:
    match kind:
        case Kind.COUNT:
            return f"{value:,}"
        case Kind.BYTES:
            return format_bytes(value)
        case Kind.NS:
            return format_duration_ns(value)
        case Kind.US:
            return format_duration_ns(round(value * US_NS))
        case Kind.RATE:
            binary = "" if value >= 1000 * GIB else f" ({value / GIB:.3f} GiB/s)"
            return f"{format_rate(value)}{binary}"
        case Kind.PER_S:
            return f"{format_count(value)} per s"
        case Kind.SHARE:
            return f"{value:.1%}"
        case Kind.SECONDS:
            return f"{value:.3f} s"
        case Kind.TEXT:
            return str(value)


def sort_value(value: object, kind: Kind) -> float | None:
    """Return what a cell is sorted by; None for words."""
    if isinstance(value, Words):
        return value.value
    if isinstance(value, Time):
        return value.ns
    return value if isinstance(value, int | float) and kind != Kind.TEXT else None
