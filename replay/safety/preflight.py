"""Looks at a path that is to become a target. Nothing here writes."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from kvtrace.errors import TargetError
from kvtrace.units import MS_NS, format_bytes
from replay import clock
from replay.device import mounts, statx
from replay.device import sysfs as device
from replay.safety import users
from replay.safety.identity import Identity, block_size_bytes, identify
from replay.safety.marker import MARKER_BYTES, Marker
from replay.safety.signatures import read

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

Result = TypeVar("Result")
FREE_RATIO_MIN = 0.05
"""Part of a file system that a new file leaves free."""
_IN_MEMORY = ("tmpfs", "ramfs", "hugetlbfs", "proc", "sysfs", "devtmpfs")
_MIN_ALIGN_BYTES = 4096
_BUSY_LOOKS, _BUSY_LOOK_NS = 50, 10 * MS_NS


@dataclass(frozen=True, slots=True)
class FileFacts:
    """What a path is. `size_bytes` is 0 for a new file; `marker` is ours, if there is one."""

    path: Path
    identity: Identity | None
    """None of a new file."""
    size_bytes: int
    align_bytes: int
    sysfs: Path | None
    marker: Marker | None
    title: str

    @property
    def new(self) -> bool:
        """Whether the file has to be made."""
        return self.identity is None

    @property
    def block(self) -> bool:
        """Whether it is a block device."""
        return self.identity is not None and stat.S_ISBLK(self.identity.kind)


def look(path: Path) -> FileFacts:
    """Return what `path` is. Raises TargetError for what can't be a file target."""
    try:
        link = path.lstat()
    except FileNotFoundError:
        return _look_new(path)
    except OSError as error:
        raise TargetError(f"can't look at it: {error.strerror}", where=path) from error
    try:
        status = path.stat()
    except OSError as error:
        raise TargetError(f"broken link: {error.strerror}", where=path) from error
    if stat.S_ISDIR(status.st_mode):
        raise TargetError(
            "is a directory",
            where=path,
            accepted="a block device, or a regular file",
            hint="name a file in it",
        )
    if stat.S_ISBLK(status.st_mode):
        return _look_device(path, status)
    if stat.S_ISLNK(link.st_mode):
        raise TargetError(
            "is a symbolic link", where=path, hint=f"name the file itself: {path.resolve()}"
        )
    if not stat.S_ISREG(status.st_mode):
        raise TargetError(
            "is neither a block device nor a regular file",
            where=path,
            accepted="a block device, or a regular file",
        )
    return _look_file(path, status)


def _look_new(path: Path) -> FileFacts:
    parent = path.parent
    if path.is_relative_to("/dev"):
        raise TargetError("no such device", where=path, hint="see `lsblk`")
    if not parent.is_dir():
        raise TargetError("no such directory", where=parent, hint="create it first")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise TargetError("directory isn't writable", where=parent, hint="name another place")
    check_file_system(path, parent)
    sysfs = device.sysfs_of(parent.stat().st_dev)
    align = max(_MIN_ALIGN_BYTES, queue_align(sysfs))
    return FileFacts(path, None, 0, align, sysfs, None, f"{path} (new file)")


def check_file_system(path: Path, place: Path) -> None:
    """Return unless `place` is on a file system in memory."""
    mount = mounts.mount_of(place)
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


def _look_file(path: Path, status: os.stat_result) -> FileFacts:
    check_file_system(path, path)
    if status.st_nlink > 1:
        raise TargetError(
            "has several hard links",
            where=path,
            got=f"{status.st_nlink} links",
            hint="name a file of its own",
        )
    users.check_file_free(status, path)
    descriptor = open_direct(path, os.O_RDONLY)
    try:
        identity = identify(descriptor)
        align = max(_MIN_ALIGN_BYTES, _direct_align(path, descriptor))
        marker = read_marker(descriptor, str(path))
    finally:
        os.close(descriptor)
    sysfs = device.sysfs_of(status.st_dev)
    align = max(align, queue_align(sysfs))
    title = f"{path} ({format_bytes(status.st_size)} file)"
    return FileFacts(path, identity, status.st_size, align, sysfs, marker, title)


def _look_device(path: Path, status: os.stat_result) -> FileFacts:
    sysfs = device.sysfs_of(status.st_rdev)
    if sysfs is None:
        raise TargetError("the kernel has no such block device", where=path, hint="see `lsblk`")
    title = f"{path} ({device.model(sysfs)}, {format_bytes(device.size_bytes(sysfs))})"
    descriptor = open_direct(path, os.O_RDONLY)
    try:
        identity = identify(descriptor)
        size = block_size_bytes(descriptor)
        align = max(_MIN_ALIGN_BYTES, _direct_align(path, descriptor), queue_align(sysfs))
        marker = read_marker(descriptor, title) if size >= MARKER_BYTES else None
    finally:
        os.close(descriptor)
    return FileFacts(path, identity, size, align, sysfs, marker, title)


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


def open_unnamed(path: Path, title: str) -> int | None:
    """Return a new file that has no name yet, beside `path`; None where there can be none."""
    try:
        return open_direct(path.parent, os.O_TMPFILE | os.O_RDWR, title)
    except TargetError as error:
        cause = error.__cause__
        unknown = (errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT)
        if isinstance(cause, OSError) and cause.errno in unknown:
            return None
        raise


def _open_patiently(path: Path, flags: int) -> int:
    """Return a descriptor; a device that is busy gets a moment."""
    return _patiently(lambda: os.open(path, flags, 0o600))


def _patiently(action: Callable[[], Result]) -> Result:
    """Return what `action` does, tried for half a second while what it wants is busy.

    The kernel takes an io_uring apart after it was closed (35 ms on a loop device, Linux 6.18), and
    keeps the file open until then: a run straight after one that was killed would find it claimed.
    """
    for _ in range(_BUSY_LOOKS):
        try:
            return action()
        except OSError as error:
            if error.errno not in (errno.EBUSY, errno.EWOULDBLOCK):
                raise
            clock.sleep_ns(_BUSY_LOOK_NS)
    return action()


def lock(descriptor: int, title: object, *, writes: bool) -> None:
    """Take a file or folder for this run: several may read it, one may write to it.

    Raises TargetError if another run has it. Closing the descriptor releases it late (see
    `_patiently`), `unlock` at once.
    """
    kind = fcntl.LOCK_EX if writes else fcntl.LOCK_SH
    try:
        _patiently(lambda: fcntl.flock(descriptor, kind | fcntl.LOCK_NB))
    except BlockingIOError as error:
        raise TargetError(
            "is used by another run", where=title, hint="name another, or wait for its end"
        ) from error


def unlock(descriptor: int) -> None:
    """Release what `lock` has taken."""
    fcntl.flock(descriptor, fcntl.LOCK_UN)


def _direct_align(path: Path, descriptor: int) -> int:
    alignment = statx.direct_align(descriptor)
    if alignment is None:
        return _MIN_ALIGN_BYTES
    if alignment.offset_bytes == 0:
        raise no_direct_io(path, "a file system without direct I/O")
    return max(alignment.offset_bytes, alignment.memory_bytes)


def queue_align(sysfs: Path | None) -> int:
    """Return what the queue of a device wants transfers to be multiples of; 0 if unknown."""
    limits = device.queue_limits(sysfs) if sysfs is not None else {}
    names = ("physical_block_size", "minimum_io_size")
    return max(int(limits.get(name, 0)) for name in names)


def read_marker(descriptor: int, title: str) -> Marker | None:
    """Return the marker at the start of an open target, if it is ours. Raises TargetError."""
    return Marker.unpack(read(descriptor, 0, MARKER_BYTES, title).tobytes())


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


def check_unshared(facts: FileFacts) -> None:
    """Raise TargetError if anything has a regular file open for writing.

    The kernel's own users (servers of files and blocks, overlays) have no process to be found in;
    but it gives no lease to read a file that is open for writing.
    """
    if facts.new:
        return
    descriptor = open_direct(facts.path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        lock(descriptor, facts.path, writes=True)
        unlock(descriptor)
        users.check_file(os.fstat(descriptor), facts.path)
        _patiently(lambda: fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK))
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except BlockingIOError as error:
        raise TargetError(
            "is open for writing elsewhere",
            where=facts.path,
            got="no process that can be seen has it: the kernel, or a container",
            hint="find out what serves or mounts it, and stop that first",
        ) from error
    except OSError:
        return  # not the owner, or a file system without leases
    finally:
        os.close(descriptor)


def check_free(path: Path, more_bytes: int, place: Path | None = None) -> None:
    """Return if that number of bytes fits at `path` and 5 % of its file system stay free.

    `place`: on the same file system; else the folder that `path` is in.
    """
    space = os.statvfs(place or path.parent)
    free, total = space.f_bavail * space.f_frsize, space.f_blocks * space.f_frsize
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
