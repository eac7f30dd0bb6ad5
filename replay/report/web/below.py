"""Charts of what lies below a run: the device, and the machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from replay.report.web.charts import Row, lines

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from replay.host.document import DeviceSeriesDocument, HostSeriesDocument
    from replay.report.web.page import Chart


def of_device(series: DeviceSeriesDocument | None) -> list[Chart]:
    """Return what the device moved and had in flight over time, as the kernel counted."""
    if series is None:
        return []
    moved = [
        row
        for name, values in (("read", series.read_bytes), ("write", series.write_bytes))
        for row in _rows(series.start_s, name, _per_s(values, series.width_s, 1e-9))
    ]
    queue = _rows(series.start_s, "in flight", _per_s(series.queue_ms, series.width_s, 1e-3))
    drawn = [lines("Device: throughput, GB/s", moved, "GB/s"),
             lines("Device: I/Os in flight", queue, "I/Os")]  # fmt: skip
    return [chart for chart in drawn if chart is not None]


def of_machine(series: HostSeriesDocument | None) -> list[Chart]:
    """Return how many CPUs were busy over time, and how many of them for this process."""
    if series is None:
        return []
    rows = [
        row
        for name, values in (
            ("all", series.busy_s),
            ("this process", series.process_s),
            ("stolen", series.steal_s),
        )
        for row in _rows(series.start_s, name, _per_s(values, series.width_s, 1.0))
    ]
    chart = lines(f"CPUs busy, of {series.cpus}", rows, "CPUs")
    return [] if chart is None else [chart]


def _per_s(values: Sequence[float], width_s: Sequence[float], factor: float) -> list[float]:
    return [value * factor / width for value, width in zip(values, width_s, strict=True)]


def _rows(start_s: Iterable[float], name: str, values: Iterable[float]) -> list[Row]:
    return [
        {"s": round(start, 3), "value": round(value, 6), "of": name}
        for start, value in zip(start_s, values, strict=True)
    ]
