"""The names of keys that an import hashes, beside the trace."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from kvtrace.errors import write_failure
from kvtrace.outfile import WholeFile

if TYPE_CHECKING:
    import numpy as np
    import polars as pl
    from numpy.typing import NDArray

_SCHEMA = pa.schema([pa.field("key", pa.uint64()), pa.field("name", pa.string())])


class NamesFile(WholeFile):
    """Writes a row per key: the key, and its name in the other tool's file."""

    def _open(self) -> pq.ParquetWriter:
        return pq.ParquetWriter(self._partial, _SCHEMA, compression="zstd")

    def append(self, keys: NDArray[np.uint64], names: pl.Series) -> None:
        """Add some keys with their names."""
        columns = [pa.array(keys), pa.array(names.to_arrow()).cast(pa.string())]
        try:
            self._file.write_table(pa.Table.from_arrays(columns, schema=_SCHEMA))
        except OSError as error:
            raise write_failure(self.path, error) from error
