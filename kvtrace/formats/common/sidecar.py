"""The map beside an export: from each record of the other tool's file back to the trace."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from kvtrace.errors import TraceError
from kvtrace.files.outfile import TableFile
from kvtrace.files.textfile import arrow_source
from kvtrace.trace.schema import BY_NAME, words_array
from kvtrace.trace.writer import arrow_values

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

NAMES = ("key", "tier", "phase", "request")
RECORD = "record"
_ACCEPTED = "the .map.parquet that the export left beside the file"
_READ_ROWS = 1 << 16


def map_path(out: Path) -> Path:
    """Return where the map of export `out` is."""
    return out.with_name(f"{out.name}.map.parquet")


class MapWriter(TableFile):
    """Writes a row per record of an export: its number from 0, and key, tier, phase and request.

    `extra`: what else identifies a record in the other tool, as Arrow fields (offset, name).
    """

    def __init__(self, out: Path, *, force: bool, extra: Sequence[pa.Field] = ()) -> None:
        fields = [pa.field(RECORD, pa.uint64(), nullable=False)]
        fields += [BY_NAME[name].field for name in NAMES]
        self._schema = pa.schema([*fields, *extra])
        self._records = 0
        super().__init__(map_path(out), force=force)

    def _open(self) -> pq.ParquetWriter:
        words = [field.name for field in self._schema if pa.types.is_dictionary(field.type)]
        numbers = [field.name for field in self._schema if pa.types.is_integer(field.type)]
        return pq.ParquetWriter(
            self.draft.file,
            self._schema,
            compression="zstd",
            compression_level=1,
            use_dictionary=words,
            column_encoding=dict.fromkeys(numbers, "DELTA_BINARY_PACKED"),
            write_statistics=False,
        )

    def append(self, columns: Mapping[str, NDArray[Any] | pa.Array]) -> None:
        """Add the next records: the trace's columns and those of `extra`; unknown ones are null."""
        count = len(columns["key"])
        numbers = np.arange(self._records, self._records + count, dtype=np.uint64)
        arrays = [_values(field, {RECORD: numbers, **columns}, count) for field in self._schema]
        self._records += count
        self.write(pa.Table.from_arrays(arrays, schema=self._schema))


def _values(
    field: pa.Field, columns: Mapping[str, NDArray[Any] | pa.Array], count: int
) -> pa.Array:
    values = columns.get(field.name)
    if values is None:
        return pa.nulls(count, field.type)
    if field.name in BY_NAME and not isinstance(values, pa.Array):
        return arrow_values(BY_NAME[field.name], values)
    return pa.array(values, field.type)


class MapReader:
    """Reads the map beside an export, as many records at a time as the export is read."""

    def __init__(self, path: Path) -> None:
        self._path, self._records = path, 0
        try:
            self._file = pq.ParquetFile(arrow_source(path))
        except (OSError, pa.ArrowException) as error:
            raise TraceError(f"can't read: {error}", where=path, accepted=_ACCEPTED) from error
        names = self._names()
        self._extra = [name for name in names if name not in (RECORD, *NAMES)]
        self.knows_requests = any(
            batch.column(0).null_count < batch.num_rows for batch in self._batches(["request"])
        )
        """Whether any record has a request."""
        self._rest = self._batches([*NAMES, *self._extra])
        self._next = pa.RecordBatch.from_pylist([], self._file.schema_arrow)

    def _names(self) -> list[str]:
        """Return the columns' names. Raises TraceError for one of another type, or there twice."""
        try:
            fields = list(self._file.schema_arrow)
        except UnicodeDecodeError as error:
            raise TraceError(
                "can't read its names", where=self._path, accepted=_ACCEPTED
            ) from error
        names = [field.name for field in fields]
        if missing := [name for name in (RECORD, *NAMES) if name not in names]:
            raise TraceError(f"no column {missing[0]}", where=self._path, accepted=_ACCEPTED)
        for field in fields:
            word = field.name in BY_NAME and BY_NAME[field.name].words is not None
            dictionary = pa.types.is_dictionary(field.type)
            text = dictionary and pa.types.is_string(field.type.value_type)
            number = pa.types.is_uint64(field.type)
            text |= pa.types.is_string(field.type) or pa.types.is_large_string(field.type)
            if not (text if word else number or (text and field.name not in (RECORD, *NAMES))):
                raise TraceError(
                    f"wrong type of column {field.name}",
                    where=self._path,
                    got=field.type,
                    accepted=_ACCEPTED,
                )
        if len(set(names)) != len(names):
            raise TraceError("a column is there twice", where=self._path, accepted=_ACCEPTED)
        return names

    def _batches(self, names: list[str]) -> Iterator[pa.RecordBatch]:
        try:
            yield from self._file.iter_batches(_READ_ROWS, columns=names)
        except (OSError, pa.ArrowException) as error:
            raise TraceError(f"damaged: {error}", where=self._path) from error

    def take(self, count: int) -> dict[str, NDArray[Any]]:
        """Return the columns of the next records. Raises TraceError if there are fewer."""
        parts = []
        missing = count
        while missing:
            if not self._next.num_rows and (batch := next(self._rest, None)) is None:
                self._refuse(f"more than {self._records + count - missing}")
            self._next = self._next if self._next.num_rows else batch
            parts.append(self._next.slice(0, missing))
            self._next = self._next.slice(missing)
            missing -= parts[-1].num_rows
        self._records += count
        columns = [*NAMES, *self._extra]
        return {name: self._values(name, [part.column(name) for part in parts]) for name in columns}

    def end(self) -> None:
        """Raise TraceError if there are more records than were taken."""
        if self._records < self._file.metadata.num_rows:
            self._refuse(f"{self._records}")

    def _values(self, name: str, parts: Sequence[pa.Array]) -> NDArray[Any]:
        words = BY_NAME[name].words if name in BY_NAME else None
        values = pa.chunked_array(parts, parts[0].type if parts else pa.uint64())
        if words is not None:
            values = pc.index_in(values.cast(pa.string()), words_array(words))
        if name != "request" and values.null_count:
            raise TraceError(f"no {name}, or an unknown one", where=self._path, accepted=_ACCEPTED)
        nulls = values.is_null().to_numpy()
        array: NDArray[Any] = values.fill_null(0).to_numpy()
        array = array.astype(np.uint8) if words is not None else array
        return np.ma.masked_array(array, nulls) if nulls.any() else array

    def _refuse(self, records: str) -> NoReturn:
        raise TraceError(
            "the map is of another file",
            where=self._path,
            got=f"{self._file.metadata.num_rows} records",
            accepted=f"{records}: {_ACCEPTED}",
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        """Close the file."""
        self._file.close(force=True)
