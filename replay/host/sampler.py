"""Looks at the kernel's counters about once a second while a run goes on, in a thread of its own.

The loop knows nothing of it: a look takes some tenths of a millisecond of another thread.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from kvtrace.units import S_NS
from replay import clock
from replay.device.sysfs import read_text
from replay.host.numa import node_of_cpus
from replay.host.series import DeviceSeries, HostSeries, Sample, device_series, host_series

if TYPE_CHECKING:
    from collections.abc import Iterator

WIDTH_NS = S_NS
SAMPLES_MAX = 1024
_PROC_STAT, _TASKS = Path("/proc/stat"), Path("/proc/self/task")
_PROCESSOR, _USER_TICKS, _SYSTEM_TICKS = 36, 11, 12
"""Fields of a thread's `stat`, counted behind its name. Source: proc_pid_stat(5)."""


def look(devices: tuple[Path | None, ...]) -> Sample:
    """Return what the counters are now; `devices` are sysfs directories."""
    machine = (read_text(_PROC_STAT) or "").partition("\n")[0]
    samples = tuple(None if path is None else _of_device(path) for path in devices)
    return Sample(clock.now_ns(), clock.process_cpu_ns(), machine, samples)


def _of_device(sysfs: Path) -> tuple[str, str] | None:
    stat, level = read_text(sysfs / "stat"), read_text(sysfs / "inflight")
    return None if not stat or not level else (stat, level)


def thinned(samples: list[Sample]) -> list[Sample]:
    """Return every other sample and the last: intervals twice as wide, with the same sums."""
    return samples[:-1:2] + samples[-1:]


def _threads() -> Iterator[tuple[str, int, int]]:
    """Yield each thread's number, CPU ticks and latest CPU."""
    for task in _TASKS.iterdir():
        text = read_text(task / "stat")
        if text:  # it may have ended in between
            words = text.rpartition(")")[2].split()
            ticks = int(words[_USER_TICKS]) + int(words[_SYSTEM_TICKS])
            yield task.name, ticks, int(words[_PROCESSOR])


class Sampler:
    """Samples from `start` to `stop`; its series can be had at any time."""

    def __init__(self, devices: tuple[Path | None, ...], width_ns: int = WIDTH_NS) -> None:
        self._devices, self._width_ns = devices, width_ns
        self._samples: list[Sample] = []
        self._ticks: dict[str, int] = {}
        self._cpus_used: set[int] = set()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work, name="kvtrace-sampler", daemon=True)

    def start(self) -> None:
        """Take the first sample, and go on by itself."""
        self._ticks = {name: ticks for name, ticks, _ in _threads()}
        self._samples.append(look(self._devices))
        self._thread.start()

    def stop(self) -> None:
        """Take the last sample, and end."""
        if not self._ended.is_set():
            self._ended.set()
            self._thread.join()
            self._take()

    def _work(self) -> None:
        next_ns = self._samples[0].at_ns + self._width_ns
        while not self._ended.wait(max(0, next_ns - clock.now_ns()) / S_NS):
            self._take()
            next_ns += self._width_ns

    def _take(self) -> None:
        for name, ticks, cpu in _threads():
            if ticks > self._ticks.get(name, 0):
                self._cpus_used.add(cpu)
            self._ticks[name] = ticks
        samples = [*self._samples, look(self._devices)]
        if len(samples) > SAMPLES_MAX:
            samples = thinned(samples)
            self._width_ns *= 2
        self._samples = samples

    def device(self, which: int, start_ns: int) -> DeviceSeries | None:
        """Return a device's activity; None without one."""
        return device_series(self._samples, which, start_ns)

    def host(self, start_ns: int) -> HostSeries | None:
        """Return the machine's activity."""
        return host_series(
            self._samples,
            start_ns,
            ticks_per_s=os.sysconf("SC_CLK_TCK"),
            cpus=os.cpu_count() or 1,
            cpus_used=frozenset(self._cpus_used),
            nodes=node_of_cpus(),
        )
