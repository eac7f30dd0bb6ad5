"""Sections on requests and on MLPerf's criteria."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvtrace.units import MS_NS, format_duration_ns
from replay.report.sections.parts import Column, Kind, Row, Section, Words, time_cells, times

if TYPE_CHECKING:
    from collections.abc import Iterator

    from replay.measure.requests.figures import (
        RequestsDocument,
        RequestTimesDocument,
        ServiceLevelDocument,
    )
    from replay.result.health import HealthDocument, Judged

FROM_SUBMIT = (
    "no op has a due time here: requests are timed from the submit of their first op, and the "
    "wait before it is in no time"
)
_LEVELS_NOTE = (
    "a level is met by 95 of 100 requests; storage can't shorten generation: judge it by the "
    "waiting"
)
_TIMES = (
    ("end to end", "end_to_end_ns"),
    ("storage I/O", "storage_io_ns"),
    ("waited", "waited_ns"),
)


def requests(document: RequestsDocument | None) -> Iterator[Section]:
    """Yield the times of requests, and how many were within their class's target."""
    if document is None:
        return
    rows = [*_rows("all", document)]
    for each in document.by_qos:
        rows += [Row(row.cells, detail=True) for row in _rows(each.qos, each)]
    columns = (Column("class", detail=True), *times("time"))
    yield Section("Requests", columns, tuple(rows), tuple(_notes(document)))
    if document.by_qos:
        yield _levels(document)


def _rows(name: str, of: RequestTimesDocument) -> Iterator[Row]:
    for title, field in _TIMES:
        yield Row((name, title, *time_cells(getattr(of, field))), short=title)


def _notes(document: RequestsDocument) -> Iterator[str]:
    submitted = timed_from_submit(document)
    waiting = "in flight" if submitted else "due and hadn't completed"
    begin = "submitted" if submitted else "due"
    yield (
        f"End to end: from when a request's first op was {begin} until its last one completed, the "
        "time for generation between them included. Storage I/O: its ops' service times, summed. "
        f"Waited: some op of it was {waiting}. Demotions belong to no request."
    )
    if document.per_s is not None and document.reads_mean is not None:
        yield (
            f"{document.per_s:,.4g} requests per second; reads per request: mean "
            f"{document.reads_mean:,.1f}, P50 {document.reads_p50:,}, P99 {document.reads_p99:,}, "
            f"max {document.reads_max:,}."
        )
    if submitted:
        yield f"{FROM_SUBMIT[0].upper()}{FROM_SUBMIT[1:]}."
    if document.failed:
        yield f"{document.failed:,} requests failed: they are in no time."


def timed_from_submit(document: RequestsDocument) -> bool:
    """Return whether requests are timed from submits, because nothing has a due time."""
    return document.counted_from == "submit"


def _levels(document: RequestsDocument) -> Section:
    columns = (
        Column("class"),
        Column("end to end", Kind.SHARE),
        Column("by waiting", Kind.SHARE),
        Column("count", Kind.COUNT),
    )
    rows = tuple(
        Row((each.qos, _level(each.end_to_end_level), _level(each.waited_level), each.count))
        for each in document.by_qos
    )
    note = f"{_LEVELS_NOTE[0].upper()}{_LEVELS_NOTE[1:]}."
    return Section("Service levels", columns, rows, (note,), under="Requests")


def _level(service_level: ServiceLevelDocument) -> Words:
    """Return which share was within the target, and whether that meets the level."""
    ratio = service_level.compliance_ratio
    if ratio is None:
        return Words("not measured", None)
    target, met = _round(service_level.target_p95_ns), "met" if service_level.met else "MISSED"
    return Words(f"{ratio:.1%} within {target}: {met}", ratio)


def _round(target_ns: int) -> str:
    """Return a target, which is a round number: `50 ms`, `1 s`."""
    number, unit = format_duration_ns(target_ns).split(" ")
    return f"{float(number):g} {unit}"


def health(document: HealthDocument | None) -> Iterator[Section]:
    """Yield MLPerf's criteria, and ours beside them; detail if none was measured."""
    if document is None:
        return
    columns = (
        Column("criterion"),
        Column("MLPerf's name", detail=True),
        Column("limit"),
        Column("MLPerf's"),
        Column("our limit"),
        Column("ours"),
    )
    rows = tuple(
        Row(
            (each.title, each.name, _limit(each.theirs), _judged(each.theirs), _limit(each.ours),
             _judged(each.ours)),
            short=each.title,
        )
        for each in document.criteria
    )  # fmt: skip
    verdict = (
        f"{document.status} by MLPerf's criteria, {document.measured_count} of "
        f"{len(document.criteria)} measured; {document.status_ours} by ours. Neither is the "
        "verdict, which says whether the figures may be used."
    )
    why = {each.why: each.title for each in document.criteria}  # one sentence, several criteria
    unmeasured = all(
        each.passed is None for pair in document.criteria for each in (pair.theirs, pair.ours)
    )
    notes = (verdict, *(f"Why ours: {sentence}." for sentence in why))
    yield Section("Storage health", columns, rows, notes, detail=unmeasured)


def _limit(criterion: Judged) -> str:
    """Return a criterion's limit."""
    return (
        f"{'>' if criterion.unit == 'ratio' else '<'} {_amount(criterion.target, criterion.unit)}"
    )


def _judged(criterion: Judged) -> Words:
    """Return a figure and whether it is within its limit."""
    value = criterion.actual
    if value is None:
        return Words("not measured", None)
    text = f"{_amount(value, criterion.unit)} {'ok' if criterion.passed else 'FAIL'}"
    return Words(text, value if criterion.unit == "ratio" else value * MS_NS)


def _amount(value: float, unit: str) -> str:
    """Return a criterion's figure as people read it."""
    if unit == "ratio":
        return f"{value:.1%}"
    amount = format_duration_ns(round(value * MS_NS)).replace(" ", "")
    return f"{amount}/MiB" if unit.endswith("/MiB") else amount
