"""Rows as text of the CSV of the MLPerf Storage KV benchmark."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pyarrow as pa

from kvtrace.formats.mlperf_csv.csvfile import OPS, PHASES, TIERS
from kvtrace.trace.schema import Phase
from kvtrace.units import S_NS, US_NS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

NAMES = ("timestamp", "op", "size", "tier", "key", "phase")
"""The columns that the text is made of."""


def text_of(columns: Mapping[str, NDArray[Any]], epoch_ns: int) -> bytes:
    """Return rows that the format has words for, one array per column of NAMES, as its lines."""
    times = pl.Series(columns["timestamp"]).cast(pl.Int64) + epoch_ns
    keys = np.ascontiguousarray(columns["key"].astype(">u8")).view("S8")
    frame = pl.DataFrame({"ns": times}).select(
        Timestamp=pl.format(
            "{}.{}",
            pl.col("ns") // S_NS,
            (pl.col("ns") % S_NS // US_NS).cast(pl.String).str.zfill(6),
        ),
        Operation=_words(columns["op"], OPS),
        Object_Size_Bytes=pl.Series(columns["size"]),
        Tier=_words(columns["tier"], TIERS),
        Key=_hex(keys),
        Phase=_words(columns["phase"], PHASES | {Phase.PROMOTE: "Decode"}),
    )
    return frame.write_csv(include_header=False).encode()


def _words(values: NDArray[Any], words: Mapping[Any, str]) -> pl.Series:
    labels = pl.Series([words.get(wire, "") for wire in range(max(words) + 1)], dtype=pl.String)
    return labels.gather(pl.Series(values, dtype=pl.UInt32))


def _hex(keys: NDArray[np.bytes_]) -> pl.Series:
    array = pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(8), len(keys), [None, pa.py_buffer(keys)]
    )
    series = pl.Series(pl.from_arrow(array.cast(pa.binary())))
    return series.bin.encode("hex")
