"""Tables for scripts and spreadsheets: names of fields as heads, figures in base units."""

from __future__ import annotations

from typing import TYPE_CHECKING

from replay.measure.summaries import QUANTILES
from replay.report.sections import lanes
from replay.report.sections.parts import Column, Row, Section

if TYPE_CHECKING:
    from collections.abc import Iterator

    from replay.measure.figures import GroupDocument, LaneDocument
    from replay.measure.requests.figures import RequestsDocument
    from replay.measure.summaries import Percentiles
    from replay.result.document import ResultDocument

Cells = dict[str, object]
_COUNTED = ("verdict", "tier", "phase", "op", "qos", "size_class_bytes", "ops", "bytes", "errors")
_TIMES = (*(f"{name}_ns" for name in QUANTILES), "max_ns", "mean_ns", "count", "few_samples")
_BASES = {"service": "submit", "response": "due"}
"""Where a time begins. Lateness begins when an op was due, without a schedule when it was ready;
that of requests is the result's own."""
_HEALTH = (
    "criterion", "target", "unit", "actual", "passed", "samples", "kvtrace's target",
    "kvtrace's unit", "kvtrace's actual", "kvtrace's passed", "kvtrace's samples", "why",
)  # fmt: skip


def _figures() -> tuple[str, ...]:
    """Return the figures of a tier that have a column."""
    return tuple(figure.key for figure in lanes.FIGURES if figure.column)


def columns() -> tuple[str, ...]:
    """Return the heads of `latencies`. Empty cells: unknown, or not of that row."""
    return (*_COUNTED, *_figures(), "time", "counted_from", *_TIMES)


def latencies(document: ResultDocument) -> Section:
    """Return a row per kind of time: of each lane, then of groups, by size and by QoS, of requests.

    Of requests `ops` and `errors` are how many succeeded and failed.
    """
    heads = columns()
    rows = [
        Row(tuple({"verdict": document.verdict, **cells}.get(head) for head in heads))
        for cells in _rows(document)
    ]
    return Section("Latencies", _columns(heads), tuple(rows))


def _columns(heads: tuple[str, ...]) -> tuple[Column, ...]:
    return tuple(Column(head) for head in heads)


def _rows(document: ResultDocument) -> Iterator[Cells]:
    for lane in document.lanes:
        yield from _lane(lane)
    for groups in (document.groups, document.groups_by_size, document.groups_by_qos):
        for group in groups:
            yield from _group(group)
    if document.requests is not None:
        yield from _requests(document.requests)


def _lane(lane: LaneDocument) -> Iterator[Cells]:
    names = ("tier", "ops", "bytes", "errors", *_figures())
    known = {name: getattr(lane, name) for name in names}
    yield from _times(known, {"service": lane.service_ns, "response": lane.response_ns})
    if lane.lateness_ns is not None:
        base = "ready" if lane.response_ns is None else "due"
        yield from _times(known, {"lateness": lane.lateness_ns}, base)


def _group(group: GroupDocument) -> Iterator[Cells]:
    known = {name: getattr(group, name) for name in _COUNTED[1:]}
    yield from _times(known, {"service": group.service_ns, "response": group.response_ns})


def _requests(requests: RequestsDocument) -> Iterator[Cells]:
    base = requests.counted_from or ""
    for each in (requests, *requests.by_qos):
        known = {"qos": getattr(each, "qos", ""), "ops": each.count, "errors": each.failed}
        for name, times, begins in (
            ("request end to end", each.end_to_end_ns, base),
            ("request storage I/O", each.storage_io_ns, "submit"),
            ("request waited", each.waited_ns, base),
        ):
            yield from _times(known, {name: times}, begins)


def _times(counts: Cells, times: dict[str, Percentiles | None], base: str = "") -> Iterator[Cells]:
    """Yield a row per kind of time that is known; one without times if none is."""
    known = {name: times_of for name, times_of in times.items() if times_of is not None}
    if not known:
        yield counts
    for name, times_of in known.items():
        yield {
            **counts,
            "time": name,
            "counted_from": _BASES.get(name, base),
            **{f"{quantile}_ns": times_of[quantile] for quantile in QUANTILES},
            "max_ns": times_of.max,
            "mean_ns": times_of.mean,
            "count": times_of.count,
            "few_samples": " ".join(times_of.few_samples),
        }


def verdict(document: ResultDocument) -> Section:
    """Return reasons, marks and warnings."""
    kinds = (
        ("INVALID", document.reasons),
        ("mark", document.marks),
        ("warning", document.warnings),
    )
    rows = [
        Row((kind, reason.code, reason.figure, reason.remedy, reason.accepted))
        for kind, reasons in kinds
        for reason in reasons
    ]
    return Section(
        "Verdict", _columns(("kind", "code", "figure", "remedy", "accepted")), tuple(rows)
    )


def health(document: ResultDocument) -> Section:
    """Return MLPerf's criteria, and ours."""
    rows = []
    for each in [] if document.storage_health is None else document.storage_health.criteria:
        cells = [
            cell
            for judged in (each.theirs, each.ours)
            for cell in (
                judged.target,
                judged.unit,
                judged.actual,
                "not measured" if judged.passed is None else judged.passed,
                judged.count,
            )
        ]
        rows.append(Row((each.name, *cells, each.why)))
    return Section("Storage Health", _columns(_HEALTH), tuple(rows))


def counters(document: ResultDocument) -> Section:
    """Return the numbers of each tier's device."""
    rows = [
        Row((lane.tier, name, value))
        for lane in document.lanes
        for part in (lane.device, lane.device_change)
        if part is not None
        for name, value in part
        if isinstance(value, int | float)
    ]
    return Section("Device Counters", _columns(("tier", "counter", "value")), tuple(rows))
