"""The device and the machine below a run in reports and stored results."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from kvtrace.fields import Section

if TYPE_CHECKING:
    from replay.host.bpf import BlockLatency
    from replay.host.series import DeviceSeries, HostSeries


class DeviceSeriesDocument(Section):
    """A block device's counters per interval, as columns: see docs/host.md."""

    start_s: list[float]
    width_s: list[float]
    read_ios: list[int]
    read_merges: list[int]
    read_bytes: list[int]
    read_ms: list[int]
    write_ios: list[int]
    write_merges: list[int]
    write_bytes: list[int]
    write_ms: list[int]
    discard_ios: list[int]
    discard_merges: list[int]
    discard_bytes: list[int]
    discard_ms: list[int]
    flush_ios: list[int]
    flush_ms: list[int]
    busy_ms: list[int]
    queue_ms: list[int]
    reads_in_flight: list[int]
    writes_in_flight: list[int]


class HostSeriesDocument(Section):
    """CPU seconds per interval, as columns, and where the process ran: see docs/host.md."""

    start_s: list[float]
    width_s: list[float]
    process_s: list[float]
    busy_s: list[float]
    user_s: list[float]
    system_s: list[float]
    iowait_s: list[float]
    steal_s: list[float]
    cpus: int
    cpus_used: list[int]
    nodes_used: list[int]


class BlockGroupDocument(Section):
    """A device's requests of one operation and size class, times in µs: see docs/host.md."""

    device: str
    op: str
    size_class_bytes: int
    count: int
    mean_us: float
    p50_us: float
    p99_us: float
    max_us: float
    bucket_us: list[float]
    bucket_count: list[int]


class BlockLatencyDocument(Section):
    """What the block layer took, from `start_s` to `end_s` since the run's clock zero."""

    start_s: float
    end_s: float
    note: str
    groups: list[BlockGroupDocument]


def _plain(measured: Any) -> dict[str, Any]:
    """Return a dataclass's fields, arrays as lists."""
    values = {each.name: getattr(measured, each.name) for each in dataclasses.fields(measured)}
    return {
        name: value.tolist() if isinstance(value, np.ndarray) else value
        for name, value in values.items()
    }


def device_document(series: DeviceSeries | None) -> DeviceSeriesDocument | None:
    """Return it as a document has it."""
    return None if series is None else DeviceSeriesDocument(**_plain(series))


def host_document(series: HostSeries | None) -> HostSeriesDocument | None:
    """Return it as a document has it."""
    return None if series is None else HostSeriesDocument(**_plain(series))


def block_document(latency: BlockLatency | None) -> BlockLatencyDocument | None:
    """Return it as a document has it."""
    if latency is None:
        return None
    groups = [BlockGroupDocument(**_plain(group)) for group in latency.groups]
    return BlockLatencyDocument(
        start_s=latency.start_s, end_s=latency.end_s, note=latency.note, groups=groups
    )
