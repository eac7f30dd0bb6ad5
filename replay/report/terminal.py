"""The whole report for a terminal (`--full`): every table, 80 columns wide."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from kvtrace.show.printable import printable
from kvtrace.show.tables import wrapped
from kvtrace.units import GIB, format_bytes, format_count, format_duration_ns, format_rate
from replay.report.support import below, requests
from replay.report.support.cells import FEW_MARK, WIDTH, count_cells, table_of_times, time_cells

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.console import RenderableType

    from replay.measure.figures import LaneDocument, LatenessSummary, TimeSlices
    from replay.result.document import ResultDocument
    from replay.result.reason import Reason

_BARS, _BARS_MIN = 40, 4
_BLOCKS = " ▁▂▃▄▅▆▇█"
STYLES = {"VALID": "bold green", "INVALID": "bold red", "UNJUDGED": "bold yellow"}


def render(result: ResultDocument) -> Iterator[RenderableType]:
    """Yield what is to be printed, top to bottom."""
    yield _verdict(result)
    yield from _reasons(result)
    yield _head(result)
    for lane in result.lanes:
        yield _lane(lane)
        yield _latencies(result, lane)
        if lane.lateness_ns is not None:
            yield _lateness(lane.lateness_ns, scheduled=lane.response_ns is not None)
    yield from requests.requests(result.requests)
    yield from requests.health(result.storage_health)
    yield from below.block_layer(result.bpf)
    yield _foot(result)


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


def _head(result: ResultDocument) -> Table:
    trace, rows = result.trace, []
    replayed = f"{format_count(trace.rows_replayed)} of {format_count(trace.rows)} rows"
    if trace.rounds != 1:
        replayed = f"{trace.rounds:,.2f} rounds of {format_count(trace.rows)} rows"
    rows.append(("trace", f"{trace.path}, {replayed}"))
    rows.append(("executed", f"{format_count(result.ops)} ops, {format_bytes(result.bytes)} moved"))
    rows += [
        (
            "not executed",
            f"tier {part.tier}: {format_count(part.ops)} ops, {format_bytes(part.bytes)}",
        )
        for part in result.not_executed
    ]
    populated = result.populate
    if populated is not None and populated.objects:
        rows.append(
            (
                "populated",
                f"{format_count(populated.objects)} objects, {format_bytes(populated.bytes)} "
                f"in {populated.seconds:.1f} s, settled {populated.settled_s:.1f} s",
            )
        )
    rows.append(("tokens", _tokens(result)))
    return _pairs(rows)


def _tokens(result: ResultDocument) -> str:
    """Return both figures in tokens, why they differ, and which to use."""
    theirs = result.storage_throughput_tokens_per_sec
    if result.kv_tokens_per_s is None:
        return "unknown: the trace names no model"
    if theirs is None:
        return "see each tier's KV tokens/s"
    return (
        f"storage_throughput_tokens_per_sec {format_count(theirs)}: generated tokens ÷ summed I/O "
        "time, which depends on hit rate and overlap; compare devices by KV tokens/s"
    )


def _lane(lane: LaneDocument) -> Table:
    rate = lane.throughput_bytes_per_s
    binary = "" if rate is None or rate >= 1000 * GIB else f" ({rate / GIB:.3f} GiB/s)"
    speed = "no window" if rate is None else f"{format_rate(rate)}{binary}"
    ops = "" if lane.ops_per_s is None else f", {format_count(lane.ops_per_s)} ops/s"
    kv_tokens = lane.kv_tokens_per_s
    tokens = "" if kv_tokens is None else f", {format_count(kv_tokens)} KV tokens/s"
    rows = [
        ("", ""),
        (f"tier {lane.tier}", lane.title),
        ("throughput", f"{speed}{ops}{tokens}"),
        *_by_op(lane),
        *_over_time(lane.time_slices),
        ("window", f"{lane.window_s:.2f} s, drain {lane.drain_s:.3f} s"),
        *_in_flight(lane),
    ]
    if lane.errors:
        rows.append(("errors", format_count(lane.errors)))
    if lane.on_schedule_ratio is not None:
        rows.append(("on schedule", f"{lane.on_schedule_ratio:.1%} of ops within 1 ms"))
    return _pairs([*rows, *below.device_row(lane), *below.submit_row(lane)])


def _by_op(lane: LaneDocument) -> Iterator[tuple[str, str]]:
    """Yield the rates of reads and of writes, which add up to the throughput."""
    read, write = lane.read_bytes_per_s, lane.write_bytes_per_s
    if read is not None and write is not None:
        yield " of it", f"read {format_rate(read)}, write {format_rate(write)}"


def _in_flight(lane: LaneDocument) -> Iterator[tuple[str, str]]:
    """Yield mean and maximum of ops, and of the I/Os that they are divided into."""
    if lane.in_flight is None:
        return
    for name, flight in (("ops", lane.in_flight.ops), ("I/Os", lane.in_flight.ios)):
        if flight is not None:
            yield f"{name} in flight", f"{flight.mean:.1f} mean, {flight.max:,} max"


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
        (" over time", moved, format_rate(max(moved))),
        (" P99 service", p99, format_duration_ns(max(p99))),
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


def _latencies(result: ResultDocument, lane: LaneDocument) -> Table:
    table = table_of_times("service")
    table.add_row("all", *time_cells(lane.service_ns))
    if lane.response_ns is not None:
        table.add_row(" response", *time_cells(lane.response_ns))
    for group in result.groups_of(lane):
        name = f"{group.phase} {group.op}"
        if group.service_ns is None:
            table.add_row(name, *count_cells(group.ops))
            continue
        table.add_row(name, *time_cells(group.service_ns))
        if group.response_ns is not None:
            table.add_row(" response", *time_cells(group.response_ns))
    return table


def _lateness(lateness: LatenessSummary, *, scheduled: bool) -> Table:
    """Return what was waited for since an op was due, or, without a schedule, was ready."""
    table = table_of_times("lateness" if scheduled else "since ready")
    for name, part in (
        ("total", lateness),
        (" dependency", lateness.dependency_wait_ns),
        (" slot", lateness.slot_wait_ns),
        (" burst", lateness.burst_wait_ns),
        (" host", lateness.host_lateness_ns),
    ):
        if part is not None:
            table.add_row(name, *time_cells(part))
    return table


def _foot(result: ResultDocument) -> Table:
    rows = [("", ""), (FEW_MARK, "fewer than 10 samples beyond this percentile")]
    tool, payload, fidelity = result.tool, result.payload, result.fidelity
    if tool is not None:
        per_gb = "" if tool.cpu_s_per_gb is None else f", {tool.cpu_s_per_gb:.3f} s per GB"
        note = f" ({tool.engine_note})" if tool.engine_note else ""
        rows.append(("engine", f"{tool.engine}{note}; {tool.cpu_s:.2f} CPU s{per_gb}"))
    rows += below.machine_row(result.host_series)
    if payload is not None:
        rows.append(
            (
                "payload",
                f"{payload.kind}, {format_bytes(payload.arena_bytes)} on {payload.page_kind} "
                f"pages, run id {payload.run_id}",
            )
        )
        rows.append(("verified", f"{format_count(payload.verified_ops)} reads: {payload.coverage}"))
    stretch = "" if fidelity.stretch_ratio is None else f"stretch {fidelity.stretch_ratio:.4f}, "
    violations = fidelity.order_violations
    order = "" if violations is None else f"order violations {violations}, "
    flown = f"{fidelity.in_flight_actual_max:.1f} ops in flight in the fullest slice of time"
    return _pairs([*rows, ("fidelity", f"{stretch}{order}{flown}")])
