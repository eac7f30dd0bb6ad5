"""Reads a trace, and refuses what isn't one, saying where and what to do."""

from __future__ import annotations

import hashlib
from functools import cached_property
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from kvtrace import arguments
from kvtrace.errors import TraceError, unknown_name
from kvtrace.files.textfile import arrow_source
from kvtrace.trace.bounds import Bounds, refuse
from kvtrace.trace.header import RESIDENT_DTYPE, Header, unpack_resident
from kvtrace.trace.pages import check_pages
from kvtrace.trace.schema import BY_NAME, COLUMNS, HEADER_KEY, REQUIRED, Column
from kvtrace.trace.writer import HEAD_NAME, RESIDENT_KEY, file_sha256, numpy_dtype

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Sequence
    from types import TracebackType

    import polars as pl
    from numpy.typing import NDArray

Columns = dict[str, "NDArray[Any]"]
BATCH_ROWS = 1 << 17
_MAGIC = b"PAR1"
_MAX_COLUMNS = 256
_MAX_WORDS = 1 << 10
"""Most entries of a word column's dictionary: the format has four words at most."""


class Trace:
    """An open trace: header, rows in batches, rows as a lazy polars frame.

    `parts`: the files that hold its rows, in their order; one unless it is a directory.
    """

    def __init__(
        self, path: Path, parts: Sequence[tuple[Path, pq.ParquetFile]], head: pq.ParquetFile
    ) -> None:
        self.path = path
        self.parts = tuple(part for part, _ in parts)
        self._files = [file for _, file in parts]
        self._head = head
        self._sources: list[IO[bytes]] = []
        self.has_head = all(head is not file for _, file in parts)
        """Whether the header is in a file of its own."""
        packed = _metadata(head, HEADER_KEY)
        self.header = Header() if packed is None else Header.from_json(packed, where=path)
        self._checked: set[str] = set()
        names = set(self._files[0].schema_arrow.names)
        self.columns = tuple(column.name for column in COLUMNS if column.name in names)

    def __repr__(self) -> str:
        return f"<Trace {self.path}: {self.rows:,} rows>"

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return sum(int(file.metadata.num_rows) for file in self._files)

    @cached_property
    def _sha256(self) -> str:
        if not self.path.is_dir():
            return file_sha256(self.path)
        total = hashlib.sha256()
        for part in sorted(self.path.glob("*.parquet")):
            total.update(f"{part.name}:{file_sha256(part)};".encode())
        return total.hexdigest()

    def sha256(self) -> str:
        """Return the sha256 of the file, in hex; of a directory, of its files' names and sha256."""
        return self._sha256

    def lazy(self) -> pl.LazyFrame:
        """Return the rows as a polars LazyFrame; word columns are categorical or strings."""
        import polars as pl  # a fifth of the command line's start, and few need it

        parts: Any = [arrow_source(part.absolute()) for part in self.parts]  # ~ is a name as well
        self._sources += [part for part in parts if not isinstance(part, Path)]
        return pl.scan_parquet(parts, glob=False, hive_partitioning=False)

    def collect(self, frame: pl.LazyFrame, *, streaming: bool = False) -> pl.DataFrame:
        """Return what a frame made of `lazy` comes to. Raises TraceError for damage."""
        import polars as pl

        arguments.instance(frame, "frame", pl.LazyFrame, "a LazyFrame that `lazy` has given")

        self._check_pages(self._files[0].schema_arrow.names)
        try:
            return frame.collect(engine="streaming" if streaming else "auto")
        except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
            self.check_values()
            raise TraceError(
                f"damaged: {error}", where=self.path, hint="write or copy the trace again"
            ) from error

    def check_values(self) -> None:
        """Raise TraceError for the first row that isn't one of the format."""
        for _ in self.batches():
            pass

    def resident(self) -> NDArray[np.void]:
        """Return the objects present at the start, an array of `header.RESIDENT_DTYPE`.

        Raises TraceError for a damaged list, a tier or size that can't be, an object listed twice.
        """
        return self._resident

    @cached_property
    def _resident(self) -> NDArray[np.void]:
        packed = _metadata(self._head, RESIDENT_KEY)
        if packed is None:
            return np.zeros(0, RESIDENT_DTYPE)
        return unpack_resident(packed, where=self.path)

    def beside(self, key: bytes) -> bytes | None:
        """Return what a tool has put beside the trace under a key of its own; None is nothing."""
        arguments.instance(key, "key", bytes, "bytes")
        return _metadata(self._head, key)

    def batches(
        self,
        columns: Sequence[str] | None = None,
        *,
        batch_rows: int = BATCH_ROWS,
        nulls: bool = False,
    ) -> Iterator[Columns]:
        """Yield the rows in order, at most `batch_rows` at a time, one array per column.

        Words come as uint8 wire values, nulls of optional columns as 0; with `nulls` a column that
        has some is a masked array. Raises TraceError, with
        the row, for an unknown word, a null in a required column, time that runs backwards, a
        time, size or offset out of range, too many bytes in all, or a damaged file.
        """
        names = list(self.columns) if columns is None else arguments.texts(columns, "columns")
        arguments.count(batch_rows, "batch_rows", most=1 << 31)
        missing = sorted(set(names) - set(self.columns))
        if missing:
            raise unknown_name("column", missing[0], self.columns, where=self.path)
        read = self._needed(names)
        self._check_pages(read)
        first_row, bounds = 0, Bounds(self.path)
        iterator = (
            batch
            for file in self._files
            for batch in file.iter_batches(batch_size=batch_rows, columns=read)
        )
        while (batch := self._next(iterator, first_row)) is not None:
            values = {name: self._values(BY_NAME[name], batch, first_row) for name in read}
            bounds.check_order(values["timestamp"], first_row)
            bounds.check(values, first_row)
            first_row += batch.num_rows
            if nulls:
                values |= _masked(values, batch, names)
            yield {name: values[name] for name in names}

    def _check_pages(self, names: Sequence[str]) -> None:
        """Check the pages of columns before they are unpacked, once."""
        new = set(names) - self._checked
        if new:
            for path in self.parts:
                check_pages(path, sorted(new))
            self._checked |= new

    def _needed(self, names: Sequence[str]) -> list[str]:
        """Return the columns to read: those asked for, and what they are checked against."""
        needed = {"timestamp", *names}
        if "size" in needed or "offset" in needed:
            needed |= {"size", "offset"} & set(self.columns)
        return [*names, *sorted(needed - set(names))]

    def _next(self, iterator: Iterator[pa.RecordBatch], first_row: int) -> pa.RecordBatch | None:
        try:
            return next(iterator, None)
        except (OSError, pa.ArrowException) as error:
            raise TraceError(
                f"damaged at or after row {first_row}: {error}",
                where=self.path,
                hint="write or copy the trace again",
            ) from error

    def _values(self, column: Column, batch: pa.RecordBatch, first_row: int) -> NDArray[Any]:
        array = batch.column(column.name)
        if column.required and array.null_count:
            row = first_row + int(np.flatnonzero(array.is_null().to_numpy(False))[0])
            raise TraceError("no value", where=self._at(row, column.name), accepted=column.meaning)
        if column.words is not None:
            return self._words(column, array, first_row)
        filled = array.fill_null(0) if array.null_count else array
        return np.asarray(filled.to_numpy(zero_copy_only=False), numpy_dtype(column))

    def _words(
        self, column: Column, array: pa.DictionaryArray, first_row: int
    ) -> NDArray[np.uint8]:
        assert column.words is not None
        wire = {word.label: int(word) for word in column.words}
        known = [wire.get(text or "", 255) for text in self._dictionary(column, array, first_row)]
        indices = array.indices.fill_null(0) if array.null_count else array.indices
        where = indices.to_numpy()
        valid = ~array.is_null().to_numpy(False) if array.null_count else np.True_
        outside = (where < 0) | (where >= len(known))
        if (outside & valid).any():
            accepted = f"0 to {len(known) - 1}, its words"
            refuse(
                outside & valid, where, self.path, first_row, name=column.name, accepted=accepted
            )
        known = known or [0]  # of a column of nulls
        values: NDArray[np.uint8] = np.array(known, np.uint8).take(np.where(outside, 0, where))
        unknown = (values == 255) & valid
        if 255 in known and unknown.any():
            row = int(unknown.argmax())
            raise TraceError(
                f"unknown {column.name}",
                where=self._at(first_row + row, column.name),
                got=repr(array[row].as_py()),
                accepted=", ".join(wire),
            )
        return values

    def _dictionary(
        self, column: Column, array: pa.DictionaryArray, first_row: int
    ) -> list[str | None]:
        """Return a word column's dictionary."""
        if len(array.dictionary) > _MAX_WORDS:
            raise TraceError(
                f"too many words in column {column.name}",
                where=f"{self.path}: at or after row {first_row}",
                got=f"{len(array.dictionary):,}",
                accepted=", ".join(word.label for word in column.words or ()),
            )
        try:
            words: list[str | None] = array.dictionary.to_pylist()
        except UnicodeDecodeError as error:
            raise TraceError(
                f"column {column.name} isn't text",
                where=f"{self.path}: at or after row {first_row}",
                hint="write or copy the trace again",
            ) from error
        return words

    def _at(self, row: int, column: str) -> str:
        return f"{self.path}: row {row}, column {column}"

    def close(self) -> None:
        """Close the files."""
        for file in {*self._files, self._head}:
            file.close(force=True)
        for source in self._sources:
            source.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def open_trace(path: str | os.PathLike[str]) -> Trace:
    """Return the trace at `path`, its header read and its columns checked. Raises TraceError.

    A directory is one trace: its parts in order of their names, its header in HEAD_NAME or, where
    there is none, in the first part.
    """
    path = arguments.path(path, "path")
    if not path.is_dir():
        file = _open_file(path)
        return Trace(path, [(path, file)], file)
    names = sorted(part for part in path.glob("*.parquet") if part.name != HEAD_NAME)
    if not names:
        raise TraceError(
            "a directory without parts", where=path, accepted="a trace file or a directory of such"
        )
    parts = [(part, _open_file(part)) for part in names]
    for part, file in parts:
        if file.schema_arrow.names != parts[0][1].schema_arrow.names:
            raise TraceError(
                "other columns than the parts before",
                where=part,
                got=", ".join(file.schema_arrow.names),
                accepted=", ".join(parts[0][1].schema_arrow.names),
            )
    head = path / HEAD_NAME
    return Trace(path, parts, _open_file(head) if head.exists() else parts[0][1])


def _open_file(path: Path) -> pq.ParquetFile:
    _check_magic(path)
    try:
        file = pq.ParquetFile(arrow_source(path))
        _ = file.schema_arrow.names  # decodes them
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        raise TraceError(
            f"truncated or damaged Parquet file: {error}",
            where=path,
            hint="write or copy the trace again",
        ) from error
    if file.metadata.num_columns > _MAX_COLUMNS:
        raise TraceError(
            "too many columns",
            where=path,
            got=f"{file.metadata.num_columns:,}",
            accepted=f"up to {_MAX_COLUMNS}",
        )
    for column in COLUMNS:
        _check_column(path, file.schema_arrow, column)
    return file


def _metadata(file: pq.ParquetFile, key: bytes) -> bytes | None:
    """Return an entry of a file's key-value metadata."""
    value = (file.metadata.metadata or {}).get(key)
    return value or (file.schema_arrow.metadata or {}).get(key)


def _check_magic(path: Path) -> None:
    try:
        with path.open("rb") as file:
            start = file.read(len(_MAGIC))
    except OSError as error:
        raise TraceError(f"can't read: {error.strerror}", where=path) from error
    if not start:
        raise TraceError("empty file", where=path, accepted="a trace file (.parquet)")
    if start != _MAGIC:
        raise TraceError(
            "not a Parquet file",
            where=path,
            accepted="a trace file (.parquet)",
            hint="turn other formats into one by `kvtrace import`",
        )


def _check_column(path: Path, schema: pa.Schema, column: Column) -> None:
    indices = schema.get_all_field_indices(column.name)
    if len(indices) > 1:
        raise TraceError(f"more than one column {column.name}", where=path, accepted="one")
    if not indices:
        if column.required:
            raise TraceError(
                f"missing column {column.name}",
                where=path,
                got=", ".join(schema.names),
                accepted=", ".join(column.name for column in REQUIRED),
            )
        return
    arrow_type = schema.field(indices[0]).type
    accepted = arrow_type == column.type
    if column.words is not None and pa.types.is_dictionary(arrow_type):
        accepted = arrow_type.value_type in (pa.string(), pa.large_string())
    if not accepted:
        raise TraceError(
            f"wrong type of column {column.name}", where=path, got=arrow_type, accepted=column.type
        )


def _masked(columns: Columns, batch: pa.RecordBatch, names: Sequence[str]) -> Columns:
    """Return the columns that have nulls, with a mask of them."""
    return {
        name: np.ma.masked_array(columns[name], batch.column(name).is_null().to_numpy(False))
        for name in names
        if batch.column(name).null_count
    }
