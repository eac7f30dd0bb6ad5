"""Reads a trace, and refuses what isn't one, saying where and what to do."""

from __future__ import annotations

import hashlib
from functools import cached_property
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from kvtrace.errors import TraceError
from kvtrace.header import RESIDENT_DTYPE, Header, unpack_resident
from kvtrace.schema import BY_NAME, COLUMNS, HEADER_KEY, MAX_SIZE_BYTES, REQUIRED, Column, Op
from kvtrace.textfile import arrow_source
from kvtrace.writer import HEAD_NAME, RESIDENT_KEY, file_sha256, numpy_dtype

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Sequence
    from types import TracebackType

    import polars as pl
    from numpy.typing import NDArray

Columns = dict[str, "NDArray[Any]"]
BATCH_ROWS = 1 << 17
_MAGIC = b"PAR1"


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
        packed = _metadata(head, HEADER_KEY)
        self.header = Header() if packed is None else Header.from_json(packed, where=path)
        names = set(self._files[0].schema_arrow.names)
        self.columns = tuple(column.name for column in COLUMNS if column.name in names)

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

        parts: Any = [arrow_source(part.absolute()) for part in self.parts]  # ~ is a name, too
        self._sources += [part for part in parts if not isinstance(part, Path)]
        return pl.scan_parquet(parts, glob=False, hive_partitioning=False)

    def resident(self) -> NDArray[np.void]:
        """Return the objects present at the start, an array of `header.RESIDENT_DTYPE`."""
        packed = _metadata(self._head, RESIDENT_KEY)
        return np.zeros(0, RESIDENT_DTYPE) if packed is None else unpack_resident(packed)

    def beside(self, key: bytes) -> bytes | None:
        """Return what a tool has put beside the trace under a key of its own; None is nothing."""
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
        size out of range, or a damaged file.
        """
        names = list(self.columns if columns is None else columns)
        missing = set(names) - set(self.columns)
        assert not missing, f"columns not in this trace: {missing}"
        read = names if "timestamp" in names else [*names, "timestamp"]
        first_row, last_ns = 0, 0
        iterator = (
            batch
            for file in self._files
            for batch in file.iter_batches(batch_size=batch_rows, columns=read)
        )
        while (batch := self._next(iterator, first_row)) is not None:
            found = {name: self._values(BY_NAME[name], batch, first_row) for name in read}
            last_ns = self._check_time(found["timestamp"], last_ns, first_row)
            if "size" in found and "op" in found:
                self._check_sizes(found["size"], found["op"], first_row)
            first_row += batch.num_rows
            if nulls:
                found |= _masked(found, batch, names)
            yield {name: found[name] for name in names}

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
        known = [wire.get(text, 255) for text in array.dictionary.to_pylist()]
        indices = array.indices.fill_null(0) if array.null_count else array.indices
        values: NDArray[np.uint8] = np.array(known or [0], np.uint8).take(indices.to_numpy())
        if 255 in known and (values == 255).any():
            row = int(np.argmax(values == 255))
            raise TraceError(
                f"unknown {column.name}",
                where=self._at(first_row + row, column.name),
                got=repr(array[row].as_py()),
                accepted=", ".join(wire),
            )
        return values

    def _check_time(self, times: NDArray[Any], last_ns: int, first_row: int) -> int:
        if not len(times):
            return last_ns
        steps = np.diff(times, prepend=last_ns)
        bad = np.flatnonzero(steps < 0)
        if len(bad):
            row = int(bad[0])
            before = last_ns if row == 0 else int(times[row - 1])
            raise TraceError(
                "time runs backwards",
                where=self._at(first_row + row, "timestamp"),
                got=int(times[row]),
                accepted=f"at least {before}",
                hint="sort the rows by timestamp, keeping ties in order",
            )
        return int(times[-1])

    def _check_sizes(self, sizes: NDArray[Any], ops: NDArray[Any], first_row: int) -> None:
        moves = (ops == Op.READ) | (ops == Op.WRITE)
        bad = np.flatnonzero((moves & (sizes == 0)) | (sizes > MAX_SIZE_BYTES))
        if len(bad):
            row = int(bad[0])
            raise TraceError(
                "size out of range",
                where=self._at(first_row + row, "size"),
                got=int(sizes[row]),
                accepted=f"1 to {MAX_SIZE_BYTES} bytes for a read or write",
            )

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
    path = Path(path)
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
    except (OSError, pa.ArrowException) as error:
        raise TraceError(
            f"truncated or damaged Parquet file: {error}",
            where=path,
            hint="write or copy the trace again",
        ) from error
    for column in COLUMNS:
        _check_column(path, file.schema_arrow, column)
    return file


def _metadata(file: pq.ParquetFile, key: bytes) -> bytes | None:
    """Return an entry of a file's key-value metadata."""
    found = (file.metadata.metadata or {}).get(key)
    return found or (file.schema_arrow.metadata or {}).get(key)


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
    index = schema.get_field_index(column.name)
    if index < 0:
        if column.required:
            raise TraceError(
                f"missing column {column.name}",
                where=path,
                got=", ".join(schema.names),
                accepted=", ".join(column.name for column in REQUIRED),
            )
        return
    found = schema.field(index).type
    accepted = found == column.type
    if column.words is not None and pa.types.is_dictionary(found):
        accepted = found.value_type in (pa.string(), pa.large_string())
    if not accepted:
        raise TraceError(
            f"wrong type of column {column.name}", where=path, got=found, accepted=column.type
        )


def _masked(found: Columns, batch: pa.RecordBatch, names: Sequence[str]) -> Columns:
    """Return the columns that have nulls, with a mask of them."""
    return {
        name: np.ma.masked_array(found[name], batch.column(name).is_null().to_numpy(False))
        for name in names
        if batch.column(name).null_count
    }
