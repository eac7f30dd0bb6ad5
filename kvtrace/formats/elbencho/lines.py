"""Lines of elbencho's ops log as columns: scanned where they look as elbencho prints them.

Lines of any other shape, which are JSON all the same, go through a parser of JSON.
Source: breuner/elbencho, source/toolkits/OpsLogger.cpp (`logOpJSON`).
"""

from __future__ import annotations

import ctypes
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from kvtrace.errors import TraceError
from kvtrace.files.textfile import open_binary
from kvtrace.formats.common.names import Parts, parts_of
from kvtrace.native.core import function
from kvtrace.native.library import INT, POINTER
from kvtrace.trace.schema import MAX_SIZE_BYTES, Op
from kvtrace.units import MS_NS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

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
    "aioread": Op.READ,
    "aiowrite": Op.WRITE,
}
ASYNC = ("aioread", "aiowrite")
"""Ops of which a log has the start only. Source: breuner/elbencho, LocalWorker.cpp."""
OPENS, CLOSES = ("open", "openat"), ("close",)
WORDS = (*OPS, *OPENS, *CLOSES)
"""Names of ops that mean something here; a line has a word's number."""
WITHOUT_BYTES = (
    "mkdirat", "HeadBucket", "S3AbortMultipartUpload", "S3CompleteMultipartUpload",
    "S3CreateBucket", "S3CreateMultipartUpload", "S3DeleteBucket", "S3DeleteObjects",
    "S3ListObjectsV2", "S3ListParts",
)  # fmt: skip
"""Other ops, whose `length` is 0 or a number of objects, as of those on ACLs, tags and the like."""
OTHER = 255
"""In place of a word's number: any other op."""
_BLOCK_BYTES = 8 << 20
_DATE = "%Y-%m-%dT%H:%M:%S%.3f%z"
_DATE_BYTES = 28

_FIXED_BYTES = 119
"""Of a line that fits, beside its values."""
_NEWLINE = ord("\n")
_ENCODED = [word.encode() for word in WORDS]
_WORD_TEXT = np.frombuffer(b"".join(_ENCODED), np.uint8)
_WORD_ENDS = np.cumsum([len(word) for word in _ENCODED])
_COLUMNS = {
    "begin": np.int64, "end": np.int64, "rank": np.int64, "word": np.uint8, "offset": np.int64,
    "length": np.int64, "is_finished": np.bool_, "is_error": np.bool_, "ns": np.int64,
    "op_begin": np.int64, "op_end": np.int64,
}  # fmt: skip


class LogStruct(ctypes.Structure):
    """`struct kv_log` of `lines.c`."""

    _fields_ = (
        ("data", POINTER),
        ("size", INT),
        ("words", POINTER),
        ("word_ends", POINTER),
        ("word_count", INT),
        ("size_max", INT),
        ("room", INT),
        *((name, POINTER) for name in _COLUMNS),
    )


_scan = function("kv_log_scan", POINTER, returns=INT)


@dataclass(frozen=True, slots=True)
class Lines:
    """Some lines of a log, checked; `first` is the number of the first of them, from 1."""

    first: int
    names: Parts
    ops: Parts
    """The names of the ops."""
    rank: NDArray[np.int64]
    word: NDArray[np.uint8]
    offset: NDArray[np.int64]
    length: NDArray[np.int64]
    is_finished: NDArray[np.bool_]
    is_error: NDArray[np.bool_]
    ns: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.rank)


def read_lines(path: Path) -> Iterator[Lines]:
    """Yield the log's lines, some at a time, each of them valid until the next ones are asked for.

    Raises TraceError for one that isn't of such a log.
    """
    before, left = 0, 0
    held = bytearray(2 * _BLOCK_BYTES)
    buffer = memoryview(held)
    with open_binary(path) as stream:
        while count := stream.readinto(buffer[left : left + _BLOCK_BYTES]):
            filled = left + count
            end = held.rfind(b"\n", 0, filled)
            if end >= 0:
                yield (lines := _lines(path, buffer[:end], before))
                before += len(lines)
            left = filled - end - 1
            if left > _BLOCK_BYTES:
                raise _bad_line(path, bytes(buffer[end + 1 : end + 121]), before, 0)
            buffer[:left] = bytes(buffer[end + 1 : filled])
        if rest := bytes(buffer[:left]).strip():
            yield _lines(path, memoryview(rest), before)


def _lines(path: Path, block: memoryview, before: int) -> Lines:
    scanned = _scanned(block, before)
    return _parsed(path, bytes(block), before) if scanned is None else scanned


def _scanned(block: memoryview, before: int) -> Lines | None:
    """Return the lines if they all look as elbencho prints them."""
    if not block or block[-1] == _NEWLINE:
        return None
    data = np.frombuffer(block, np.uint8)
    room = len(block) // _FIXED_BYTES + 1
    columns: dict[str, NDArray[Any]] = {
        name: np.empty(room, kind) for name, kind in _COLUMNS.items()
    }
    log = LogStruct(
        data.ctypes.data, len(data), _WORD_TEXT.ctypes.data, _WORD_ENDS.ctypes.data, len(WORDS),
        MAX_SIZE_BYTES, room, *(column.ctypes.data for column in columns.values()),
    )  # fmt: skip
    count = _scan(ctypes.byref(log))
    if count < 0:
        return None
    some = {name: column[:count] for name, column in columns.items()}
    names = Parts(data, some.pop("begin"), some.pop("end"))
    ops = Parts(data, some.pop("op_begin"), some.pop("op_end"))
    return Lines(before + 1, names, ops, **some)


def _parsed(path: Path, block: bytes, before: int) -> Lines:
    try:
        frame = pl.read_ndjson(block, schema=FIELDS)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise _bad_line(path, block, before) from error
    date = pl.col("date").str.to_datetime(_DATE, time_unit="ms", strict=False)
    words = {word: number for number, word in enumerate(WORDS)}
    word = pl.col("op_name").replace_strict(words, default=OTHER, return_dtype=pl.UInt8)
    frame = frame.with_columns(ns=date.dt.epoch("ms") * MS_NS, word=word)
    within = [pl.col(name).is_between(0, MAX_SIZE_BYTES) for name in ("offset", "length")]
    bad = frame.select(pl.any_horizontal(pl.all().is_null()) | ~pl.all_horizontal(within))
    bad_rows = bad.to_series().fill_null(value=True)
    if bad_rows.any() or len(frame) != block.count(b"\n") + 1:
        raise _bad_line(path, block, before, int(bad_rows.arg_max() or 0))
    names = ("worker_rank", "word", "offset", "length", "is_finished", "is_error", "ns")
    entries = parts_of(frame["entry_name"].to_arrow())
    ops = parts_of(frame["op_name"].to_arrow())
    return Lines(before + 1, entries, ops, *(frame[name].to_numpy() for name in names))


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
        fields: Any = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(fields, dict) and all(
        isinstance(fields.get(name), int)
        for name in ("worker_rank", "offset", "length", "is_finished", "is_error")
    )
