"""fio: a log of I/O (iolog version 3) of one device or file, and jobs that run it."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pyarrow as pa

from kvtrace.errors import UsageError
from kvtrace.files.outfile import OutFile
from kvtrace.files.outputs import check_writable
from kvtrace.formats.common.exporting import Exported
from kvtrace.formats.common.sidecar import NAMES, MapWriter, map_path
from kvtrace.formats.fio import iolog as fiolog
from kvtrace.placement.defaults import DEPTH_MAX, DEPTH_OPEN, PART_BYTES
from kvtrace.placement.keys import KeyTable
from kvtrace.placement.prepared import prepare
from kvtrace.placement.rows import TraceRows, read_batches
from kvtrace.requests.request import ranges
from kvtrace.trace.schema import Op, Tier
from kvtrace.units import US_NS, format_bytes

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kvtrace.formats.common.exporting import ExportOptions
    from kvtrace.placement.allocator import Placed
    from kvtrace.placement.prepared import Prepared
    from kvtrace.placement.rows import Batch
    from kvtrace.trace.reader import Trace

OPTIONS = (
    "tiers",
    "device",
    "filename",
    "file_per_key",
    "size_bytes",
    "extent_align_bytes",
    "io_size_bytes",
    "queue_depth",
    "no_stall",
    "fio_version",
)
DEFAULT_TIERS = (Tier.NVME,)
FILES_MAX = 10_000
"""fio looks a file up in a list, and holds all of them open."""
_ACTIONS = pl.Series(["read", "write", "trim"])
_MAP_FIELDS = (pa.field("offset", pa.uint64()), pa.field("bytes", pa.uint64()))

Columns = dict[str, "NDArray[Any]"]


@dataclass(frozen=True, slots=True)
class _Target:
    """What the log is for: `name` is the device, the file, or the directory of files."""

    name: str
    device: bool
    per_key: bool
    no_trims: str = ""
    """Why deletes don't become trims; empty where they do."""


def job_path(out: Path) -> Path:
    """Return where the job that runs log `out` is."""
    return out.with_suffix(".fio")


def fill_path(out: Path) -> Path:
    """Return where the job that writes once all that log `out` may read is."""
    return out.with_suffix(".fill.fio")


def beside(out: Path) -> tuple[Path, ...]:
    """Return the files that an export makes beside `out`."""
    return map_path(out), job_path(out), fill_path(out)


def export(trace: Trace, out: Path, options: ExportOptions) -> Exported:
    """Write `trace` as a log, a job that runs it, and a job that fills its device or file first.

    Keys become extents, placed as a replay places them. Raises UsageError for what fio can't take,
    TargetError if it needs more space.
    """
    version = _version(options)
    target = _target(out, options, version)
    for path in (job_path(out), fill_path(out)):
        check_writable(path, force=options.force)
    tiers = options.tiers or DEFAULT_TIERS
    ready = prepare(
        trace,
        tiers,
        align_bytes=options.extent_align_bytes,
        size_bytes=options.size_bytes,
        per_object=target.per_key,
        part_bytes=options.io_size_bytes or PART_BYTES,
    )
    with ExitStack() as files:
        log = _Log(files, out, target, options)
        for batch in read_batches(TraceRows(trace), ("request",)):
            log.add(batch, ready.allocator.place(batch))
        log.end()
        depth = _depth(options, log.longest_bytes)
        engine = fiolog.engine_of(version, no_stall=options.no_stall)
        job = fiolog.Job(
            log=str(out),
            target=log.names()[0],
            engine=engine,
            depth=1 if engine == "psync" else depth,
            records=log.records,
            writes=log.changes,
            no_stall=options.no_stall,
        )
        made = [map_path(out), _write(files, job_path(out), job.text(), options)]
        if not target.per_key:
            text = fiolog.fill_text(
                target.name, log.first_bytes, log.end_bytes, device=target.device
            )
            made.append(_write(files, fill_path(out), text, options))
    loses = _loses(trace, ready, tiers, target, log)
    return Exported(log.rows, trace.rows - log.rows, loses, tuple(made))


def _version(options: ExportOptions) -> fiolog.Version | None:
    if options.fio_version:
        return fiolog.parse_version(options.fio_version)
    return fiolog.installed_version()


def _depth(options: ExportOptions, longest_bytes: int) -> int:
    if options.queue_depth is not None:
        return options.queue_depth
    depth = DEPTH_MAX if options.no_stall else DEPTH_OPEN
    return max(1, min(depth, fiolog.BUFFERS_BYTES_MAX // max(1, longest_bytes)))


def _write(files: ExitStack, path: Path, text: str, options: ExportOptions) -> Path:
    files.enter_context(OutFile(path, force=options.force)).write(text.encode())
    return path


def _target(out: Path, options: ExportOptions, version: fiolog.Version | None) -> _Target:
    """Return what the log is for. Raises UsageError for what doesn't fit together."""
    if out.suffix in (".fio", ".gz", ".zst", ".parquet"):
        raise UsageError(
            "not a name for a log", where=out, accepted="any that isn't compressed, e.g. trace.log"
        )
    if options.device and (options.filename or options.file_per_key):
        raise UsageError("a log is for one target", got="--device and --filename", hint="name one")
    align = options.extent_align_bytes
    _check_power("--extent-align", align, 512, 1 << 30)
    if options.io_size_bytes is not None:
        _check_power("--io-size", options.io_size_bytes, align, fiolog.PIECE_BYTES_MAX)
    if options.queue_depth is not None and not 0 < options.queue_depth <= 16384:
        raise UsageError("out of range", where="--queue-depth", got=options.queue_depth)
    if options.size_bytes is not None and options.file_per_key:
        raise UsageError("--size is of one device or file", got="--file-per-key beside it")
    fiolog.check_name(str(out), "OUT")
    if options.device:
        path = Path(options.device)
        if path.exists() and not path.is_block_device():
            raise UsageError(
                "isn't a block device", where="--device", got=path, hint="name a file by --filename"
            )
        name = fiolog.check_name(options.device, "--device")
        why = "" if fiolog.runs_trims(version) else "since fio before 3.34 runs no trims of a log"
        return _Target(name, device=True, per_key=False, no_trims=why)
    name = options.filename or str(out.with_suffix("" if options.file_per_key else ".dat"))
    name = fiolog.check_name(name, "--filename")
    why = "since files aren't trimmed"
    return _Target(name, device=False, per_key=options.file_per_key, no_trims=why)


def _check_power(where: str, value: int, least: int, most: int) -> None:
    if value & (value - 1) or not least <= value <= most:
        raise UsageError(
            "not accepted",
            where=where,
            got=value,
            accepted=f"a power of two, {format_bytes(least)} to {format_bytes(most)}",
        )


class _Log:
    """Writes rows as lines, and the map beside them; `files` closes both."""

    def __init__(
        self, files: ExitStack, out: Path, target: _Target, options: ExportOptions
    ) -> None:
        self._target = target
        self._piece = options.io_size_bytes or PART_BYTES
        self._file = files.enter_context(OutFile(out, force=options.force))
        self._map = files.enter_context(MapWriter(out, force=options.force, extra=_MAP_FIELDS))
        self._last_us = 1
        self._names = KeyTable()
        self.rows, self.records = 0, 0
        self.longest_bytes = 0
        self.first_bytes, self.end_bytes = 1 << 62, 0
        self.changes = False
        self._file.write(fiolog.FIRST_LINES[3] + b"\n")
        if not target.per_key:
            self._file.write(f"1 {target.name} add\n1 {target.name} open\n".encode())

    def add(self, batch: Batch, placed: Placed) -> None:
        """Take the rows that move something; deletes only where they become trims."""
        kept = np.ones(len(placed.row), bool)
        if self._target.no_trims:
            kept = batch.op[placed.row] != Op.DELETE
        if not kept.any():
            return
        self.rows += len(np.unique(placed.row[kept]))
        columns = _pieces(batch, placed, np.flatnonzero(kept), self._piece)
        self.records += len(columns["op"])
        self.longest_bytes = max(self.longest_bytes, int(columns["bytes"].max()))
        self.first_bytes = min(self.first_bytes, int(columns["offset"].min()))
        self.end_bytes = max(self.end_bytes, int((columns["offset"] + columns["bytes"]).max()))
        self.changes |= bool((columns["op"] != Op.READ).any())
        self._last_us = int(columns["us"][-1])
        self._file.write(self._text(columns))
        self._map.append(columns)

    def _text(self, columns: Columns) -> bytes:
        keys = columns["key"]
        frame = pl.DataFrame(
            {
                "us": columns["us"],
                "action": _ACTIONS.gather(columns["op"].astype(np.uint32)),
                "offset": columns["offset"],
                "bytes": columns["bytes"],
            }
        )
        if not self._target.per_key:
            name = pl.lit(self._target.name).alias("name")
            frame = frame.select("us", name, "action", "offset", "bytes")
            text: str = frame.write_csv(include_header=False, separator=" ", quote_style="never")
            return text.encode()
        return _lines_of_files(frame, self._target.name, keys, self._news(keys))

    def _news(self, keys: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Return which rows are the first of their key."""
        before = self._names.count
        index = self._names.add(keys)
        if self._names.count > FILES_MAX:
            raise UsageError(
                "too many files for fio",
                where="--file-per-key",
                got=f"more than {FILES_MAX} objects",
                hint="leave it out: objects become extents of one file",
            )
        first = np.zeros(len(keys), np.bool_)
        first[np.unique(index, return_index=True)[1]] = True
        return first & (index >= before)

    def end(self) -> None:
        """Close the files late enough for fio to reap what is in flight; publish log and map."""
        close_us = self._last_us + fiolog.CLOSE_AFTER_US
        lines = (f"{close_us} {name} close\n" for name in self.names())
        self._file.write("".join(lines).encode())
        self._file.close()
        self._map.close()

    def names(self) -> list[str]:
        """Return the files' names."""
        if not self._target.per_key:
            return [self._target.name]
        keys = self._names.keys[: self._names.count].tolist()
        return [f"{self._target.name}/{key:016x}" for key in keys]


def _pieces(batch: Batch, placed: Placed, kept: NDArray[np.int64], most: int) -> Columns:
    """Return the columns of the log and its map: one record per piece of at most that many bytes.

    An extent begins a piece.

    Times are in µs from 1 on: fio takes no account of a gap that begins at 0.
    """
    counts = -(-placed.length_bytes[kept] // most)
    extent = np.repeat(kept, counts)
    index = placed.row[extent]
    at = ranges(counts)
    columns: Columns = {
        "us": batch.timestamp_ns[index] // US_NS + 1,
        "op": batch.op[index],
        "offset": placed.begin_bytes[extent] + at * most,
        "bytes": np.minimum(placed.length_bytes[extent] - at * most, most),
        "key": batch.key[index],
        "tier": batch.tier[index],
        "phase": batch.phase[index],
    }
    request = batch.optional.get("request")
    return columns if request is None else columns | {"request": request[index]}


def _lines_of_files(
    frame: pl.DataFrame, folder: str, keys: NDArray[np.uint64], first: NDArray[np.bool_]
) -> bytes:
    """Return the lines where each object is a file, added and opened before its first op."""
    name = pl.lit(f"{folder}/") + pl.col("key")
    head = pl.format("{} {} add\n{} {} open\n", "us", name, "us", name)
    line = pl.format("{} {} {} {} {}\n", "us", name, "action", "offset", "bytes")
    hexed = pl.Series("key", [f"{key:016x}" for key in keys.tolist()])
    text = frame.with_columns(hexed, first=pl.Series(first)).select(
        pl.when("first").then(head + line).otherwise(line)
    )
    return "".join(text.to_series().to_list()).encode()


def _loses(
    trace: Trace, ready: Prepared, tiers: tuple[Tier, ...], target: _Target, log: _Log
) -> tuple[str, ...]:
    """Return the log's losses, with figures."""
    words = ", ".join(tier.label for tier in tiers)
    failed = ready.survey.failed_rows
    others = trace.rows - failed - int(ready.survey.cell_ops[list(tiers)].sum())
    deletes, lookups = (ready.count(tiers, op) for op in (Op.DELETE, Op.LOOKUP))
    count, size = ready.before_bytes
    losses = [
        f"rows of other tiers than {words}: {others:,}",
        f"lookups: {lookups:,}",
        "keys, which become extents (files by --file-per-key); the map has them",
        f"phase, and all optional columns but offset; the map has {', '.join(NAMES)}",
        "sizes and offsets that aren't multiples of the alignment: they are widened to it",
        "nanoseconds below a microsecond",
        "the order of dependent ops; only overlapping I/O is kept apart",
        "the header",
    ]
    if target.no_trims:
        losses.insert(1, f"deletes, {target.no_trims}: {deletes:,}")
    if failed:
        losses.append(f"ops that had failed: {failed:,}")
    if log.records > log.rows:
        losses.append(f"long ops as one: {log.rows:,} rows become {log.records:,} pieces")
    if count:
        losses.append(
            f"that {count:,} objects ({format_bytes(size)}) are there before the first row: fio "
            f"reads what it finds; run the fill job first"
        )
    return tuple(losses)
