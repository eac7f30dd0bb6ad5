"""The report as a table: one row per lane, group and kind of time, for spreadsheets and scripts."""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING

from kvtrace.show import csvcells
from replay.measure.summaries import QUANTILES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from replay.measure.summaries import Percentiles
    from replay.result.document import ResultDocument

SUFFIX = ".csv"
_COUNTED = ("verdict", "tier", "phase", "op", "qos", "size_class_bytes", "ops", "bytes", "errors")
_RATES = (
    "window_s", "throughput_bytes_per_s", "read_bytes_per_s", "write_bytes_per_s", "ops_per_s"
)  # fmt: skip
_TIMES = (*(f"{name}_ns" for name in QUANTILES), "max_ns", "mean_ns", "count", "few_samples")
COLUMNS = (*_COUNTED, *_RATES, "time", "counted_from", *_TIMES)
"""Empty cells: of all, unknown, or not of that row."""
_BASES = {"service": "submit", "response": "due"}
"""Where a time begins. Lateness begins when an op was due, without a schedule when it was ready;
that of requests is the result's own."""
Row = dict[str, object]


def write(document: ResultDocument, path: Path) -> None:
    """Write the report to `path`."""
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, COLUMNS, restval="", lineterminator="\n")
        table.writeheader()
        table.writerows(csvcells.plain(row) for row in rows(document))


def rows(document: ResultDocument) -> Iterator[Row]:
    """Yield the rows: of each lane its whole, then groups, by size and by QoS, then requests.

    Of requests `ops` and `errors` are how many succeeded and failed.
    """
    for lane in document.lanes:
        known = {name: getattr(lane, name) for name in ("tier", "ops", "bytes", "errors", *_RATES)}
        counts = {"verdict": document.verdict, **known}
        yield from _times(counts, {"service": lane.service_ns, "response": lane.response_ns})
        if lane.lateness_ns is not None:
            base = "ready" if lane.response_ns is None else "due"
            yield from _times(counts, {"lateness": lane.lateness_ns}, base)
    for groups in (document.groups, document.groups_by_size, document.groups_by_qos):
        for group in groups:
            known = {name: getattr(group, name) for name in _COUNTED[1:]}
            counts = {"verdict": document.verdict, **known}
            yield from _times(counts, {"service": group.service_ns, "response": group.response_ns})
    if document.requests is not None:
        for each in (document.requests, *document.requests.by_qos):
            counts = {
                "verdict": document.verdict,
                "qos": getattr(each, "qos", ""),
                "ops": each.count,
                "errors": each.failed,
            }
            base = document.requests.counted_from or ""
            for name, times, begins in (
                ("request end to end", each.end_to_end_ns, base),
                ("request storage I/O", each.storage_io_ns, "submit"),
                ("request waited", each.waited_ns, base),
            ):
                yield from _times(counts, {name: times}, begins)


def _times(counts: Row, times: dict[str, Percentiles | None], base: str = "") -> Iterator[Row]:
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
