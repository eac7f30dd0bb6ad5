"""elbencho's ops log (--opslog): a line of JSON before and one after each op."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from kvtrace.errors import TraceError
from kvtrace.foreign import incoming
from kvtrace.foreign.names import Names, parts_of
from kvtrace.foreign.order import Reordered, Spool
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
    "S3GetObjectAsync": Op.READ,
    "pwrite": Op.WRITE,
    "cuFileWrite": Op.WRITE,
    "hdfsWrite": Op.WRITE,
    "S3PutObject": Op.WRITE,
    "S3UploadPart": Op.WRITE,
    "S3UploadPartAsync": Op.WRITE,
    "unlinkat": Op.DELETE,
    "S3DeleteObject": Op.DELETE,
    "fstat": Op.LOOKUP,
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
        with Spool(reader.batches(), out.parent) as spool:
            rows = Reordered("timestamp", spool, since=("timestamp", "submit", "complete"))
            columns = ("offset", "submit", "complete", "error")
            log = incoming.Log("elbencho", paths, columns, epoch_ns=rows.first)
            header, notes = incoming.write(log, rows, out, force=options.force)
    return incoming.imported(header, [*incoming.counted(reader.told), *notes], known, out)


class _Reader:
    """Turns the log into rows; `told`: what was left out."""

    def __init__(self, path: Path, names: Names, tier: Tier) -> None:
        self._path, self._names, self._tier = path, names, tier
        self.told = dict.fromkeys((_OTHER, _EMPTY, _UNFINISHED), 0)

    def batches(self) -> Iterator[Columns]:
        """Yield the rows, each when its op is over."""
        files, started = _OpenFiles(), pl.DataFrame()
        for lines in _lines(self._path):
            pairs, rest = _neighbours(self._known(files.named(lines)))
            if len(started) or len(rest):
                joined = pl.concat([started, rest]) if len(started) else rest
                others, started = self._paired(joined)
                pairs = pl.concat([pairs, others]).sort("line")
            columns = self._columns(pairs)
            if len(columns["timestamp"]):
                yield columns
        self.told[_UNFINISHED] += len(started)

    def _known(self, lines: pl.DataFrame) -> pl.DataFrame:
        """Return the lines of ops that are taken; ends of listings differ from their starts."""
        known = lines["op_name"].is_in(list(OPS))
        self.told[_OTHER] += int((~known & lines["is_finished"]).sum())
        return lines.filter(known)

    def _paired(self, lines: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
        """Return the ops that are over, and the starts of those that aren't.

        An op's end belongs to the start of an equal one of its worker that stands before it.
        """
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
        return lines.filter("is_finished").drop("before", "after"), running

    def _columns(self, ops: pl.DataFrame) -> Columns:
        op = ops["op_name"].replace_strict(OPS, return_dtype=pl.UInt8).to_numpy()
        empty = (op <= Op.WRITE) & (ops["length"].to_numpy() == 0)
        self.told[_EMPTY] += int(empty.sum())
        ops, op = ops.filter(pl.Series(~empty)), op[~empty]
        failed = ops["is_error"].to_numpy()
        op = np.where(failed & (op == Op.DELETE), Op.LOOKUP, op).astype(np.uint8)
        moves = op <= Op.WRITE
        key, tier = self._names.of(parts_of(ops["name"].to_arrow()), self._tier)
        submit = ops["begun"].to_numpy()
        return {
            "timestamp": submit,
            "op": op,
            "size": np.where(moves, ops["length"].to_numpy(), 0),
            "tier": tier,
            "key": key,
            "phase": incoming.phases(op),
            "offset": np.where(moves, ops["offset"].to_numpy(), 0),
            "submit": submit,
            "complete": ops["ns"].to_numpy(),
            "error": np.where(failed, incoming.EIO, 0),
        }


def _neighbours(lines: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return the ops whose end follows on their start among their worker's lines, and the rest."""
    lines = lines.sort("worker_rank", maintain_order=True)
    equal = [pl.col(name) == pl.col(name).shift(1) for name in _GROUP]
    fits = pl.col("is_finished") & ~pl.col("is_finished").shift(1)
    lines = lines.with_columns(
        begun=pl.col("ns").shift(1), ends=pl.all_horizontal(fits, *equal).fill_null(value=False)
    )
    begins = lines["ends"].shift(-1).fill_null(value=False)
    rest = lines.filter(~(lines["ends"] | begins)).drop("begun", "ends")
    return lines.filter("ends").drop("ends").sort("line"), rest.sort("line")


class _OpenFiles:
    """Knows which file each worker has open."""

    def __init__(self) -> None:
        self._open = pl.DataFrame(
            schema={"worker_rank": pl.Int64, "opened": pl.String, "count": pl.Int64}
        )

    def named(self, lines: pl.DataFrame) -> pl.DataFrame:
        """Return the lines with `name`: a path as it is, a descriptor's file or its number."""
        number = lines["entry_name"].str.contains(r"^\d+$")
        marks = lines["op_name"].is_in([*OPENS, *CLOSES])
        if not number.any() and not marks.any():
            return lines.with_columns(name="entry_name")
        some = self._followed(lines.filter(number | marks))
        names = lines.select("line").join(some, on="line", how="left", maintain_order="left")
        return lines.with_columns(name=names["name"].fill_null(lines["entry_name"]))

    def _followed(self, lines: pl.DataFrame) -> pl.DataFrame:
        """Return line and name of lines that open, close or have a descriptor's number."""
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
        return lines.select("line", name=pl.when(number).then(file).otherwise("entry_name"))


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
