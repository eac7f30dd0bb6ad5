"""Rows of a trace that serve requests: hits, misses that were computed, generated blocks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from kvtrace.errors import TraceError
from kvtrace.hierarchy.native import FIRST_DECODE, LOAD, STORE
from kvtrace.trace.outcomes import idle
from kvtrace.trace.schema import Op, Phase

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from kvtrace.trace.reader import Columns, Trace

HIT, COMPUTED, GENERATED = range(3)
"""Values of the column `kind` that `served` yields."""
LOADS = (Phase.DECODE, Phase.PROMOTE)
"""Phases of reads that serve a request: some engines load by moving blocks up."""
_NEEDED = ("request", "step")


_RECORD_AGAIN = "use the options of a recording: --config, --preset, --source"


def check_requests(trace: Trace, *, hint: str = _RECORD_AGAIN) -> None:
    """Raise TraceError, with `hint`, for a trace whose requests can't be told from its rows."""
    missing = [name for name in _NEEDED if name not in trace.columns]
    if missing:
        raise TraceError(
            "has no requests",
            where=trace.path,
            got=", ".join(trace.columns),
            accepted="a trace with the columns request and step",
            hint=hint,
        )
    attention = (trace.header.model or {}).get("attention")
    groups = attention if isinstance(attention, list) else []  # a header may hold anything
    kinds = {str(layers.get("kind")) for layers in groups if isinstance(layers, dict)}
    whole = (trace.header.layout or {}).get("block_tokens") is None
    if kinds & {"window", "linear"} and not whole:
        raise TraceError(
            "is of a hybrid model, whose checkpoints can't be told from blocks",
            where=trace.path,
            hint=hint,
        )


def served(trace: Trace) -> Iterator[Columns]:
    """Yield (request, kind, block, tier, bytes, time, objects) of the rows that serve requests."""
    names = ["timestamp", "op", "size", "tier", "phase", "request", "step", "key"]
    names += [name for name in ("block", "error") if name in trace.columns]
    for columns in trace.batches(names, nulls=True):
        op, phase, step = columns["op"], columns["phase"], np.ma.filled(columns["step"], 0)
        hit = (op == Op.READ) & np.isin(phase, LOADS) & (step == LOAD)
        computed = (op == Op.WRITE) & (phase == Phase.PREFILL) & (step == STORE)
        generated = (op == Op.WRITE) & (phase == Phase.DECODE) & (step >= FIRST_DECODE)
        kind = np.where(hit, HIT, np.where(computed, COMPUTED, GENERATED))
        kept = (hit | computed | generated) & ~np.ma.getmaskarray(columns["request"])
        if "error" in columns:
            kept &= ~idle(columns["error"])
        block = np.ma.getdata(columns.get("block", columns["key"]))
        yield merged(
            {
                "request": np.ma.getdata(columns["request"])[kept],
                "kind": kind[kept],
                "block": block[kept],
                "tier": columns["tier"][kept],
                "bytes": columns["size"][kept].astype(np.int64),
                "time": columns["timestamp"][kept],
                "objects": np.ones(int(kept.sum()), np.int64),
            }
        )


def merged(rows: Columns) -> Columns:
    """Merge each run of rows of one block's objects on one tier into one row."""
    firsts = begins(rows, ("request", "kind", "block", "tier"))
    if not len(firsts):
        return rows
    merged = {name: values[firsts] for name, values in rows.items()}
    return merged | {n: np.add.reduceat(rows[n], firsts) for n in ("bytes", "objects")}


def begins(rows: Columns, names: tuple[str, ...]) -> NDArray[np.int64]:
    """Return the index of each row that differs from the one before it in one of `names`."""
    anew = np.zeros(len(rows["request"]), np.bool_)
    anew[:1] = True
    for name in names:
        anew[1:] |= rows[name][1:] != rows[name][:-1]
    return np.flatnonzero(anew)
