"""Identity of an open target, to verify that it is still the checked one."""

from __future__ import annotations

import fcntl
import os
import stat
import struct
import tempfile
from dataclasses import dataclass, fields
from pathlib import Path

from replay.device import sysfs as device

# Source: include/uapi/linux/fs.h and loop.h.
_BLKGETSIZE64, _BLKGETDISKSEQ = 0x80081272, 0x80081280
_LOOP_MAJOR, _LOOP_GET_STATUS64 = 7, 0x4C05
_LOOP_INFO = struct.Struct("=5Q")  # device, inode, device number, offset, size limit
_LOOP_INFO_BYTES = 232


@dataclass(frozen=True, slots=True)
class Backing:
    """What a loop device is attached to. `device_number` is 0 where that is a regular file."""

    file: tuple[int, int]
    """Device and inode."""
    device_number: int
    offset_bytes: int
    limit_bytes: int


@dataclass(frozen=True, slots=True)
class Identity:
    """What makes a target itself: as long as nothing here differs, it is the same bytes."""

    kind: int
    file: tuple[int, int]
    """Device and inode of a regular file; zeros of a device."""
    number: int
    """Of a block device; else 0."""
    size_bytes: int | None
    """Of a block device; None of a file, which a run makes longer."""
    sequence: int | None
    """The kernel's disk sequence number: its count when this disk came or was changed."""
    serials: tuple[str, ...]
    model: str
    backing: Backing | None

    def difference(self, now: Identity) -> str:
        """Return the first part that differs from `now`, with both values; empty if none does."""
        for part in fields(self):
            before, after = getattr(self, part.name), getattr(now, part.name)
            if before != after:
                return f"{part.name} {after}, was {before}"
        return ""


def identify(descriptor: int) -> Identity:
    """Return the identity of an open file or device. Raises OSError."""
    status = os.fstat(descriptor)
    kind = stat.S_IFMT(status.st_mode)
    if not stat.S_ISBLK(status.st_mode):
        return Identity(kind, (status.st_dev, status.st_ino), 0, None, None, (), "", None)
    sysfs = device.sysfs_of(status.st_rdev)
    return Identity(
        kind=kind,
        file=(0, 0),
        number=status.st_rdev,
        size_bytes=block_size_bytes(descriptor),
        sequence=_sequence(descriptor),
        serials=() if sysfs is None else device.identities(sysfs),
        model="" if sysfs is None else device.model(sysfs),
        backing=_loop_status(descriptor),
    )


def block_size_bytes(descriptor: int) -> int:
    """Return the size of an open block device."""
    answer = fcntl.ioctl(descriptor, _BLKGETSIZE64, b"\0" * 8)
    return int(struct.unpack("=Q", answer)[0])


def size_bytes(descriptor: int) -> int:
    """Return the size of an open block device or file."""
    status = os.fstat(descriptor)
    return block_size_bytes(descriptor) if stat.S_ISBLK(status.st_mode) else status.st_size


def _sequence(descriptor: int) -> int | None:
    try:
        answer = fcntl.ioctl(descriptor, _BLKGETDISKSEQ, b"\0" * 8)
    except OSError:  # before Linux 5.15
        return None
    return int(struct.unpack("=Q", answer)[0])


def _loop_status(descriptor: int) -> Backing | None:
    """Return what an open loop device is attached to; None of any other device."""
    if os.major(os.fstat(descriptor).st_rdev) != _LOOP_MAJOR:
        return None
    try:
        answer = fcntl.ioctl(descriptor, _LOOP_GET_STATUS64, b"\0" * _LOOP_INFO_BYTES)
    except OSError:
        return None
    on, inode, number, offset, limit = _LOOP_INFO.unpack_from(answer)
    return Backing((on, inode), number, offset, limit)


def loop_backing(sysfs: Path) -> Backing | None:
    """Return what a loop device is attached to; None if it isn't attached.

    The kernel is asked through the device where it may be opened: the name that sysfs has may be
    another's by now, or be out of sight. Else that name is looked up.
    """
    name = device.read_text(sysfs / "loop/backing_file")
    if not name:
        return None
    backing = _asked(Path("/dev") / sysfs.name, device.read_text(sysfs / "dev"))
    backing = backing or _asked_by_own_node(sysfs)
    if backing is not None:
        return backing
    offset = int(device.read_text(sysfs / "loop/offset") or 0)
    limit = int(device.read_text(sysfs / "loop/sizelimit") or 0)
    try:
        status = Path(name).stat()
    except OSError:
        return Backing((0, 0), 0, offset, limit)
    number = status.st_rdev if stat.S_ISBLK(status.st_mode) else 0
    return Backing((status.st_dev, status.st_ino), number, offset, limit)


def _asked_by_own_node(sysfs: Path) -> Backing | None:
    """Ask through a node made for that: /dev may have none."""
    number = device.read_text(sysfs / "dev") or ""
    major, _, minor = number.partition(":")
    with tempfile.TemporaryDirectory() as folder:
        node = Path(folder) / "node"
        try:
            os.mknod(node, stat.S_IFBLK | 0o600, os.makedev(int(major), int(minor)))
        except (OSError, ValueError):
            return None
        return _asked(node, number)


def _asked(node: Path, number: str | None) -> Backing | None:
    try:
        descriptor = os.open(node, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        status = os.fstat(descriptor)
        same = f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}" == number
        return _loop_status(descriptor) if same and stat.S_ISBLK(status.st_mode) else None
    finally:
        os.close(descriptor)
