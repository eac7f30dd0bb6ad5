"""The operation log of warp, which warp-replay, sai3-bench, s3dlio and polarWarp share.

Tab-separated, one line per op. Source: minio/warp, pkg/bench/ops.go (`Operations.CSV`);
russfellows/s3dlio, src/s3_logger.rs, which writes the same 13 columns.
"""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import pyarrow as pa

from kvtrace.errors import UsageError
from kvtrace.formats.common.rows import filled
from kvtrace.trace.schema import Op, Phase, Tier

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from kvtrace.files.outfile import OutFile
    from kvtrace.trace.reader import Columns

COLUMNS = (
    "idx", "thread", "op", "client_id", "n_objects", "bytes", "endpoint", "file", "error",
    "start", "first_byte", "end", "duration_ns",
)  # fmt: skip
WITH_CATEGORIES = (*COLUMNS[:11], "last_byte", *COLUMNS[11:], "cat")
SUFFIXES = (".csv.zst", ".tsv.zst", ".csv", ".tsv")
OPS = {Op.READ: "GET", Op.WRITE: "PUT", Op.DELETE: "DELETE", Op.LOOKUP: "STAT"}
CLIENT = "kvtrace"
MISS, HIT = 1, 2
_NO_CATEGORY = 0
_UNSAFE = frozenset('\t"\r\n')


@dataclass(frozen=True, slots=True)
class Naming:
    """What the log's ops are done to: `endpoint` as it is, and names that begin with `prefix`."""

    endpoint: str
    prefix: str = ""
    categories: bool = False
    """Write the 15 columns that newer versions of warp's analysis know."""

    def __post_init__(self) -> None:
        """Raise UsageError for what would break a line or give a secret away."""
        for option, text in (("--endpoint", self.endpoint), ("--prefix", self.prefix)):
            if _UNSAFE & set(text):
                raise UsageError("unsafe character", where=option, got=repr(text),
                                 accepted="no tab, quote or newline")  # fmt: skip
        if "@" in self.endpoint:
            raise UsageError("credentials in an address", where="--endpoint",
                             accepted="an address; the tools have options for keys")  # fmt: skip


def object_names(tier: NDArray[np.uint8], key: NDArray[np.uint64], prefix: str = "") -> pl.Series:
    """Return the name of each (tier, key): the tier's, a slash and 16 hex digits."""
    return _folders(tier, prefix) + hex_keys(key)


def _folders(tier: NDArray[np.uint8], prefix: str) -> pl.Series:
    return pl.Series([f"{prefix}{word.label}/" for word in Tier]).gather(tier)


def hex_keys(keys: NDArray[np.uint64]) -> pl.Series:
    """Return keys as 16 hex digits."""
    data = np.ascontiguousarray(keys.astype(">u8"))
    array = pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(8), len(keys), [None, pa.py_buffer(data)]
    )
    return pl.Series(pl.from_arrow(array.cast(pa.binary()))).bin.encode("hex")


class OpLogWriter:
    """Writes rows with `start` and `end` as an operation log to `file`."""

    def __init__(self, file: OutFile, naming: Naming, epoch_ns: int) -> None:
        self._file, self._naming, self._epoch_ns = file, naming, epoch_ns
        self.rows = 0
        names = WITH_CATEGORIES if naming.categories else COLUMNS
        file.write(("\t".join(names) + "\n").encode())

    def append(self, columns: Columns) -> None:
        """Add rows, in order of `start`.

        Neighbouring columns that take few values are written as one, and what is constant isn't
        made into a column: the writer's cost is per column.
        """
        op, count = columns["op"], len(columns["key"])
        moves = (op == Op.READ) | (op == Op.WRITE)
        place = f"{self._naming.endpoint}\t{self._naming.prefix}"
        frame = pl.DataFrame(
            {
                "idx": np.arange(self.rows, self.rows + count),
                "thread": filled(columns, "rank"),
                "head": pl.Series([f"{OPS[word]}\t{CLIENT}\t1" for word in Op]).gather(op),
                "bytes": np.where(moves, columns["size"], 0),
                "place": _folders(columns["tier"], place) + hex_keys(columns["key"]) + "\t",
                "error": _errors(columns),
                "duration": columns["end"] - columns["start"],
                "cat": _categories(columns) if self._naming.categories else 0,
                **self._stamps(columns),
            }
        )
        start, end = pl.col("start") + "\t\t", pl.col("end")
        last = ["duration"]
        if self._naming.categories:
            start, last = start + end + "\t", ["duration", "cat"]
        place_error = pl.col("place") + pl.col("error")
        chosen = frame.select("idx", "thread", "head", "bytes", place_error, start + end, *last)
        lines = io.BytesIO()
        chosen.write_csv(lines, include_header=False, separator="\t", quote_style="never")
        self._file.write(lines.getbuffer())
        self.rows += count

    def _stamps(self, columns: Columns) -> dict[str, pl.Series]:
        start, end = columns["start"], columns["end"]
        text = _rfc3339(start + self._epoch_ns)
        same = end is start or bool((end == start).all())
        return {"start": text, "end": text if same else _rfc3339(end + self._epoch_ns)}


def _rfc3339(ns: NDArray[np.int64]) -> pl.Series:
    return pl.Series(ns).cast(pl.Datetime("ns")).dt.strftime("%Y-%m-%dT%H:%M:%S%.9fZ")


def error_text(number: int) -> str:
    """Return what stands in the log for an errno."""
    return f"errno {number}: {os.strerror(number)}" if number else ""


def _errors(columns: Columns) -> pl.Series:
    error = filled(columns, "error")
    numbers, place = np.unique(error, return_inverse=True)
    return pl.Series([error_text(int(number)) for number in numbers]).gather(place)


def _categories(columns: Columns) -> NDArray[np.int64]:
    """Return MISS where a prompt's block had to be computed, HIT where it was found."""
    op, phase = columns["op"], columns["phase"]
    miss = (op == Op.WRITE) & (phase == Phase.PREFILL)
    hit = (op == Op.READ) & (phase == Phase.DECODE)
    return np.where(miss, MISS, np.where(hit, HIT, _NO_CATEGORY))


def check_suffix(out: Path) -> None:
    """Raise UsageError for a file that the tools wouldn't take for an operation log."""
    if not out.name.endswith(SUFFIXES):
        raise UsageError("unknown kind of output", where=out, accepted=", ".join(SUFFIXES))
