"""The report as one HTML file that needs no network: for a browser, a phone, or paper."""

from __future__ import annotations

import shlex
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import yaml

from kvtrace.units import GIB, S_NS, format_bytes, format_count, format_duration_ns
from replay.measure.summaries import TITLES
from replay.report.sections import lanes, whole
from replay.report.sections.parts import FACTS, Kind, shown, sort_value
from replay.report.support.cells import FEW_MARK, FEW_NOTE
from replay.report.web import below, charts, page
from replay.report.web.page import Cell

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from replay.measure.summaries import Percentiles
    from replay.report.sections.parts import Section
    from replay.result.document import ResultDocument
    from replay.result.reason import Reason

SUFFIX = ".html"
PACKAGES = ("altair", "vl_convert")
_DENSE = 10
"""Tables of more columns have less space about their cells."""


def write(document: ResultDocument, path: Path) -> None:
    """Write the report to `path`."""
    path.write_text(text(document), encoding="utf-8")


def text(document: ResultDocument) -> str:
    """Return the report as one page."""
    title = f"kvtrace: {document.verdict}, {document.trace.path}"
    return page.whole(title, _body(document))


def _body(document: ResultDocument) -> Iterator[str]:
    yield _head(document)
    yield _headline(document)
    drawn = dict(_charts(document))
    numbered, sections = 0, list(whole.sections(document))
    for section in sections:
        if section.under:
            continue
        charts_of_it = drawn.get(section.title, [])
        parts = [page.charts(charts_of_it, numbered)]
        parts += [_part(each) for each in sections if each.under == section.title]
        yield page.section(section.title, *_content(section), *parts)
        numbered += len(charts_of_it)
    yield page.section("Again", *_again(document))


def _charts(document: ResultDocument) -> Iterator[tuple[str, list[page.Chart]]]:
    """Yield the charts of each section that has some."""
    for lane in document.lanes:
        sizes = [group for group in document.groups_by_size if group.tier == lane.tier]
        yield lanes.title_of(lane), charts.of_lane(lane, document.groups_of(lane), sizes)
        yield whole.device_title(lane), below.of_device(lane.device_series)
    due, submit = document.fidelity.interarrival_due_ns, document.fidelity.interarrival_submit_ns
    yield "Fidelity", charts.interarrival(due, submit)
    yield "Machine", below.of_machine(document.host_series)


def _content(section: Section) -> Iterator[str]:
    """Yield a section's notes, and its table or figures."""
    yield from map(page.note, section.notes)
    if section.columns == FACTS:
        yield page.pairs(section.facts) if section.rows else ""
        return
    words = [column.kind == Kind.TEXT for column in section.columns]
    rows = [
        [
            _cell(value, column.kind)
            for value, column in zip(row.cells, section.columns, strict=True)
        ]
        for row in section.rows
    ]
    heads = [column.title for column in section.columns]
    texts = words.index(False) if False in words else len(words)
    yield page.table(heads, rows, texts=texts, dense=len(heads) > _DENSE)


def _part(section: Section) -> str:
    return page.heading(section.title) + "".join(_content(section))


def _cell(value: object, kind: Kind) -> Cell:
    return Cell(shown(value, kind), sort_value(value, kind))


def _head(document: ResultDocument) -> str:
    at = datetime.fromtimestamp(document.created_at_s, UTC)
    marks = " ".join(sorted({mark.code for mark in document.marks}))
    accepted = " (all reasons accepted)" if document.reasons and document.acceptable else ""
    return (
        "<header><h1>Storage replay</h1>"
        f'<div class="verdict {document.verdict}">{document.verdict} {page.text(marks)}'
        f"{accepted}</div>"
        + _reasons(document)
        + page.note(f"{document.trace.path}, {at:%Y-%m-%d %H:%M} UTC")
        + "</header>"
    )


def _reasons(document: ResultDocument) -> str:
    kinds = (
        ("INVALID", document.reasons),
        ("mark", document.marks),
        ("warning", document.warnings),
    )
    items = [_reason(kind, reason) for kind, reasons in kinds for reason in reasons]
    return f'<ul class="reasons">{"".join(items)}</ul>' if items else ""


def _reason(kind: str, reason: Reason) -> str:
    accepted = ", accepted" if reason.accepted else ""
    return (
        f'<li class="{kind}"><code>{page.text(reason.code)}</code> ({kind}{accepted}): '
        f"{page.text(reason.figure)}<br>→ {page.text(reason.remedy)}</li>"
    )


def _headline(document: ResultDocument) -> str:
    boxes = []
    rate = document.throughput_bytes_per_s
    if rate is not None:
        boxes.append(("throughput", f"{rate / 1e9:.3f} GB/s", f"{rate / GIB:.3f} GiB/s"))
    if document.ops_per_s is not None:
        boxes.append(("reads and writes", f"{format_count(document.ops_per_s)} per s", ""))
    if document.kv_tokens_per_s is not None:
        boxes.append(("KV tokens", f"{format_count(document.kv_tokens_per_s)} per s", ""))
    tier = f"tier {document.headline_tier}"
    for name, percentiles in (("service", document.service_ns), ("response", document.response_ns)):
        if percentiles is not None:
            boxes += [
                (f"{name} {TITLES[percentile]}", _duration(percentiles, percentile), tier)
                for percentile in ("p50", "p99", "p9999")
            ]
    boxes += [
        ("moved", format_bytes(document.bytes), f"{format_count(document.ops)} ops"),
        ("read : write", _read_write(document), "bytes"),
        ("window", f"{document.window_s:.2f} s", ""),
        ("failed ops", format_count(document.errors), ""),
    ]
    return page.section("Headline", page.figures(boxes), page.note(FEW_NOTE))


def _read_write(document: ResultDocument) -> str:
    moved = {
        op: sum(group.bytes for group in document.groups if group.op == op)
        for op in ("read", "write")
    }
    if not moved["write"]:
        return "reads only" if moved["read"] else "none"
    return f"{moved['read'] / moved['write']:.2f} : 1"


def _duration(times: Percentiles, name: str) -> str:
    mark = FEW_MARK if name in times.few_samples else ""
    return format_duration_ns(times[name]) + mark


def _again(document: ResultDocument) -> Iterator[str]:
    trace = document.trace
    yield page.pairs(
        [
            ("trace", trace.path),
            ("sha256", trace.sha256),
            (
                "rows",
                f"{trace.rows_replayed:,} of {trace.rows:,}"
                if trace.rounds == 1
                else f"{trace.rounds:,.2f} rounds of {trace.rows:,}",
            ),
            ("length", f"{trace.duration_ns / S_NS:.3f} s"),
            ("model", trace.model or "unknown"),
        ]
    )
    if document.environment is not None:
        yield page.heading("Replay")
        yield page.code(shlex.join(_command(document.environment.command)))
    config = trace.header.get("config")
    if config:
        yield page.heading("Record")
        yield page.code(f"kvtrace record {shlex.quote(trace.path)} --config record.yaml")
        settings = {name: value for name, value in config.items() if value is not None}
        yield page.folded("record.yaml", page.code(yaml.safe_dump(settings, sort_keys=True)))


def _command(words: Sequence[str]) -> list[str]:
    """Return a command line as users type it, whatever started the program."""
    return ["kvtrace", *words[1:]]
