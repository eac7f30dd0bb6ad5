"""Finished ops by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from kvtrace.trace.schema import Op, Phase, Tier
from replay.measure.recorder import Recorder
from replay.ops.columns import Times
from replay.ops.contract import Mode
from replay.ops.done import Done, Taker
from tests.support.planner import make_planner

if TYPE_CHECKING:
    from tests.support.traces import Row

R, W, D = Op.READ, Op.WRITE, Op.DELETE
START = 1_000_000


def reads(count: int, gap_ns: int, size: int = 4096) -> list[Row]:
    """Reads of different objects at equal distances."""
    return [(i * gap_ns, R, Tier.NVME, i, Phase.DECODE, size) for i in range(count)]


def record(
    done: Done, mode: Mode = Mode.OPEN, *, copiers: tuple[int, ...] = (), warmup_ns: int = 0
) -> Recorder:
    """Return a recorder that has taken all ops."""
    lanes = int(done.lane.max()) + 1
    recorder = Recorder(lanes, mode, START, warmup_ns=warmup_ns, copiers=copiers)
    recorder.add(done)
    recorder.finish()
    return recorder


def finished(rows: list[Row], mode: Mode = Mode.OPEN, **columns: Any) -> Done:
    """Return finished ops with those columns (times since the start); others say 'at once'."""
    tiers = tuple(sorted({row[2] for row in rows}))
    planner, ring = make_planner(rows, tiers)
    while planner.advance(0):
        pass
    count = planner.planned
    times = Times.empty(ring.capacity)
    times.reset(0, count)
    due = ring.due_ns[:count] + START
    for name in ("ready_ns", "slot_ns", "submit_ns", "complete_ns"):
        given = columns.get(name)
        getattr(times, name)[:count] = due if given is None else np.array(given, np.int64) + START
    times.error[:count] = columns.get("error", 0)
    return Taker(ring, times, mode).take(0, count, START)
