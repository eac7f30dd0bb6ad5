"""What is in a folder, to the byte: for tests that show that nothing was destroyed."""

from __future__ import annotations

import hashlib
import stat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def state(path: Path) -> tuple[str, str]:
    """Return what lies at `path`, no link followed: its kind, and its digest or target."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return "nothing", ""
    if stat.S_ISLNK(mode):
        return "link", str(path.readlink())
    if stat.S_ISREG(mode):
        return "file", hashlib.sha256(path.read_bytes()).hexdigest()
    return oct(stat.S_IFMT(mode)), ""


def states(folder: Path) -> dict[Path, tuple[str, str]]:
    """Return the state of everything below a folder."""
    return {path: state(path) for path in _below(folder)}


def _below(folder: Path) -> Iterator[Path]:
    for entry in sorted(folder.iterdir()):
        yield entry
        if entry.is_dir() and not entry.is_symlink():
            yield from _below(entry)


def drafts(folder: Path) -> list[str]:
    """Return the names of hidden temporaries of ours below a folder."""
    return [path.name for path in _below(folder) if path.name.startswith(".")]


def digest(path: Path) -> str:
    """Return the sha256 of a file or device."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
