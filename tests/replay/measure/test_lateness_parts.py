"""Lateness's parts of a whole run once more, op by op, from the times that the engine stamped."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl
import pytest

import replay
from kvtrace.trace.schema import Tier
from replay.ops.contract import Action
from replay.targets import TargetSpec
from tests.support.making import make
from tests.support.recomputed import check_percentiles

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from replay.measure.figures import LaneDocument
    from replay.ops.done import Done
    from replay.options import ReplayOptions

SUBMIT_NS, BYTES_PER_NS = 10_000, 25
PARTS = ("dependency_wait_ns", "slot_wait_ns", "burst_wait_ns", "host_lateness_ns")
CHAT = {"context_tokens": [256, 512], "generated_tokens": [32, 64], "think_s": [0.1, 0.2]}


def parts(ops: list[dict[str, int]], *, copies: bool) -> list[tuple[int, int, int, int]]:
    """Return each op's waits: for predecessors, for a slot, in a burst, for the tool."""
    for op in ops:
        op["slot"] = max(op["due_ns"], op["ready_ns"], op["slot_ns"])
    if copies:  # one copy at a time: the slot is when the one before was done
        before = -1
        for op in sorted(ops, key=lambda op: op["submit_ns"]):
            op["slot"] = max(op["slot"], min(before, op["submit_ns"]))
            before = op["complete_ns"]
    free = 0
    for op in sorted(ops, key=lambda op: op["slot"]):  # an ideal submitter, one after the other
        op["reached"] = max(op["slot"], free)
        free = op["reached"] + max(SUBMIT_NS, op["length_bytes"] // BYTES_PER_NS)
    found = []
    for op in ops:
        ready = max(op["due_ns"], op["ready_ns"])
        submit = max(op["slot"], op["submit_ns"])
        reached = min(op["reached"], submit)
        waits = (ready - op["due_ns"], op["slot"] - ready, reached - op["slot"], submit - reached)
        assert sum(waits) == max(0, op["submit_ns"] - op["due_ns"]) or op["submit_ns"] < op["slot"]
        found.append(waits)
    return found


def ops_of(done: Done, lane: int) -> list[dict[str, int]]:
    """Return a lane's reads and writes, in the trace's order."""
    names = ("due_ns", "ready_ns", "slot_ns", "submit_ns", "complete_ns", "length_bytes")
    moving = (done.action == Action.READ) | (done.action == Action.WRITE)
    mine = done.select((done.lane == lane) & moving)
    return pl.DataFrame({name: getattr(mine, name) for name in names}).to_dicts()


def check_lane(lane: LaneDocument, ops: list[dict[str, int]], *, copies: bool) -> None:
    """Compare all parts of one lane."""
    found = lane.lateness_ns
    for name, waits in zip(PARTS, zip(*parts(ops, copies=copies), strict=True), strict=True):
        check_percentiles(getattr(found, name).model_dump(), pl.Series(waits), 1 / 256)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["open", "closed"])
def test_every_part_is_that_of_the_stamps(
    direct_path: Path, quick: Callable[..., ReplayOptions], mode: str
) -> None:
    """Two tiers, dependencies between them, bursts: an independent walk over the ops agrees."""
    trace = direct_path / "t.parquet"
    make(trace, duration="2s", source__users=12, source__templates={"chat": CHAT},
         tiers__gpu__capacity=0, tiers__cpu__capacity="32MiB")  # fmt: skip
    targets = [
        TargetSpec("memory", (Tier.CPU,)),
        TargetSpec("file", (Tier.NVME,), path=direct_path / "target"),
    ]
    result = replay.run(trace, targets, quick(mode=mode, speed=4.0))
    assert result.kept is not None
    for index, lane in enumerate(result.lanes):
        ops = ops_of(result.kept, index)
        assert len(ops) > 40
        check_lane(lane, ops, copies=lane.target == "memory")
