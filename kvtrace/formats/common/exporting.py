"""Exporters to other tools' formats, one file each.

An exporter is a module with `LOSES` (what the format can't hold, one phrase each), `OPTIONS`
(the names of the options that mean something to it) and
`export(trace, out, options) -> Exported`; the first line of its docstring is what
`kvtrace list exporters` says. One that makes files beside `out` names them by `beside(out)`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kvtrace import plugins
from kvtrace.files.outputs import check_apart

if TYPE_CHECKING:
    from pathlib import Path

    from kvtrace.trace.reader import Trace
    from kvtrace.trace.schema import Tier


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """What a user may ask of an exporter: `force` of each, the rest of those that take it."""

    force: bool = False
    with_deletes: bool = False
    """mlperf-csv: keep deletes."""
    tiers: tuple[Tier, ...] = ()
    """fio, warp, sai3, oracle, lmcache: whose rows; empty: the format's own choice."""
    device: str = ""
    """fio: the block device that the log is for; deletes become trims."""
    filename: str = ""
    """fio: the file, or with `file_per_key` the directory, that the log is for."""
    file_per_key: bool = False
    """fio: a file for each object."""
    size_bytes: int | None = None
    """fio: how large device or file is."""
    extent_align_bytes: int = 4096
    """fio: objects start and end on multiples of it."""
    io_size_bytes: int | None = None
    """fio: longer ops are split."""
    queue_depth: int | None = None
    """fio: ops in flight, where the engine has any."""
    no_stall: bool = False
    """fio: a job that runs at maximum speed."""
    fio_version: str = ""
    """fio: the version that is to run the log; that found here if none is named."""
    bucket: str = ""
    """sai3: the bucket that objects are in."""
    prefix: str = ""
    """warp, sai3: what names begin with."""
    endpoint: str = ""
    """warp: the server's address; sai3: the URI that names are below."""
    with_cat: bool = False
    """warp: add the columns last_byte and cat."""


@dataclass(frozen=True, slots=True)
class Exported:
    """A finished export: rows written, rows the format has no word for, and what else is lost."""

    rows: int
    dropped_rows: int
    loses: tuple[str, ...]
    beside: tuple[Path, ...] = ()
    """Other files that were made: map, job file."""


def export(trace: Trace, out: Path, name: str, options: ExportOptions) -> Exported:
    """Write `trace` to `out` in format `name`.

    Raises UsageError for an unknown format, or an option that means nothing to it.
    """
    module = plugins.load(plugins.EXPORTER, name)
    plugins.check_options(options, accepted=module.OPTIONS, of=f"format {name}")
    beside = getattr(module, "beside", lambda _: ())
    check_apart([out, *beside(out)], [trace.path])
    exported: Exported = module.export(trace, out, options)
    return exported
