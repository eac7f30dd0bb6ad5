"""The machine as far as it bears on a replay: CPUs, memory, limits. Reads /proc and /sys."""

from __future__ import annotations

import os
import resource
from dataclasses import dataclass
from pathlib import Path

from kvtrace.units import KIB
from replay.device.sysfs import read_text
from replay.engine.native.library import uring_available
from replay.host.numa import Node, nodes

_CPU = Path("/sys/devices/system/cpu")
_CLOCK = Path("/sys/devices/system/clocksource/clocksource0")
_THP = Path("/sys/kernel/mm/transparent_hugepage/enabled")
_MEMINFO, _CPUINFO = Path("/proc/meminfo"), Path("/proc/cpuinfo")


@dataclass(frozen=True, slots=True)
class Machine:
    """What the kernel says; None is unknown.

    `cpus`: those this process may use. `memlock_bytes`: None is without limit. `huge_page_bytes`:
    size of one; `huge_pages_free`: reserved and not in use. `transparent_huge_pages`: always,
    madvise or never. `governors`: each that some CPU has. `no_uring`: why not, None where it works.
    """

    cpu_model: str
    cpus: int
    nodes: tuple[Node, ...]
    memory_bytes: int
    available_bytes: int
    swap_bytes: int
    swap_used_bytes: int
    memlock_bytes: int | None
    root: bool
    huge_page_bytes: int
    huge_pages: int
    huge_pages_free: int
    transparent_huge_pages: str | None
    governors: tuple[str, ...]
    clocksource: str | None
    no_uring: str | None
    hypervisor: bool


def parse_fields(text: str) -> dict[str, str]:
    """Return what is before and behind the colon of each line; of a repeated name the first."""
    values: dict[str, str] = {}
    for line in text.splitlines():
        name, _, value = line.partition(":")
        values.setdefault(name.strip(), value.strip())
    return values


def chosen(text: str | None) -> str | None:
    """Return the word in brackets, as in `always [madvise] never`."""
    if text is None or "[" not in text:
        return text
    return text.partition("[")[2].partition("]")[0]


def _bytes(fields: dict[str, str], name: str) -> int:
    return int(fields.get(name, "0").split()[0]) * KIB


def _memlock_bytes() -> int | None:
    limit = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    return None if limit == resource.RLIM_INFINITY else limit


def observe() -> Machine:
    """Return what the machine is now."""
    memory = parse_fields(read_text(_MEMINFO) or "")
    processor = parse_fields(read_text(_CPUINFO) or "")
    governors = {read_text(path) for path in _CPU.glob("cpu[0-9]*/cpufreq/scaling_governor")}
    return Machine(
        cpu_model=processor.get("model name", ""),
        cpus=len(os.sched_getaffinity(0)),
        nodes=nodes(),
        memory_bytes=_bytes(memory, "MemTotal"),
        available_bytes=_bytes(memory, "MemAvailable"),
        swap_bytes=_bytes(memory, "SwapTotal"),
        swap_used_bytes=_bytes(memory, "SwapTotal") - _bytes(memory, "SwapFree"),
        memlock_bytes=_memlock_bytes(),
        root=os.geteuid() == 0,
        huge_page_bytes=_bytes(memory, "Hugepagesize"),
        huge_pages=int(memory.get("HugePages_Total", "0")),
        huge_pages_free=int(memory.get("HugePages_Free", "0")),
        transparent_huge_pages=chosen(read_text(_THP)),
        governors=tuple(sorted(name for name in governors if name)),
        clocksource=read_text(_CLOCK / "current_clocksource"),
        no_uring=uring_available(),
        hypervisor="hypervisor" in processor.get("flags", "").split(),
    )
