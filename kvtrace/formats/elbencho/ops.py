"""elbencho's lines put together: the start and the end of each op, and the file that it is on."""

from __future__ import annotations

import ctypes
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kvtrace.formats.common.names import Parts, parts_of, texts
from kvtrace.formats.elbencho.lines import ASYNC, CLOSES, OPENS, OTHER, WORDS
from kvtrace.native.core import function
from kvtrace.native.hashmap import Interner, Pool
from kvtrace.native.library import BOOL, BOOLEAN, I64, INT, POINTER, contiguous

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from kvtrace.formats.elbencho.lines import Lines

_NOWHERE = -1
_IS_OPEN, _IS_CLOSE, _IS_ASYNC, _IS_TAKEN = 1, 2, 4, 8
_KINDS = np.zeros(OTHER + 1, np.uint8)
for _number, _word in enumerate(WORDS):
    _KINDS[_number] = (
        _IS_OPEN if _word in OPENS else _IS_CLOSE if _word in CLOSES else _IS_TAKEN
    ) | (_IS_ASYNC if _word in ASYNC else 0)
_START = np.dtype([("ident", "i8"), ("ns", "i8")])
_DESCRIPTOR, _BETWEEN = (pa.scalar(text, pa.large_string()) for text in ("descriptor", " "))


class RowsStruct(ctypes.Structure):
    """`struct kv_log_rows` of `ops.c`."""

    _fields_ = tuple(
        (name, POINTER)
        for name in (
            "names", "kinds", "rank", "word", "offset", "length", "is_finished", "is_error", "ns",
        )
    )  # fmt: skip


class OpenStruct(ctypes.Structure):
    """`struct kv_open` of `ops.c`."""

    _fields_ = (("workers", INT), ("count", POINTER), ("begin", POINTER), ("end", POINTER))


_pair = function("kv_log_pair", POINTER, POINTER, I64, I64, I64, returns=INT)
_resolve = function("kv_log_resolve", POINTER, POINTER, I64, I64, I64, BOOL, returns=BOOLEAN)


@contextmanager
def _rows_of(lines: Lines, names: Parts) -> Iterator[Any]:
    """Give `struct kv_log_rows` of lines, by reference."""
    parts = names.struct
    columns = (
        _KINDS,
        *(
            contiguous(values, kind)
            for values, kind in (
                (lines.rank, np.int64), (lines.word, np.uint8), (lines.offset, np.int64),
                (lines.length, np.int64), (lines.is_finished, np.bool_),
                (lines.is_error, np.bool_), (lines.ns, np.int64),
            )
        ),
    )  # fmt: skip
    assert all(len(column) == len(lines) for column in columns[1:])
    pointers = [column.ctypes.data for column in columns]
    yield ctypes.byref(RowsStruct(ctypes.addressof(parts), *pointers))


@dataclass(frozen=True, slots=True)
class Ops:
    """Ops that are over: the index of each one's last line, when it began, and what it is on."""

    line: NDArray[np.int64]
    begun_ns: NDArray[np.int64]
    names: Parts


class LostEndError(Exception):
    """An op's end without its start, at an index among the lines."""

    def __init__(self, at: int) -> None:
        super().__init__(at)
        self.at = at


class Follower:
    """Goes through a log's lines; memory grows with what runs and is open at a time."""

    def __init__(self) -> None:
        self._workers = Interner()
        self._open = np.zeros(0, np.int64)
        self._open_begin, self._open_end = np.zeros(0, np.int64), np.zeros(0, np.int64)
        self._open_data = np.zeros(0, np.uint8)
        self._starts = Pool(_START)
        self._left_out = np.zeros(1, np.int64)
        self._running = 0

    @property
    def left_out(self) -> int:
        """How many ops of other kinds ended."""
        return int(self._left_out[0])

    @property
    def unfinished(self) -> int:
        """How many ops haven't ended yet."""
        return self._running

    def take(self, lines: Lines) -> Ops:
        """Return the ops that end in the next lines. Raises LostEndError."""
        over, begun_ns = self._pairs(lines)
        names = self._names(lines)
        return Ops(over, begun_ns, Parts(names.data, names.begin[over], names.end[over]))

    def _pairs(self, lines: Lines) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        self._starts.make_room(len(lines))
        over, begun_ns = np.empty(len(lines), np.int64), np.empty(len(lines), np.int64)
        with _rows_of(lines, lines.names) as rows:
            paired = _pair(self._starts.address, rows, self._left_out, over, begun_ns)
        assert paired >= _NOWHERE - len(lines)
        if paired < 0:
            raise LostEndError(int(_NOWHERE - paired))
        started = ((_KINDS[lines.word] & _IS_TAKEN) != 0) & ~lines.is_finished
        self._running += int(started.sum()) - paired
        return over[:paired], begun_ns[:paired]

    def _names(self, lines: Lines) -> Parts:
        """Return what each line's op is on."""
        worker = self._workers.intern(lines.rank)
        new = len(self._workers) - len(self._open)
        self._open = np.pad(self._open, (0, new))
        self._open_begin, self._open_end = (
            np.pad(places, (0, new), constant_values=_NOWHERE)
            for places in (self._open_begin, self._open_end)
        )
        shift = len(self._open_data)
        data = np.concatenate((self._open_data, lines.names.data)) if shift else lines.names.data
        names = Parts(data, lines.names.begin + shift, lines.names.end + shift)
        begin, end = np.empty_like(names.begin), np.empty_like(names.end)
        descriptor = np.empty(len(lines), np.bool_)
        is_open = OpenStruct(
            len(self._open), self._open.ctypes.data, self._open_begin.ctypes.data,
            self._open_end.ctypes.data,
        )  # fmt: skip
        with _rows_of(lines, names) as rows:
            resolved = _resolve(ctypes.byref(is_open), rows, worker, begin, end, descriptor)
        assert resolved
        self._keep_open(data)
        return _with_descriptors(Parts(data, begin, end), np.flatnonzero(descriptor))

    def _keep_open(self, data: NDArray[np.uint8]) -> None:
        """Keep the names of open files, which lie in `data`, for the next lines."""
        is_open = self._open_begin != _NOWHERE
        begin, end = self._open_begin[is_open], self._open_end[is_open]
        kept = parts_of(texts(Parts(data, begin, end)))
        self._open_data = kept.data
        self._open_begin[is_open], self._open_end[is_open] = kept.begin, kept.end


def _with_descriptors(names: Parts, rows: NDArray[np.int64]) -> Parts:
    """Return names of which some rows, numbers, are said to be descriptors."""
    if not len(rows):
        return names
    numbers = texts(Parts(names.data, names.begin[rows], names.end[rows]))
    made = parts_of(pc.binary_join_element_wise(_DESCRIPTOR, numbers, _BETWEEN))
    begin, end, shift = names.begin.copy(), names.end.copy(), len(names.data)
    begin[rows], end[rows] = made.begin + shift, made.end + shift
    return Parts(np.concatenate((names.data, made.data)), begin, end)
