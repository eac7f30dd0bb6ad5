"""The whole report for a terminal (`--full`): every table, 80 columns wide."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from kvtrace.show.printable import printable
from kvtrace.show.tables import fitting, wrapped
from kvtrace.units import format_duration_ns, format_rate
from replay.report.sections import lanes, whole
from replay.report.sections.parts import FACTS, Kind, Time, shown
from replay.report.support.cells import FEW_MARK, WIDTH, short_count, short_time

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator, Sequence

    from rich.console import RenderableType

    from replay.measure.figures import TimeSlices
    from replay.report.sections.parts import Section
    from replay.result.document import ResultDocument
    from replay.result.reason import Reason

_BARS, _BARS_MIN = 40, 4
_GAP = 2
_BLOCKS = " ▁▂▃▄▅▆▇█"
STYLES = {"VALID": "bold green", "INVALID": "bold red", "UNJUDGED": "bold yellow"}


def render(result: ResultDocument) -> Iterator[RenderableType]:
    """Yield what is to be printed, top to bottom: all sections but those that are detail."""
    yield _verdict(result)
    yield from _reasons(result)
    courses = {lanes.title_of(lane): list(_over_time(lane.time_slices)) for lane in result.lanes}
    noted: set[str] = set()
    for section in whole.sections(result):
        if section.rows and not section.detail:
            yield from render_section(section, courses.get(section.title, ()), noted)
            noted |= set(section.notes)


def render_section(
    section: Section, more: Iterable[tuple[str, str]] = (), noted: Container[str] = ()
) -> Iterator[RenderableType]:
    """Yield a section; `more`: figures that only a terminal has; `noted`: notes shown before."""
    if section.columns == FACTS:
        yield Text(f"\n{printable(section.title)}", style="bold")
        yield _pairs([*section.facts, *more])
    else:
        yield Text()
        yield _table(section)
    yield from _notes([note for note in section.notes if note not in noted])


def _notes(notes: Sequence[str]) -> Iterator[RenderableType]:
    for note in notes:
        lines = wrapped(printable(note), WIDTH - 2)
        yield Padding(Text("\n".join(lines), style="dim"), (0, 0, 0, 2))


def _table(section: Section) -> RenderableType:
    """Return a table whose first head is the section's title, as text where it is too wide."""
    columns = [at for at, column in enumerate(section.columns) if not column.detail]
    heads = [section.title.lower(), *(section.columns[at].title for at in columns[1:])]
    rows = [
        [row.short or _cell(row.cells[columns[0]], section.columns[columns[0]].kind),
         *(_cell(row.cells[at], section.columns[at].kind) for at in columns[1:])]
        for row in section.rows
        if not row.detail
    ]  # fmt: skip
    widths = [max(map(cell_len, column)) for column in zip(heads, *rows, strict=True)]
    room = (WIDTH - sum(widths)) // max(1, len(widths) - 1)
    if not room:
        return fitting(heads, rows, names=1, width=WIDTH)
    gap = (0, min(room, _GAP), 0, 0)
    table = Table(box=None, padding=gap, header_style="dim", pad_edge=False)
    for at, head in zip(columns, heads, strict=True):
        words = at == columns[0] or section.columns[at].kind == Kind.TEXT
        table.add_column(head, justify="left" if words else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    return table


def _cell(value: object, kind: Kind) -> str:
    """Return a value in few characters."""
    if isinstance(value, Time):
        return short_time(value.ns) + (FEW_MARK if value.few else "")
    if kind == Kind.COUNT and isinstance(value, int):
        return short_count(value)
    text = shown(value, kind)
    return text.replace(" ", "") if kind == Kind.US else text


def _verdict(result: ResultDocument) -> Text:
    text = Text(result.verdict, style=STYLES[result.verdict])
    for mark in dict.fromkeys(mark.code for mark in result.marks):
        text.append(f" {printable(mark)}", style="bold yellow")
    if result.reasons and result.acceptable:
        text.append(" (all reasons accepted)", style="yellow")
    return text


def _reasons(result: ResultDocument) -> Iterator[Padding]:
    yield from (_reason(reason, "red", "INVALID") for reason in result.reasons)
    yield from (_reason(reason, "yellow", "mark") for reason in result.marks)
    yield from (_reason(reason, "yellow", "warning") for reason in result.warnings)


def _reason(reason: Reason, style: str, kind: str) -> Padding:
    accepted = ", accepted" if reason.accepted else ""
    text = Text(printable(reason.code), style=style)
    text.append(f" ({kind}{accepted}): {printable(reason.figure)}\n", style="default")
    text.append(f"→ {printable(reason.remedy)}", style="dim")
    return Padding(text, (0, 0, 0, 2))


def _pairs(rows: list[tuple[str, str]]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True, style="dim")
    table.add_column(overflow="fold")
    columns = WIDTH - max(len(name) for name, _ in rows) - 2 * len(rows[0])
    for name, text in rows:
        lines = wrapped(printable(text), columns, long_words=True)
        table.add_row(name, Text("\n".join(lines)))
    return table


def _over_time(slices: TimeSlices) -> Iterator[tuple[str, str]]:
    """Yield throughput and P99 over time as lines of bars, each with what its highest bar is."""
    moved = moved_per_s(slices)
    p99 = [
        max(pair)
        for pair in zip(slices.read_service_p99_ns, slices.write_service_p99_ns, strict=True)
    ]
    if not moved:
        return
    for name, values, highest in (
        ("over time", moved, format_rate(max(moved))),
        ("P99 service", p99, format_duration_ns(max(p99))),
    ):
        if max(values):
            yield name, f"{sparkline(values, _BARS)} max {highest}"


def moved_per_s(slices: TimeSlices) -> list[float]:
    """Return bytes/s read and written in each slice of time; none where slices are too few."""
    if len(slices.read_bytes) < _BARS_MIN:
        return []
    return [
        (read + write) / slices.width_s
        for read, write in zip(slices.read_bytes, slices.write_bytes, strict=True)
    ]


def sparkline(values: Sequence[float], bars: int) -> str:
    """Return at most `bars` bars, each the maximum of its part, from zero up to the highest."""
    parts = min(bars, len(values))
    edges = [len(values) * part // parts for part in range(parts + 1)]
    tops = [max(values[begin:end]) for begin, end in pairwise(edges)]
    highest = max(tops) or 1
    return "".join(_BLOCKS[round(top / highest * (len(_BLOCKS) - 1))] for top in tops)
