"""Objects of several extents through all engines: every byte arrives, no I/O leaves its extent."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

import replay
from kvtrace.trace.schema import Op, Phase, Tier
from replay import TargetSpec
from replay import engine as engines
from replay.ops.columns import DIVIDED, Ops
from replay.ops.contract import Action, Lane, LaneKind, LoopOptions, Mode, Verify, run_whole
from tests.support.fragments import planned, random_rows
from tests.support.traces import Row, file_target, write_trace

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from replay import ReplayOptions

KIB4, MIB = 4096, 1 << 20
ENGINES = ("uring", "threads", "python")


def skip_without(engine: str) -> None:
    """Skip where an engine isn't available."""
    found = {entry.name: entry for entry in engines.availability()}[engine]
    if not found.available:
        pytest.skip(found.reason)


def rows_with_reads(seed: int) -> list[Row]:
    """Return random rows, and reads of parts of objects."""
    return [
        (at * 10_000, op, tier, key, phase, size)
        for at, (_, op, tier, key, phase, size) in enumerate(random_rows(seed, 200))
    ]


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_divided_objects_are_written_and_read_whole(
    direct_path: Path, quick: Callable[..., ReplayOptions], engine: str
) -> None:
    """A file and memory without spare space: every byte of every read is as it was written."""
    skip_without(engine)
    rows = rows_with_reads(5)
    _, _, planner, ops = planned(rows, 0.0)
    while planner.advance(0):
        pass
    assert (ops.offset_bytes >= np.uint64(DIVIDED)).sum() > 10
    trace = write_trace(direct_path / "t.parquet", rows)
    targets = [file_target(direct_path / "kv"), TargetSpec("memory", (Tier.CPU,))]
    options = quick(
        mode="max", engine=engine, verify="full", slack_ratio=0.0, io_size_bytes=4 * KIB4
    )
    result = replay.run(trace, targets, options)
    assert not result.errors
    assert result.fidelity.order_violations == 0
    codes = {reason.code for reason in result.verdict.reasons}
    assert not codes & {"failed_ops", "verify_failed", "order_violated", "counts_differ"}
    for lane in result.lanes:
        assert lane.live_bytes_max <= lane.space_needed_bytes <= 1.15 * lane.live_bytes_max


@pytest.mark.parametrize("engine", ENGINES)
def test_each_extent_gets_its_bytes(engine: str) -> None:
    """A write of three extents, in I/Os of two blocks, is where they are, in the object's order."""
    skip_without(engine)
    pool = np.zeros(16 * KIB4, np.uint8)
    ops = Ops.empty(2, 1, extents=4)
    ops.extents[:] = np.array([9, 3, 2, 1, 4, 2, 0, 0], np.uint64) * KIB4
    ops.action[:] = Action.WRITE, Action.READ
    ops.offset_bytes[:] = DIVIDED
    ops.length_sectors[:] = 6 * KIB4 // 512
    ops.key[:] = 5
    ops.wait_count[1], ops.edges[0] = 1, 0
    arena = np.repeat(np.arange(1, 17, dtype=np.uint8), KIB4)
    lane = Lane(LaneKind.MEMORY, 4, 2 * KIB4, pool=pool)
    options = LoopOptions(Mode.MAX, arena, 7, Verify.NONE, stamp=False)
    _, times = run_whole(engines.choose(engine), (lane,), ops, 2, options)
    assert times.error.tolist() == [0, 0]
    blocks = pool.reshape(-1, KIB4)[:, 0].tolist()
    assert blocks == [0, 0, 4, 0, 5, 6, 0, 0, 0, 1, 2, 3, 0, 0, 0, 0]


@pytest.mark.parametrize("engine", ENGINES)
def test_an_extent_outside_of_the_target_is_not_touched(engine: str) -> None:
    """One extent beyond the lane's part fails the op with ERANGE, and nothing of it is done."""
    skip_without(engine)
    pool = np.zeros(8 * KIB4, np.uint8)
    ops = Ops.empty(1, 1, extents=2)
    ops.extents[:] = np.array([1, 1, 7, 2], np.uint64) * KIB4
    ops.action[:], ops.offset_bytes[:] = Action.WRITE, DIVIDED
    ops.length_sectors[:] = 3 * KIB4 // 512
    arena = np.ones(8 * KIB4, np.uint8)
    lane = Lane(LaneKind.MEMORY, 4, 2 * KIB4, pool=pool)
    options = LoopOptions(Mode.MAX, arena, 7, Verify.NONE, stamp=False)
    _, times = run_whole(engines.choose(engine), (lane,), ops, 1, options)
    assert times.error.tolist() == [34]
    assert not pool.any()


def test_a_population_of_many_lengths_is_found_again(
    direct_path: Path, quick: Callable[..., ReplayOptions]
) -> None:
    """What was populated for one run is taken by the next, at the same places."""
    rows: list[Row] = [
        (at, Op.READ, Tier.NVME, key, Phase.DECODE, size * KIB4)
        for at, (key, size) in enumerate([(1, 5), (2, 9), (3, 70)])
    ]
    trace = write_trace(direct_path / "t.parquet", rows)
    target = direct_path / "kv"
    result = replay.run(trace, [file_target(target)], quick(mode="max", verify="full"))
    assert not result.errors
    again = quick(mode="max", verify="full", reuse_populated=True)
    assert not replay.run(trace, [file_target(target)], again).errors


def test_deletes_of_divided_objects_trim_each_extent(
    direct_path: Path, quick: Callable[..., ReplayOptions]
) -> None:
    """With `--trim` nothing is lost that is still there: every later read is right."""
    rows = [row for row in rows_with_reads(7) if row[2] is Tier.NVME]
    trace = write_trace(direct_path / "t.parquet", rows)
    options = quick(mode="max", verify="full", slack_ratio=0.0, io_size_bytes=4 * KIB4)
    result = replay.run(trace, [file_target(direct_path / "kv", trim=True)], options)
    assert not result.errors
    assert result.fidelity.order_violations == 0
    assert result.lanes[0].ops == len(rows)
