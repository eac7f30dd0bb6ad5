"""Drafts: outputs made under a hidden name beside their own, and published whole or not at all.

The name is `.NAME.<16 hex digits>.partial`, created with O_EXCL: nothing that lies there is ever
opened, followed, replaced or removed. What a kill leaves are such names only.
"""

from __future__ import annotations

import ctypes
import errno
import os
import secrets
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from kvtrace.errors import TargetError, write_failure
from kvtrace.files.outputs import Reservation, check_writable

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SUFFIX = ".partial"
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_STEM_BYTES = 200  # a name has 255 at most
_AT_FDCWD = -100
_NOREPLACE, _EXCHANGE = 1, 2
_UNSUPPORTED = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP)
_NO_LINKS = (errno.EPERM, errno.ENOSYS, errno.ENOTSUP)
"""EPERM for directories too."""


def draft_path(path: Path, suffix: str = SUFFIX) -> Path:
    """Return a new hidden name beside `path`."""
    stem = os.fsdecode(os.fsencode(path.name)[:_STEM_BYTES])
    return path.with_name(f".{stem}.{secrets.token_hex(8)}{suffix}")


def drafts_of(path: Path, suffix: str = SUFFIX) -> list[Path]:
    """Return the drafts of `path` that are there: of running processes and of killed ones."""
    head = f".{os.fsdecode(os.fsencode(path.name)[:_STEM_BYTES])}."
    length = len(head) + 16 + len(suffix)
    return sorted(
        entry
        for entry in path.parent.iterdir()
        if entry.name.startswith(head) and entry.name.endswith(suffix) and len(entry.name) == length
    )


def _create(path: Path) -> tuple[Path, int]:
    """Create a draft of `path`; return its name and a descriptor."""
    place = draft_path(path)
    return place, os.open(place, _CREATE, 0o666)


class Draft:
    """A file made for `path`: written through `file`, or at `place`, then published."""

    def __init__(self, path: Path, *, force: bool = False) -> None:
        check_writable(path, force=force)
        self.path, self._force = path, force
        self._reservation = Reservation(path)
        try:
            self.place, descriptor = _create(path)
        except OSError as error:
            self._reservation.close()
            raise write_failure(path, error) from error
        self._adopt(descriptor)
        self.open = True
        """Whether it is neither published nor discarded."""

    def _adopt(self, descriptor: int) -> None:
        status = os.fstat(descriptor)
        self._identity = status.st_dev, status.st_ino
        self._descriptor = descriptor
        self.file = os.fdopen(descriptor, "wb", closefd=False)

    def publish(self, check: Callable[[Path], None] | None = None) -> None:
        """Give the file, complete and on disk, its name; `check` reads it back before that.

        Raises TargetError, and leaves nothing, if it can't be written. A file that has appeared
        under the name stays as it is, unless `force`; the draft then stays too.
        """
        try:
            self.file.close()
            os.fsync(self._descriptor)
            if check is not None:
                check(self.place)
            _publish(self.place, self.path, replace=self._force)
            self._release()
        except FileExistsError as error:
            self._release()
            raise _appeared(self.path, self.place) from error
        except OSError as error:
            raise write_failure(self.path, error) from error
        finally:
            self.discard()

    def refill(self, write_to: Callable[[Path], object]) -> None:
        """Let `write_to` fill a new file, which replaces the draft whole. Raises OSError."""
        place, descriptor = _create(self.path)
        try:
            write_to(place)
            place.replace(self.place)
        except OSError:
            place.unlink(missing_ok=True)
            os.close(descriptor)
            raise
        self.file.close()
        os.close(self._descriptor)
        self._adopt(descriptor)

    def discard(self) -> None:
        """Remove the draft, if it is open and still is the file that was created here."""
        if not self.open:
            return
        with suppress(OSError):
            status = self.place.lstat()
            if (status.st_dev, status.st_ino) == self._identity:
                self.place.unlink()
        self._release()

    def _release(self) -> None:
        self.open = False
        with suppress(OSError):  # a full disk can't take what is still buffered
            self.file.close()
        os.close(self._descriptor)
        self._reservation.close()


class DraftFolder:
    """A directory made for `path`, with files of this process only.

    `removable(folder)` returns the files of the directory that is to be replaced; it raises
    TargetError if anything else is in it. None: nothing is replaced.
    """

    def __init__(self, path: Path, removable: Callable[[Path], list[Path]] | None = None) -> None:
        self.path, self._removable = path, removable
        self.place = draft_path(path)
        self._made: list[Path] = []
        self._files: list[Any] = []
        self.open = True
        """Whether it is neither published nor discarded."""
        self._reservation = Reservation(path)
        try:
            self.place.mkdir()
        except OSError as error:
            self._reservation.close()
            raise write_failure(path, error) from error

    def file(self, name: str) -> Any:
        """Return a new file in the directory, open for writing."""
        path = self.place / name
        descriptor = os.open(path, _CREATE, 0o666)
        self._made.append(path)
        self._files.append(os.fdopen(descriptor, "wb"))
        return self._files[-1]

    @staticmethod
    def keep(file: Any) -> None:
        """Close a file of the directory when all of it is on disk. Raises OSError."""
        with file:
            file.flush()
            os.fsync(file.fileno())

    def publish(self) -> None:
        """Give the directory its name; what it replaces is there until then. Raises TargetError."""
        try:
            fsync(self.place)
            if self._removable is not None and os.path.lexists(self.path):
                self._replace(self._removable)
            else:
                _publish(self.place, self.path, replace=False)
            self._release()
        except FileExistsError as error:
            self._release()
            raise _appeared(self.path, self.place) from error
        except OSError as error:
            raise write_failure(self.path, error) from error
        finally:
            self.discard()

    def _replace(self, removable: Callable[[Path], list[Path]]) -> None:
        removable(self.path)
        _exchange(self.place, self.path)
        try:
            old = removable(self.place)
        except TargetError:
            _exchange(self.place, self.path)
            raise
        fsync_folder(self.path.parent)
        _remove(self.place, old)

    def discard(self) -> None:
        """Remove the files that were made, and the directory, if it is open."""
        if self.open:
            _remove(self.place, self._made)
            self._release()

    def _release(self) -> None:
        self.open = False
        for file in self._files:
            with suppress(OSError):
                file.close()
        self._reservation.close()


def _remove(folder: Path, files: list[Path]) -> None:
    for path in files:
        with suppress(OSError):
            path.unlink()
    with suppress(OSError):
        folder.rmdir()


def _publish(place: Path, path: Path, *, replace: bool) -> None:
    """Rename a draft; FileExistsError if there is something and it may not be replaced."""
    if replace:
        check_writable(path, force=True)
        place.replace(path)
    else:
        try:
            _renameat2(place, path, _NOREPLACE)
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
            _link(place, path)
    fsync_folder(path.parent)


def _link(place: Path, path: Path) -> None:
    """Rename where the file system can't do it without replacing (NFS)."""
    try:
        path.hardlink_to(place)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
    else:
        place.unlink()
        return
    # A directory, which replaces at most an empty one, or exFAT, where a moment stays unguarded.
    if os.path.lexists(path):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
    place.rename(path)


def _exchange(place: Path, path: Path) -> None:
    """Exchange two directories' names; where that can't be done at once, one after the other."""
    try:
        _renameat2(place, path, _EXCHANGE)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        aside = draft_path(path)
        path.rename(aside)
        place.rename(path)
        aside.rename(place)


def _renameat2(old: Path, new: Path, flags: int) -> None:
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if call is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    if call(_AT_FDCWD, os.fsencode(old), _AT_FDCWD, os.fsencode(new), flags):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _appeared(path: Path, place: Path) -> TargetError:
    return TargetError(
        "appeared while this command ran, and is kept",
        where=path,
        hint=f"the complete output is {place}: give it another name",
    )


def fsync(path: Path) -> None:
    """Make a file, or a directory's entries, durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_folder(folder: Path) -> None:
    """Make a directory's names durable, where its file system and its mode let it be opened."""
    with suppress(OSError):
        fsync(folder)
