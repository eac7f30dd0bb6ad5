"""Changes traces: values, types and words of columns, row groups, header, residents, bytes."""

from __future__ import annotations

import base64
import io
import json
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import zstandard

from tests.fuzz.mutations import changed_json, of_bytes
from tests.fuzz.values import INTEGERS, TEXTS, dumps

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

_HEADER, _RESIDENT, _RESULT = b"kvtrace", b"kvtrace.resident", b"kvtrace.result"
_ARROW = b"ARROW:schema"
_RESIDENT_DTYPE = np.dtype([("tier", "u1"), ("key", "<u8"), ("size", "<u8")])
_TYPES = (
    pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32(),
    pa.uint64(), pa.float64(), pa.string(), pa.binary(), pa.timestamp("ns"), pa.bool_(),
)  # fmt: skip


def of_trace(data: bytes, rng: np.random.Generator) -> bytes:
    """Change a trace's file."""
    if rng.integers(6) == 0:
        return _footer(data, rng) if rng.integers(2) else of_bytes(data, rng)
    table = read(io.BytesIO(data))
    for _ in range(int(rng.geometric(0.5))):
        # A change that doesn't fit what an earlier one has left is none.
        with suppress(KeyError, ValueError, TypeError, pa.ArrowException):
            table = _CHANGES[rng.integers(len(_CHANGES))](table, rng)
    return _write(table, rng)


def read(source: Path | io.BytesIO) -> pa.Table:
    """Return a good file's rows, with the metadata of its footer."""
    with pq.ParquetFile(source) as file:
        metadata = {k: v for k, v in (file.metadata.metadata or {}).items() if k != _ARROW}
        return file.read().replace_schema_metadata(metadata)


def _footer(data: bytes, rng: np.random.Generator) -> bytes:
    """Change bytes of the footer, whose length stays right."""
    length = int.from_bytes(data[-8:-4], "little")
    begin = max(4, len(data) - 8 - length)
    footer = of_bytes(data[begin:-8], rng)
    return data[:begin] + footer + len(footer).to_bytes(4, "little") + b"PAR1"


def _write(table: pa.Table, rng: np.random.Generator) -> bytes:
    out = io.BytesIO()
    options: dict[str, Any] = {"compression": str(rng.choice(["zstd", "snappy", "none", "gzip"]))}
    if rng.integers(4) == 0:
        options["row_group_size"] = int(rng.choice([1, 2, 7, 1000]))
    if rng.integers(6) == 0:
        options["use_dictionary"] = False
    if rng.integers(8) == 0:
        options["data_page_size"] = 64
    try:
        with pq.ParquetWriter(out, table.schema, **{
            name: value for name, value in options.items() if name != "row_group_size"
        }) as writer:  # fmt: skip
            if rng.integers(12) == 0:
                writer.write_table(table.slice(0, 0))
            writer.write_table(table, row_group_size=options.get("row_group_size"))
    except (pa.ArrowException, OSError):
        return b"PAR1"
    return out.getvalue()


def _index(table: pa.Table, rng: np.random.Generator) -> int:
    return int(rng.integers(table.num_columns)) if table.num_columns else -1


def _values(table: pa.Table, rng: np.random.Generator) -> pa.Table:
    """Put extreme values, or nulls, into some rows of a column."""
    at = _index(table, rng)
    if at < 0 or not table.num_rows:
        return table
    field, column = table.schema.field(at), table.column(at).combine_chunks()
    rows = rng.integers(table.num_rows, size=int(rng.geometric(0.4)))
    if pa.types.is_dictionary(field.type) or not pa.types.is_integer(field.type):
        return _nulls(table, at, rows)
    if rng.integers(5) == 0:
        return _nulls(table, at, rows)
    values = column.fill_null(0).to_numpy(zero_copy_only=False).copy()
    bounds = np.iinfo(values.dtype)
    for row in rows.tolist():
        number = INTEGERS[rng.integers(len(INTEGERS))]
        if rng.integers(3) == 0:
            number += int(values[row])
        values[row] = min(max(number, int(bounds.min)), int(bounds.max))
    if field.name == "timestamp" and rng.integers(4):
        values.sort()
    return table.set_column(at, field, pa.array(values, field.type))


def _nulls(table: pa.Table, at: int, rows: NDArray[np.int64]) -> pa.Table:
    mask = np.zeros(table.num_rows, bool)
    mask[rows] = True
    field = table.schema.field(at).with_nullable(True)
    column = table.column(at).combine_chunks()
    return table.set_column(at, field, pc.if_else(pa.array(mask), None, column))


def _words(table: pa.Table, rng: np.random.Generator) -> pa.Table:
    """Give a column of words other words, other indices or another index type."""
    named = [at for at, field in enumerate(table.schema) if pa.types.is_dictionary(field.type)]
    if not named:
        return table
    at = int(rng.choice(named))
    column = table.column(at).combine_chunks()
    column = column.chunk(0) if isinstance(column, pa.ChunkedArray) else column
    words = list(column.dictionary.to_pylist())
    kind = int(rng.integers(5))
    if kind == 0:
        words[rng.integers(len(words))] = TEXTS[rng.integers(len(TEXTS))]
    elif kind == 1:
        words[rng.integers(len(words))] = None
    elif kind == 2:
        words += [f"w{number}" for number in range(int(rng.choice([1, 100, 5000])))]
    elif kind == 3:
        words = words[: int(rng.integers(len(words)))] + words[:1]
    indices = column.indices.fill_null(0).cast(pa.int64()).to_numpy() % max(1, len(words))
    kinds = (pa.int32(), pa.int64()) if len(words) > 100 else (pa.int8(), pa.int32(), pa.uint16())
    value = pa.large_string() if rng.integers(3) == 0 else pa.string()
    changed = pa.DictionaryArray.from_arrays(
        pa.array(indices, kinds[rng.integers(len(kinds))]), pa.array(words, value)
    )
    return table.set_column(at, table.schema.field(at).name, changed)


def _shape(table: pa.Table, rng: np.random.Generator) -> pa.Table:
    """Leave out, repeat, rename, retype or add columns; leave out, repeat or shuffle rows."""
    at, kind = _index(table, rng), int(rng.integers(9))
    if at < 0:
        return table
    name = table.schema.field(at).name
    if kind == 0:
        return table.remove_column(at)
    if kind == 1:
        return table.append_column(name, table.column(at))
    if kind == 2:
        return table.rename_columns(
            [TEXTS[rng.integers(len(TEXTS))] if i == at else n
             for i, n in enumerate(table.column_names)]
        )  # fmt: skip
    if kind == 3:
        try:
            column = table.column(at).cast(_TYPES[rng.integers(len(_TYPES))], safe=False)
        except (pa.ArrowException, ValueError):
            return table
        return table.set_column(at, name, column)
    if kind == 4:
        extra = pa.array(np.zeros(table.num_rows, np.int8))
        for number in range(int(rng.choice([1, 3, 300]))):
            table = table.append_column(f"more{number}", extra)
        return table
    if kind == 5:
        return table.slice(0, int(rng.choice([0, 1, 2])))
    if kind == 6:
        return table.take(pa.array(rng.permutation(table.num_rows)))
    if kind == 7:
        return pa.concat_tables([table] * int(rng.integers(2, 4)))
    return table.select(rng.permutation(table.column_names).tolist())


def _header(table: pa.Table, rng: np.random.Generator) -> pa.Table:
    metadata = dict(table.schema.metadata or {})
    key = _RESULT if _RESULT in metadata and rng.integers(2) else _HEADER
    packed = metadata.get(key, b"{}")
    if rng.integers(8) == 0:
        metadata[key] = of_bytes(packed, rng)
    else:
        try:
            changed = dumps(changed_json(json.loads(packed), rng))
        except (ValueError, RecursionError):
            return table
        metadata[key] = changed.encode("utf-8", "surrogatepass")
    return table.replace_schema_metadata(metadata)


def _residents(table: pa.Table, rng: np.random.Generator) -> pa.Table:
    count = int(rng.choice([1, 2, 50, 3000]))
    made = np.zeros(count, _RESIDENT_DTYPE)
    made["tier"] = rng.integers(0, 4, count) if rng.integers(3) else rng.integers(0, 256, count)
    made["key"] = np.arange(count) if rng.integers(3) else rng.integers(0, 60, count)
    made["size"] = 4096 if rng.integers(2) else INTEGERS[rng.integers(28)] & ((1 << 64) - 1)
    raw = made.tobytes()
    if rng.integers(6) == 0:
        raw = of_bytes(raw, rng)
    text = base64.b64encode(zstandard.ZstdCompressor(level=1).compress(raw))
    if rng.integers(6) == 0:
        text = of_bytes(text, rng)
    return table.replace_schema_metadata({**(table.schema.metadata or {}), _RESIDENT: text})


_CHANGES = (_values, _values, _values, _words, _shape, _header, _header, _residents)
