"""Parts of the terminal's report about requests and about MLPerf's criteria."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from kvtrace.show.tables import fitting
from kvtrace.units import MS_NS, format_count, format_duration_ns
from replay.report.support.cells import WIDTH, table_of_times, time_cells

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import RenderableType

    from replay.measure.requests.figures import RequestsDocument, ServiceLevelDocument
    from replay.result.health import HealthDocument, Judged

_NOTE = (
    "waited: some op of the request was {base}; level: 95 of 100 requests within the class's target"
)
FROM_SUBMIT = (
    "no op has a due time here: requests are timed from the submit of their first op, and the "
    "wait before it is in no time"
)
_STYLES = {"PASS": "green", "FAIL": "red", "NOT MEASURED": "yellow"}


def requests(document: RequestsDocument | None) -> Iterator[RenderableType]:
    """Yield what storage took of each request, and how many were within their class's target."""
    if document is None:
        return
    table = table_of_times("requests")
    table.add_row("end to end", *time_cells(document.end_to_end_ns))
    table.add_row(" storage I/O", *time_cells(document.storage_io_ns))
    table.add_row(" waited", *time_cells(document.waited_ns))
    yield Text()
    yield table
    rows = [
        [
            each.qos,
            level(each.end_to_end_level),
            level(each.waited_level),
            format_count(each.count),
        ]
        for each in document.by_qos
    ]
    if rows:
        yield fitting(("level", "end to end", "by waiting", "count"), rows, names=1, width=WIDTH)
    failed = f"; {format_count(document.failed)} requests failed" if document.failed else ""
    note = _NOTE.format(
        base="in flight" if timed_from_submit(document) else "due and hadn't completed"
    )
    base = f"; {FROM_SUBMIT}" if timed_from_submit(document) else ""
    yield Padding(Text(f"{note}{base}{failed}", style="dim"), (0, 0, 0, 2))


def timed_from_submit(document: RequestsDocument) -> bool:
    """Return whether requests are timed from submits, because nothing has a due time."""
    return document.counted_from == "submit"


def level(service_level: ServiceLevelDocument) -> str:
    """Return which share was within the target, and whether that meets the level."""
    if service_level.compliance_ratio is None:
        return "not measured"
    target, met = _round(service_level.target_p95_ns), "met" if service_level.met else "MISSED"
    return f"{service_level.compliance_ratio:.1%} within {target}: {met}"


def _round(target_ns: int) -> str:
    """Return a target, which is a round number: `50 ms`, `1 s`."""
    number, unit = format_duration_ns(target_ns).split(" ")
    return f"{float(number):g} {unit}"


def health(document: HealthDocument | None) -> Iterator[RenderableType]:
    """Yield MLPerf's criteria, and ours beside them; nothing if none was measured."""
    if document is None or all(
        each.passed is None for pair in document.criteria for each in (pair.theirs, pair.ours)
    ):
        return
    head = Text("\nstorage health  ")
    head.append(document.status, style=_STYLES[document.status])
    measured = f"{document.measured_count} of {len(document.criteria)} measured"
    head.append(f" by MLPerf's criteria, {measured}; ")
    head.append(document.status_ours, style=_STYLES[document.status_ours])
    head.append(" by ours")
    yield head
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("criterion", no_wrap=True)
    for name in ("limit", "MLPerf's", "our limit", "ours"):
        table.add_column(name, justify="right", no_wrap=True)
    for each in document.criteria:
        table.add_row(
            each.title, limit(each.theirs), judged(each.theirs), limit(each.ours), judged(each.ours)
        )
    yield table


def limit(criterion: Judged) -> str:
    """Return a criterion's limit."""
    return f"{'>' if criterion.unit == 'ratio' else '<'} {amount(criterion.target, criterion.unit)}"


def judged(criterion: Judged) -> str:
    """Return a figure and whether it is within its limit."""
    if criterion.actual is None:
        return "not measured"
    return f"{amount(criterion.actual, criterion.unit)} {'ok' if criterion.passed else 'FAIL'}"


def amount(value: float, unit: str) -> str:
    """Return a criterion's figure as people read it."""
    if unit == "ratio":
        return f"{value:.1%}"
    shown = format_duration_ns(round(value * MS_NS)).replace(" ", "")
    return f"{shown}/MiB" if unit.endswith("/MiB") else shown
