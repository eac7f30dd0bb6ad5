"""Load of other processes on the machine, measured over a moment."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kvtrace.units import S_NS
from replay import clock
from replay.host.sampler import look
from replay.host.series import Sample, device_series, host_series

if TYPE_CHECKING:
    from pathlib import Path

WINDOW_NS = 2 * S_NS


@dataclass(frozen=True, slots=True)
class Activity:
    """Of others, over `window_s`: CPUs busy, part of all CPU time that was stolen, device I/O.

    The device's figures are None without one.
    """

    window_s: float
    busy_cpus: float
    steal_ratio: float
    device_bytes_per_s: float | None
    device_busy_ratio: float | None


def between(first: Sample, last: Sample, *, ticks_per_s: int, cpus: int) -> Activity:
    """Return what went on between two looks, less this process's own CPU time."""
    samples = (first, last)
    host = host_series(
        samples, 0, ticks_per_s=ticks_per_s, cpus=cpus, cpus_used=frozenset(), nodes={}
    )
    assert host is not None
    window_s = float(host.width_s[0])
    series = device_series(samples, 0, 0) if first.devices else None
    moved = None if series is None else int(series.read_bytes[0] + series.write_bytes[0])
    stolen_s = float(host.steal_s[0])
    return Activity(
        window_s=window_s,
        busy_cpus=max(0.0, float(host.busy_s[0] - host.process_s[0]) - stolen_s) / window_s,
        steal_ratio=stolen_s / window_s / cpus,
        device_bytes_per_s=None if moved is None else moved / window_s,
        device_busy_ratio=None if series is None else float(series.busy_ms[0]) / 1000 / window_s,
    )


def measure(sysfs: Path | None, window_ns: int = WINDOW_NS) -> Activity:
    """Return what others did during `window_ns`, in which this thread sleeps."""
    devices = () if sysfs is None else (sysfs,)
    first = look(devices)
    clock.sleep_ns(window_ns)
    last = look(devices)
    ticks_per_s = os.sysconf("SC_CLK_TCK")
    return between(first, last, ticks_per_s=ticks_per_s, cpus=os.cpu_count() or 1)
