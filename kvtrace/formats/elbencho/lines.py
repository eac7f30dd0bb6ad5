"""Lines of elbencho's ops log as columns: scanned where they look as elbencho prints them.

Lines of any other shape, which are JSON all the same, go through a parser of JSON.
Source: breuner/elbencho, source/toolkits/OpsLogger.cpp (`logOpJSON`).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from kvtrace.compiled.jit import kernel
from kvtrace.compiled.xxh3 import word_at
from kvtrace.errors import TraceError
from kvtrace.files.textfile import open_binary
from kvtrace.formats.common.names import Parts, parts_of
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

# What stands before a line's values, and behind the last one.
_BEFORE = (
    b'{ "date": "', b'", "worker_rank": ', b', "op_name": "', b'", "entry_name": "',
    b'", "offset": ', b', "length": ', b', "is_finished": ', b', "is_error": ', b" }",
)  # fmt: skip
_FIXED_BYTES = sum(len(text) for text in _BEFORE)
_DATE_AT, _RANK, _OP, _ENTRY, _OFFSET, _LENGTH, _FINISHED, _ERROR, _END = range(len(_BEFORE))
_RANK_MAX = (1 << 31) - 1


def _table(texts: tuple[bytes, ...]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return texts as rows of bytes, with their lengths."""
    rows = np.zeros((len(texts), -(-max(len(text) for text in texts) // 8) * 8), np.uint8)
    for row, text in enumerate(texts):
        rows[row, : len(text)] = np.frombuffer(text, np.uint8)
    return rows, np.array([len(text) for text in texts])


_TEXT, _TEXT_BYTES = _table(_BEFORE)
_TEXT_WORDS = _TEXT.view("<u8")
_WORD, _WORD_BYTES = _table(tuple(word.encode() for word in WORDS))
_DAYS_BEFORE = np.cumsum([0, 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31])
_FIRST_YEAR, _LAST_YEAR = 1970, 2261
_HOUR_NS, _MINUTE_NS, _SECOND_NS = 3600 * 10**9, 60 * 10**9, 10**9
_QUOTE, _BACKSLASH, _BLANK, _NEWLINE = (ord(c) for c in ('"', "\\", " ", "\n"))
_MISFIT = -1


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


@kernel
def _behind(data: Any, at: int, number: int) -> Any:
    """Return where a fixed text that begins at `at` ends, or _MISFIT."""
    count = _TEXT_BYTES[number]
    if at < 0 or at + count > data.size:
        return _MISFIT
    for byte in range(0, count - 7, 8):
        if word_at(data, at + byte) != _TEXT_WORDS[number, byte >> 3]:
            return _MISFIT
    for byte in range(count & ~7, count):
        if data[at + byte] != _TEXT[number, byte]:
            return _MISFIT
    return at + count


@kernel
def _number(data: Any, at: int, most: int) -> tuple[int, int]:
    """Return a number as JSON has it, and where it ends, or _MISFIT."""
    value, begin = 0, at
    if at < 0:
        return 0, _MISFIT
    while at < data.size and 48 <= data[at] <= 57 and at - begin < 18:
        value = value * 10 + (data[at] - 48)
        at += 1
    padded = at - begin > 1 and data[begin] == 48
    return value, at if at > begin and not padded and value <= most else _MISFIT


@kernel
def _string_end(data: Any, at: int) -> int:
    """Return where the quote behind a string is, or _MISFIT if it has what JSON escapes."""
    if at < 0:
        return _MISFIT
    while at < data.size:
        byte = data[at]
        if byte == _QUOTE:
            return at
        if byte == _BACKSLASH or byte < _BLANK or byte > 126:
            return _MISFIT
        at += 1
    return _MISFIT


@kernel
def _boolean(data: Any, at: int) -> tuple[bool, int]:
    """Return true or false, and where it ends, or _MISFIT."""
    if at < 0 or at + 5 > data.size:
        return False, _MISFIT
    if data[at] == 116 and data[at + 1] == 114 and data[at + 2] == 117 and data[at + 3] == 101:
        return True, at + 4
    fits = data[at] == 102 and data[at + 1] == 97 and data[at + 2] == 108
    fits = fits and data[at + 3] == 115 and data[at + 4] == 101
    return False, at + 5 if fits else _MISFIT


@kernel
def _digits(data: Any, at: int, count: int) -> int:
    """Return a number of as many digits, or _MISFIT."""
    value = 0
    for place in range(at, at + count):
        if not 48 <= data[place] <= 57:
            return _MISFIT
        value = value * 10 + (data[place] - 48)
    return value


@kernel
def _days(year: int, month: int, day: int) -> Any:
    """Return days since 1970, or _MISFIT for none of the calendar."""
    if not (_FIRST_YEAR <= year <= _LAST_YEAR and 1 <= month <= 12 and day >= 1):
        return _MISFIT
    leaps = year // 4 - year // 100 + year // 400
    is_leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    longest = _DAYS_BEFORE[month] - _DAYS_BEFORE[month - 1] + (is_leap and month == 2)
    if day > longest:
        return _MISFIT
    before = 365 * (year - _FIRST_YEAR) + leaps - 477 - (is_leap and month <= 2)
    return before + _DAYS_BEFORE[month - 1] + day - 1


@kernel
def _date_ns(data: Any, at: int) -> Any:
    """Return a date such as 2026-03-01T10:00:00.125+0100 in ns since 1970, or _MISFIT."""
    marks = data[at + 4] == 45 and data[at + 7] == 45 and data[at + 10] == 84
    marks = marks and data[at + 13] == 58 and data[at + 16] == 58 and data[at + 19] == 46
    sign = data[at + 23]
    days = _days(_digits(data, at, 4), _digits(data, at + 5, 2), _digits(data, at + 8, 2))
    hour, minute = _digits(data, at + 11, 2), _digits(data, at + 14, 2)
    second, ms = _digits(data, at + 17, 2), _digits(data, at + 20, 3)
    east_hour, east_minute = _digits(data, at + 24, 2), _digits(data, at + 26, 2)
    if not marks or (sign != 43 and sign != 45) or days < 0 or ms < 0:
        return _MISFIT
    if not (0 <= hour < 24 and 0 <= minute < 60 and 0 <= second < 60):
        return _MISFIT
    if not (0 <= east_hour < 24 and 0 <= east_minute < 60):
        return _MISFIT
    east_ns = east_hour * _HOUR_NS + east_minute * _MINUTE_NS
    ns = (days * 24 + hour) * _HOUR_NS + minute * _MINUTE_NS + second * _SECOND_NS
    ns += ms * 1_000_000
    return ns - east_ns if sign == 43 else ns + east_ns


@kernel
def _word_of(data: Any, begin: int, end: int, likely: int) -> int:
    """Return the number of a word, the likely one being tried first."""
    for turn in range(-1, _WORD_BYTES.size):
        word = likely if turn < 0 else turn
        if word != OTHER and _WORD_BYTES[word] == end - begin:
            same = True
            for byte in range(end - begin):
                same &= data[begin + byte] == _WORD[word, byte]
            if same:
                return word
    return OTHER


@kernel
def _scan(
    data: Any, begin: Any, end: Any, rank: Any, word: Any, offset: Any, length: Any,
    is_finished: Any, is_error: Any, ns: Any, op_begin: Any, op_end: Any,
) -> int:  # fmt: skip
    """Fill in a row per line; return how many there are, or _MISFIT at one of another shape."""
    at, line, likely = 0, 0, OTHER
    while at < data.size:
        at = _behind(data, at, _DATE_AT)
        if at < 0 or at + _DATE_BYTES > data.size:
            return _MISFIT
        ns[line] = _date_ns(data, at)
        rank[line], at = _number(data, _behind(data, at + _DATE_BYTES, _RANK), _RANK_MAX)
        op_at = _behind(data, at, _OP)
        at = _string_end(data, op_at)
        begin[line] = _behind(data, at, _ENTRY)
        end[line] = _string_end(data, begin[line])
        if ns[line] < 0 or end[line] < 0:
            return _MISFIT
        op_begin[line], op_end[line] = op_at, at
        word[line] = likely = _word_of(data, op_at, at, likely)
        at = _behind(data, end[line], _OFFSET)
        offset[line], at = _number(data, at, MAX_SIZE_BYTES)
        length[line], at = _number(data, _behind(data, at, _LENGTH), MAX_SIZE_BYTES)
        is_finished[line], at = _boolean(data, _behind(data, at, _FINISHED))
        is_error[line], at = _boolean(data, _behind(data, at, _ERROR))
        at = _behind(data, at, _END)
        if at < 0 or (at < data.size and data[at] != _NEWLINE):
            return _MISFIT
        at, line = at + 1, line + 1
    return line


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
    most = len(block) // _FIXED_BYTES + 1
    begin, end, rank, offset, length, ns, op_begin, op_end = (
        np.empty(most, np.int64) for _ in range(8)
    )
    word, is_finished, is_error = (
        np.empty(most, dtype) for dtype in (np.uint8, np.bool_, np.bool_)
    )
    count = _scan(
        data, begin, end, rank, word, offset, length, is_finished, is_error, ns, op_begin, op_end
    )
    if count < 0:
        return None
    columns: tuple[NDArray[Any], ...] = (rank, word, offset, length, is_finished, is_error, ns)
    names = Parts(data, begin[:count], end[:count])
    ops = Parts(data, op_begin[:count], op_end[:count])
    return Lines(before + 1, names, ops, *(values[:count] for values in columns))


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
