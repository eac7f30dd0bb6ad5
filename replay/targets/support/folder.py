"""Folders with a file per object: how the files are called, and what makes a folder ours."""

from __future__ import annotations

import os
import re
import secrets
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kvtrace.errors import TargetError
from replay.device import mounts
from replay.device import sysfs as device
from replay.device.direct import read_block
from replay.safety import consent, preflight
from replay.safety.marker import MARKER_BYTES, Marker

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

MARKER_NAME = ".kvtrace"
SUBFOLDERS = tuple(f"{number:02x}" for number in range(256))
_OWN_TEMPORARY = re.compile(r"\.kvtrace\.[0-9a-f]{16}\.(?:tmp|probe)")
"""Files of marker and probe that a kill may leave."""
_OURS = re.compile(r"([0-9a-f]{16})(\.kv|\.[0-9a-f]+-[0-9a-f]+\.tmp)")
_MASK = (1 << 64) - 1
_MIN_ALIGN_BYTES = 4096
_SYSTEM = (
    "/", "/home", "/media", "/mnt", "/opt", "/root", "/run", "/srv", "/tmp", "/var", "/var/lib",
    "/var/log", "/var/tmp",
)  # fmt: skip
_SYSTEM_INSIDE = (
    "/bin", "/boot", "/dev", "/etc", "/lib", "/lib32", "/lib64", "/proc", "/sbin", "/sys", "/usr",
)  # fmt: skip


def subfolder(key: int) -> str:
    """Return the subfolder of an object: the low byte of its key, mixed as in folder.c."""
    key = (key ^ key >> 30) * 0xBF58476D1CE4E5B9 & _MASK
    key = (key ^ key >> 27) * 0x94D049BB133111EB & _MASK
    return SUBFOLDERS[(key ^ key >> 31) & 0xFF]


def object_name(key: int) -> str:
    """Return the path of an object's file in its folder."""
    return f"{subfolder(key)}/{key:016x}.kv"


def read_object(descriptor: int, key: int, offset: int, length: int) -> NDArray[np.uint8]:
    """Return bytes of an object's file, read directly; what isn't there is missing."""
    try:
        flags = os.O_RDONLY | os.O_DIRECT | os.O_NOFOLLOW | os.O_CLOEXEC
        file = os.open(object_name(key), flags, dir_fd=descriptor)
    except FileNotFoundError:
        return np.zeros(0, np.uint8)
    try:
        return read_block(file, offset, length)
    finally:
        os.close(file)


def has_object(descriptor: int, key: int) -> bool:
    """Return whether an object's file is there."""
    try:
        os.stat(object_name(key), dir_fd=descriptor, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class FolderFacts:
    """What a path is. `identity`: device and inode, None of a new one; `marker` is ours."""

    path: Path
    identity: tuple[int, int] | None
    align_bytes: int
    sysfs: Path | None
    file_system: str
    marker: Marker | None
    others: tuple[str, ...]
    """What is in it beside the marker."""

    @property
    def new(self) -> bool:
        """Whether it has to be made."""
        return self.identity is None

    @property
    def place(self) -> Path:
        """It, or where it will be made."""
        return self.path.parent if self.new else self.path


def look(path: Path) -> FolderFacts:
    """Return what `path` is. Raises TargetError for what can't be a folder of objects."""
    _check_not_system(path)
    try:
        status = path.lstat()
    except FileNotFoundError:
        return _look_new(path)
    except OSError as error:
        raise TargetError(f"can't look at it: {error.strerror}", where=path) from error
    if stat.S_ISLNK(status.st_mode):
        raise TargetError(
            "is a symbolic link", where=path, hint=f"name the folder itself: {path.resolve()}"
        )
    if not stat.S_ISDIR(status.st_mode):
        raise TargetError(
            "isn't a directory",
            where=path,
            accepted="a new directory, an empty one, or one from an earlier run",
            hint="for a file or block device use --device",
        )
    try:
        names = sorted(entry.name for entry in path.iterdir())
    except OSError as error:
        raise TargetError(f"can't be listed: {error.strerror}", where=path) from error
    others = tuple(name for name in names if _is_other(name))
    identity = (status.st_dev, status.st_ino)
    return _facts(path, path, identity, _read_marker(path), others)


def _check_not_system(path: Path) -> None:
    real = path.resolve()
    inside = any(real.is_relative_to(place) for place in _SYSTEM_INSIDE)
    if inside or str(real) in _SYSTEM or real == Path.home().resolve():
        raise TargetError(
            "is a system path",
            where=path,
            got=real,
            accepted="a directory of its own",
            hint="name a new directory on the file system that is to be measured",
        )


def _look_new(path: Path) -> FolderFacts:
    if not path.parent.is_dir():
        raise TargetError("no such directory", where=path.parent, hint="create it first")
    return _facts(path, path.parent, None, None, ())


def _facts(
    path: Path,
    place: Path,
    identity: tuple[int, int] | None,
    marker: Marker | None,
    others: tuple[str, ...],
) -> FolderFacts:
    preflight.check_file_system(path, place)
    sysfs = device.sysfs_of(place.stat().st_dev)
    align = max(_MIN_ALIGN_BYTES, preflight.queue_align(sysfs))
    mount = mounts.mount_of(place)
    kind = mount.type if mount else "an unknown file system"
    return FolderFacts(path, identity, align, sysfs, kind, marker, others)


def _read_marker(place: Path | int) -> Marker | None:
    """Return the marker in a folder, given as a path or a descriptor."""
    try:
        if isinstance(place, int):
            file = os.open(MARKER_NAME, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=place)
        else:
            file = os.open(place / MARKER_NAME, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        return Marker.unpack(os.read(file, MARKER_BYTES))
    except OSError:
        return None
    finally:
        os.close(file)


def check_ours(facts: FolderFacts) -> None:
    """Return if the folder may be written to: it is new, empty or ours. Raises TargetError."""
    if not facts.new and facts.marker is None and (facts.others or _has_marker_file(facts.path)):
        shown = ", ".join(facts.others[:3] or (MARKER_NAME,))
        raise TargetError(
            "isn't empty and wasn't made by kvtrace",
            where=facts.path,
            got=f"{shown}{', …' if len(facts.others) > 3 else ''}",
            accepted="a new directory, an empty one, or one from an earlier run",
            hint="name a new directory",
        )
    if not os.access(facts.place, os.W_OK | os.X_OK):
        raise TargetError("isn't writable", where=facts.place, hint="change its mode or owner")


def _has_marker_file(path: Path) -> bool:
    return os.path.lexists(path / MARKER_NAME)


def _is_other(name: str) -> bool:
    return name != MARKER_NAME and _OWN_TEMPORARY.fullmatch(name) is None


def temporary_name(suffix: str) -> str:
    """Return a new name in the folder for what is there for a moment."""
    return f"{MARKER_NAME}.{secrets.token_hex(8)}.{suffix}"


def recheck(facts: FolderFacts, descriptor: int) -> None:
    """Return if the opened folder still is what was looked at. Raises TargetError."""
    status = os.fstat(descriptor)
    same = facts.new or (status.st_dev, status.st_ino) == facts.identity
    same = same and _read_marker(descriptor) == facts.marker
    if same and facts.marker is None:
        same = tuple(sorted(filter(_is_other, os.listdir(descriptor)))) == facts.others
    if not same:
        raise TargetError("changed while it was being opened", where=facts.path)


def check_marked(descriptor: int, marker: Marker, title: str) -> None:
    """Raise TargetError if an open folder doesn't carry this marker."""
    if _read_marker(descriptor) != marker:
        raise consent.changed(title)


def write_marker(descriptor: int, marker: Marker) -> None:
    """Leave the new marker in a folder, or the old one. Raises OSError."""
    temporary = temporary_name("tmp")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    file = os.open(temporary, flags, 0o600, dir_fd=descriptor)
    try:
        os.write(file, marker.pack())
        os.fsync(file)
        os.rename(temporary, MARKER_NAME, src_dir_fd=descriptor, dst_dir_fd=descriptor)
    except OSError:
        os.unlink(temporary, dir_fd=descriptor)
        raise
    finally:
        os.close(file)


def make_subfolders(descriptor: int, where: Path) -> list[str]:
    """Make the subfolders that aren't there; return which. Raises TargetError, OSError."""
    made = []
    for name in SUBFOLDERS:
        try:
            os.mkdir(name, 0o700, dir_fd=descriptor)
        except FileExistsError:
            status = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
            if not stat.S_ISDIR(status.st_mode):
                raise TargetError("isn't a directory", where=where / name) from None
        else:
            made.append(name)
    return made


def _objects(descriptor: int) -> Iterator[tuple[int, os.DirEntry[str]]]:
    """Yield the subfolder's descriptor and the entry of each file that a run of ours has made."""
    for name in SUBFOLDERS:
        try:
            inside = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=descriptor)
        except OSError:
            continue
        try:
            with os.scandir(inside) as entries:
                for entry in entries:
                    parts = _OURS.fullmatch(entry.name)
                    ours = parts is not None and subfolder(int(parts[1], 16)) == name
                    if ours and entry.is_file(follow_symlinks=False):
                        yield inside, entry
        finally:
            os.close(inside)


def remove_objects(descriptor: int) -> int:
    """Remove the objects of earlier runs and nothing else; return how many. Raises OSError."""
    count = 0
    for inside, entry in _objects(descriptor):
        os.unlink(entry.name, dir_fd=inside)
        count += 1
    return count


def _objects_bytes(path: Path) -> int:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        statuses = (entry.stat(follow_symlinks=False) for _, entry in _objects(descriptor))
        return sum(status.st_blocks * 512 for status in statuses)
    finally:
        os.close(descriptor)


def check_free(facts: FolderFacts, needed_bytes: int, objects: int) -> None:
    """Return if that number of bytes fits and 5 % of the file system stay free. Raises TargetError.

    Objects of earlier runs are counted as free: they are removed first.
    """
    _check_inodes(facts, objects)
    with suppress(TargetError):
        preflight.check_free(facts.path, needed_bytes, facts.place)
        return
    earlier = 0 if facts.marker is None else _objects_bytes(facts.path)
    preflight.check_free(facts.path, max(0, needed_bytes - earlier), facts.place)


def _check_inodes(facts: FolderFacts, objects: int) -> None:
    space = os.statvfs(facts.place)
    if space.f_files and objects + len(SUBFOLDERS) > space.f_favail:
        raise TargetError(
            "not enough inodes: each object is a file",
            where=facts.path,
            got=f"{objects:,} objects, live at once",
            accepted=f"{space.f_favail:,} that are free",
            hint="use --device, which keeps all objects in one file",
        )
