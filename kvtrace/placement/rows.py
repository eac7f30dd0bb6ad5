"""The rows of a trace as a replay reads them: within its limit, in slices."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from kvtrace.schema import Op

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from kvtrace.reader import Trace

COLUMNS = ("timestamp", "op", "size", "tier", "key", "phase")
SESSION_COLUMNS = ("session", "request")
NO_STREAM = np.uint64((1 << 64) - 1)
_SLICE_ROWS = 1 << 16


@dataclass(frozen=True, slots=True)
class Limit:
    """How much of a trace is replayed: that many rows, or the rows before that time.

    Ops that had failed (`error`) are left out, unless `with_failed`; look-ups that missed aren't.
    """

    rows: int | None = None
    duration_ns: int | None = None
    with_failed: bool = False

    def cut(self, first_row: int, timestamps: NDArray[np.int64]) -> int:
        """Return how many of the rows that start at `first_row` are within the limit."""
        count = len(timestamps)
        if self.rows is not None:
            count = min(count, max(0, self.rows - first_row))
        if self.duration_ns is not None:
            count = min(count, int(np.searchsorted(timestamps, self.duration_ns)))
        return count


@dataclass(slots=True)
class Batch:
    """Rows of a trace that follow one another, `offset_bytes` filled in where the trace has none.

    `first_row`: how many came before; `failed`: ops among them that had failed and are left out.
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


def read_only(values: NDArray[Any]) -> NDArray[Any]:
    """Return a view that can't be written through.

    Some columns come like that, straight from the file. Compiled code is compiled anew for each mix
    of arrays that can and can't be written, so that no column of a trace can.
    """
    view = values.view()
    view.flags.writeable = False
    return view


def read_batches(trace: Trace, limit: Limit, optional: tuple[str, ...] = ()) -> Iterator[Batch]:
    """Yield the rows of `trace` that are within `limit`, in slices that stay in a CPU's cache."""
    there = [name for name in optional if name in trace.columns]
    names = [*COLUMNS, *there, *(["offset"] if "offset" in trace.columns else [])]
    names += ["error"] if "error" in trace.columns and not limit.with_failed else []
    first_row = seen = waiting = 0
    for columns in trace.batches(names, nulls=True):
        rows = limit.cut(seen, columns["timestamp"])
        cut = _done({name: values[:rows] for name, values in columns.items()})
        done = len(cut["op"])
        waiting += rows - done
        if done:
            yield from batches_of(cut, first_row, there, waiting)
            waiting = 0
        first_row += done
        if rows < len(columns["timestamp"]):
            return
        seen += rows


def _done(part: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Return rows without ops that had failed, as far as errors are known."""
    error = part.get("error")
    if error is None or not np.ma.filled(error, 0).any():
        return part
    kept = (np.ma.filled(error, 0) == 0) | (part["op"] == Op.LOOKUP)
    return {name: values[kept] for name, values in part.items()}


def batches_of(
    columns: dict[str, NDArray[Any]], first_row: int, optional: Sequence[str] = (), failed: int = 0
) -> Iterator[Batch]:
    """Yield rows in slices that stay in a CPU's cache; `failed` before them were left out."""
    rows = len(columns["timestamp"])
    for begin in range(0, rows, _SLICE_ROWS):
        end = min(rows, begin + _SLICE_ROWS)
        part = {name: read_only(values[begin:end]) for name, values in columns.items()}
        offset = part.get("offset")
        yield Batch(
            first_row + begin,
            part["timestamp"],
            part["op"],
            part["size"],
            part["tier"],
            part["key"],
            part["phase"],
            read_only(np.zeros(end - begin, np.uint64)) if offset is None else offset,
            {name: part[name] for name in optional},
            failed if begin == 0 else 0,
        )


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
