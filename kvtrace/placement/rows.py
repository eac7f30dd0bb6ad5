"""The rows of a trace as a replay reads them: within its limit, in slices."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from kvtrace.native.library import INT, contiguous
from kvtrace.native.structures import Structure, fields
from kvtrace.placement.limit import NO_LIMIT, Limit
from kvtrace.trace.schema import Op

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from kvtrace.trace.reader import Columns, Trace

COLUMNS = ("timestamp", "op", "size", "tier", "key", "phase")
SESSION_COLUMNS = ("session", "request")
NO_STREAM = np.uint64((1 << 64) - 1)
_SLICE_ROWS = 1 << 16


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some rows to replay. `failed`: rows before and among them that are left out.

    `round`: how many times the whole trace came before.
    """

    columns: Columns
    failed: int = 0
    round: int = 0

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))


class RowSource(Protocol):
    """The rows that a replay executes or passes over."""

    @property
    def path(self) -> Path:
        """Where they come from."""
        ...

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns that there are."""
        ...

    def resident(self) -> NDArray[np.void]:
        """Return the objects present at the start, an array of `header.RESIDENT_DTYPE`."""
        ...

    def chunks(self, names: Sequence[str]) -> Iterator[Chunk]:
        """Yield the rows' columns in order; where a column has nulls, it is masked."""
        ...


@dataclass(frozen=True, slots=True)
class TraceRows:
    """The rows of a trace that are within a limit."""

    trace: Trace
    limit: Limit = NO_LIMIT

    @property
    def path(self) -> Path:
        """Where they come from."""
        return self.trace.path

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns that there are."""
        return self.trace.columns

    def resident(self) -> NDArray[np.void]:
        """Return the objects present at the start."""
        return self.trace.resident()

    def chunks(self, names: Sequence[str]) -> Iterator[Chunk]:
        """Yield the rows in order, without ops that had failed where these are left out."""
        needed = {"timestamp", "op"}
        if "error" in self.columns and not self.limit.with_failed:
            needed.add("error")
        read = [*names, *sorted(needed - set(names))]
        seen = waiting = 0
        for columns in self.trace.batches(read, nulls=True):
            rows = self.limit.cut(seen, columns["timestamp"])
            kept = _kept({name: columns[name][:rows] for name in needed})
            waiting += 0 if kept is None else rows - int(kept.sum())
            chunk = {name: columns[name][:rows] for name in names}
            if kept is not None:
                chunk = {name: values[kept] for name, values in chunk.items()}
            if rows if kept is None else kept.any():
                yield Chunk(chunk, waiting)
                waiting = 0
            if rows < len(columns["timestamp"]):
                return
            seen += rows


def _kept(columns: Columns) -> NDArray[np.bool_] | None:
    """Return which rows are no ops that had failed, as far as is known; None for all."""
    error = columns.get("error")
    if error is None or not np.ma.filled(error, 0).any():
        return None
    return np.asarray((np.ma.filled(error, 0) == 0) | (columns["op"] == Op.LOOKUP))


@dataclass(slots=True)
class Batch:
    """Rows of a trace that follow one another, `offset_bytes` filled in where the trace has none.

    `first_row`: how many came before; `failed`, `round`: as of a `Chunk`.
    """

    first_row: int
    timestamp_ns: NDArray[np.int64]
    op: NDArray[np.uint8]
    size_bytes: NDArray[np.uint64]
    tier: NDArray[np.uint8]
    key: NDArray[np.uint64]
    phase: NDArray[np.uint8]
    offset_bytes: NDArray[np.uint64]
    optional: dict[str, NDArray[Any]] = field(default_factory=dict)
    """Other columns that were asked for; those that the trace doesn't have are missing."""
    failed: int = 0
    round: int = 0


def read_batches(rows: RowSource, optional: Sequence[str] = ()) -> Iterator[Batch]:
    """Yield rows in slices that stay in a CPU's cache, with those `optional` columns there are."""
    present = [name for name in optional if name in rows.columns]
    names = [*COLUMNS, *present, *(["offset"] if "offset" in rows.columns else [])]
    first_row = 0
    for chunk in rows.chunks(names):
        yield from batches_of(chunk, first_row, present)
        first_row += len(chunk)


def batches_of(chunk: Chunk, first_row: int, optional: Sequence[str] = ()) -> Iterator[Batch]:
    """Yield a chunk's rows, of which the first is `first_row`, in slices."""
    rows = len(chunk)
    for begin in range(0, rows, _SLICE_ROWS):
        end = min(rows, begin + _SLICE_ROWS)
        columns = {name: values[begin:end] for name, values in chunk.columns.items()}
        offset = columns.get("offset")
        yield Batch(
            first_row + begin,
            columns["timestamp"],
            columns["op"],
            columns["size"],
            columns["tier"],
            columns["key"],
            columns["phase"],
            np.zeros(end - begin, np.uint64) if offset is None else offset,
            {name: columns[name] for name in optional},
            chunk.failed if begin == 0 else 0,
            chunk.round,
        )


class Rows(Structure):
    """Rows as compiled code takes them: `struct kv_rows` of rows.h."""

    ARRAYS, _fields_ = fields(
        timestamp=np.int64, op=np.uint8, size=np.uint64, tier=np.uint8, key=np.uint64,
        phase=np.uint8, offset=np.uint64, first_row=INT, count=INT,
    )  # fmt: skip


def rows_of(batch: Batch) -> Rows:
    """Return a batch's rows for compiled code."""
    columns = {
        "timestamp": batch.timestamp_ns,
        "op": batch.op,
        "size": batch.size_bytes,
        "tier": batch.tier,
        "key": batch.key,
        "phase": batch.phase,
        "offset": batch.offset_bytes,
    }
    arrays = {name: contiguous(column, Rows.ARRAYS[name]) for name, column in columns.items()}
    return Rows(**arrays, first_row=batch.first_row, count=len(batch.op))


def stream_keys(batch: Batch) -> NDArray[np.uint64]:
    """Return, per row, what of closed loops it is a part of: its session, else its request.

    `NO_STREAM` where the trace knows neither.
    """
    keys = np.full(len(batch.op), NO_STREAM, np.uint64)
    for name, kind in (("request", np.uint64(1 << 63)), ("session", np.uint64(0))):
        if name in batch.optional:
            values = batch.optional[name]
            known = ~np.ma.getmaskarray(values)
            keys[known] = np.ma.getdata(values)[known].astype(np.uint64) | kind
    return keys
