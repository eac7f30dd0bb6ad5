"""Looks at the heads of Parquet pages: how large each says to be, before anything is unpacked.

A page of 2 GiB of zeros packs into 64 KiB, and Arrow unpacks it whole, for each column. Sizes in
the footer don't bound that: they are only what the file says of itself.

Source: apache/parquet-format, parquet.thrift 2.10 (PageHeader), and Thrift's compact protocol.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO

from kvtrace.errors import TraceError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

MAX_PAGE_BYTES = 64 << 20
"""Largest page; writers make them of 1 MiB, or of a row group of some MiB."""
_HEAD_BYTES = 1 << 10
_STOP, _TRUE, _FALSE, _I8, _I16, _I32, _I64, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = range(
    13
)
_UNPACKED, _PACKED, _DATA, _DICTIONARY, _DATA_2 = 2, 3, 5, 7, 8
_ENCODING = {_DATA: 2, _DICTIONARY: 2, _DATA_2: 4}
_PREFIXES = 7
"""DELTA_BYTE_ARRAY: each value repeats a part of the one before, so that a page has no bound."""
_DEPTH_MAX = 8


class _DamagedError(Exception):
    """A head that isn't one."""


class _Head:
    """One page's head. `size`: its own bytes."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0
        self.unpacked = self.packed = self.encoding = 0
        self._read()
        self.size = self._at

    def _byte(self) -> int:
        if self._at >= len(self._data):
            raise _DamagedError
        self._at += 1
        return self._data[self._at - 1]

    def _number(self) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7
            if shift > 63:
                raise _DamagedError

    def _signed(self) -> int:
        value = self._number()
        return value >> 1 ^ -(value & 1)

    def _read(self) -> None:
        field = 0
        while byte := self._byte():
            kind = byte & 0x0F
            field = field + (byte >> 4) if byte >> 4 else self._signed()
            if field in (_UNPACKED, _PACKED) and kind == _I32:
                value = self._signed()
                if field == _UNPACKED:
                    self.unpacked = value
                else:
                    self.packed = value
            elif field in _ENCODING and kind == _STRUCT:
                self._read_encoding(_ENCODING[field])
            else:
                self._skip(kind, 0)

    def _read_encoding(self, wanted: int) -> None:
        field = 0
        while byte := self._byte():
            field = field + (byte >> 4) if byte >> 4 else self._signed()
            if field == wanted and byte & 0x0F == _I32:
                self.encoding = self._signed()
            else:
                self._skip(byte & 0x0F, 1)

    def _skip(self, kind: int, depth: int) -> None:
        if depth > _DEPTH_MAX:
            raise _DamagedError
        if kind in (_TRUE, _FALSE):
            return
        if kind in (_I8, _I16, _I32, _I64):
            self._number() if kind != _I8 else self._byte()
        elif kind == _DOUBLE:
            self._at += 8
        elif kind == _BINARY:
            length = self._number()
            self._at += length
        elif kind == _STRUCT:
            while byte := self._byte():
                if not byte >> 4:
                    self._signed()
                self._skip(byte & 0x0F, depth + 1)
        else:
            raise _DamagedError


class _Footer(_Head):
    """Where column chunks are: (name, first row, begin, end).

    Parsed here, since pyarrow ends the process at a chunk whose statistics are damaged.
    """

    def __init__(self, data: bytes) -> None:
        self.chunks: list[tuple[str, int, int, int]] = []
        self._first_row = 0
        super().__init__(data)

    def _read(self) -> None:
        self._struct({4: lambda: self._each(self._group)})

    def _group(self) -> None:
        begin = len(self.chunks)
        rows: list[int] = []
        self._struct({1: lambda: self._each(self._chunk), 3: lambda: rows.append(self._signed())})
        chunks = self.chunks[begin:] if sum(rows) else []  # without rows there are no pages
        self.chunks[begin:] = [(n, self._first_row, b, e) for n, _, b, e in chunks]
        self._first_row += sum(rows)

    def _chunk(self) -> None:
        self._struct({3: self._column})

    def _column(self) -> None:
        pages: dict[int, int] = {}
        names: list[str] = []
        readers: dict[int, Callable[[], object]] = {
            number: lambda number=number: pages.__setitem__(number, self._signed())  # type: ignore[misc]
            for number in (7, 9, 11)
        }
        readers[3] = lambda: self._each(lambda: names.append(self._text()))
        self._struct(readers)
        begin = pages.get(9, 0)
        if 11 in pages:
            begin = min(begin, pages[11])
        self.chunks.append((".".join(names), 0, begin, begin + pages.get(7, 0)))

    def _text(self) -> str:
        length = self._number()
        self._at += length
        return self._data[self._at - length : self._at].decode("utf-8")

    def _each(self, read: Callable[[], object]) -> None:
        head = self._byte()
        count = self._number() if head >> 4 == 15 else head >> 4
        for _ in range(count):
            read()

    def _struct(self, readers: dict[int, Callable[[], object]]) -> None:
        field = 0
        while byte := self._byte():
            field = field + (byte >> 4) if byte >> 4 else self._signed()
            if field in readers:
                readers[field]()
            else:
                self._skip(byte & 0x0F, 0)

    def _skip(self, kind: int, depth: int) -> None:
        if kind not in (_LIST, _SET):
            super()._skip(kind, depth)
            return
        if depth > _DEPTH_MAX:
            raise _DamagedError
        head = self._byte()
        count = self._number() if head >> 4 == 15 else head >> 4
        for _ in range(count):
            if head & 0x0F in (_TRUE, _FALSE):
                self._byte()
            else:
                self._skip(head & 0x0F, depth + 1)


def check_pages(path: Path, columns: Sequence[str]) -> None:
    """Raise TraceError for a page that is too large, or may unfold to any size."""
    with path.open("rb") as raw:
        try:
            end = raw.seek(-8, 2)
            length = int.from_bytes(raw.read(4), "little")
            raw.seek(max(0, end - length))
            chunks = _Footer(raw.read(length)).chunks
        except (UnicodeDecodeError, _DamagedError, OSError) as error:
            raise TraceError(
                "damaged footer", where=path, hint="write or copy the trace again"
            ) from error
        for chunk in chunks:
            if chunk[0] in columns:
                _check_chunk(path, raw, *chunk)


def _check_chunk(
    path: Path, raw: BinaryIO, column: str, first_row: int, begin: int, end: int
) -> None:
    while begin < end:
        try:
            head = _head(raw, begin, end)
        except (_DamagedError, OSError, ValueError, OverflowError) as error:
            raise TraceError(
                f"damaged at or after row {first_row}: a page of column {column}",
                where=f"{path}: byte {begin}",
                hint="write or copy the trace again",
            ) from error
        if not 0 <= head.unpacked <= MAX_PAGE_BYTES or head.packed < 0:
            raise TraceError(
                f"too large a page of column {column}",
                where=f"{path}: byte {begin}",
                got=f"{head.unpacked} bytes, unpacked",
                accepted=f"up to {MAX_PAGE_BYTES}",
                hint="write it with smaller row groups",
            )
        if head.encoding == _PREFIXES:
            raise TraceError(
                f"column {column} is encoded by prefixes (DELTA_BYTE_ARRAY)",
                where=f"{path}: byte {begin}",
                accepted="dictionaries of words",
                hint="write it again without that encoding",
            )
        begin += head.size + head.packed


def _head(raw: BinaryIO, begin: int, end: int) -> _Head:
    """Return the head at `begin`; one with long statistics is read at the second try."""
    for count in (_HEAD_BYTES, 1 << 16):
        raw.seek(begin)
        data = raw.read(min(count, end - begin))
        try:
            return _Head(data)
        except _DamagedError:
            if len(data) < count:
                raise
    raise _DamagedError
