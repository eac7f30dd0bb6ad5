"""Checks of outputs: the name is free, no other process writes it, and it is no input."""

from __future__ import annotations

import errno
import hashlib
import os
import socket
import stat
from typing import TYPE_CHECKING

from kvtrace.errors import TargetError, UsageError, write_failure

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

_KINDS = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFDIR: "a directory",
}
Identity = tuple[int, int]
"""Device and inode."""


def check_writable(path: Path, *, force: bool = False) -> None:
    """Check that a file can be made at `path`; create nothing.

    An output is a regular file that no link leads to: a symbolic link, FIFO, socket or device is
    refused even with `force`. Raises TargetError.
    """
    try:
        status = _status(path)
    except OSError as error:
        raise write_failure(path, error) from error
    if status is not None:
        _check_kind(path, status, stat.S_IFREG, "name a file in it")
        if not force:
            raise exists_already(path)
    check_parent(path)


def check_parent(path: Path) -> None:
    """Check that `path` is in a directory that can be written to. Raises TargetError."""
    parent = path.parent
    if not parent.is_dir():
        raise TargetError("no such directory", where=parent, hint="create it first")
    if not os.access(parent, os.W_OK):
        raise TargetError("directory isn't writable", where=parent, hint="name another place")


def exists_already(path: Path) -> TargetError:
    """Return the refusal of a name that is taken."""
    return TargetError("exists already", where=path, hint="name another file or add --force")


def check_folder(path: Path) -> bool:
    """Return whether there is a directory at `path`. Raises TargetError for anything else there."""
    try:
        status = _status(path)
    except OSError as error:
        raise write_failure(path, error) from error
    if status is not None:
        _check_kind(path, status, stat.S_IFDIR, "name a directory")
    return status is not None


def _status(path: Path) -> os.stat_result | None:
    try:
        return path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None


def _check_kind(path: Path, status: os.stat_result, wanted: int, hint: str) -> None:
    kind = stat.S_IFMT(status.st_mode)
    if kind == wanted:
        return
    if kind == stat.S_IFLNK:
        hint = "name what it leads to, or remove the link"
    raise TargetError(f"is {_KINDS.get(kind, 'a file')}", where=path, hint=hint)


class Reservation:
    """Keeps other processes from writing the same output until it is closed.

    It is the name of an abstract socket: the kernel frees it when the process ends, however that
    happens, and nothing lies in the file system. One process may hold it several times.
    """

    _held: dict[str, tuple[socket.socket, int]] = {}  # noqa: RUF012 - of the process, on purpose

    def __init__(self, path: Path) -> None:
        try:
            folder = path.parent.stat()
            place = f"{folder.st_dev}:{folder.st_ino}:".encode() + os.fsencode(path.name)
            self._name = f"\0kvtrace-output-{hashlib.sha256(place).hexdigest()}"
            held, count = self._held.get(self._name, (None, 0))
            if held is None:
                held = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
                self._bind(held, path)
        except OSError as error:
            raise write_failure(path, error) from error
        self._held[self._name] = (held, count + 1)
        self._open = True

    def _bind(self, held: socket.socket, path: Path) -> None:
        try:
            held.bind(self._name)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:  # no such sockets here: names still appear whole
                return
            held.close()
            raise TargetError(
                "is being written by another process",
                where=path,
                hint="wait for it, or name another output",
            ) from error

    def close(self) -> None:
        """Let others write the output."""
        if not self._open:
            return
        self._open = False
        held, count = self._held.pop(self._name)
        if count > 1:
            self._held[self._name] = (held, count - 1)
        else:
            held.close()


def identity(path: Path) -> Identity | None:
    """Return what `path` leads to as (device, inode), through links; None if it doesn't exist."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino


def _place(path: Path) -> tuple[Identity | None, str]:
    """Return the name of `path` and the identity of the directory that it is in."""
    return identity(path.parent), path.name


def _above(path: Path) -> Iterator[Identity]:
    """Yield the identities of the directories that `path` is in, links resolved."""
    for folder in path.parent.resolve().joinpath(path.name).parents:
        if (owner := identity(folder)) is not None:
            yield owner


def check_apart(outputs: Iterable[Path], inputs: Iterable[Path]) -> None:
    """Check that no output is an input, lies in one or holds one, and that no two are the same.

    Files are told by device and inode, through links and directories. Raises UsageError.
    """
    inputs = tuple(inputs)
    earlier: list[Path] = []
    for path in outputs:
        for other in inputs:
            _check_pair(path, other, "an input")
        for other in earlier:
            _check_pair(path, other, "another output")
        earlier.append(path)


def _check_pair(path: Path, other: Path, what: str) -> None:
    one, two = identity(path), identity(other)
    same = one == two if None not in (one, two) else _place(path) == _place(other)
    if same:
        problem = f"is {what} too"
    elif two is not None and other.is_dir() and (two in _above(path) or one in _children(other)):
        problem = f"lies in {what}"
    elif one is not None and path.is_dir() and one in _above(other):
        problem = f"holds {what}"
    else:
        return
    got = None if path == other else other
    raise UsageError(problem, where=path, got=got, hint="name another output")


def _children(folder: Path) -> set[Identity | None]:
    """Return the identities of what is directly in a directory."""
    try:
        return {identity(entry) for entry in folder.iterdir()} - {None}
    except OSError:
        return set()
