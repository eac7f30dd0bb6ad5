"""Operation logs of warp, s3dlio and sai3-bench (.csv.zst, .tsv.zst): sorted, names to keys."""

from __future__ import annotations

import re
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kvtrace.files.outputs import check_writable
from kvtrace.formats.common import incoming
from kvtrace.formats.common.names import Names, parts_of
from kvtrace.formats.common.order import Reordered, Spool
from kvtrace.formats.common.sidecar import NAMES, MapReader
from kvtrace.formats.common.table import (
    UTC_NS,
    Table,
    coded,
    header_of,
    need_columns,
    refuse,
    sizes,
)
from kvtrace.formats.warp.appended import PART, placed, whole
from kvtrace.formats.warp.requoted import Requoted
from kvtrace.requests.request import ranges
from kvtrace.trace.schema import Op, Tier

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from kvtrace.formats.common.importing import Imported, ImportOptions
    from kvtrace.trace.reader import Columns

OPTIONS = ("tier", "map")
NEEDED = ("op", "bytes", "file", "start")
TYPES = {
    "op": pa.string(),
    "n_objects": pa.int64(),
    "bytes": pa.int64(),
    "endpoint": pa.string(),
    "file": pa.string(),
    "error": pa.string(),
    "start": UTC_NS,
    "end": UTC_NS,
    "duration_ns": pa.int64(),
}
"""Columns that are read; the client is not, since a log of s3dlio may hold an access key there."""
OPS = {
    "GET": Op.READ,
    "GET_RANGE": Op.READ,
    "PUT": Op.WRITE,
    "POST": Op.WRITE,
    "PUTPART": Op.WRITE,
    "APPEND": Op.WRITE,
    "UPLOAD": Op.WRITE,
    "DELETE": Op.DELETE,
    "STAT": Op.LOOKUP,
    "HEAD": Op.LOOKUP,
}
"""Source: minio/warp, pkg/bench (`OpType`); russfellows/s3dlio, src/s3_ops.rs."""
PARTS = {"PUTPART": 1, "APPEND": 1}
"""Writes that go on where their object ends."""
FAN_OUT = {"POST": 1}
"""One of n objects stores n copies, `NAME/copy-0.ext` and so on (pkg/bench/fanout.go)."""
MAX_COPIES = 1 << 16
TIMES = ("timestamp", "submit", "complete")
_OTHER = 255
_ENOENT = 2
_OWN_ERROR = r"^errno ([0-9]+)\b"
_MISSING_ERROR = (
    r"(?i)nosuchkey|notfound|(status|http|code|error)[^0-9a-z]{0,3}404\b|\b404 not found"
    r"|not exist|no such (key|file|object)"
    r"|(^|file|object|key|path|blob|at location .*|:) *not found"
)
"""Error words of S3, warp and s3dlio's stores for a missing object."""
_SCHEME = r"^[a-z0-9]+://"


def recognises(path: Path, start: bytes) -> bool:
    """Return whether a file starts with an operation log's header."""
    names = start.partition(b"\n")[0].decode("utf-8", "replace").rstrip("\r").split("\t")
    return len(names) > len(NEEDED) and set(NEEDED) <= set(names)


def convert(paths: Sequence[Path], out: Path, options: ImportOptions) -> Imported:
    """Make a trace from an operation log.

    Ops that read, write, delete and look up become ops on objects of one tier (--tier), in order of
    their start; what they took and whether they failed goes into submit, complete and error. Parts
    of an object (PUTPART, APPEND) are writes one behind the other, a fan-out is a write of each
    copy. Ops of other names are counted, with their bytes. With a map, rows get the key, tier,
    phase and request that they had before the export.
    """
    (path,) = paths
    check_writable(out, force=options.force)
    names = header_of(path, "\t")
    need_columns(path, names, NEEDED)
    types = {n: t for n, t in TYPES.items() if n in names}
    table = Table(path, types, delimiter="\t", wrapped=lambda stream: Requoted(stream, names))
    with ExitStack() as stack:
        known = stack.enter_context(Names(out, force=options.force))
        beside = stack.enter_context(MapReader(options.map)) if options.map else None
        tier = Tier.OBJECT if options.tier is None else options.tier
        reader = _Reader(path, known, tier, beside)
        spool = stack.enter_context(Spool(reader.batches(table), out.parent))
        rows = Reordered("timestamp", spool, since=TIMES)
        offset = ("offset",) if reader.parts else ()
        log = incoming.Log("warp", paths, (*reader.extra, *offset), epoch_ns=rows.first)
        made = placed(rows) if reader.parts else whole(rows)
        header, notes = incoming.write(log, made, out, force=options.force)
    counts = {"rows were out of order and have been sorted": rows.disorder} | reader.told
    return incoming.imported(
        header, [*incoming.counted(counts), *reader.lost.notes(), *notes], known, out
    )


def _ns(times: pa.Array) -> NDArray[np.int64]:
    times_ns: NDArray[np.int64] = times.cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False)
    return times_ns


class _Reader:
    """Turns blocks of the log into rows."""

    def __init__(self, path: Path, names: Names, tier: Tier, beside: MapReader | None) -> None:
        self._path, self._names, self._tier, self._map = path, names, tier, beside
        request = ("request",) if beside is not None and beside.knows_requests else ()
        self.extra = (*TIMES[1:], "error", *request)
        self.told = dict.fromkeys(
            (
                "ops that aren't of one object (LIST and others) left out",
                "GETs and PUTs of no bytes left out",
                "failed ops that moved nothing became look-ups",
            ),
            0,
        )
        self.parts = 0
        self.lost = incoming.Lost()

    def batches(self, table: Table) -> Iterator[Columns]:
        """Yield the rows, not yet in order."""
        for before, batch in table:
            if batch.num_rows:
                yield self._rows(before, batch)
        if self._map is not None:
            self._map.end()

    def _rows(self, before: int, batch: pa.RecordBatch) -> Columns:
        op = coded(batch.column("op"), OPS, _OTHER)
        size = sizes(batch.column("bytes"), self._path, before, "bytes")
        times = batch.column("start")
        accepted = "a time of RFC 3339"
        refuse(times.is_null(), times, self._path, before, name="start", accepted=accepted)
        start = _ns(times)
        error = _errnos(_texts(batch, "error"))
        failed = (error != 0) & (size == 0) & (op <= Op.DELETE)
        op = np.where(failed, Op.LOOKUP, op).astype(np.uint8)
        single = self._single(batch, op)
        left_out = ~single & (size > 0)
        for reason, which in (
            (incoming.NOT_UNDERSTOOD, op == _OTHER),
            (incoming.NO_OBJECT, op != _OTHER),
        ):
            self.lost.note_rows(batch.column("op"), np.flatnonzero(left_out & which), reason, size)
        empty = (op <= Op.WRITE) & (size == 0)
        self._count(failed & single, ~single, empty & single)
        kept = single & ~empty
        took = self._durations(before, batch, start)
        columns: dict[str, NDArray[Any]] = {
            "timestamp": start,
            "op": op,
            "size": np.where(op <= Op.WRITE, size, 0),
            "submit": start,
            "complete": start + took,
            "error": error,
            PART: coded(batch.column("op"), PARTS, 0),
        }
        columns |= {} if self._map is None else self._identity(batch)
        if not kept.all():
            columns = {name: values[kept] for name, values in columns.items()}
            batch = batch.filter(pa.array(kept))
        self.parts += int(columns[PART].sum())
        if self._map is not None:
            return columns
        columns, names = _copied(batch, columns, self._path, before)
        key, tier = self._names.of(parts_of(names), self._tier)
        return columns | {"key": key, "tier": tier, "phase": incoming.phases(columns["op"])}

    def _identity(self, batch: pa.RecordBatch) -> Columns:
        """Return what the ops of a block were before the export."""
        assert self._map is not None
        known = self._map.take(batch.num_rows)
        return {name: known[name] for name in NAMES}

    def _count(self, *masks: NDArray[np.bool_]) -> None:
        failed, others, empty = (int(mask.sum()) for mask in masks)
        for what, more in zip(self.told, (others, empty, failed), strict=True):
            self.told[what] += more

    @staticmethod
    def _single(batch: pa.RecordBatch, op: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Return which ops are known and have their object: one, or one that moves all bytes."""
        named: NDArray[np.bool_] = pc.greater(pc.binary_length(batch.column("file")), 0).to_numpy(
            zero_copy_only=False
        )
        named &= op != _OTHER
        if "n_objects" not in batch.schema.names:
            return named
        counts = batch.column("n_objects").fill_null(1).to_numpy(zero_copy_only=False)
        single: NDArray[np.bool_] = named & ((counts == 1) | (op <= Op.WRITE))
        return single

    def _durations(
        self, before: int, batch: pa.RecordBatch, start: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """Return what each op took, by `end`, or else by `duration_ns`."""
        took = np.zeros(len(start), np.int64)
        if "duration_ns" in batch.schema.names:
            values = batch.column("duration_ns")
            refuse(pc.less(values, 0).fill_null(fill_value=False), values, self._path, before,
                   name="duration_ns", accepted="0 or more")  # fmt: skip
            took = values.fill_null(0).to_numpy(zero_copy_only=False)
        if "end" in batch.schema.names:
            ends = batch.column("end")
            known = ~ends.is_null().to_numpy(zero_copy_only=False)
            by_end = _ns(ends) - start
            refuse(known & (by_end < 0), ends, self._path, before, name="end",
                   accepted="not before start")  # fmt: skip
            took = np.where(known, by_end, took)
        return took


def _copied(
    batch: pa.RecordBatch, columns: Columns, path: Path, before: int
) -> tuple[Columns, pa.Array]:
    """Return rows and their names, a fan-out being a row for each copy."""
    names = _names(batch)
    if "n_objects" not in batch.schema.names:
        return columns, names
    counts = batch.column("n_objects").fill_null(1)
    fan_out = coded(batch.column("op"), FAN_OUT, 0) != 0
    fan_out &= (columns["op"] == Op.WRITE) & pc.greater(counts, 1).to_numpy(zero_copy_only=False)
    if not fan_out.any():
        return columns, names
    refuse(fan_out & pc.greater(counts, MAX_COPIES).to_numpy(zero_copy_only=False), counts, path,
           before, name="n_objects", accepted=f"up to {MAX_COPIES} copies")  # fmt: skip
    copies = np.where(fan_out, counts.to_numpy(zero_copy_only=False), 1)
    rows, copy = np.repeat(np.arange(len(copies)), copies), ranges(copies)
    made = {name: values[rows] for name, values in columns.items()}
    # What doesn't divide is in the first copies, so that no byte is lost.
    share, rest = np.divmod(columns["size"], copies)
    made["size"] = share[rows] + (copy < rest[rows])
    texts = pa.array([f"/copy-{number}.ext" for number in copy.tolist()])
    ends = pc.if_else(pa.array(fan_out[rows]), texts, "")
    return made, pc.binary_join_element_wise(names.take(pa.array(rows)), ends, "")


def _texts(batch: pa.RecordBatch, name: str) -> pa.Array:
    if name in batch.schema.names:
        return batch.column(name)
    return pa.repeat(pa.scalar(""), batch.num_rows)


def _errnos(texts: pa.Array) -> NDArray[np.int32]:
    """Return 0 for no text, else the errno in it: what we write, or the one that fits it best."""
    if not pc.any(pc.not_equal(texts, "")).as_py():
        return np.zeros(len(texts), np.int32)
    encoded = texts.dictionary_encode()
    words = encoded.dictionary
    own = pc.extract_regex(words, _OWN_ERROR.replace("(", "(?P<number>", 1))
    missing = pc.match_substring_regex(words, _MISSING_ERROR).to_pylist()
    numbers = [
        0 if not word else int(match["number"]) if match else _ENOENT if gone else incoming.EIO
        for word, match, gone in zip(words.to_pylist(), own.to_pylist(), missing, strict=True)
    ]
    codes = np.minimum(np.array(numbers or [0], np.int64), np.iinfo(np.int32).max)
    errnos: NDArray[np.int32] = codes.astype(np.int32)[encoded.indices.to_numpy()]
    return errnos


def _names(batch: pa.RecordBatch) -> pa.Array:
    """Return what identifies each object: below a store's URI, or within a server's bucket.

    s3dlio has the bucket in both columns, sai3-bench in the first one, warp in neither.
    """
    names = batch.column("file")
    if pc.any(pc.match_substring(names, "://")).as_py():
        names = pc.replace_substring_regex(names, _SCHEME, "")
    places = _texts(batch, "endpoint").dictionary_encode()
    for code, endpoint in enumerate(places.dictionary.to_pylist()):
        if store := _store(endpoint):
            in_place = pc.equal(places.indices, code)
            outside = pc.and_(in_place, pc.invert(pc.starts_with(names, store)))
            names = pc.if_else(outside, pc.binary_join_element_wise(store, names, ""), names)
    return names


def _store(endpoint: str) -> str:
    """Return what stands before the names in a store; of a web server nothing."""
    if re.match(r"https?://", endpoint):
        return ""
    place = re.sub(_SCHEME, "", endpoint).rpartition("@")[2].rstrip("/")
    return f"{place}/" if place else ""
