"""What the kernel says of a block device: identity, users, limits, counters (all from sysfs)."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

_SYSFS = Path("/sys/dev/block")
_BY_ID = Path("/dev/disk/by-id")
_SECTOR_BYTES = 512
_QUEUE = (
    "scheduler",
    "nr_requests",
    "max_sectors_kb",
    "max_segments",
    "logical_block_size",
    "physical_block_size",
    "minimum_io_size",
    "rotational",
    "write_cache",
    "nomerges",
)


def read_text(path: Path) -> str | None:
    """Return the text of a small file, stripped; None if it can't be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None


def sysfs_of(number: int) -> Path | None:
    """Return the sysfs directory of the block device with that number; None if there is none."""
    link = _SYSFS / f"{os.major(number)}:{os.minor(number)}"
    return link.resolve() if link.exists() else None


def disk_of(sysfs: Path) -> Path:
    """Return the directory of the whole disk: its parent's if `sysfs` is a partition."""
    return sysfs.parent if (sysfs / "partition").exists() else sysfs


def size_bytes(sysfs: Path) -> int:
    """Return the device's size."""
    return int(read_text(sysfs / "size") or 0) * _SECTOR_BYTES


def model(sysfs: Path) -> str:
    """Return the model's name, or what kind of device it is."""
    disk = disk_of(sysfs)
    backing = read_text(disk / "loop/backing_file")
    if backing is not None:
        return f"loop device over {backing}"
    vendor = read_text(disk / "device/vendor")
    name = read_text(disk / "device/model")
    if name is None:
        return disk.name
    return name if vendor is None or vendor.startswith("0x") else f"{vendor} {name}"


def identities(sysfs: Path) -> tuple[str, ...]:
    """Return serial, WWN and by-id names; of a partition the by-id names only."""
    found: list[str] = []
    if not (sysfs / "partition").exists():
        for name in ("serial", "device/serial", "wwid", "device/wwid"):
            text = read_text(sysfs / name)
            if text and text not in found:
                found.append(text)
    number = read_text(sysfs / "dev")
    if _BY_ID.is_dir() and number:
        found += [link.name for link in sorted(_BY_ID.iterdir()) if _number(link) == number]
    return tuple(found)


def _number(path: Path) -> str | None:
    try:
        found = path.stat().st_rdev
    except OSError:
        return None
    return f"{os.major(found)}:{os.minor(found)}"


def partitions(sysfs: Path) -> tuple[Path, ...]:
    """Return the directories of the device's partitions."""
    return tuple(sorted(part.parent for part in sysfs.glob("*/partition")))


def holders(sysfs: Path) -> tuple[str, ...]:
    """Return the devices that are built on this one or on a partition of it."""
    found: list[str] = []
    for part in (sysfs, *partitions(sysfs)):
        if (part / "holders").is_dir():
            found += sorted(entry.name for entry in (part / "holders").iterdir())
    return tuple(found)


@dataclass(frozen=True, slots=True)
class Mount:
    """One mounted file system."""

    number: str
    point: str
    type: str
    options: str


def mounts() -> tuple[Mount, ...]:
    """Return what is mounted. Source: proc_pid_mountinfo(5)."""
    found = []
    text = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace")
    for line in text.splitlines():
        left, _, right = line.partition(" - ")
        words, rest = left.split(), right.split()
        found.append(Mount(words[2], words[4], rest[0], f"{words[5]},{rest[-1]}"))
    return tuple(found)


def mount_of(path: Path) -> Mount | None:
    """Return the file system that `path` is on."""
    number = path.stat().st_dev
    text = f"{os.major(number)}:{os.minor(number)}"
    candidates = [mount for mount in mounts() if mount.number == text]
    inside = [m for m in candidates if path.resolve().is_relative_to(m.point)]
    return max(inside or candidates, key=lambda mount: len(mount.point), default=None)


def mount_points(sysfs: Path) -> tuple[str, ...]:
    """Return where the device or a partition of it is mounted."""
    numbers = {read_text(part / "dev") for part in (sysfs, *partitions(sysfs))}
    return tuple(mount.point for mount in mounts() if mount.number in numbers)


def swaps() -> tuple[Path, ...]:
    """Return the files and devices that are swapped to."""
    lines = (read_text(Path("/proc/swaps")) or "").splitlines()[1:]
    return tuple(Path(line.split()[0]) for line in lines)


def loop_backings() -> tuple[tuple[str, Path], ...]:
    """Return (loop device, file) for each attached file."""
    found = []
    for entry in sorted(Path("/sys/block").glob("loop*/loop/backing_file")):
        text = read_text(entry)
        if text:
            found.append((f"/dev/{entry.parent.parent.name}", Path(text)))
    return tuple(found)


def queue_limits(sysfs: Path) -> dict[str, str]:
    """Return the scheduler and the limits of the device's queue, as sysfs words them."""
    queue = disk_of(sysfs) / "queue"
    found = {name: read_text(queue / name) for name in _QUEUE}
    return {name: text for name, text in found.items() if text is not None}


@dataclass(frozen=True, slots=True)
class DiskStat:
    """A device's counters. Source: Documentation/block/stat.rst of Linux."""

    read_ios: int
    read_merges: int
    read_bytes: int
    read_ms: int
    write_ios: int
    write_merges: int
    write_bytes: int
    write_ms: int

    def since(self, before: DiskStat) -> DiskStat:
        """Return what happened after `before`."""
        return DiskStat(
            *(getattr(self, name) - getattr(before, name) for name in DiskStat.__slots__)
        )


def stat(sysfs: Path | None) -> DiskStat | None:
    """Return the counters of a device or partition; None where there are none."""
    text = read_text(sysfs / "stat") if sysfs is not None else None
    if not text:
        return None
    words = [int(word) for word in text.split()]
    return DiskStat(
        words[0],
        words[1],
        words[2] * _SECTOR_BYTES,
        words[3],
        words[4],
        words[5],
        words[6] * _SECTOR_BYTES,
        words[7],
    )
