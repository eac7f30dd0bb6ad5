"""Importers of other tools' traces, one file each.

An importer is a module with `recognises(path, start) -> bool` (`start`: first bytes, decompressed)
and `convert(path, out, force) -> Imported`; the first line of its docstring is what
`kvtrace list importers` says.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kvtrace import plugins
from kvtrace.errors import TraceError
from kvtrace.textfile import open_binary

if TYPE_CHECKING:
    from pathlib import Path

    from kvtrace.header import Header

FOLDER = "kvtrace.importers"
_START_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Imported:
    """A finished import: the new trace's header, and what had to be changed to make it one."""

    header: Header
    notes: tuple[str, ...]


def convert(path: Path, out: Path, *, format_name: str | None, force: bool = False) -> Imported:
    """Make a trace at `out` from another tool's at `path`. Raises TraceError or UsageError."""
    name = format_name or _recognised(path)
    imported: Imported = plugins.load(FOLDER, name, kind="format").convert(path, out, force)
    return imported


def _recognised(path: Path) -> str:
    with open_binary(path) as stream:
        start = stream.read(_START_BYTES)
    names = plugins.names(FOLDER)
    for name in names:
        if plugins.load(FOLDER, name, kind="format").recognises(path, start):
            return name
    raise TraceError(
        "format not recognised",
        where=path,
        accepted=", ".join(names),
        hint="name it by --format",
    )
