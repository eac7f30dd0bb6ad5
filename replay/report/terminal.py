"""The report for people: fits 80 columns."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from kvtrace.units import GIB, S_NS, format_bytes, format_count, format_duration_ns

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import RenderableType

    from replay.histogram import Summary
    from replay.result import LaneResult, Result
    from replay.verdict import Reason

WIDTH = 80
_SHOWN = ("p50", "p90", "p99", "p999", "p9999")
_TITLES = {"p50": "P50", "p90": "P90", "p99": "P99", "p999": "P99.9", "p9999": "P99.99"}
FEW_MARK = "*"
"""Behind a percentile with fewer than 10 samples beyond it."""


def render(result: Result) -> Iterator[RenderableType]:
    """Yield what is to be printed, top to bottom."""
    yield _verdict(result)
    yield from _reasons(result)
    yield _head(result)
    for lane in result.lanes:
        yield _lane(result, lane)
        yield _latencies(result, lane)
        yield _lateness(lane)
    yield _foot(result)


def _verdict(result: Result) -> Text:
    verdict = result.verdict
    style = "bold green" if verdict.valid else "bold red"
    text = Text(verdict.word, style=style)
    for mark in dict.fromkeys(mark.code for mark in verdict.marks):
        text.append(f" {mark}", style="bold yellow")
    if not verdict.valid and verdict.acceptable:
        text.append(" (all reasons accepted)", style="yellow")
    return text


def _reasons(result: Result) -> Iterator[Padding]:
    verdict = result.verdict
    yield from (_reason(reason, "red", "INVALID") for reason in verdict.reasons)
    yield from (_reason(reason, "yellow", "mark") for reason in verdict.marks)
    yield from (_reason(reason, "yellow", "warning") for reason in verdict.warnings)


def _reason(reason: Reason, style: str, kind: str) -> Padding:
    accepted = ", accepted" if reason.accepted else ""
    text = Text(reason.code, style=style)
    text.append(f" ({kind}{accepted}): {reason.figure}\n", style="default")
    text.append(f"→ {reason.remedy}", style="dim")
    return Padding(text, (0, 0, 0, 2))


def _pairs(rows: list[tuple[str, str]]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True, style="dim")
    table.add_column()
    for row in rows:
        table.add_row(*row)
    return table


def _head(result: Result) -> Table:
    trace, rows = result.trace, []
    replayed = f"{format_count(trace.rows_replayed)} of {format_count(trace.rows)} rows"
    rows.append(("trace", f"{trace.path}, {replayed}"))
    rows.append(("executed", f"{format_count(result.ops)} ops, {format_bytes(result.bytes)} moved"))
    rows += [
        (
            "not executed",
            f"tier {part.tier.label}: {format_count(part.ops)} ops, {format_bytes(part.bytes)}",
        )
        for part in result.skipped
    ]
    populated = result.populated
    if populated.objects:
        rows.append(
            (
                "populated",
                f"{format_count(populated.objects)} objects, {format_bytes(populated.bytes)} "
                f"in {populated.seconds:.1f} s, settled {populated.settled_s:.1f} s",
            )
        )
    rows.append(("tokens", _tokens(result)))
    return _pairs(rows)


def _tokens(result: Result) -> str:
    """Return both figures in tokens, why they differ, and which to use."""
    theirs = result.storage_throughput_tokens_per_s
    if result.kv_tokens_per_s is None:
        return "unknown: the trace names no model"
    if theirs is None:
        return "see each tier's KV tokens/s"
    return (
        f"storage_throughput_tokens_per_sec {format_count(theirs)}: generated tokens ÷ summed I/O "
        "time, which depends on hit rate and overlap; compare devices by KV tokens/s"
    )


def _lane(result: Result, lane: LaneResult) -> Table:
    measure = lane.measure
    rate = measure.bytes_per_s
    speed = "no window" if rate is None else f"{rate / 1e9:.3f} GB/s ({rate / GIB:.3f} GiB/s)"
    ops = "" if measure.ops_per_s is None else f", {format_count(measure.ops_per_s)} ops/s"
    kv_tokens = result.lane_tokens_per_s(lane)
    tokens = "" if kv_tokens is None else f", {format_count(kv_tokens)} KV tokens/s"
    rows = [
        ("", ""),
        (f"tier {measure.tier.label}", lane.target),
        ("throughput", f"{speed}{ops}{tokens}"),
        (
            "window",
            f"{measure.window_ns / S_NS:.2f} s, drain {measure.drain_ns / S_NS:.3f} s, "
            f"in flight {measure.in_flight_mean:.1f} mean, {measure.in_flight_max} max",
        ),
    ]
    if measure.errors:
        rows.append(("errors", format_count(measure.errors)))
    if measure.on_schedule_ratio is not None:
        rows.append(("on schedule", f"{measure.on_schedule_ratio:.1%} of ops within 1 ms"))
    if lane.device is not None and measure.device_bytes:
        ratio = lane.device.bytes / measure.device_bytes
        rows.append(("device", f"moved {ratio:.2f} bytes per byte asked"))
    return _pairs(rows)


def _table(title: str) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), title=None, header_style="dim")
    table.add_column(title, no_wrap=True)
    for name in _SHOWN:
        table.add_column(_TITLES[name], justify="right", no_wrap=True)
    table.add_column("max", justify="right", no_wrap=True)
    table.add_column("count", justify="right", no_wrap=True)
    return table


def _cells(summary: Summary) -> list[str]:
    cells = []
    for name in _SHOWN:
        mark = FEW_MARK if name in summary.few_samples else ""
        cells.append(format_duration_ns(summary[name]).replace(" ", "") + mark)
    longest = format_duration_ns(summary.max).replace(" ", "")
    return [*cells, longest, _short_count(summary.count)]


def _short_count(count: int) -> str:
    for unit, factor in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if count >= 10 * factor:
            return f"{count / factor:.0f}{unit}"
    return str(count)


def _latencies(result: Result, lane: LaneResult) -> Table:
    table = _table("service")
    measure = lane.measure
    table.add_row("all", *_cells(measure.service))
    if measure.response is not None:
        table.add_row(" response", *_cells(measure.response))
    for group in result.groups.whole:
        if group.tier != measure.tier:
            continue
        name = f"{group.phase.label} {group.op.label}"
        if group.service is None:
            blank = [""] * (len(_SHOWN) + 1)
            table.add_row(name, *blank, _short_count(group.ops))
            continue
        table.add_row(name, *_cells(group.service))
        if group.response is not None:
            table.add_row(" response", *_cells(group.response))
    return table


def _lateness(lane: LaneResult) -> Table:
    table = _table("lateness")
    lateness = lane.measure.lateness
    for name, part in (
        ("total", lateness.total),
        (" dependency", lateness.dependency_wait),
        (" slot", lateness.slot_wait),
        (" burst", lateness.burst_wait),
        (" host", lateness.host),
    ):
        table.add_row(name, *_cells(part))
    return table


def _foot(result: Result) -> Table:
    tool, payload, fidelity = result.tool, result.payload, result.fidelity
    per_gb = f", {tool.cpu_ns / result.bytes:.3f} s per GB" if result.bytes else ""
    note = f" ({tool.engine_note})" if tool.engine_note else ""
    stretch = "" if fidelity.stretch_ratio is None else f"stretch {fidelity.stretch_ratio:.4f}, "
    return _pairs(
        [
            ("", ""),
            (FEW_MARK, "fewer than 10 samples beyond this percentile"),
            ("engine", f"{tool.engine}{note}; {tool.cpu_ns / S_NS:.2f} CPU s{per_gb}"),
            (
                "payload",
                f"{payload.kind}, {format_bytes(payload.arena_bytes)} on {payload.page_kind} "
                f"pages, run id {payload.run_id}, verify {payload.verify}: "
                f"{format_count(payload.verified_ops)} reads checked",
            ),
            (
                "fidelity",
                f"{stretch}order violations {fidelity.order_violations}, in flight "
                f"{fidelity.in_flight_actual_max:.1f} at most",
            ),
        ]
    )
