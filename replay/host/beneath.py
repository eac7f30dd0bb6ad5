"""Layers below a target other than its own drive: memory, a virtual disk, a limit."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kvtrace.units import format_bytes
from replay.device import mounts
from replay.device import sysfs as device

if TYPE_CHECKING:
    from collections.abc import Iterator

_VIRTUAL_NAMES = ("vd", "xvd", "nbd", "rbd", "zd")
_VIRTUAL_MODELS = ("qemu", "vmware", "virtual", "elastic block", "persistentdisk", "msft")
_MEMORY_NAMES = ("ram", "zram", "pmem", "nullb")
_MEMORY_FILE_SYSTEMS = ("tmpfs", "ramfs")
_OWN_CGROUPS, _CGROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")
_THROTTLES = {
    "read_bps_device": "rbps", "write_bps_device": "wbps",
    "read_iops_device": "riops", "write_iops_device": "wiops",
}  # fmt: skip
"""Files of cgroup version 1, and what version 2 calls the same. Source: the kernel's
Documentation/admin-guide/cgroup-v1/blkio-controller.rst and cgroup-v2.rst."""


@dataclass(frozen=True, slots=True)
class Beneath:
    """What a target's bytes are on. `io_limit`: what its cgroups allow this process; or empty."""

    cached: bool = False
    """Whether a loop device goes through the page cache of the file below it."""
    in_memory: bool = False
    virtual: bool = False
    """Whether a hypervisor or a network stands between it and a drive."""
    io_limit: str = ""


NOTHING = Beneath()


def is_memory(name: str) -> bool:
    """Whether a block device of that name is a piece of memory."""
    return name.startswith(_MEMORY_NAMES)


def is_virtual(name: str, model: str) -> bool:
    """Whether a hypervisor or a network stands between a device and a drive."""
    return name.startswith(_VIRTUAL_NAMES) or any(word in model.lower() for word in _VIRTUAL_MODELS)


def observe(sysfs: Path | None, path: Path | None) -> Beneath:
    """Return what is below a block device (`sysfs`) or the file system that `path` is on."""
    if sysfs is None:
        return Beneath(in_memory=path is not None and _on_memory(path))
    disk = device.disk_of(sysfs)
    lowest = device.lowest_disks(disk)
    backing = device.read_text(disk / "loop/backing_file")
    below = NOTHING if backing is None else _below_file(Path(backing))
    limits = [limit for each in lowest for limit in io_limits(each)]
    return Beneath(
        cached=device.read_text(disk / "loop/dio") == "0",
        in_memory=below.in_memory or any(is_memory(each.name) for each in lowest),
        virtual=below.virtual or any(is_virtual(each.name, device.model(each)) for each in lowest),
        io_limit=", ".join([*limits, *([below.io_limit] if below.io_limit else [])]),
    )


def _below_file(path: Path) -> Beneath:
    """Return what is below the file of a loop device."""
    try:
        return observe(device.sysfs_of(path.stat().st_dev), path)
    except OSError:
        return observe(None, path)


def _on_memory(path: Path) -> bool:
    try:
        mount = mounts.mount_of(path if path.exists() else path.parent)
    except OSError:
        return False
    return mount is not None and mount.type in _MEMORY_FILE_SYSTEMS


def io_limits(disk: Path, own: Path = _OWN_CGROUPS, root: Path = _CGROUPS) -> Iterator[str]:
    """Yield the limits that this process's cgroups have on a disk, each in words."""
    number = device.read_text(disk / "dev")
    for line in (device.read_text(own) or "").splitlines():
        _, controllers, name = line.split(":", 2)
        below = Path(name.lstrip("/"))
        for place in (below, *below.parents):
            if not controllers:
                for mounted in (root, root / "unified"):
                    yield from _of_version_2(mounted / place / "io.max", number)
            elif "blkio" in controllers.split(","):
                yield from _of_version_1(root / "blkio" / place, number)


def _of_version_2(path: Path, number: str | None) -> Iterator[str]:
    for line in (device.read_text(path) or "").splitlines():
        fields, *limits = line.split()
        if fields == number:
            pairs = (limit.partition("=") for limit in limits)
            yield from (_words(name, value) for name, _, value in pairs if value != "max")


def _of_version_1(folder: Path, number: str | None) -> Iterator[str]:
    for file, name in _THROTTLES.items():
        for line in (device.read_text(folder / f"blkio.throttle.{file}") or "").splitlines():
            parts, _, value = line.partition(" ")
            if parts == number:
                yield _words(name, value)


def _words(name: str, value: str) -> str:
    """Return a limit in words: `rbps` 1048576 is 1.00 MiB/s of reads."""
    what = "reads" if name.startswith("r") else "writes"
    if name.endswith("iops"):
        return f"{int(value):,} {what} per second"
    return f"{format_bytes(int(value))}/s of {what}"
