"""What must hold before a byte is written: refuse by default. Nothing here writes."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
import struct
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from kvtrace.errors import TargetError
from kvtrace.units import MIB, MS_NS, format_bytes
from replay import clock, device, statx
from replay.marker import MARKER_BYTES, Marker

if TYPE_CHECKING:
    from pathlib import Path

    from replay.targets import TargetSpec

FREE_RATIO_MIN = 0.05
"""Part of a file system that a new file leaves free."""
_IN_MEMORY = ("tmpfs", "ramfs", "hugetlbfs", "proc", "sysfs", "devtmpfs")
_MIN_ALIGN_BYTES = 4096
_SAMPLES, _SAMPLE_BYTES = 64, 4096
_BLKGETSIZE64 = 0x80081272  # Source: include/uapi/linux/fs.h
_BUSY_LOOKS, _BUSY_LOOK_NS = 50, 10 * MS_NS
_BLKID_NOTHING, _BLKID_AMBIVALENT = 2, 8


@dataclass(frozen=True, slots=True)
class FileFacts:
    """What a path is. `size_bytes` is 0 for a new file; `marker` is ours, if there is one."""

    path: Path
    new: bool
    block: bool
    size_bytes: int
    align_bytes: int
    number: int
    sysfs: Path | None
    marker: Marker | None
    title: str


def look(path: Path) -> FileFacts:
    """Return what `path` is. Raises TargetError for what can't be a file target."""
    try:
        link = path.lstat()
    except FileNotFoundError:
        return _look_new(path)
    except OSError as error:
        raise TargetError(f"can't look at it: {error.strerror}", where=path) from error
    try:
        found = path.stat()
    except OSError as error:
        raise TargetError(f"broken link: {error.strerror}", where=path) from error
    if stat.S_ISDIR(found.st_mode):
        raise TargetError(
            "is a directory",
            where=path,
            accepted="a block device, or a regular file",
            hint="name a file in it",
        )
    if stat.S_ISBLK(found.st_mode):
        return _look_device(path, found)
    if stat.S_ISLNK(link.st_mode):
        raise TargetError(
            "is a symbolic link", where=path, hint=f"name the file itself: {path.resolve()}"
        )
    if not stat.S_ISREG(found.st_mode):
        raise TargetError(
            "is neither a block device nor a regular file",
            where=path,
            accepted="a block device, or a regular file",
        )
    return _look_file(path, found)


def _look_new(path: Path) -> FileFacts:
    parent = path.parent
    if path.is_relative_to("/dev"):
        raise TargetError("no such device", where=path, hint="see `lsblk`")
    if not parent.is_dir():
        raise TargetError("no such directory", where=parent, hint="create it first")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise TargetError("directory isn't writable", where=parent, hint="name another place")
    check_file_system(path, parent)
    number = parent.stat().st_dev
    sysfs = device.sysfs_of(number)
    align = max(_MIN_ALIGN_BYTES, queue_align(sysfs))
    return FileFacts(path, True, False, 0, align, number, sysfs, None, f"{path} (new file)")


def check_file_system(path: Path, place: Path) -> None:
    """Return unless `place` is on a file system in memory."""
    mount = device.mount_of(place)
    if mount is not None and mount.type in _IN_MEMORY:
        raise no_direct_io(path, f"a file on {mount.type}")


def no_direct_io(path: Path, got: str) -> TargetError:
    """Return the error of a place without direct I/O."""
    return TargetError(
        "no direct I/O (O_DIRECT) here, and buffered I/O would measure memory",
        where=path,
        got=got,
        accepted="a block device, or a file on a file system such as ext4 or xfs",
        hint="name another place, or use --cpu memory for a memory target",
    )


def _look_file(path: Path, found: os.stat_result) -> FileFacts:
    check_file_system(path, path)
    if found.st_nlink > 1:
        raise TargetError(
            "has several hard links",
            where=path,
            got=f"{found.st_nlink} links",
            hint="name a file of its own",
        )
    for name, backing in device.loop_backings():
        if _same(backing, found):
            raise TargetError(
                "is attached to a loop device",
                where=path,
                got=name,
                hint=f"use {name} as the target, or detach it",
            )
    if any(_same(swap, found) for swap in device.swaps()):
        raise TargetError("is swap", where=path, hint="name another file")
    descriptor = open_direct(path, os.O_RDONLY)
    try:
        align = max(_MIN_ALIGN_BYTES, _direct_align(path, descriptor))
        marker = read_marker(descriptor)
    finally:
        os.close(descriptor)
    sysfs = device.sysfs_of(found.st_dev)
    align = max(align, queue_align(sysfs))
    title = f"{path} ({format_bytes(found.st_size)} file)"
    return FileFacts(path, False, False, found.st_size, align, found.st_dev, sysfs, marker, title)


def _same(path: Path, found: os.stat_result) -> bool:
    try:
        other = path.stat()
    except OSError:
        return False
    return (other.st_dev, other.st_ino) == (found.st_dev, found.st_ino)


def _look_device(path: Path, found: os.stat_result) -> FileFacts:
    sysfs = device.sysfs_of(found.st_rdev)
    if sysfs is None:
        raise TargetError("the kernel has no such block device", where=path, hint="see `lsblk`")
    title = f"{path} ({device.model(sysfs)}, {format_bytes(device.size_bytes(sysfs))})"
    descriptor = open_direct(path, os.O_RDONLY)
    try:
        size = block_size_bytes(descriptor)
        align = max(_MIN_ALIGN_BYTES, _direct_align(path, descriptor), queue_align(sysfs))
        marker = read_marker(descriptor) if size >= MARKER_BYTES else None
    finally:
        os.close(descriptor)
    return FileFacts(path, False, True, size, align, found.st_rdev, sysfs, marker, title)


def open_direct(path: Path, flags: int, title: str = "") -> int:
    """Return a descriptor that does direct I/O. Raises TargetError that names `title` or path."""
    where = title or path
    try:
        return _open_patiently(path, flags | os.O_DIRECT | os.O_CLOEXEC)
    except PermissionError as error:
        raise TargetError(
            f"can't open: {error.strerror}", where=where, hint="run as root, or change its owner"
        ) from error
    except OSError as error:
        if error.errno == errno.EINVAL:  # what a file system without direct I/O answers
            raise no_direct_io(path, "EINVAL on opening it") from error
        busy = error.errno == errno.EBUSY
        hint = "stop what uses it (see `lsblk` and `fuser -v`)" if busy else None
        raise TargetError(f"can't open: {error.strerror}", where=where, hint=hint) from error


def _open_patiently(path: Path, flags: int) -> int:
    """Return a descriptor; a device that is busy gets a moment.

    The kernel takes an io_uring apart after it was closed (35 ms on a loop device, Linux 6.18), and
    keeps the file open until then: a run straight after another would find its device claimed.
    """
    for _ in range(_BUSY_LOOKS):
        try:
            return os.open(path, flags, 0o600)
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            clock.sleep_ns(_BUSY_LOOK_NS)
    return os.open(path, flags, 0o600)


def _direct_align(path: Path, descriptor: int) -> int:
    found = statx.direct_align(descriptor)
    if found is None:
        return _MIN_ALIGN_BYTES
    if found.offset_bytes == 0:
        raise no_direct_io(path, "a file system without direct I/O")
    return max(found.offset_bytes, found.memory_bytes)


def queue_align(sysfs: Path | None) -> int:
    """Return what the queue of a device wants transfers to be multiples of; 0 if unknown."""
    limits = device.queue_limits(sysfs) if sysfs is not None else {}
    names = ("physical_block_size", "minimum_io_size")
    return max(int(limits.get(name, 0)) for name in names)


def block_size_bytes(descriptor: int) -> int:
    """Return the size of an open block device."""
    answer = fcntl.ioctl(descriptor, _BLKGETSIZE64, b"\0" * 8)
    return int(struct.unpack("=Q", answer)[0])


def read_block(descriptor: int, offset: int, length: int) -> np.typing.NDArray[np.uint8]:
    """Return bytes read directly; what lies behind the end is missing."""
    space = np.empty(length + 2 * _MIN_ALIGN_BYTES, np.uint8)
    start = -space.ctypes.data % _MIN_ALIGN_BYTES
    buffer = space[start : start + length]
    return buffer[: os.preadv(descriptor, [buffer.data], offset)]


def read_marker(descriptor: int) -> Marker | None:
    """Return the marker at the start of an open target, if it is ours."""
    return Marker.unpack(read_block(descriptor, 0, MARKER_BYTES).tobytes())


def check_file(facts: FileFacts) -> None:
    """Return if a regular file may be written: it is new or ours."""
    if not facts.new and facts.marker is None:
        raise TargetError(
            "exists and wasn't made by kvtrace",
            where=facts.path,
            got=f"a file of {format_bytes(facts.size_bytes)} without our header",
            accepted="a new file, or one from an earlier run",
            hint="name a new file",
        )
    if not os.access(facts.path if not facts.new else facts.path.parent, os.W_OK):
        raise TargetError("isn't writable", where=facts.path, hint="change its mode or owner")


def check_free(path: Path, more_bytes: int, place: Path | None = None) -> None:
    """Return if so much more may be at `path` and 5 % of its file system stay free.

    `place`: on the same file system; else the folder that `path` is in.
    """
    found = os.statvfs(place or path.parent)
    free, total = found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize
    usable = max(0, free - int(total * FREE_RATIO_MIN))
    if more_bytes > usable:
        raise TargetError(
            "not enough space",
            where=path,
            got=f"{format_bytes(more_bytes)} needed",
            accepted=f"{format_bytes(usable)}: {format_bytes(free)} are free, and 5 % of "
            f"{format_bytes(total)} stay so",
            hint="name another place, or replay a trace with a smaller live set",
        )


def check_device(facts: FileFacts, spec: TargetSpec) -> None:
    """Return if a block device may be overwritten. Raises TargetError with model and size."""
    assert facts.sysfs is not None
    if device.read_text(device.disk_of(facts.sysfs) / "ro") == "1":
        raise TargetError("is read-only", where=facts.title)
    points = device.mount_points(facts.sysfs)
    if points:
        raise TargetError(
            "is mounted", where=facts.title, got=", ".join(points), hint="unmount it first"
        )
    used_by = device.holders(facts.sysfs)
    if used_by:
        raise TargetError(
            "is used by other devices",
            where=facts.title,
            got=", ".join(used_by),
            hint="take those down first",
        )
    _check_device_swap(facts)
    _check_signatures(facts, spec.allow_signature)
    _check_identity(facts, spec.allow_destroy)


def _check_device_swap(facts: FileFacts) -> None:
    assert facts.sysfs is not None
    parts = {device.read_text(p / "dev") for p in (facts.sysfs, *device.partitions(facts.sysfs))}
    for swap in device.swaps():
        if not swap.exists():
            continue
        number = swap.stat().st_rdev
        if f"{os.major(number)}:{os.minor(number)}" in parts:
            raise TargetError("is swap", where=facts.title, got=swap, hint="swapoff first")


def _check_identity(facts: FileFacts, allowed: str | None) -> None:
    assert facts.sysfs is not None
    known = device.identities(facts.sysfs) or (str(facts.path), str(facts.path.resolve()))
    if allowed in known:
        return
    content = "carries our header" if facts.marker else _content(facts)
    raise TargetError(
        "everything on it would be destroyed",
        where=facts.title,
        got=f"--allow-destroy {allowed}" if allowed else f"no --allow-destroy; it {content}",
        accepted=" or ".join(dict.fromkeys(known)),
        hint=f"if that is wanted: --allow-destroy {known[0]}",
    )


def _content(facts: FileFacts) -> str:
    """Return whether a device looks empty: its first and last MiB and 64 sampled pages."""
    size = facts.size_bytes
    descriptor = open_direct(facts.path, os.O_RDONLY)
    try:
        edges = [(0, min(MIB, size)), (max(0, size - MIB), min(MIB, size))]
        pages = np.linspace(0, max(0, size - _SAMPLE_BYTES), _SAMPLES).astype(np.int64)
        places = edges + [(int(p) // _SAMPLE_BYTES * _SAMPLE_BYTES, _SAMPLE_BYTES) for p in pages]
        found = sum(bool(read_block(descriptor, *place).any()) for place in places)
    finally:
        os.close(descriptor)
    if not found:
        return "reads as zeros where sampled"
    return f"has data in {found} of {len(places)} sampled places"


def _check_signatures(facts: FileFacts, allowed: tuple[str, ...]) -> None:
    found = signatures(facts)
    accepted = {text.lower() for text in allowed}
    for kind in found:
        if kind.lower() not in accepted:
            raise TargetError(
                "has a file system, partition table or other signature",
                where=facts.title,
                got=", ".join(found),
                hint=f"if it may be destroyed: --allow-signature {kind}",
            )


def signatures(facts: FileFacts) -> tuple[str, ...]:
    """Return the types that `blkid` recognises on a device. Raises TargetError if it can't tell."""
    program = shutil.which("blkid", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if program is None:
        raise TargetError(
            "can't look for signatures: blkid isn't there",
            where=facts.title,
            hint="install util-linux",
        )
    answer = subprocess.run(
        [program, "-p", "-o", "export", "--", str(facts.path)],
        capture_output=True,
        text=True,
        check=False,
    )
    if answer.returncode == _BLKID_NOTHING:
        return ()
    if answer.returncode != 0:
        ambivalent = answer.returncode == _BLKID_AMBIVALENT
        raise TargetError(
            "several signatures contradict each other" if ambivalent else "blkid failed",
            where=facts.title,
            got=answer.stderr.strip() or f"exit code {answer.returncode}",
            hint="look at it with `wipefs`, and remove what isn't needed",
        )
    fields = dict(line.split("=", 1) for line in answer.stdout.splitlines() if "=" in line)
    found = [fields[name] for name in ("TYPE", "PTTYPE") if name in fields]
    return tuple(found) or ("unknown",)


def recheck(facts: FileFacts, descriptor: int) -> None:
    """Return if the opened target still is what was looked at. Raises TargetError."""
    found = os.fstat(descriptor)
    if facts.block:
        same = stat.S_ISBLK(found.st_mode) and found.st_rdev == facts.number
        same = same and block_size_bytes(descriptor) == facts.size_bytes
        sysfs = device.sysfs_of(found.st_rdev)
        same = same and sysfs is not None and facts.sysfs is not None
        if same and sysfs is not None and facts.sysfs is not None:
            same = device.identities(sysfs) == device.identities(facts.sysfs)
            same = same and device.model(sysfs) == device.model(facts.sysfs)
    else:
        same = stat.S_ISREG(found.st_mode) and found.st_nlink == 1
        same = same and (facts.new or read_marker(descriptor) == facts.marker)
    if not same:
        raise TargetError("changed while it was being opened", where=facts.title)
