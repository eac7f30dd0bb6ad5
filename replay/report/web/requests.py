"""Parts of a result's page about requests and about MLPerf's criteria."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvtrace.units import MS_NS, format_duration_ns
from replay.report.support.requests import FROM_SUBMIT, judged, level, limit, timed_from_submit
from replay.report.web import page
from replay.report.web.page import Cell

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from replay.measure.requests.figures import RequestsDocument, RequestTimesDocument
    from replay.measure.summaries import Percentiles
    from replay.result.health import HealthDocument, Judged

_NOTE = (
    "End to end: from when a request's first op was due until its last one completed, the time for "
    "generation between them included. Storage I/O: its ops' service times, summed though they "
    "overlap. Waited: how long an op was due and not completed. Demotions belong to no request."
)
_MAX_NOTE = (
    f"{FROM_SUBMIT[0].upper()}{FROM_SUBMIT[1:]}. End to end: until the last op completed. "
    "Storage I/O: the ops' service times, summed though they overlap. Waited: how long an op of "
    "the request was in flight. Demotions belong to no request."
)
_LEVELS_NOTE = (
    "Within target: the share of a class's requests; a level is met by 95 of 100. Generation can't "
    "be made faster by storage: judge storage by the waiting."
)
_TIMES = (
    ("end to end", "end_to_end_ns"),
    ("storage I/O", "storage_io_ns"),
    ("waited", "waited_ns"),
)


def requests(
    document: RequestsDocument | None,
    heads: list[str],
    cells: Callable[[Percentiles], list[Cell | str]],
) -> str:
    """Return the section; `cells` gives a row's percentiles under `heads`."""
    if document is None:
        return ""
    rows = [*_rows("all", document, cells)]
    for each in document.by_qos:
        rows += _rows(each.qos, each, cells)
    failed = page.note(f"{document.failed:,} requests failed: they are in no time.")
    return page.section(
        "Requests",
        page.note(_MAX_NOTE if timed_from_submit(document) else _NOTE),
        failed if document.failed else "",
        page.table(["class", "time", *heads], rows, texts=2),
        page.heading("Service levels") + page.note(_LEVELS_NOTE) + _levels(document)
        if document.by_qos
        else "",
    )


def _rows(
    name: str, times: RequestTimesDocument, cells: Callable[[Percentiles], list[Cell | str]]
) -> Iterator[list[Cell | str]]:
    for title, field in _TIMES:
        yield [name, title, *cells(getattr(times, field))]


def _levels(document: RequestsDocument) -> str:
    rows: list[list[Cell | str]] = [
        [
            each.qos,
            Cell(
                format_duration_ns(each.end_to_end_level.target_p95_ns),
                each.end_to_end_level.target_p95_ns,
            ),
            *(
                Cell(level(judged_by), judged_by.compliance_ratio)
                for judged_by in (each.end_to_end_level, each.waited_level)
            ),
            Cell(f"{each.count:,}", each.count),
        ]
        for each in document.by_qos
    ]
    heads = ["class", "target", "within target, end to end", "within target, waited", "requests"]
    return page.table(heads, rows)


def health(document: HealthDocument | None) -> str:
    """Return the section on criteria."""
    if document is None:
        return ""
    verdict = (
        f"By the MLPerf KV benchmark's criteria: {document.status}, {document.measured_count} of "
        f"{len(document.criteria)} measured. By ours: {document.status_ours}. Neither is the "
        "verdict, which says whether the figures may be used."
    )
    rows: list[list[Cell | str]] = [
        [each.title, each.name, limit(each.theirs), _cell(each.theirs), limit(each.ours),
         _cell(each.ours)]
        for each in document.criteria
    ]  # fmt: skip
    heads = ["criterion", "MLPerf's name", "its limit", "found", "our limit", "found by ours"]
    why = {each.why: each.title for each in document.criteria}  # one sentence, several criteria
    notes = "".join(page.note(f"Why ours: {sentence}.") for sentence in why)
    return page.section(
        "Storage health", page.note(verdict), page.table(heads, rows, texts=6), notes
    )


def _cell(criterion: Judged) -> Cell:
    value = criterion.actual
    if value is not None and criterion.unit != "ratio":
        value *= MS_NS
    return Cell(judged(criterion), value)
