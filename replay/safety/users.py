"""Who uses a block device or a file: mounts, swap, holders, exports, other processes."""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kvtrace.errors import TargetError
from kvtrace.units import MS_NS
from replay import clock
from replay.device import mounts
from replay.device import sysfs as device
from replay.safety import storage
from replay.safety.storage import Relation, Relative, number_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_PROC = Path("/proc")
_EXPORTS = (
    "target/core/*/*/udev_path",
    "nvmet/subsystems/*/namespaces/*/device_path",
)
"""Files below configfs that name what the kernel serves over iSCSI, Fibre Channel or NVMe-oF."""
_CONFIGFS = Path("/sys/kernel/config")
_LOOKS, _LOOK_NS = 10, 50 * MS_NS
_UNSEEN = (
    "not checked: whether one of {} processes of other users has it open for writing "
    "(run as root to see)"
)


@dataclass(frozen=True, slots=True)
class Storage:
    """Devices, by number, and regular files, by device and inode."""

    numbers: frozenset[int]
    files: frozenset[tuple[int, int]] = frozenset()

    def holds(self, status: os.stat_result) -> bool:
        """Whether a file's status is that of one of them."""
        if stat.S_ISBLK(status.st_mode):
            return status.st_rdev in self.numbers
        return (status.st_dev, status.st_ino) in self.files


def check_device(sysfs: Path, title: str) -> tuple[str, ...]:
    """Raise TargetError if anything else uses the bytes of a device; return what wasn't checked."""
    relatives = storage.relatives(sysfs)
    numbers = {number_of(each.sysfs) for each in relatives} | {number_of(sysfs)}
    bases = [piece.base for piece in storage.pieces(sysfs)]
    files = frozenset((int(b[1]), int(b[2])) for b in bases if b[0] == "file")
    shared = Storage(frozenset(numbers), files)
    _check_mounts(sysfs, relatives, title)
    _check_claims(sysfs, relatives, title)
    _check_holders(sysfs, relatives, title)
    _check_over(relatives, title)
    _check_swap(shared, title)
    _check_exports(shared, title)
    return check_writers(shared, title)


def check_file(status: os.stat_result, path: Path) -> tuple[str, ...]:
    """Raise TargetError if anything else uses a regular file; return what wasn't checked."""
    check_file_free(status, path)
    return check_writers(_file(status, path), path)


def _file(status: os.stat_result, path: Path) -> Storage:
    bases = storage.file_bases(path, (status.st_dev, status.st_ino))
    return Storage(frozenset(), frozenset((int(base[1]), int(base[2])) for base in bases))


def check_file_free(status: os.stat_result, path: Path) -> None:
    """Raise TargetError if the kernel uses a regular file: as loop device, swap or export."""
    shared = _file(status, path)
    loops = storage.over_file(path, (status.st_dev, status.st_ino))
    if loops:
        raise TargetError(
            "is attached to a loop device",
            where=path,
            got=", ".join(loops),
            hint=f"use {loops[0]} as the target, or detach it",
        )
    _check_swap(shared, path)
    _check_exports(shared, path)


def _check_mounts(sysfs: Path, relatives: tuple[Relative, ...], title: str) -> None:
    devices = {number_of(sysfs): ""} | {number_of(each.sysfs): each.path for each in relatives}
    for mount in _all_mounts():
        for number in (mount.device_number, _source_number(mount.source)):
            if number not in devices:
                continue
            other = devices[number]
            problem = f"shares its storage with {other}, which is mounted" if other else ""
            raise TargetError(
                problem or "is mounted", where=title, got=mount.point, hint="unmount it first"
            )


def _all_mounts() -> Iterator[mounts.Mount]:
    """Yield what is mounted in every mount namespace that can be seen."""
    yield from mounts.mounts()
    seen = {_namespace("self")}
    for process in _processes():
        name = _namespace(process.name)
        if name is not None and name not in seen:
            seen.add(name)
            yield from mounts.mounts(process / "mountinfo")


def _namespace(process: str) -> str | None:
    try:
        return str((_PROC / process / "ns/mnt").readlink())
    except OSError:
        return None


def _source_number(source: str) -> int | None:
    """Return the number of the device that a mount names; btrfs hides it behind one of its own."""
    try:
        status = Path(source).stat() if source.startswith("/") else None
    except OSError:
        return None
    return status.st_rdev if status is not None and stat.S_ISBLK(status.st_mode) else None


def _check_claims(sysfs: Path, relatives: tuple[Relative, ...], title: str) -> None:
    """Raise TargetError if the kernel says that a device with common bytes is in use.

    It knows of mounts that no table shows: lazily detached ones, namespaces without a process,
    further members of a btrfs. A loop device doesn't claim the one below it; device-mapper and md
    do, and a partition claims its disk, so these aren't asked about.
    """
    asked = [each.sysfs for each in relatives if each.relation == Relation.SAME_DRIVE]
    asked += storage.below_loops(sysfs)
    for other in asked:
        if is_claimed(other):
            raise TargetError(
                f"shares its storage with /dev/{other.name}, which is in use",
                where=title,
                hint="see `lsblk` and `fuser -v`; unmount it first",
            )


def is_claimed(sysfs: Path) -> bool:
    """Return whether the kernel refuses to give a device to one user alone."""
    try:
        descriptor = os.open(Path("/dev") / sysfs.name, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC)
    except OSError as error:
        return error.errno == errno.EBUSY
    os.close(descriptor)
    return False


def _check_holders(sysfs: Path, relatives: tuple[Relative, ...], title: str) -> None:
    held = list(device.holders(sysfs))
    for each in relatives:
        if each.relation in (Relation.PARTITION, Relation.SAME_DRIVE):
            held += [f"{name} on {each.path}" for name in device.holders(each.sysfs)]
    if held:
        raise TargetError(
            "is used by other devices",
            where=title,
            got=", ".join(dict.fromkeys(held)),
            hint="take those down first",
        )


def _check_over(relatives: tuple[Relative, ...], title: str) -> None:
    over = [each.path for each in relatives if each.relation == Relation.OVER]
    if over:
        raise TargetError(
            "shares its storage with other devices",
            where=title,
            got=", ".join(over),
            hint="detach or remove those first (see `losetup --list` and `lsblk`)",
        )


def _check_swap(shared: Storage, title: object) -> None:
    for swap in mounts.swaps():
        try:
            used = shared.holds(swap.stat())
        except OSError:
            continue
        if used:
            raise TargetError("is swap", where=title, got=swap, hint="swapoff first")


def _check_exports(shared: Storage, title: object) -> None:
    for entry in (entry for pattern in _EXPORTS for entry in _CONFIGFS.glob(pattern)):
        text = device.read_text(entry)
        try:
            used = bool(text) and shared.holds(Path(text or "").stat())
        except OSError:
            continue
        if used:
            raise TargetError(
                "is served to other machines by the kernel",
                where=title,
                got=entry.parent,
                hint="remove that export first",
            )


def _processes() -> list[Path]:
    return [entry for entry in _PROC.iterdir() if entry.name.isdigit()]


def check_writers(shared: Storage, title: object) -> tuple[str, ...]:
    """Raise TargetError if another process may write any of it; return what wasn't checked.

    Programs that look at every device (udev, losetup) open it for a moment: that isn't use.
    """
    for _ in range(_LOOKS):
        writer, unseen = _look_for_writer(shared)
        if not writer:
            return () if not unseen else (_UNSEEN.format(unseen),)
        clock.sleep_ns(_LOOK_NS)
    raise TargetError(
        "is open for writing in another process",
        where=title,
        got=writer,
        hint="stop it first",
    )


def _look_for_writer(shared: Storage) -> tuple[str, int]:
    """Return a process that may write any of it, and how many couldn't be looked at."""
    unseen = 0
    for process in _processes():
        if int(process.name) == os.getpid():
            continue
        try:
            writing = any(_writes(process, entry.name, shared) for entry in _descriptors(process))
            writing = writing or _maps(process, shared)
        except PermissionError:
            unseen += 1
            continue
        except OSError:  # it has ended
            continue
        if writing:
            name = device.read_text(process / "comm") or "?"
            return f"{name} (pid {process.name})", unseen
    return "", unseen


def _descriptors(process: Path) -> Iterable[os.DirEntry[str]]:
    with os.scandir(process / "fd") as entries:
        return list(entries)


def _maps(process: Path, shared: Storage) -> bool:
    """Return whether a process has any of it mapped for writing; its descriptor may be closed."""
    for line in (device.read_text(process / "maps") or "").splitlines():
        words = line.split(maxsplit=5)
        if len(words) > 5 and words[1][1] == "w" and words[1][3] == "s":
            try:
                status = (process / "map_files" / words[0]).stat()
            except OSError:
                continue
            if shared.holds(status):
                return True
    return False


def _writes(process: Path, descriptor: str, shared: Storage) -> bool:
    try:
        status = (process / "fd" / descriptor).stat()
    except OSError:  # closed meanwhile
        return False
    if not shared.holds(status):
        return False
    text = device.read_text(process / "fdinfo" / descriptor) or ""
    flags = next((line.split()[1] for line in text.splitlines() if line.startswith("flags:")), "0")
    return int(flags, 8) & os.O_ACCMODE != os.O_RDONLY
