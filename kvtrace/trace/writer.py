"""Writes a trace: row groups as they fill, under a temporary name until all is there."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from kvtrace.errors import write_failure
from kvtrace.files.drafts import Draft, DraftFolder
from kvtrace.files.outfile import check_rows
from kvtrace.trace.bounds import Bounds
from kvtrace.trace.counting import TotalsCounter
from kvtrace.trace.header import (
    RESIDENT_DTYPE,
    Header,
    Resident,
    checked_residents,
    pack_resident,
)
from kvtrace.trace.schema import (
    BY_NAME,
    COLUMNS,
    HEADER_KEY,
    REQUIRED,
    ROW_GROUP_ROWS,
    Column,
    Tier,
    words_array,
)

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Mapping
    from types import TracebackType

    from numpy.typing import NDArray

RESIDENT_KEY = HEADER_KEY + b".resident"
HEAD_NAME = "header.parquet"
"""In a trace that is a directory: a file without rows, with the header."""

# Chosen by measurement: dictionaries for what takes few values, deltas for dense numbers, and
# nothing for times, and for what stays the same over many rows, or alternates: zstd alone makes as
# little of it. fastparquet reads deltas of 28 bits and more wrongly, so that numbers which aren't
# dense (hashes, a node's number in the top bits) have none, which also takes less space.
_DICTIONARY = ("op", "tier", "phase", "size", "qos", "error")
_DELTA = ("key", "block", "offset")
_DELTA_BELOW = 1 << 27
_STATISTICS = ("timestamp", "key", "size")
_ZSTD_LEVEL = 3
_BATCH_ROWS = 1 << 16


def numpy_dtype(column: Column) -> np.dtype[np.generic]:
    """Return the numpy type in which `column` is given to a writer and comes from a reader."""
    return np.dtype(np.uint8) if column.words else np.dtype(column.type.to_pandas_dtype())


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class _ContentHash:
    """sha256 over columns in canonical little-endian form, however they are cut into batches."""

    def __init__(self, columns: Iterable[Column]) -> None:
        self._hashes = {column.name: hashlib.sha256() for column in columns}
        self._null_hashes: dict[str, hashlib._Hash] = {}

    def update(self, name: str, values: NDArray[Any], start_row: int) -> None:
        data = np.ma.getdata(values)
        nulls = np.ma.getmaskarray(values) if np.ma.isMaskedArray(values) else None
        if nulls is not None and nulls.any():
            data = np.where(nulls, 0, data).astype(data.dtype)
            digest = self._null_hashes.setdefault(name, hashlib.sha256())
            rows = np.flatnonzero(nulls).astype("<i8") + start_row
            digest.update(rows.tobytes())
        little = data.astype(data.dtype.newbyteorder("<"), copy=False)
        self._hashes[name].update(np.ascontiguousarray(little).data)

    def hexdigest(self, header: Header) -> str:
        total = hashlib.sha256(header.semantic_json())
        for name, digest in self._hashes.items():
            total.update(f"{name}:{digest.hexdigest()};".encode())
            if name in self._null_hashes:
                total.update(f"nulls:{self._null_hashes[name].hexdigest()};".encode())
        return total.hexdigest()


class _RowGroup:
    """Rows of one row group, by column, in memory that is used again for the next one's."""

    def __init__(self, columns: Iterable[Column]) -> None:
        self._values = {c.name: np.empty(ROW_GROUP_ROWS, numpy_dtype(c)) for c in columns}
        self._nulls: dict[str, NDArray[np.bool_]] = {}
        self.rows = 0

    def append(self, columns: Mapping[str, NDArray[Any]], begin: int) -> int:
        """Take rows of `columns` from `begin` on, as many as fit; return where the rest begins."""
        fitting = min(len(columns["timestamp"]) - begin, ROW_GROUP_ROWS - self.rows)
        put, taken = slice(self.rows, self.rows + fitting), slice(begin, begin + fitting)
        for name, values in self._values.items():
            given = columns[name][taken]
            if np.ma.isMaskedArray(given) and name not in self._nulls:
                self._nulls[name] = np.zeros(ROW_GROUP_ROWS, np.bool_)
            if name in self._nulls:
                self._nulls[name][put] = np.ma.getmaskarray(given)
            values[put] = np.ma.getdata(given)
        self.rows += fitting
        return begin + fitting

    def columns(self) -> dict[str, NDArray[Any]]:
        """Return the rows, masked where a null was given; valid until `clear`."""
        columns: dict[str, NDArray[Any]] = {}
        for name, values in self._values.items():
            columns[name] = values[: self.rows]
            if name in self._nulls:
                columns[name] = np.ma.masked_array(columns[name], self._nulls[name][: self.rows])
        return columns

    def clear(self) -> None:
        """Drop the rows."""
        self._nulls.clear()
        self.rows = 0


class RowWriter(ABC):
    """Takes rows for `path`, which appears whole at `close` or not at all.

    As a context manager it closes on success and removes the draft on an error.
    """

    path: Path
    _draft: Draft | DraftFolder

    @abstractmethod
    def append(self, columns: Mapping[str, NDArray[Any]]) -> None:
        """Take rows: one array per column, words as wire values."""

    @abstractmethod
    def close(self, **header_fields: object) -> Header:
        """Finish the file under its final name; return its header."""

    @abstractmethod
    def abort(self) -> None:
        """Remove what was written."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None:
            self.abort()
        elif self._draft.open:
            self._close_or_abort()

    def _close_or_abort(self) -> None:
        closed = False
        try:
            self.close()
            closed = True
        finally:
            if not closed:
                self.abort()


class TraceWriter(RowWriter):
    """Writes rows to `path`, which appears whole at `close` or not at all.

    Rows come in batches of any size (`append`); the file doesn't depend on how they were cut.
    `columns` names the columns that some row knows, beside the required ones. As a context
    manager it closes on success and removes the draft on an error. With `background`
    row groups are encoded in a thread of their own. `complete`: no row has a null, which takes a
    third less time to encode.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        header: Header,
        columns: Iterable[str] = (),
        *,
        resident: NDArray[np.void] | None = None,
        force: bool = False,
        background: bool = False,
        complete: bool = False,
    ) -> None:
        self.path = Path(path)
        self.header = header
        wanted = set(columns) | {column.name for column in REQUIRED}
        self.columns = tuple(column for column in COLUMNS if column.name in wanted)
        assert wanted <= set(BY_NAME), f"unknown columns: {wanted - set(BY_NAME)}"
        self.resident = np.zeros(0, RESIDENT_DTYPE) if resident is None else resident
        self.beside: dict[bytes, bytes] = {}
        """Entries of the file's metadata that are no part of the trace."""
        self._counter = TotalsCounter()
        self._bounds = Bounds(self.path)
        self._hash = _ContentHash(self.columns)
        self._rows = 0
        self._schema = pa.schema(
            [c.field.with_nullable(c.field.nullable and not complete) for c in self.columns]
        )
        self._pending = _RowGroup(self.columns)
        self._other = _RowGroup(self.columns)
        """Rows that are being encoded in the background."""
        self._pool = ThreadPoolExecutor(1) if background else None
        self._encoding: Future[None] | None = None
        self._draft = self._new_draft(force=force)
        self._file: pq.ParquetWriter | None = None
        self._deltas: list[str] = []

    def _new_draft(self, *, force: bool) -> Draft | DraftFolder:
        return Draft(self.path, force=force)

    def _first(self) -> pq.ParquetWriter:
        """Return what the first rows are written to."""
        assert isinstance(self._draft, Draft)
        return self._parquet(self._draft.file)

    def _parquet(self, file: Any) -> pq.ParquetWriter:
        names = {column.name for column in self.columns}
        return pq.ParquetWriter(
            file,
            self._schema,
            compression="zstd",
            compression_level=_ZSTD_LEVEL,
            use_dictionary=[name for name in _DICTIONARY if name in names],
            column_encoding=dict.fromkeys(self._deltas, "DELTA_BINARY_PACKED"),
            write_statistics=[name for name in _STATISTICS if name in names],
            write_batch_size=_BATCH_ROWS,
        )

    def append(self, columns: Mapping[str, NDArray[Any]]) -> None:
        """Take rows: one array per column, words as wire values, nulls as a masked array."""
        begin, rows = 0, len(columns["timestamp"])
        while begin < rows:
            begin = self._pending.append(columns, begin)
            if self._pending.rows == ROW_GROUP_ROWS:
                self._flush()

    def _flush(self) -> None:
        if not self._pending.rows:
            return
        group, start_row = self._pending, self._rows
        self._rows += group.rows
        self._wait()
        if self._pool is None:
            self._encode(group, start_row)
            return
        self._pending, self._other = self._other, group
        self._encoding = self._pool.submit(self._encode, group, start_row)

    def _wait(self) -> None:
        if self._encoding is not None:
            self._encoding.result()
            self._encoding = None

    def _encode(self, group: _RowGroup, start_row: int) -> None:
        columns = group.columns()
        for name, values in columns.items():
            self._hash.update(name, values, start_row)
        self._deltas = [
            name
            for name in _DELTA
            if name in columns and np.ma.filled(columns[name], 0).max() < _DELTA_BELOW
        ]
        self._bounds.check(columns, start_row)
        self._counter.update(columns)
        arrays = [arrow_values(column, columns[column.name]) for column in self.columns]
        table = pa.Table.from_arrays(arrays, schema=self._schema)
        try:
            self._write(table, start_row)
        except OSError as error:
            raise write_failure(self.path, error) from error
        group.clear()

    def _write(self, table: pa.Table, start_row: int) -> None:
        """Write a row group, the rows from `start_row` on; the first opens the file."""
        if self._file is None:
            self._file = self._first()
        self._file.write_table(table, row_group_size=ROW_GROUP_ROWS)

    def close(self, **header_fields: object) -> Header:
        """Finish the file under its final name; return its header, with totals and hash.

        `header_fields` replace those the header was opened with (what is known at the end only).
        """
        with ExitStack() as undo:
            undo.callback(self.abort)
            header = self._close(header_fields)
            undo.pop_all()
        self._shutdown()
        self.header = header
        return header

    def _close(self, header_fields: Mapping[str, object]) -> Header:
        self._flush()
        self._wait()
        header = self.header.model_copy(update=dict(header_fields))
        header = header.stated(column.name for column in self.columns)
        header = header.model_copy(update={"totals": self._counter.totals()})
        metadata = dict(self.beside)
        if len(self.resident):
            checked_residents(self.resident, self.path)
            header = header.model_copy(
                update={"resident": _resident_totals(self.resident, header.resident.derived)}
            )
            metadata[RESIDENT_KEY] = pack_resident(self.resident)
        header = header.model_copy(update={"content_sha256": self._hash.hexdigest(header)})
        metadata[HEADER_KEY] = header.to_json()
        try:
            self._finish(metadata)
        except OSError as error:
            raise write_failure(self.path, error) from error
        return header

    def _finish(self, metadata: dict[bytes, bytes]) -> None:
        """Write what is known at the end only, and publish."""
        assert isinstance(self._draft, Draft)
        file = self._file = self._file or self._first()
        file.add_key_value_metadata(metadata)
        file.close()
        self._draft.publish(lambda place: check_rows(place, self._rows))

    def abort(self) -> None:
        """Remove what was written."""
        self._shutdown()
        with suppress(OSError):  # a full disk can't take the footer either
            if self._file is not None:
                self._file.close()
        self._draft.discard()

    def _shutdown(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True)


def arrow_values(column: Column, values: NDArray[Any]) -> pa.Array:
    """Return values of `column`, words as wire values, nulls as a masked array, as Arrow's."""
    mask = np.ma.getmaskarray(values) if np.ma.isMaskedArray(values) else None
    data = np.ma.getdata(values)
    if column.words is None:
        return pa.array(data, column.type, mask=mask)
    indices = pa.array(data.view(np.int8), pa.int8(), mask=mask)
    return pa.DictionaryArray.from_arrays(indices, words_array(column.words))


def _resident_totals(objects: NDArray[np.void], derived: bool) -> Resident:
    counts = {tier.label: int((objects["tier"] == tier).sum()) for tier in Tier}
    sizes = {
        tier.label: int(objects["size"][objects["tier"] == tier].sum(dtype=np.uint64))
        for tier in Tier
    }
    return Resident(
        objects={name: count for name, count in counts.items() if count},
        bytes={name: sizes[name] for name, count in counts.items() if count},
        derived=derived,
    )
