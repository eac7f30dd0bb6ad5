"""Activity of device and machine per interval, from samples of the kernel's counters.

All counters only grow, so that a sample that is left out merges two intervals and loses nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from kvtrace.units import S_NS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

_SECTOR_BYTES = 512
_STAT = (
    "read_ios", "read_merges", "read_bytes", "read_ms",
    "write_ios", "write_merges", "write_bytes", "write_ms",
    "in_flight", "busy_ms", "queue_ms",
    "discard_ios", "discard_merges", "discard_bytes", "discard_ms",
    "flush_ios", "flush_ms",
)  # fmt: skip
"""Fields of a device's `stat`. Source: Documentation/block/stat.rst of Linux."""
_SECTORS = ("read_bytes", "write_bytes", "discard_bytes")
_LEVELS = ("reads_in_flight", "writes_in_flight")
_TICKS = ("user_s", "nice_s", "system_s", "idle_s", "iowait_s", "irq_s", "softirq_s", "steal_s")
"""Fields of the first line of /proc/stat. Source: proc_stat(5)."""
_IDLE = ("idle_s", "iowait_s")


@dataclass(frozen=True, slots=True)
class DeviceSeries:
    """A block device's counters per interval, as columns of equal length.

    `start_s` is since the run's clock zero, and negative before it. Of each kind of I/O: how many
    completed, how many were merged into another, bytes, and the summed milliseconds from being
    queued to completed. `busy_ms`: at least one I/O was in flight; `queue_ms`: summed over all in
    flight. `…_in_flight`: at the interval's end. Discards and flushes are 0 before Linux 5.5.
    """

    start_s: NDArray[np.float64]
    width_s: NDArray[np.float64]
    read_ios: NDArray[np.int64]
    read_merges: NDArray[np.int64]
    read_bytes: NDArray[np.int64]
    read_ms: NDArray[np.int64]
    write_ios: NDArray[np.int64]
    write_merges: NDArray[np.int64]
    write_bytes: NDArray[np.int64]
    write_ms: NDArray[np.int64]
    discard_ios: NDArray[np.int64]
    discard_merges: NDArray[np.int64]
    discard_bytes: NDArray[np.int64]
    discard_ms: NDArray[np.int64]
    flush_ios: NDArray[np.int64]
    flush_ms: NDArray[np.int64]
    busy_ms: NDArray[np.int64]
    queue_ms: NDArray[np.int64]
    reads_in_flight: NDArray[np.int64]
    writes_in_flight: NDArray[np.int64]

    @property
    def in_flight_mean(self) -> NDArray[np.float64]:
        """I/Os in flight, on average over each interval."""
        return self.queue_ms / (self.width_s * 1000)


@dataclass(frozen=True, slots=True)
class HostSeries:
    """CPU seconds per interval, as columns of equal length, and which CPUs the process was seen on.

    `process_s`: of this process, all its threads. The others are of the whole machine: `busy_s` is
    all but idle and iowait, `steal_s` what a hypervisor gave to others. `cpus`: how many there are;
    `cpus_used`, `nodes_used`: the CPUs and NUMA nodes that its threads were found on.
    """

    start_s: NDArray[np.float64]
    width_s: NDArray[np.float64]
    process_s: NDArray[np.float64]
    busy_s: NDArray[np.float64]
    user_s: NDArray[np.float64]
    system_s: NDArray[np.float64]
    iowait_s: NDArray[np.float64]
    steal_s: NDArray[np.float64]
    cpus: int
    cpus_used: tuple[int, ...]
    nodes_used: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Sample:
    """One look: when, and the texts of /proc/stat's first line and of each device's files.

    `devices`: `stat` and `inflight` of each; None where it can't be read. `process_ns`: CPU time.
    """

    at_ns: int
    process_ns: int
    machine: str
    devices: tuple[tuple[str, str] | None, ...]


def parse_stat(text: str) -> NDArray[np.int64]:
    """Return a device's `stat` as one row of `_STAT`; what an older kernel doesn't have is 0."""
    words = text.split()[: len(_STAT)]
    row = np.zeros(len(_STAT), np.int64)
    row[: len(words)] = [int(word) for word in words]
    for name in _SECTORS:
        row[_STAT.index(name)] *= _SECTOR_BYTES
    return row


def parse_ticks(text: str, ticks_per_s: int) -> NDArray[np.float64]:
    """Return the machine's CPU seconds as one row of `_TICKS`, summed over CPUs."""
    words = text.split()[1 : 1 + len(_TICKS)]
    return np.array([int(word) for word in words], np.float64) / ticks_per_s


def _times(samples: Sequence[Sample], start_ns: int) -> dict[str, NDArray[np.float64]]:
    at_ns = np.array([sample.at_ns for sample in samples], np.int64)
    return {"start_s": (at_ns[:-1] - start_ns) / S_NS, "width_s": np.diff(at_ns) / S_NS}


def device_series(samples: Sequence[Sample], which: int, start_ns: int) -> DeviceSeries | None:
    """Return what one of the samples' devices did; None if that can't be known."""
    looks = [sample.devices[which] for sample in samples]
    seen = [look for look in looks if look is not None]
    if len(seen) < max(2, len(looks)):
        return None
    counters = np.stack([parse_stat(stat) for stat, _ in seen])
    grown = np.diff(counters, axis=0)
    levels = np.array([[int(word) for word in level.split()[:2]] for _, level in seen], np.int64)
    columns: dict[str, NDArray[Any]] = {
        name: grown[:, at] for at, name in enumerate(_STAT) if name != "in_flight"
    }
    columns |= {name: levels[1:, at] for at, name in enumerate(_LEVELS)}
    columns |= _times(samples, start_ns)
    return DeviceSeries(**columns)


def host_series(
    samples: Sequence[Sample],
    start_ns: int,
    *,
    ticks_per_s: int,
    cpus: int,
    cpus_used: frozenset[int],
    nodes: Mapping[int, int],
) -> HostSeries | None:
    """Return what the machine did; None of fewer than two samples. `nodes`: NUMA node of a CPU."""
    if len(samples) < 2:
        return None
    ticks = np.diff(
        np.stack([parse_ticks(sample.machine, ticks_per_s) for sample in samples]), axis=0
    )
    of = {name: ticks[:, at] for at, name in enumerate(_TICKS[: ticks.shape[1]])}
    process_s = np.array([sample.process_ns for sample in samples], np.float64) / S_NS
    return HostSeries(
        **_times(samples, start_ns),
        process_s=np.diff(process_s),
        busy_s=ticks.sum(axis=1) - sum(of[name] for name in _IDLE),
        user_s=of["user_s"] + of["nice_s"],
        system_s=of["system_s"] + of["irq_s"] + of["softirq_s"],
        iowait_s=of["iowait_s"],
        steal_s=of["steal_s"],
        cpus=cpus,
        cpus_used=tuple(sorted(cpus_used)),
        nodes_used=tuple(sorted({nodes[cpu] for cpu in cpus_used if cpu in nodes})),
    )
