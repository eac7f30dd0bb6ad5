"""The reference engine keeps the contract of replay/loop.py."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import numpy as np
import pytest

from kvtrace.schema import Op, Phase, Tier
from replay import payload
from replay.engines.python import PythonEngine
from replay.loop import (
    DEPENDENCY_FAILED,
    INTERRUPTED,
    VERIFY_FAILED,
    Control,
    Lane,
    LaneKind,
    LoopOptions,
    Mode,
    Ops,
    Outcome,
    Verify,
)
from replay.native import allocate
from replay.violations import count_violations
from tests.replay.conftest import MIB, Row, simple_rows
from tests.replay.test_plan import make_plan

if TYPE_CHECKING:
    from pathlib import Path

    from replay.plan import Plan

IO = 1 << 16
W, R, D = Op.WRITE, Op.READ, Op.DELETE


def arena() -> np.typing.NDArray[np.uint8]:
    data, _ = allocate(MIB)
    payload.fill(data, 3)
    return data


def memory_lane(size: int = 4 * MIB) -> Lane:
    return Lane(LaneKind.MEMORY, 4, IO, pool=np.zeros(size, np.uint8))


def drive(lane: Lane, ops: Ops, verify: Verify = Verify.FULL, mode: Mode = Mode.MAX) -> Outcome:
    options = LoopOptions(mode, arena(), 3, verify)
    return PythonEngine().run((lane,), ops, options, Control(1))


def prepared(lane: Lane, rows: list[Row]) -> Plan:
    """Plan rows and write what they expect."""
    plan, populate = make_plan(rows, arena_bytes=MIB, io_bytes=IO)
    outcome = drive(lane, populate, Verify.NONE)
    assert not outcome.times.error.any()
    return plan


@pytest.mark.parametrize("mode", list(Mode))
def test_all_ops_complete_in_order_and_verify(mode: Mode) -> None:
    """Objects longer than an I/O, reused extents and deletes: no error, no violation."""
    lane = memory_lane()
    rows = simple_rows(12, 5 * IO // 2 // 4096 * 4096, gap_ns=1000)
    rows += [(10**6, R, Tier.NVME, 99, Phase.DECODE, 3 * IO)]
    plan = prepared(lane, rows)
    outcome = drive(lane, plan.ops, mode=mode)
    assert not outcome.times.error.any()
    assert (outcome.times.bad_sector == -1).all()
    assert count_violations(plan, outcome) == 0
    assert (outcome.times.complete_ns >= outcome.times.submit_ns).all()
    if mode == Mode.OPEN:
        assert (outcome.times.submit_ns >= outcome.start_ns + plan.ops.due_ns).all()


def test_a_damaged_body_is_found_by_full_and_not_by_stamps() -> None:
    """One wrong byte behind a stamp fails verification in full; its sector is named."""
    rows: list[Row] = [(0, R, Tier.NVME, 1, Phase.DECODE, 4096)]
    lane = memory_lane()
    plan = prepared(lane, rows)
    assert lane.pool is not None
    lane.pool[int(plan.ops.offset_bytes[0]) + 512 * 3 + 100] ^= 1
    assert drive(lane, plan.ops, Verify.STAMPS).times.error.tolist() == [0]
    found = drive(lane, plan.ops, Verify.FULL)
    assert found.times.error.tolist() == [VERIFY_FAILED]
    assert found.times.bad_sector.tolist() == [3]
    assert found.counters[0].bad_sectors == 1


def test_what_waits_for_a_failed_op_is_not_executed() -> None:
    """A read that fails keeps the delete after it, and all after that, from happening."""
    rows = [
        (0, R, Tier.NVME, 1, Phase.DECODE, 4096),
        (1, D, Tier.NVME, 1, Phase.EVICT, 4096),
        (2, W, Tier.NVME, 2, Phase.PREFILL, 4096),
        (3, R, Tier.NVME, 2, Phase.DECODE, 4096),
    ]
    lane = memory_lane()
    plan = prepared(lane, rows)
    assert lane.pool is not None
    lane.pool[:] = 0
    found = drive(lane, plan.ops, Verify.STAMPS).times
    assert found.error.tolist() == [VERIFY_FAILED] + [DEPENDENCY_FAILED] * 3
    assert (found.submit_ns[1:] == -1).all()


def test_reading_past_the_end_is_an_error_and_never_a_short_success(direct_path: Path) -> None:
    """A file that is too short gives EIO."""
    rows: list[Row] = [(0, R, Tier.NVME, 1, Phase.DECODE, 8192)]
    plan, _ = make_plan(rows)
    path = direct_path / "short"
    path.write_bytes(b"\0" * ((1 << 20) + 4096))
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECT)
    try:
        lane = Lane(LaneKind.FILE, 1, IO, fd=descriptor)
        found = drive(lane, plan.ops, Verify.NONE)
    finally:
        os.close(descriptor)
    assert found.times.error.tolist() == [errno.EIO]


def test_an_errno_is_the_ops_result(direct_path: Path) -> None:
    """Writing through a read-only descriptor is EBADF on that op."""
    rows: list[Row] = [(0, W, Tier.NVME, 1, Phase.PREFILL, 4096)]
    plan, _ = make_plan(rows)
    path = direct_path / "readonly"
    path.write_bytes(b"\0" * (2 << 20))
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECT)
    try:
        found = drive(Lane(LaneKind.FILE, 1, IO, fd=descriptor), plan.ops, Verify.NONE)
    finally:
        os.close(descriptor)
    assert found.times.error.tolist() == [errno.EBADF]


def test_stopping_leaves_what_was_not_started_as_interrupted() -> None:
    """A stop that was set before the first op: nothing runs, all are marked."""
    rows = simple_rows(3, 4096)
    lane = memory_lane()
    plan = prepared(lane, rows)
    control = Control(1)
    control.stop[0] = 1
    options = LoopOptions(Mode.OPEN, arena(), 3, Verify.NONE)
    found = PythonEngine().run((lane,), plan.ops, options, control)
    assert set(found.times.error.tolist()) == {INTERRUPTED}
