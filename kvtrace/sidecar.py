"""The map beside an export: from each record of the other tool's file back to the trace."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from kvtrace.outfile import TableFile
from kvtrace.schema import BY_NAME
from kvtrace.writer import arrow_values

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

NAMES = ("key", "tier", "phase", "request")
RECORD = "record"


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
            self.partial,
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
