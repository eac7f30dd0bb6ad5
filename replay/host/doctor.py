"""Checks of a snapshot for problems that would invalidate a replay; reads no machine state."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from kvtrace.units import GIB, MIB, format_bytes

if TYPE_CHECKING:
    from replay.host.activity import Activity
    from replay.host.machine import Machine
    from replay.host.place import Place

NEEDED_BYTES = GIB + 512 * MIB
"""The default arena and the buffers of reads in flight."""
FREE_BYTES_MIN = 10 * GIB
CPUS_MIN = 4
STEAL_RATIO_MAX = 0.01
BUSY_RATIO_MAX = 0.10
DEVICE_BUSY_MAX, DEVICE_BYTES_PER_S_MAX = 0.05, 10**6
_FAST_CLOCKS = ("tsc", "arch_sys_counter", "kvm-clock", "hyperv_clocksource_tsc_page")
"""Read without a system call."""


class Level(StrEnum):
    """How bad it is. `impossible`: the replay would refuse."""

    OK = "ok"
    WARNING = "warning"
    IMPOSSIBLE = "impossible"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All that the checks look at. `place` is None where no target was named."""

    machine: Machine
    activity: Activity
    place: Place | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found: its figure, and what to do; the remedy is empty where all is well."""

    code: str
    level: Level
    figure: str
    remedy: str = ""


def _judged(
    code: str, bad: bool, figure: str, remedy: str, level: Level = Level.WARNING
) -> Finding:
    return Finding(code, level, figure, remedy) if bad else Finding(code, Level.OK, figure)


def examine(snapshot: Snapshot) -> tuple[Finding, ...]:
    """Return what every check that applies found, the worst first."""
    findings = [check(snapshot) for check in CHECKS]
    order = list(reversed(Level))
    known = [finding for finding in findings if finding is not None]
    return tuple(sorted(known, key=lambda finding: order.index(finding.level)))


def check_uring(snapshot: Snapshot) -> Finding:
    """Check that io_uring can be used."""
    reason = snapshot.machine.no_uring
    return _judged(
        "io_uring",
        reason is not None,
        reason or "works",
        "set sysctl kernel.io_uring_disabled=0, or allow io_uring in the container's policy; "
        "--engine threads is slower and takes a thread per I/O",
    )


def check_cpus(snapshot: Snapshot) -> Finding:
    """Check that there are CPUs for the loop, the planner and the kernel."""
    cpus = snapshot.machine.cpus
    return _judged(
        "cpus",
        cpus < CPUS_MIN,
        f"{cpus} CPUs usable",
        f"allow {CPUS_MIN} or more CPUs (taskset, the container's cpuset) for the loop, the "
        "planner and the kernel; otherwise use --spin off and --threads 1",
    )


def check_governor(snapshot: Snapshot) -> Finding:
    """Check that no CPU saves power by itself."""
    governors = snapshot.machine.governors
    slow = [name for name in governors if name != "performance"]
    return _judged(
        "cpu_governor",
        bool(slow),
        ", ".join(governors) or "not controlled by this system",
        "cpupower frequency-set -g performance",
    )


def check_clocksource(snapshot: Snapshot) -> Finding:
    """Check that reading the clock is cheap."""
    source = snapshot.machine.clocksource
    return _judged(
        "clocksource",
        source is not None and source not in _FAST_CLOCKS,
        source or "unknown",
        "boot with clocksource=tsc if the CPU's TSC is stable: each reading of this clock is a "
        "system call or slower",
    )


def check_memlock(snapshot: Snapshot) -> Finding:
    """Check that buffers can be registered, not pinned anew for each I/O."""
    machine = snapshot.machine
    limit = machine.memlock_bytes
    short = limit is not None and limit < NEEDED_BYTES and not machine.root
    figure = "no limit" if limit is None else format_bytes(limit)
    return _judged(
        "memlock",
        short,
        f"{figure}{', which root may exceed' if machine.root and limit is not None else ''}",
        f"ulimit -l {NEEDED_BYTES // 1024}, or memlock in /etc/security/limits.conf: without it "
        "each I/O pins its pages anew",
    )


def _huge_bytes(machine: Machine) -> int:
    return machine.huge_pages_free * machine.huge_page_bytes


def check_huge_pages(snapshot: Snapshot) -> Finding:
    """Check that reserved huge pages are enough; without any, transparent ones do."""
    machine = snapshot.machine
    free = _huge_bytes(machine)
    figure = f"{machine.huge_pages_free} of {machine.huge_pages} reserved pages free, "
    short = free < NEEDED_BYTES and (
        machine.huge_pages > 0 or machine.transparent_huge_pages == "never"
    )
    pages = -(-NEEDED_BYTES // (machine.huge_page_bytes or 2 * MIB))
    return _judged(
        "huge_pages",
        short,
        f"{figure}{pages} would hold all buffers" if machine.huge_pages else "none reserved",
        f"sysctl vm.nr_hugepages={machine.huge_pages - machine.huge_pages_free + pages}, or a "
        "smaller --arena",
    )


def check_transparent(snapshot: Snapshot) -> Finding:
    """Check that without reserved huge pages buffers can have transparent ones."""
    word = snapshot.machine.transparent_huge_pages
    return _judged(
        "transparent_huge_pages",
        word in (None, "never") and _huge_bytes(snapshot.machine) < NEEDED_BYTES,
        word or "unavailable",
        "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled: on 4 KiB pages fast devices "
        "reach about half their throughput",
    )


def check_memory(snapshot: Snapshot) -> Finding:
    """Check that there is memory for the buffers and the plan."""
    available = snapshot.machine.available_bytes
    return _judged(
        "memory",
        available < 2 * NEEDED_BYTES,
        f"{format_bytes(available)} available",
        f"free memory, or use a smaller --arena: payload and reads take "
        f"{format_bytes(NEEDED_BYTES)}, the plan more",
    )


def check_swap(snapshot: Snapshot) -> Finding:
    """Check that nothing was swapped out."""
    machine = snapshot.machine
    return _judged(
        "swap",
        machine.swap_used_bytes > 0,
        f"{format_bytes(machine.swap_used_bytes)} of {format_bytes(machine.swap_bytes)} in use",
        "run swapoff -a once memory is free: pages swapped in during a run add latency that isn't "
        "the target's",
    )


def check_steal(snapshot: Snapshot) -> Finding:
    """Check that the hypervisor doesn't give the CPUs to other guests."""
    activity = snapshot.activity
    return _judged(
        "cpu_steal",
        activity.steal_ratio > STEAL_RATIO_MAX,
        f"{activity.steal_ratio:.1%} of CPU time stolen in {activity.window_s:.1f} s",
        "use a machine whose CPUs aren't shared",
    )


def check_neighbours(snapshot: Snapshot) -> Finding:
    """Check that no other process uses the CPUs."""
    activity, cpus = snapshot.activity, snapshot.machine.cpus
    return _judged(
        "busy_cpus",
        activity.busy_cpus > BUSY_RATIO_MAX * cpus,
        f"other processes use {activity.busy_cpus:.2f} of {cpus} CPUs",
        "stop them (see `top`), or keep them off some CPUs with taskset",
    )


def check_device_busy(snapshot: Snapshot) -> Finding | None:
    """Check that no other process uses the target's device."""
    activity = snapshot.activity
    if activity.device_bytes_per_s is None or activity.device_busy_ratio is None:
        return None
    busy = activity.device_busy_ratio > DEVICE_BUSY_MAX
    return _judged(
        "busy_device",
        busy or activity.device_bytes_per_s > DEVICE_BYTES_PER_S_MAX,
        f"other processes move {format_bytes(round(activity.device_bytes_per_s))}/s, "
        f"busy {activity.device_busy_ratio:.0%}",
        "stop the other users of the device (see `iotop`, `fuser -v`)",
    )


def check_refused(snapshot: Snapshot) -> Finding | None:
    """Check that the replay would take this target."""
    place = snapshot.place
    if place is None:
        return None
    kind = "a file that doesn't exist yet, or ours" if place.kind == "file" else f"a {place.kind}"
    figure = f"{kind}, wants {place.needs}" if place.needs else kind
    return _judged(
        "target",
        bool(place.refused),
        place.refused or figure,
        "use another target: `kvtrace discover` lists the usable ones",
        Level.IMPOSSIBLE,
    )


def check_direct(snapshot: Snapshot) -> Finding | None:
    """Check that the file system does direct I/O."""
    file_system = snapshot.place.file_system if snapshot.place is not None else None
    if file_system is None:
        return None
    return _judged(
        "direct_io",
        file_system.direct is False,
        f"{'no ' if file_system.direct is False else ''}O_DIRECT on {file_system.type} "
        f"at {file_system.point}",
        "use a block device, or a file system such as ext4 or xfs: buffered I/O measures memory",
        Level.IMPOSSIBLE,
    )


def check_space(snapshot: Snapshot) -> Finding | None:
    """Check that the file system has room for a working set that is worth measuring."""
    file_system = snapshot.place.file_system if snapshot.place is not None else None
    if file_system is None:
        return None
    full = file_system.usable_bytes == 0
    return _judged(
        "free_space",
        file_system.usable_bytes < FREE_BYTES_MIN,
        f"{format_bytes(file_system.usable_bytes)} usable of "
        f"{format_bytes(file_system.size_bytes)} at {file_system.point} (5 % stay free)",
        "free space or use another place: a drive's cache serves a small working set",
        Level.IMPOSSIBLE if full else Level.WARNING,
    )


def check_loop(snapshot: Snapshot) -> Finding | None:
    """Check that a loop device goes around the page cache."""
    disk = snapshot.place.disk if snapshot.place is not None else None
    if disk is None or disk.loop_direct is None:
        return None
    return _judged(
        "loop_device",
        not disk.loop_direct,
        f"{disk.model}, {'direct' if disk.loop_direct else 'through the page cache'}",
        f"losetup --direct-io=on {disk.path}, or use the file itself: this measures memory",
    )


def check_virtual(snapshot: Snapshot) -> Finding | None:
    """Check that the device is a drive, and nothing that stands for one."""
    disk = snapshot.place.disk if snapshot.place is not None else None
    if disk is None:
        return None
    below = snapshot.place.beneath if snapshot.place is not None else None
    virtual = disk.virtual or (below is not None and below.virtual)
    in_memory = disk.in_memory or (below is not None and below.in_memory)
    kind = "memory" if in_memory else "a virtual disk" if virtual else "no virtual disk"
    return _judged(
        "virtual_disk",
        virtual or in_memory,
        f"{disk.name} ({disk.model}) is {kind}",
        "figures include the host's cache, limits and other guests: pass a drive through, or "
        "report the disk as virtual",
    )


def check_memory_below(snapshot: Snapshot) -> Finding | None:
    """Check that a file isn't on a file system in memory."""
    place = snapshot.place
    if place is None or place.disk is not None:
        return None
    kind = place.file_system.type if place.file_system is not None else "unknown"
    return _judged(
        "in_memory", place.beneath.in_memory, f"file system {kind}",
        "use a file on a drive: this measures memory",
    )  # fmt: skip


def check_io_limit(snapshot: Snapshot) -> Finding | None:
    """Check that no cgroup limits this process's I/O."""
    if snapshot.place is None:
        return None
    limit = snapshot.place.beneath.io_limit
    return _judged(
        "io_limit", bool(limit), limit or "no limit of a cgroup",
        "raise io.max of the cgroup (of a container: its I/O limits), or report the "
        "limit with the figures",
    )  # fmt: skip


CHECKS = (
    check_refused, check_direct, check_space, check_loop, check_virtual, check_memory_below,
    check_io_limit, check_device_busy,
    check_uring, check_cpus, check_steal, check_neighbours, check_governor, check_clocksource,
    check_memlock, check_huge_pages, check_transparent, check_memory, check_swap,
)  # fmt: skip
