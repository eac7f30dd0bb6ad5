"""Ops that moved nothing, as captures and replays have them, for readers of what was moved."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from kvtrace.trace.schema import MOVED_NOTHING, Op

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from kvtrace.trace.reader import Columns, Trace


def idle(error: NDArray[Any]) -> NDArray[np.bool_]:
    """Return which of some errors are of ops that moved nothing; nulls aren't."""
    return np.isin(np.ma.filled(error, 0), MOVED_NOTHING)


def only_done(columns: Mapping[str, NDArray[Any]]) -> Columns:
    """Return rows in which an op that moved nothing is a look-up, of no bytes."""
    rows = dict(columns)
    if "error" not in rows:
        return rows
    nothing = idle(rows["error"])
    if nothing.any():
        rows["op"] = np.where(nothing, np.uint8(Op.LOOKUP), rows["op"])
        rows["size"] = np.where(nothing, np.uint64(0), rows["size"])
    return rows


def done_batches(trace: Trace, names: Sequence[str], *, nulls: bool = False) -> Iterator[Columns]:
    """Yield columns as `Trace.batches` does, op and size among them, of what was done."""
    known = "error" in trace.columns
    wanted = [*names, *(["error"] if known and "error" not in names else [])]
    for columns in trace.batches(wanted, nulls=nulls):
        done = only_done(columns)
        yield {name: done[name] for name in names}
