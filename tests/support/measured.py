"""A result with made-up times: what a replay of a trace's nvme tier would have written."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from kvtrace.trace.reader import open_trace
from kvtrace.trace.schema import Op, Tier
from kvtrace.trace.writer import TraceWriter

if TYPE_CHECKING:
    from pathlib import Path

NAMES = ("timestamp", "op", "size", "tier", "key", "phase", "request", "step", "block")


def measured(trace: Path, out: Path, *, seed: int = 1, failed: int = 0) -> Path:
    """Write the nvme rows of `trace` with times that vary by request; `failed` reads with EIO."""
    with open_trace(trace) as opened:
        parts = list(opened.batches(list(NAMES), nulls=True))
        header = opened.header
    rows = {name: np.concatenate([np.ma.getdata(part[name]) for part in parts]) for name in NAMES}
    own = rows["tier"] == Tier.NVME
    rows = {name: values[own] for name, values in rows.items()}
    rng = np.random.default_rng(seed)
    count = int(own.sum())
    slow = rng.uniform(0.2, 5, 1 + int(rows["request"].max()))[rows["request"].astype(int)]
    due = rows["timestamp"].astype(np.int64)
    submit = due + rng.integers(0, 2_000_000, count)
    complete = submit + (rows["size"] * slow * 40).astype(np.int64) + 50_000
    error = np.zeros(count, np.int32)
    error[np.flatnonzero((rows["op"] == Op.READ) & (rows["step"] == 1))[:failed]] = 5
    more = {"due": due, "submit": submit, "complete": complete, "error": error}
    columns = ("request", "step", "block", *more)
    with TraceWriter(out, header, columns) as writer:
        writer.append(rows | more)
    return out
