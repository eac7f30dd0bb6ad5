"""elbencho's ops log (--opslog): a line of JSON before and one after each op."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pyarrow as pa

from kvtrace.errors import TraceError
from kvtrace.foreign import incoming
from kvtrace.foreign.names import Names
from kvtrace.foreign.order import Reordered
from kvtrace.schema import MAX_SIZE_BYTES, Op, Tier
from kvtrace.textfile import open_binary
from kvtrace.units import MS_NS
from kvtrace.writer import check_writable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from kvtrace.importers import Imported, ImportOptions
    from kvtrace.reader import Columns

OPTIONS = ("tier",)
FIELDS = {
    "date": pl.String,
    "worker_rank": pl.Int64,
    "op_name": pl.String,
    "entry_name": pl.String,
    "offset": pl.Int64,
    "length": pl.Int64,
    "is_finished": pl.Boolean,
    "is_error": pl.Boolean,
}
"""Source: breuner/elbencho, source/toolkits/OpsLogger.cpp (`logOpJSON`)."""
OPS = {
    "pread": Op.READ,
    "cuFileRead": Op.READ,
    "hdfsPread": Op.READ,
    "S3GetObject": Op.READ,
    "pwrite": Op.WRITE,
    "cuFileWrite": Op.WRITE,
    "hdfsWrite": Op.WRITE,
    "S3PutObject": Op.WRITE,
    "S3UploadPart": Op.WRITE,
    "unlinkat": Op.DELETE,
    "S3DeleteObject": Op.DELETE,
    "fstat": Op.LOOKUP,
    "fstatat": Op.LOOKUP,
    "S3HeadObject": Op.LOOKUP,
}
OPENS, CLOSES = ("open", "openat"), ("close",)
_BLOCK_BYTES = 8 << 20
_DATE = "%Y-%m-%dT%H:%M:%S%.3f%z"
_OTHER = "ops that move no object (open, mkdirat and others) left out"
_EMPTY = "reads and writes of no bytes left out"
_UNFINISHED = "ops that never finished left out"
_GROUP = ("worker_rank", "op_name", "entry_name", "offset", "length")


def recognises(path: Path, start: bytes) -> bool:
    """Return whether a file starts with a line of the log."""
    line = start.partition(b"\n")[0]
    return line.startswith(b"{") and b'"worker_rank"' in line and b'"op_name"' in line


def convert(paths: Sequence[Path], out: Path, options: ImportOptions) -> Imported:
    """Make a trace of the ops on one tier (--tier; by default nvme).

    Reads, writes, deletes and stats are taken. Of a read or write the log has a descriptor's number
    only: it stands for the file that its worker has open, if that is one.
    """
    (path,) = paths
    check_writable(out, force=options.force)
    tier = Tier.NVME if options.tier is None else options.tier
    with Names(out, force=options.force) as known:
        reader = _Reader(path, known, tier)
        rows = Reordered("timestamp", reader.batches)
        reader.first_ns = rows.base = rows.first
        columns = ("offset", "submit", "complete", "error")
        log = incoming.Log("elbencho", paths, columns, epoch_ns=rows.first)
        header, notes = incoming.write(log, rows, out, force=options.force)
    return incoming.imported(header, [*incoming.counted(reader.told), *notes], known, out)


class _Reader:
    """Turns the log into rows; `told`: what was left out, counted in the latest pass."""

    def __init__(self, path: Path, names: Names, tier: Tier) -> None:
        self._path, self._names, self._tier = path, names, tier
        self.first_ns = 0
        self.told: dict[str, int] = {}

    def batches(self) -> Iterator[Columns]:
        """Yield the rows, each when its op is over."""
        self.told = dict.fromkeys((_OTHER, _EMPTY, _UNFINISHED), 0)
        files, started = _OpenFiles(), pl.DataFrame()
        for lines in _lines(self._path):
            named = files.named(lines)
            joined = pl.concat([started, named]) if len(started) else named
            ops, started = self._paired(joined)
            columns = self._columns(ops)
            if len(columns["timestamp"]):
                yield columns
        self.told[_UNFINISHED] += len(started)

    def _paired(self, lines: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
        """Return the ops that are over, and the starts of those that aren't."""
        lines = lines.with_columns(
            begun=pl.col("ns").shift(1).over(_GROUP),
            before=pl.col("is_finished").shift(1).over(_GROUP),
            after=pl.col("is_finished").shift(-1).over(_GROUP),
        )
        lost = lines.filter(pl.col("is_finished") & pl.col("before").fill_null(value=True))
        if len(lost):
            raise TraceError(
                "an op's end without its start",
                where=f"{self._path}:{lost['line'][0]}",
                got=f"{lost['op_name'][0]} of worker {lost['worker_rank'][0]}",
                accepted="a whole log; runs with several workers need --opsloglock",
            )
        starts = lines.filter(~pl.col("is_finished"))
        running = starts.filter(pl.col("after").is_null()).drop("begun", "before", "after")
        self.told[_UNFINISHED] += int((~starts["after"].fill_null(value=True)).sum())
        return lines.filter("is_finished"), running

    def _columns(self, ops: pl.DataFrame) -> Columns:
        known = pl.col("op_name").is_in(list(OPS))
        self.told[_OTHER] += len(ops) - len(ops := ops.filter(known))
        op = ops["op_name"].replace_strict(OPS, return_dtype=pl.UInt8).to_numpy()
        empty = (op <= Op.WRITE) & (ops["length"].to_numpy() == 0)
        self.told[_EMPTY] += int(empty.sum())
        ops, op = ops.filter(pl.Series(~empty)), op[~empty]
        failed = ops["is_error"].to_numpy()
        op = np.where(failed & (op == Op.DELETE), Op.LOOKUP, op).astype(np.uint8)
        moves = op <= Op.WRITE
        key, tier = self._names.of(ops["name"].to_arrow().cast(pa.string()), self._tier)
        submit = ops["begun"].to_numpy() - self.first_ns
        return {
            "timestamp": submit,
            "op": op,
            "size": np.where(moves, ops["length"].to_numpy(), 0),
            "tier": tier,
            "key": key,
            "phase": incoming.phases(op),
            "offset": np.where(moves, ops["offset"].to_numpy(), 0),
            "submit": submit,
            "complete": ops["ns"].to_numpy() - self.first_ns,
            "error": np.where(failed, incoming.EIO, 0),
        }


class _OpenFiles:
    """Knows which file each worker has open."""

    def __init__(self) -> None:
        self._open = pl.DataFrame(
            schema={"worker_rank": pl.Int64, "opened": pl.String, "count": pl.Int64}
        )

    def named(self, lines: pl.DataFrame) -> pl.DataFrame:
        """Return the lines with `name`: a path as it is, a descriptor's file or its number."""
        done = pl.col("is_finished") & ~pl.col("is_error")
        opens, closes = pl.col("op_name").is_in(OPENS), pl.col("op_name").is_in(CLOSES)
        lines = lines.join(self._open, on="worker_rank", how="left", maintain_order="left")
        change = (opens & done).cast(pl.Int64) - (closes & done).cast(pl.Int64)
        path = pl.when(opens & done).then("entry_name")
        lines = lines.with_columns(
            opened=path.forward_fill().over("worker_rank").fill_null(pl.col("opened")),
            count=change.cum_sum().over("worker_rank") + pl.col("count").fill_null(0),
        )
        latest = lines.group_by("worker_rank", maintain_order=True).last()
        latest = latest.select(self._open.columns)
        self._open = pl.concat([self._open, latest]).unique(
            "worker_rank", keep="last", maintain_order=True
        )
        number = pl.col("entry_name").str.contains(r"^\d+$")
        sole = (pl.col("count") == 1) & pl.col("opened").is_not_null()
        file = pl.when(sole).then("opened").otherwise(pl.lit("descriptor ") + pl.col("entry_name"))
        name = pl.when(number).then(file).otherwise("entry_name")
        return lines.with_columns(name=name).drop("opened", "count")


def _lines(path: Path) -> Iterator[pl.DataFrame]:
    """Yield the log's lines, checked, with `line` (from 1 on) and `ns`."""
    before = 0
    with open_binary(path) as stream:
        rest = b""
        while data := stream.read(_BLOCK_BYTES):
            whole, newline, rest = (rest + data).rpartition(b"\n")
            if len(rest) > _BLOCK_BYTES:
                raise _bad_line(path, rest[:120], before + whole.count(b"\n"), 0)
            if newline:
                yield (frame := _parsed(path, whole, before))
                before += len(frame)
        if rest.strip():
            yield _parsed(path, rest, before)


def _parsed(path: Path, block: bytes, before: int) -> pl.DataFrame:
    try:
        frame = pl.read_ndjson(block, schema=FIELDS)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise _bad_line(path, block, before) from error
    date = pl.col("date").str.to_datetime(_DATE, time_unit="ms", strict=False)
    frame = frame.with_columns(ns=date.dt.epoch("ms") * MS_NS)
    within = [pl.col(name).is_between(0, MAX_SIZE_BYTES) for name in ("offset", "length")]
    bad = frame.select(pl.any_horizontal(pl.all().is_null()) | ~pl.all_horizontal(within))
    bad_rows = bad.to_series().fill_null(value=True)
    if bad_rows.any() or len(frame) != block.count(b"\n") + 1:
        raise _bad_line(path, block, before, int(bad_rows.arg_max() or 0))
    return frame.with_row_index("line", before + 1)


def _bad_line(path: Path, block: bytes, before: int, at: int | None = None) -> TraceError:
    """Return the error for line `at` of a block, or for its first one that isn't JSON."""
    lines = block.split(b"\n")
    if at is None:
        at = next((i for i, line in enumerate(lines) if not _is_object(line)), 0)
    return TraceError(
        "not a line of elbencho's ops log",
        where=f"{path}:{before + at + 1}",
        got=repr(lines[at][:120].decode("utf-8", "replace")),
        accepted=f"JSON with {', '.join(FIELDS)}; sizes from 0 to {MAX_SIZE_BYTES}",
    )


def _is_object(line: bytes) -> bool:
    try:
        found: Any = json.loads(line)
    except ValueError:
        return False
    return isinstance(found, dict) and all(
        isinstance(found.get(name), int)
        for name in ("worker_rank", "offset", "length", "is_finished", "is_error")
    )
