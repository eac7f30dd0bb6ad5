"""Closed loops of a capture: which of its tasks wait for which."""

from __future__ import annotations

import numpy as np

from kvtrace.trace.schema import Op, Phase, Tier
from replay.ops.contract import Action
from tests.support.planner import make_planner

KIB4, MS = 4096, 1_000_000


def gates(begin_ms: list[int], end_ms: list[int], batch: list[int] | None) -> list[int]:
    """Return before which rows of one request and step, all reads, a gate stands."""
    rows = [
        (at * MS, Op.READ, Tier.NVME, key, Phase.DECODE, KIB4) for key, at in enumerate(begin_ms)
    ]
    count = len(rows)
    optional = {"request": np.zeros(count, "u8"), "step": np.ones(count, "u2")}
    optional["complete"] = np.array(end_ms, "i8") * MS
    if batch is not None:
        optional["batch"] = np.array(batch, "u4")
    planner, ops = make_planner(rows, closed=True, **optional)
    while planner.advance(0):
        pass
    actions = ops.action[: planner.planned].tolist()
    reads_before = np.cumsum(np.array(actions) != Action.GATE)
    return [int(reads_before[i]) for i, action in enumerate(actions) if action == Action.GATE]


def test_tasks_that_followed_one_another_wait_for_one_another() -> None:
    """Three tasks: the second was in flight with the first, the third came after both."""
    begin, end = [0, 0, 1, 1, 5, 5], [3, 4, 4, 5, 9, 9]
    assert gates(begin, end, [0, 0, 1, 1, 2, 2]) == [0, 4]


def test_without_batches_a_step_is_one_group() -> None:
    assert gates([0, 0, 1, 1, 5, 5], [3, 4, 4, 5, 9, 9], None) == [0]


def test_rows_of_one_task_stay_together() -> None:
    """A task whose keys were pinned one after the other is submitted as one."""
    assert gates([0, 2, 4], [1, 3, 5], [7, 7, 7]) == [0]
