"""The report as one HTML file that needs no network: for a browser, a phone, or paper."""

from __future__ import annotations

import shlex
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import yaml

from kvtrace.units import GIB, S_NS, US_NS, format_bytes, format_count, format_duration_ns
from replay.measure.summaries import TITLES
from replay.report.support.cells import FEW_MARK, FEW_NOTE
from replay.report.web import below, charts, page, requests
from replay.report.web.page import Cell

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from replay.measure.figures import GroupDocument, LaneDocument
    from replay.measure.summaries import Percentiles
    from replay.result.document import ResultDocument
    from replay.result.reason import Reason

SUFFIX = ".html"
PACKAGES = ("altair", "vl_convert")
_LATENCY_NOTE = (
    "Service time: from submit to completion. Response time: from when the op was due, the wait "
    "for a turn included. " + FEW_NOTE + "."
)


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
    drawn = 0
    for lane in document.lanes:
        sizes = [group for group in document.groups_by_size if group.tier == lane.tier]
        lane_charts = charts.of_lane(lane, document.groups_of(lane), sizes)
        yield _lane(lane, lane_charts, drawn)
        drawn += len(lane_charts)
    yield page.section("Latencies", page.note(_LATENCY_NOTE), _groups(document))
    yield requests.requests(document.requests, _heads(""), _percentile_cells)
    yield requests.health(document.storage_health)
    fidelity = document.fidelity
    gaps = charts.interarrival(fidelity.interarrival_due_ns, fidelity.interarrival_submit_ns)
    yield page.section(
        "Fidelity", page.pairs(_fidelity(document)), page.charts(gaps, drawn), _phases(document)
    )
    drawn += len(gaps)
    for lane in document.lanes:
        below_it = below.of_device(lane.device_series)
        yield page.section(
            f"Device of tier {lane.tier}", page.charts(below_it, drawn), _device(lane)
        )
        drawn += len(below_it)
    machine = below.of_machine(document.host_series)
    yield page.section("Machine", page.charts(machine, drawn), _block_layer(document))
    yield page.section("Tool and payload", page.pairs(_tool(document)))
    yield page.section("Environment", page.pairs(_environment(document)))
    yield page.section("Again", *_again(document))


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


def _lane(lane: LaneDocument, lane_charts: Sequence[page.Chart], drawn: int) -> str:
    rows = [("target", lane.title)]
    if lane.throughput_bytes_per_s is not None:
        rate = lane.throughput_bytes_per_s
        rows.append(("throughput", f"{rate / 1e9:.3f} GB/s ({rate / GIB:.3f} GiB/s)"))
    for name, part in (("read", lane.read_bytes_per_s), ("write", lane.write_bytes_per_s)):
        if part is not None:
            rows.append((f"of it {name}", f"{part / 1e9:.3f} GB/s"))
    if lane.ops_per_s is not None:
        rows.append(("reads and writes", f"{format_count(lane.ops_per_s)} per s"))
    rows += [
        ("window", f"{lane.window_s:.2f} s, then {lane.drain_s:.3f} s until the last completion"),
        *_in_flight(lane),
        ("errors", format_count(lane.errors)),
    ]
    if lane.on_schedule_ratio is not None:
        rows.append(("on schedule", f"{lane.on_schedule_ratio:.2%} of ops within 1 ms"))
    shown = page.charts(lane_charts, drawn)
    return page.section(f"Tier {lane.tier}", page.pairs(rows), shown, _lateness(lane), _io(lane))


def _in_flight(lane: LaneDocument) -> Iterator[tuple[str, str]]:
    if lane.in_flight is None:
        return
    for name, flight in (("ops", lane.in_flight.ops), ("I/Os", lane.in_flight.ios)):
        if flight is not None:
            yield f"{name} in flight", f"{flight.mean:.1f} in the mean, {flight.max:,} at most"


def _lateness(lane: LaneDocument) -> str:
    if lane.lateness_ns is None:
        return ""
    parts = (
        ("all", lane.lateness_ns),
        ("waiting for predecessors", lane.lateness_ns.dependency_wait_ns),
        ("waiting for a slot", lane.lateness_ns.slot_wait_ns),
        ("waiting in a burst", lane.lateness_ns.burst_wait_ns),
        ("the tool's own", lane.lateness_ns.host_lateness_ns),
    )
    rows = [[name, *_percentile_cells(part)] for name, part in parts if part is not None]
    since = "was due" if lane.response_ns is not None else "was ready: nothing is due here"
    return page.heading(f"Lateness: submitted after it {since}") + page.table(
        ["part", *_heads("")], rows
    )


def _io(lane: LaneDocument) -> str:
    rows: list[list[Cell | str]] = [
        [format_bytes(group.size_class_bytes), *_percentile_cells(group)] for group in lane.io_ns
    ]
    if not rows:
        return ""
    return page.heading("Single I/Os") + page.table(["size, from", *_heads("")], rows)


def _heads(prefix: str) -> list[str]:
    return [*(f"{prefix}{title}" for title in TITLES.values()), f"{prefix}max", f"{prefix}count"]


def _percentile_cells(times: Percentiles) -> list[Cell | str]:
    cells: list[Cell | str] = [Cell(_duration(times, name), times[name]) for name in TITLES]
    return [
        *cells,
        Cell(format_duration_ns(times.max), times.max),
        Cell(f"{times.count:,}", times.count),
    ]


def _groups(document: ResultDocument) -> str:
    """Return a row per group and kind of time; errors have a column only where there are some."""
    groups = [*document.groups, *document.groups_by_size, *document.groups_by_qos]
    failed = any(group.errors for group in groups)
    heads = ["op", "of", "time", "ops", "bytes", *(["errors"] if failed else []), *_heads("")]
    rows = [row for group in groups for row in _group_rows(group, failed=failed)]
    return page.table(heads, rows, texts=3, dense=True)


def _group_rows(group: GroupDocument, *, failed: bool) -> Iterator[list[Cell | str]]:
    size = group.size_class_bytes
    part = "all" if size is None else f"from {format_bytes(size).replace('.00', '')}"
    name: list[Cell | str] = [f"{group.tier} {group.phase} {group.op}", group.qos or part]
    counts = [Cell(f"{group.ops:,}", group.ops), Cell(format_bytes(group.bytes), group.bytes)]
    if failed:
        counts.append(Cell(f"{group.errors:,}", group.errors))
    times = (("service", group.service_ns), ("response", group.response_ns))
    known = [(word, each) for word, each in times if each is not None and each.count]
    for word, percentiles in known:
        yield [*name, word, *counts, *_percentile_cells(percentiles)]
    if not known:
        yield [*name, "none", *counts, *([""] * (len(TITLES) + 2))]


def _fidelity(document: ResultDocument) -> Iterator[tuple[str, object]]:
    fidelity = document.fidelity
    if fidelity.submit_error_ns is not None:
        yield "submitted off schedule, P99", _duration(fidelity.submit_error_ns, "p99")
    if fidelity.interarrival_distance_ns is not None:
        distance = format_duration_ns(fidelity.interarrival_distance_ns)
        yield "mean distance of gaps from the trace's", distance
    if fidelity.stretch_ratio is not None:
        yield "length ÷ the trace's", f"{fidelity.stretch_ratio:.4f}"
    if fidelity.in_flight_planned_max is not None:
        planned = f"{fidelity.in_flight_planned_max:.1f}"
        yield "ops in flight if all had begun in time, fullest slice of time", planned
    yield "ops in flight, fullest slice of time", f"{fidelity.in_flight_actual_max:.1f}"
    if fidelity.order_violations is not None:
        yield "ops that began before what they wait for", fidelity.order_violations
    for part in document.not_executed:
        yield (
            f"tier {part.tier}, not executed",
            (f"{format_count(part.ops)} ops, {format_bytes(part.bytes)}"),
        )


def _phases(document: ResultDocument) -> str:
    rows: list[list[Cell | str]] = [
        [
            phase.phase,
            Cell(f"{phase.executed_ops:,}", phase.executed_ops),
            Cell(f"{phase.trace_ops:,}", phase.trace_ops),
            Cell(format_bytes(phase.executed_bytes), phase.executed_bytes),
            Cell(format_bytes(phase.trace_bytes), phase.trace_bytes),
        ]
        for phase in document.fidelity.phases
    ]
    return page.table(["phase", "ops done", "in the trace", "bytes done", "in the trace"], rows)


def _device(lane: LaneDocument) -> str:
    rows = []
    if lane.device is not None:
        rows += [(name.replace("_", " "), _plain(value)) for name, value in lane.device]
    if lane.device_state is not None:
        state = lane.device_state
        node = "unknown" if state.numa_node is None else state.numa_node
        rows += [("model", state.model), ("firmware", state.firmware or "unknown")]
        rows.append(("NUMA node", node))
    if lane.device_change is not None:
        rows += [(name.replace("_", " "), _plain(value)) for name, value in lane.device_change]
    if lane.device is not None or lane.preconditioned is not None:
        done = lane.preconditioned
        rows.append(("preconditioned", "unknown" if done is None else f"{done.passes} passes"))
    return page.heading(f"tier {lane.tier}: {lane.title}") + page.pairs(rows) if rows else ""


def _block_layer(document: ResultDocument) -> str:
    latency = document.bpf
    if latency is None:
        return ""
    rows: list[list[Cell | str]] = [
        [
            group.device,
            group.op,
            Cell(format_bytes(group.size_class_bytes), group.size_class_bytes),
            *(
                Cell(format_duration_ns(us * US_NS), us)
                for us in (group.mean_us, group.p50_us, group.p99_us, group.max_us)
            ),
            Cell(f"{group.count:,}", group.count),
        ]
        for group in latency.groups
    ]
    heads = ["device", "op", "size, from", "mean", "P50", "P99", "max", "count"]
    return page.heading("Block layer") + page.note(latency.note) + page.table(heads, rows, texts=2)


def _plain(value: object) -> object:
    """Return a figure as people read it."""
    if isinstance(value, float):
        return f"{value:.3f}"
    return "unknown" if value is None else f"{value:,}" if isinstance(value, int) else value


def _tool(document: ResultDocument) -> Iterator[tuple[str, object]]:
    tool, payload, populated = document.tool, document.payload, document.populate
    if tool is not None:
        yield "engine", f"{tool.engine} {tool.engine_note}".strip()
        per_gb = "" if tool.cpu_s_per_gb is None else f", {tool.cpu_s_per_gb:.3f} s per GB"
        yield "CPU", f"{tool.cpu_s:.2f} s{per_gb}"
        yield "loop threads", tool.threads
        yield "priority", tool.priority
        yield "memory, at most", format_bytes(tool.memory_bytes_max)
        yield "planner stalls", tool.plan_stalls
    if payload is not None:
        yield "payload", f"{payload.kind}, {format_bytes(payload.arena_bytes)} of unique bytes"
        yield "pages", payload.page_kind
        yield "run id", payload.run_id
        yield "verified", f"{format_count(payload.verified_ops)} reads: {payload.coverage}"
        yield "reads with wrong bytes", payload.mismatched_ops
    if populated is not None:
        yield (
            "populated",
            (
                f"{format_count(populated.objects)} objects, {format_bytes(populated.bytes)} in "
                f"{populated.seconds:.1f} s, settled {populated.settled_s:.1f} s"
            ),
        )


def _environment(document: ResultDocument) -> Iterator[tuple[str, object]]:
    environment = document.environment
    if environment is None:
        yield "unknown", "the ops were done by another tool, or elsewhere"
        return
    yield "kernel", f"{environment.kernel} {environment.machine}"
    yield "CPUs", f"{environment.cpus} × {environment.cpu_model or 'unknown'}"
    yield "governor", environment.governor or "unknown"
    yield "memory", format_bytes(environment.memory_bytes)
    yield (
        "huge pages",
        f"{environment.huge_pages_reserved} reserved; {environment.transparent_huge_pages}",
    )
    yield "Python", environment.python
    yield (
        "versions",
        ", ".join(f"{name} {version}" for name, version in environment.versions.items()),
    )
    for target in environment.targets:
        queue = ", ".join(f"{name} {value}" for name, value in target.queue.items())
        parts = (target.model, target.file_system, target.mount_options, queue)
        yield target.title, "; ".join(part for part in parts if part) or "nothing to be said"


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
