"""Importers of other tools' traces, one file each.

An importer is a module with `recognises(path, start) -> bool` (`start`: first bytes, decompressed),
`OPTIONS` (the names of the options that mean something to it) and
`convert(paths, out, options) -> Imported`; the first line of its docstring is what
`kvtrace list importers` says. One that takes several files says so by `MANY = True`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kvtrace import plugins
from kvtrace.capture import spool
from kvtrace.errors import TraceError, UsageError
from kvtrace.files.outputs import check_apart
from kvtrace.models import load_model
from kvtrace.trace.header import Header, Producer, Resident, SourceInfo
from kvtrace.trace.writer import file_sha256
from kvtrace.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from kvtrace.trace.schema import Tier


@dataclass(frozen=True, slots=True)
class ImportOptions:
    """What a user may ask of an importer: `force` of each, the rest of those that take it."""

    force: bool = False
    nvme_capacity_bytes: int | None = None
    """mlperf-csv: what the nvme tier held; deletes are inferred."""
    tier: Tier | None = None
    """warp, elbencho, cachebench, oracle: the tier that the ops are done on."""
    map: Path | None = None
    """fio, warp: the map that the export left beside the file, which has what the file lost."""
    model: str | None = None
    """mlperf-csv, capture: the model that the run was of, by name or file."""
    dtype: str | None = None
    """capture: type of the KV cache's values, if it isn't the model's own."""
    block_size_bytes: int | None = None
    """capture: bytes of a block of the GPU's cache, of all ranks."""
    device_filter: tuple[str, ...] = ()
    """blktrace, blkparse: devices, as MAJOR,MINOR, whose I/O is taken; all if none is named."""


@dataclass(frozen=True, slots=True)
class Imported:
    """A finished import: the new trace's header, and what had to be changed to make it one."""

    header: Header
    notes: tuple[str, ...]


def convert(
    paths: Sequence[Path],
    out: Path,
    *,
    format_name: str | None = None,
    options: ImportOptions | None = None,
) -> Imported:
    """Make a trace at `out` from another tool's files; the first tells the format if none is named.

    A folder stands for the recordings of an engine in it.

    Raises TraceError, or UsageError for an unknown format or an option that means nothing to it.
    """
    options = options or ImportOptions()
    paths = _files(paths)
    name = format_name or _recognised(_first_filled(paths))
    module = plugins.load(plugins.IMPORTER, name)
    plugins.check_options(options, accepted=module.OPTIONS, of=f"format {name}")
    if len(paths) > 1 and not getattr(module, "MANY", False):
        raise UsageError(f"format {name} is one file", got=f"{len(paths)} files")
    inputs = [*paths, *([] if options.map is None else [options.map])]
    check_apart([out, names_path(out)], inputs)
    imported: Imported = module.convert(paths, out, options)
    return imported


def _files(paths: Sequence[Path]) -> list[Path]:
    """Return files, and in place of a folder the recordings in it. Raises TraceError for others."""
    files: list[Path] = []
    for path in paths:
        if not path.is_dir():
            files.append(path)
        elif inside := spool.parts(path):
            files += inside
        else:
            raise TraceError(
                "a folder without a recording", where=path, accepted="files *.kvcap in it",
                hint="`kvtrace capture` prints how an engine is recorded",
            )  # fmt: skip
    return files


def names_path(out: Path) -> Path:
    """Return where the names of trace `out` are kept."""
    return out.with_name(f"{out.stem}.keys.parquet")


def header_of(
    name: str,
    paths: Sequence[Path],
    *,
    parameters: dict[str, Any] | None = None,
    epoch_ns: int | None = None,
) -> Header:
    """Return the header of a trace that is made of files of format `name`."""
    return Header(
        producer=Producer(version=VERSION),
        source=SourceInfo(
            name=name,
            parameters=parameters or {},
            sha256=[file_sha256(path) for path in paths],
        ),
        resident=Resident(derived=True),
        epoch_ns=epoch_ns,
    )


def with_model(header: Header, name: str) -> Header:
    """Return a header that names the model whose objects, one per turn, the rows are."""
    model = load_model(name)
    per_token = model.rank_bytes_per_token(1)
    if per_token <= 0:
        raise UsageError("keeps no bytes per token", where="--model", got=name)
    header_model = {
        "dtype": model.dtype,
        "bytes_per_token": per_token,
        "rank_bytes_per_token": per_token,
    }
    layout = {
        "name": "request",
        "block_tokens": None,
        "objects_per_block": 1,
        "stored_bytes_per_token": per_token,
        "emitted_bytes_per_token": per_token,
    }
    return header.model_copy(
        update={"model": model.model_dump(mode="json") | header_model, "layout": layout}
    )


def _first_filled(paths: Sequence[Path]) -> Path:
    """Return the first file that has a byte, or the first one: one of several may be empty."""
    return next((path for path in paths if path.is_file() and path.stat().st_size), paths[0])


def recognised(path: Path) -> str | None:
    """Return the name of a file's format; None if no importer recognises it."""
    return plugins.recognising(plugins.IMPORTER, path)


def _recognised(path: Path) -> str:
    name = recognised(path)
    if name is None:
        raise TraceError(
            "format not recognised",
            where=path,
            accepted=", ".join(plugins.names(plugins.IMPORTER)),
            hint="name it by --format",
        )
    return name
