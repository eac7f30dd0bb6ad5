"""Lines of the terminal's report on what lies below a run: device, machine, block layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from kvtrace.units import US_NS, format_bytes, format_count, format_duration_ns

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import RenderableType

    from replay.host.document import BlockLatencyDocument, HostSeriesDocument
    from replay.measure.figures import LaneDocument

BLOCK_ROWS = 12
"""Kinds of requests that are shown, the most frequent first; files have all."""


def device_row(lane: LaneDocument) -> Iterator[tuple[str, str]]:
    """Yield what the device moved and had in flight."""
    parts = []
    if lane.device is not None and lane.device.device_bytes_per_byte_asked is not None:
        parts.append(f"moved {lane.device.device_bytes_per_byte_asked:.2f} bytes per byte asked")
    series = lane.device_series
    if series is not None and sum(series.width_s) > 0:
        seconds = sum(series.width_s)
        parts.append(f"in flight {sum(series.queue_ms) / 1000 / seconds:.1f} mean")
        parts.append(f"busy {sum(series.busy_ms) / 1000 / seconds:.0%}")
        discards = sum(series.discard_ios)
        if discards:
            parts.append(f"{format_count(discards)} discards")
    if parts:
        yield "device", ", ".join(parts)


def submit_row(lane: LaneDocument) -> Iterator[tuple[str, str]]:
    """Yield what an io_uring lane paid for entering the kernel."""
    counters = lane.counters
    if counters is None or not counters.timed_submits or not lane.ops:
        return
    per_submit_ns = counters.timed_submit_ns / counters.timed_submits
    yield (
        "submit",
        f"{format_duration_ns(round(per_submit_ns))} per io_uring_enter that submits, "
        f"{format_count(counters.enter_calls)} enters",
    )


def machine_row(host: HostSeriesDocument | None) -> Iterator[tuple[str, str]]:
    """Yield how busy the CPUs were, and whose."""
    if host is None or not sum(host.width_s):
        return
    seconds = sum(host.width_s)
    own, busy = sum(host.process_s) / seconds, sum(host.busy_s) / seconds
    steal = sum(host.steal_s) / seconds / host.cpus
    stolen = f", {steal:.1%} stolen" if steal >= 0.001 else ""
    nodes = ", ".join(map(str, host.nodes_used))
    where = f"; threads seen on NUMA node {nodes}" if nodes else ""
    yield (
        "machine",
        f"{busy:.2f} of {host.cpus} CPUs busy, {own:.2f} by this process{stolen}{where}",
    )


def block_layer(latency: BlockLatencyDocument | None) -> Iterator[RenderableType]:
    """Yield the block layer's latencies as a table, and what they are."""
    if latency is None:
        return
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="dim")
    table.add_column("block layer", no_wrap=True)
    for name in ("from", "mean", "P50", "P99", "max", "count"):
        table.add_column(name, justify="right", no_wrap=True)
    often = sorted(latency.groups, key=lambda group: -group.count)[:BLOCK_ROWS]
    for group in sorted(often, key=lambda each: (each.device, each.op, each.size_class_bytes)):
        times = (group.mean_us, group.p50_us, group.p99_us, group.max_us)
        cells = [format_duration_ns(round(us * US_NS)).replace(" ", "") for us in times]
        size = format_bytes(group.size_class_bytes)
        table.add_row(f"{group.device} {group.op}", size, *cells, format_count(group.count))
    hidden = len(latency.groups) - len(often)
    more = f"; {hidden} rarer kinds aren't shown" if hidden else ""
    yield Text()
    yield table
    yield Padding(Text(f"{latency.note}{more}", style="dim"), (0, 0, 0, 2))
