"""The machine a run ran on, as far as it bears on the numbers."""

from __future__ import annotations

import os
import platform
import sys
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from kvtrace.show.printable import utf8
from replay.device import mounts
from replay.device import sysfs as device
from replay.host import beneath
from replay.host.beneath import NOTHING, Beneath

if TYPE_CHECKING:
    from replay.targets import Target

_PACKAGES = ("kvtrace", "numpy", "polars", "pyarrow", "dgen-py")
_CPU = Path("/sys/devices/system/cpu")
_HUGE = Path("/sys/kernel/mm/transparent_hugepage/enabled")


@dataclass(frozen=True, slots=True)
class Environment:
    """Texts as the kernel words them; what can't be read is missing."""

    kernel: str
    machine: str
    cpu_model: str
    cpus: int
    governor: str | None
    memory_bytes: int
    huge_pages_reserved: int
    transparent_huge_pages: str | None
    python: str
    versions: dict[str, str]
    command: tuple[str, ...]
    targets: tuple[TargetEnvironment, ...]


@dataclass(frozen=True, slots=True)
class TargetEnvironment:
    """What lies below one target."""

    title: str
    model: str | None
    size_bytes: int | None
    file_system: str | None
    mount_options: str | None
    queue: dict[str, str]
    beneath: Beneath = NOTHING


def _target(target: Target) -> TargetEnvironment:
    sysfs = target.device
    mount = _mount(target.spec.path)
    return TargetEnvironment(
        target.title,
        device.model(sysfs) if sysfs else None,
        device.size_bytes(sysfs) if sysfs else None,
        mount.type if mount else None,
        mount.options if mount else None,
        device.queue_limits(sysfs) if sysfs else {},
        beneath.observe(sysfs, target.spec.path),
    )


def _mount(path: Path | None) -> mounts.Mount | None:
    """Return the file system that a target is on; None for a device, or if its name is gone."""
    try:
        return None if path is None or path.is_block_device() else mounts.mount_of(path)
    except OSError:
        return None


@cache
def _versions() -> dict[str, str]:
    values = {}
    for name in _PACKAGES:
        try:
            values[name] = version(name)
        except PackageNotFoundError:
            continue
    return values


def _field(path: str, name: str) -> str | None:
    for line in (device.read_text(Path(path)) or "").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return None


def observe(targets: tuple[Target, ...]) -> Environment:
    """Return what can be seen now, with the targets open."""
    memory = _field("/proc/meminfo", "MemTotal") or "0"
    reserved = _field("/proc/meminfo", "HugePages_Total") or "0"
    return Environment(
        kernel=f"{platform.system()} {platform.release()}",
        machine=platform.machine(),
        cpu_model=_field("/proc/cpuinfo", "model name") or "",
        cpus=len(os.sched_getaffinity(0)),
        governor=device.read_text(_CPU / "cpu0/cpufreq/scaling_governor"),
        memory_bytes=int(memory.split()[0]) * 1024,
        huge_pages_reserved=int(reserved),
        transparent_huge_pages=device.read_text(_HUGE),
        python=platform.python_version(),
        versions=_versions(),
        command=tuple(map(utf8, sys.argv)),
        targets=tuple(_target(target) for target in targets),
    )
