"""Traces that no writer of ours makes: columns as given, straight into Parquet."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from kvtrace.trace.schema import BY_NAME, COLUMNS, HEADER_KEY, Op, Phase, Tier, words_array
from tests.support import places

if TYPE_CHECKING:
    from pathlib import Path

HOSTILE = places.SAMPLES / "hostile"
"""Small traces made by hand; present where the project is developed."""
NVME = {
    "timestamp": np.int64(0),
    "op": np.uint8(Op.WRITE),
    "size": np.uint64(4096),
    "tier": np.uint8(Tier.NVME),
    "key": np.uint64(1),
    "phase": np.uint8(Phase.PREFILL),
}
"""One row: a write of 4 KiB."""


def table(count: int | None = None, **columns: Any) -> pa.Table:
    """Return rows like `NVME` with these columns instead, or besides; values are unchecked."""
    rows = count or max((len(values) for values in columns.values()), default=1)
    arrays = {}
    for column in COLUMNS:
        if column.name not in columns and column.name not in NVME:
            continue
        values = columns.get(column.name)
        if isinstance(values, pa.Array):
            arrays[column.name] = values
            continue
        filled = np.full(rows, NVME.get(column.name, 0)) if values is None else values
        if column.words is None:
            arrays[column.name] = pa.array(filled, column.type)
        else:
            codes = pa.array(np.asarray(filled, np.int8))
            arrays[column.name] = pa.DictionaryArray.from_arrays(codes, words_array(column.words))
    return pa.table(arrays | {n: v for n, v in columns.items() if n not in BY_NAME})


def parquet(
    path: Path, *, header: bytes = b"{}", metadata: dict[bytes, bytes] | None = None, **columns: Any
) -> Path:
    """Write `table(**columns)` with this header, and more metadata, to `path`."""
    made = table(**columns)
    made = made.replace_schema_metadata({HEADER_KEY: header, **(metadata or {})})
    pq.write_table(made, path)
    return path
