"""The report as a workbook: numbers are numbers, in base units that the heads name."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from replay import workbook
from replay.report import csv

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from replay.document import LaneDocument, ResultDocument
    from replay.workbook import Row, Sheet

SUFFIX = ".xlsx"
PACKAGES = workbook.PACKAGES


def write(document: ResultDocument, path: Path) -> None:
    """Write the report to `path`."""
    workbook.write(path, sheets(document))


def sheets(document: ResultDocument) -> Iterator[Sheet]:
    """Yield (name, heads, rows) of each sheet that has something to show."""
    yield "Summary", ("figure", "value"), list(_summary(document))
    yield "Verdict", ("kind", "code", "figure", "remedy", "accepted"), list(_verdict(document))
    yield "Run Parameters", ("parameter", "value"), list(_parameters(document))
    yield "Performance Metrics", csv.COLUMNS, _table(csv.rows(document))
    by_qos = [row for row in csv.rows(document) if row.get("qos")]
    yield "QoS Metrics", csv.COLUMNS, _table(by_qos)
    traced = [row for lane in document.lanes for row in _device(lane)]
    if traced:
        yield "Device Tracing", ("tier", "counter", "value"), traced


def _summary(document: ResultDocument) -> Iterator[Row]:
    yield "verdict", document.verdict
    for name in (
        "window_s", "ops", "bytes", "throughput_bytes_per_s", "ops_per_s", "kv_tokens_per_s",
        "storage_throughput_tokens_per_sec", "errors", "headline_tier",
    ):  # fmt: skip
        yield name, getattr(document, name)
    for word, found in (("service", document.service_ns), ("response", document.response_ns)):
        if found is not None:
            numbers = found.model_dump(exclude={"few_samples"})
            yield from ((f"{word}_{name}{'' if name == 'count' else '_ns'}", value)
                        for name, value in numbers.items())  # fmt: skip


def _verdict(document: ResultDocument) -> Iterator[Row]:
    for kind, reasons in (
        ("INVALID", document.reasons),
        ("mark", document.marks),
        ("warning", document.warnings),
    ):
        for reason in reasons:
            yield kind, reason.code, reason.figure, reason.remedy, reason.accepted


def _parameters(document: ResultDocument) -> Iterator[Row]:
    trace, environment = document.trace, document.environment
    yield from (("trace", trace.path), ("trace_sha256", trace.sha256), ("rows", trace.rows),
                ("rows_replayed", trace.rows_replayed), ("model", trace.model))  # fmt: skip
    if document.config is not None:
        for name, value in document.config.model_dump(mode="json").items():
            yield name, value if isinstance(value, int | float | str | None) else str(value)
    if environment is not None:
        yield from (("kernel", environment.kernel), ("cpus", environment.cpus),
                    ("cpu_model", environment.cpu_model),
                    ("memory_bytes", environment.memory_bytes),
                    ("command", shlex.join(["kvtrace", *environment.command[1:]])))  # fmt: skip


def _table(rows: Iterable[csv.Row]) -> list[Row]:
    return [tuple(row.get(name) for name in csv.COLUMNS) for row in rows]


def _device(lane: LaneDocument) -> Iterator[Row]:
    for part in (lane.device, lane.device_change):
        if part is not None:
            for name, value in part:
                if isinstance(value, int | float):
                    yield lane.tier, name, value
