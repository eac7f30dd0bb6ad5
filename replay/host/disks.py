"""Block devices and file systems: what they are, and whether a replay could use them."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kvtrace.errors import TargetError
from replay.device import mounts
from replay.device import sysfs as device
from replay.host import beneath
from replay.safety import preflight, signatures

if TYPE_CHECKING:
    from collections.abc import Iterable

_BLOCK = Path("/sys/block")


@dataclass(frozen=True, slots=True)
class Disk:
    """One block device with a size. `identities`: what --allow-destroy takes, best first.

    `signatures`: what `blkid` finds on it, None where it couldn't be asked. `loop_direct`: of a
    loop device, whether it bypasses the page cache; None of any other. `numa_node`: None unknown.
    """

    name: str
    model: str
    size_bytes: int
    logical_block_bytes: int
    physical_block_bytes: int
    scheduler: str
    rotational: bool
    read_only: bool
    mounts: tuple[str, ...]
    holders: tuple[str, ...]
    partitions: tuple[str, ...]
    swap: bool
    identities: tuple[str, ...]
    signatures: tuple[str, ...] | None
    loop_direct: bool | None
    numa_node: int | None

    @property
    def path(self) -> str:
        """Its name under /dev."""
        return f"/dev/{self.name}"

    @property
    def allow_destroy(self) -> str:
        """What --allow-destroy wants."""
        return self.identities[0] if self.identities else self.path

    @property
    def in_memory(self) -> bool:
        """Whether it is a piece of memory."""
        return beneath.is_memory(self.name)

    @property
    def virtual(self) -> bool:
        """Whether a hypervisor or a network stands between it and a drive."""
        return beneath.is_virtual(self.name, self.model)


@dataclass(frozen=True, slots=True)
class FileSystem:
    """One mounted file system. `direct`: whether O_DIRECT works there; None is unknown."""

    point: str
    type: str
    source: str
    size_bytes: int
    free_bytes: int
    writable: bool
    direct: bool | None

    @property
    def usable_bytes(self) -> int:
        """What a replay may take of it: 5 % stay free."""
        return max(0, self.free_bytes - int(self.size_bytes * preflight.FREE_RATIO_MIN))


def why_not_disk(disk: Disk) -> str | None:
    """Return why a replay can't have the whole device, or None if it could."""
    if disk.in_memory:
        return "it is memory"
    if disk.mounts:
        return f"mounted at {', '.join(disk.mounts)}"
    if disk.swap:
        return "swap"
    if disk.holders:
        return f"used by {', '.join(disk.holders)}"
    if disk.read_only:
        return "read-only"
    if disk.signatures is None:
        return "only root can see whether it is in use"
    if disk.signatures:
        return f"has {', '.join(disk.signatures)}: --allow-signature if it may be destroyed"
    return None


def why_not_file_system(file_system: FileSystem, least_bytes: int) -> str | None:
    """Return why a replay can't have a file of `least_bytes` there, or None if it could."""
    if not file_system.writable:
        return "not writable"
    if file_system.direct is False:
        return f"no O_DIRECT on {file_system.type}"
    if file_system.usable_bytes < least_bytes:
        return "too little free space"
    return None


def direct_io(folder: Path) -> bool | None:
    """Return whether O_DIRECT works in a folder: tried with a file that never gets a name."""
    try:
        os.close(os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_DIRECT, 0o600))
    except OSError as error:
        return False if error.errno == errno.EINVAL else None
    return True


def _signatures(path: Path) -> tuple[str, ...] | None:
    try:
        descriptor = preflight.open_direct(path, os.O_RDONLY)
    except TargetError:
        return None
    try:
        return tuple(each.name for each in signatures.find(descriptor, str(path)))
    except TargetError:
        return None
    finally:
        os.close(descriptor)


def _is_swap(sysfs: Path, swaps: Iterable[Path]) -> bool:
    parts = {device.read_text(part / "dev") for part in (sysfs, *device.partitions(sysfs))}
    for swap in swaps:
        if swap.is_block_device():
            number = swap.stat().st_rdev
            if f"{os.major(number)}:{os.minor(number)}" in parts:
                return True
    return False


def observe_disk(sysfs: Path) -> Disk:
    """Return what a device's sysfs directory, and `blkid`, say of it."""
    limits = device.queue_limits(sysfs)
    scheduler = limits.get("scheduler", "")
    dio = device.read_text(sysfs / "loop/dio")
    return Disk(
        name=sysfs.name,
        model=device.model(sysfs),
        size_bytes=device.size_bytes(sysfs),
        logical_block_bytes=int(limits.get("logical_block_size", 0)),
        physical_block_bytes=int(limits.get("physical_block_size", 0)),
        scheduler=scheduler.partition("[")[2].partition("]")[0] or scheduler,
        rotational=limits.get("rotational") == "1",
        read_only=device.read_text(device.disk_of(sysfs) / "ro") == "1",
        mounts=mounts.mount_points(sysfs),
        holders=device.holders(sysfs),
        partitions=tuple(part.name for part in device.partitions(sysfs)),
        swap=_is_swap(sysfs, mounts.swaps()),
        identities=device.identities(sysfs),
        signatures=_signatures(Path("/dev") / sysfs.name),
        loop_direct=None if dio is None else dio == "1",
        numa_node=device.state(sysfs, lambda *_: None, lambda _: None).numa_node,
    )


def observe_disks(place: Path = _BLOCK) -> tuple[Disk, ...]:
    """Return all block devices that have a size, without their partitions."""
    paths = [path.resolve() for path in sorted(place.iterdir())]
    return tuple(observe_disk(path) for path in paths if device.size_bytes(path))


def observe_file_system(mount: mounts.Mount) -> FileSystem | None:
    """Return what a mounted file system is; None if it can't be looked at."""
    point = Path(mount.point)
    try:
        space = os.statvfs(point)
    except OSError:
        return None
    sysfs = device.sysfs_of(os.makedev(*map(int, mount.number.split(":"))))
    writable = os.access(point, os.W_OK) and not space.f_flag & os.ST_RDONLY
    return FileSystem(
        point=mount.point,
        type=mount.type,
        source=sysfs.name if sysfs is not None else "",
        size_bytes=space.f_blocks * space.f_frsize,
        free_bytes=space.f_bavail * space.f_frsize,
        writable=writable,
        direct=direct_io(point) if writable else None,
    )


def observe_file_systems() -> tuple[FileSystem, ...]:
    """Return the file systems of block devices, each where it was mounted first."""
    file_systems: dict[str, FileSystem] = {}
    for mount in mounts.mounts():
        if mount.number in file_systems or not Path(mount.point).is_dir():
            continue
        seen = observe_file_system(mount)
        if seen is not None and seen.source and seen.size_bytes:
            file_systems[mount.number] = seen
    return tuple(file_systems.values())
