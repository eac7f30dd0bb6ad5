"""Mounts and swap areas, as the kernel lists them."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from replay.device import sysfs as device

_OWN_MOUNTS = Path("/proc/self/mountinfo")


@dataclass(frozen=True, slots=True)
class Mount:
    """One mounted file system."""

    number: str
    """Of its device, as major:minor; btrfs and others have one of their own here."""
    point: str
    type: str
    source: str
    options: str

    @property
    def device_number(self) -> int:
        """Its device's number."""
        major, _, minor = self.number.partition(":")
        return os.makedev(int(major), int(minor))


def mounts(table: Path = _OWN_MOUNTS) -> tuple[Mount, ...]:
    """Return the mounts in the mount namespace of `table`. Source: proc_pid_mountinfo(5)."""
    entries = []
    for line in (device.read_text(table) or "").splitlines():
        left, _, right = line.partition(" - ")
        words, rest = left.split(), right.split(" ")
        if len(words) < 6 or len(rest) < 3:
            continue
        options = f"{words[5]},{rest[2]}"
        entries.append(Mount(words[2], _unescaped(words[4]), rest[0], _unescaped(rest[1]), options))
    return tuple(entries)


def mount_of(path: Path) -> Mount | None:
    """Return the file system that `path` is on."""
    number = path.stat().st_dev
    text = f"{os.major(number)}:{os.minor(number)}"
    candidates = [mount for mount in mounts() if mount.number == text]
    inside = [m for m in candidates if path.resolve().is_relative_to(m.point)]
    return max(inside or candidates, key=lambda mount: len(mount.point), default=None)


def upper_of(path: Path) -> Path | None:
    """Return the file below an overlay that `path` is; None where there is no overlay."""
    try:
        mount = mount_of(path)
    except OSError:
        return None
    if mount is None or mount.type != "overlay":
        return None
    options = dict(part.partition("=")[::2] for part in mount.options.split(","))
    if "upperdir" not in options:
        return None
    return Path(_unescaped(options["upperdir"])) / path.resolve().relative_to(mount.point)


def mount_points(sysfs: Path) -> tuple[str, ...]:
    """Return where the device or a partition of it is mounted."""
    numbers = {device.read_text(part / "dev") for part in (sysfs, *device.partitions(sysfs))}
    return tuple(mount.point for mount in mounts() if mount.number in numbers)


def swaps() -> tuple[Path, ...]:
    """Return the files and devices that are swapped to."""
    lines = (device.read_text(Path("/proc/swaps")) or "").splitlines()[1:]
    return tuple(Path(_unescaped(line.split()[0])) for line in lines)


def _unescaped(text: str) -> str:
    """Return a path as it is: the kernel writes spaces and the like as octal numbers."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)
