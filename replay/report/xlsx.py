"""The report as a workbook: the MLPerf benchmark's sheets with our figures beside, then ours.

Numbers are numbers, in the units that the heads name.
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from replay.report.mlperf import tables
from replay.report.mlperf.beside import beside
from replay.report.mlperf.summary import summary_of
from replay.report.sections import scripts
from replay.report.support import workbook

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from replay.report.sections.parts import Section
    from replay.report.support.workbook import Row, Sheet
    from replay.result.document import ResultDocument

SUFFIX = ".xlsx"
PACKAGES = workbook.PACKAGES
_HEADLINE = (
    "window_s", "ops", "bytes", "throughput_bytes_per_s", "ops_per_s", "kv_tokens_per_s", "errors",
    "headline_tier",
)  # fmt: skip


def write(document: ResultDocument, path: Path) -> None:
    """Write the report to `path`."""
    workbook.write(path, sheets(document))


def sheets(document: ResultDocument) -> Iterator[Sheet]:
    """Yield (name, heads, rows) of each sheet that has something to show."""
    summary = summary_of(document)
    wide = dict(_wide(document, summary))
    yield "Summary", tuple(wide), [tuple(wide.values())]
    yield "Run Parameters", ("Parameter", "Value"), [*tables.parameters(document),
                                                     *_settings(document)]  # fmt: skip
    metrics = list(tables.metric_rows(summary, beside(document, summary)))
    yield "Performance Metrics", tables.METRIC_HEADS, metrics
    yield "QoS Metrics", tables.QOS_HEADS, list(tables.qos_rows(document))
    traced = list(tables.tracing_rows(document))
    if traced:
        yield "Device Tracing", tables.TRACING_HEADS, traced
    yield _sheet(scripts.verdict(document))
    yield _sheet(scripts.health(document))
    yield _sheet(scripts.latencies(document))
    counters = scripts.counters(document)
    if counters.rows:
        yield _sheet(counters)


def _sheet(section: Section) -> Sheet:
    heads = tuple(column.title for column in section.columns)
    return section.title, heads, [row.cells for row in section.rows]


def _wide(document: ResultDocument, summary: dict[str, object]) -> Iterator[tuple[str, object]]:
    """Yield what makes one row, so that sheets of many runs can be put below each other."""
    yield "Verdict", document.verdict
    yield "Reasons", ", ".join(reason.code for reason in document.reasons)
    yield from tables.parameters(document)
    yield from ((heading, value) for heading, _, value in tables.metrics(summary))
    yield from ((f"kvtrace {name}", getattr(document, name)) for name in _HEADLINE)
    for word, percentiles in (("service", document.service_ns), ("response", document.response_ns)):
        if percentiles is not None:
            numbers = percentiles.model_dump(exclude={"few_samples"})
            yield from ((f"kvtrace {word}_{name}{'' if name == 'count' else '_ns'}", value)
                        for name, value in numbers.items())  # fmt: skip


def _settings(document: ResultDocument) -> Iterator[Row]:
    trace, environment = document.trace, document.environment
    yield from (("trace", trace.path), ("trace_sha256", trace.sha256), ("rows", trace.rows),
                ("rows_replayed", trace.rows_replayed))  # fmt: skip
    if document.config is not None:
        for name, value in document.config.model_dump(mode="json").items():
            yield name, value if isinstance(value, int | float | str | None) else str(value)
    if environment is not None:
        yield from (("kernel", environment.kernel), ("cpus", environment.cpus),
                    ("cpu_model", environment.cpu_model),
                    ("memory_bytes", environment.memory_bytes),
                    ("command", shlex.join(["kvtrace", *environment.command[1:]])))  # fmt: skip
