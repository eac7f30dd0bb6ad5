"""The reference engine keeps the contract of replay/ops/contract.py.

What it shares with the compiled loop in streaming and in closed mode is tested beside that.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from kvtrace.errors import TargetError
from replay.engine.python import PythonEngine
from replay.ops.columns import DEPENDENCY_FAILED, INTERRUPTED, NO_TIME_NS, VERIFY_FAILED
from replay.ops.contract import Action, Control, Lane, LaneKind, Mode, Verify
from tests.support.native_kit import (
    KIB,
    MIB,
    NULL_LANE,
    Ran,
    Rows,
    assert_order,
    assert_times,
    file_lane,
    make_ops,
    options,
    run,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

ENGINE = PythonEngine()
W, R, D = Action.WRITE, Action.READ, Action.DELETE


def memory_lane() -> Lane:
    return Lane(LaneKind.MEMORY, 4, 64 * KIB, pool=np.zeros(4 * MIB, np.uint8))


def objects(count: int, length_bytes: int) -> tuple[Rows, list[tuple[int, int]]]:
    """Return objects that are each written, read twice and deleted, in two places in turn."""
    total = 4 * count
    edges = [(row - 1, row) for row in range(total) if row % 4] + [
        (row - 5, row) for row in range(8, total, 4)
    ]
    edges += [(row - 2, row) for row in range(3, total, 4)]
    place = np.arange(total) // 4 % 2 * length_bytes
    rows = make_ops(
        total,
        edges=edges,
        action=np.tile([W, R, R, D], count),
        due_ns=np.arange(total) * 1000,
        key=np.arange(total) // 4,
        offset_bytes=place,
        arena_bytes=np.arange(total) // 4 * 64 * KIB,
        length_bytes=length_bytes,
    )
    return rows, edges


@pytest.mark.parametrize("mode", list(Mode))
def test_all_ops_complete_in_order_and_verify(mode: Mode, arena: NDArray[np.uint8]) -> None:
    """Objects longer than an I/O, reused places and deletes: no error, in order."""
    rows, edges = objects(12, 5 * 32 * KIB)
    control = Control(1)
    ran = run(ENGINE, (memory_lane(),), rows, options(arena, mode=mode), control)
    assert not ran.times.error.any()
    assert (ran.times.bad_sector == -1).all()
    assert_order(ran, edges)
    assert_times(ran, rows, mode)
    assert control.start_ns[0] == ran.start_ns
    assert control.completed_bytes[0] == 12 * 3 * 5 * 32 * KIB
    deletes = ran.times.complete_ns[3::4]
    due_ns = ran.start_ns + (0 if mode == Mode.MAX else rows.ops.due_ns[3:48:4])
    assert (deletes == np.maximum(due_ns, ran.times.ready_ns[3::4])).all()


def written(lane: Lane, arena: NDArray[np.uint8]) -> Rows:
    """Write one object of 4 KiB; return the row that reads it."""
    write = make_ops(1, action=W)
    assert not run(ENGINE, (lane,), write, options(arena)).times.error.any()
    return make_ops(1)


def test_a_damaged_body_is_found_by_full_and_not_by_stamps(arena: NDArray[np.uint8]) -> None:
    """One wrong byte behind a stamp fails verification in full; its sector is named."""
    lane = memory_lane()
    rows = written(lane, arena)
    assert lane.pool is not None
    lane.pool[512 * 3 + 100] ^= 1

    def read(verify: Verify) -> Ran:
        return run(ENGINE, (lane,), rows, options(arena, verify=verify))

    assert read(Verify.STAMPS).times.error.tolist() == [0]
    found = read(Verify.FULL)
    assert found.times.error.tolist() == [VERIFY_FAILED]
    assert found.times.bad_sector.tolist() == [3]
    assert found.counters[0].bad_sectors == 1


def test_what_waits_for_a_failed_op_is_not_executed(arena: NDArray[np.uint8]) -> None:
    """A read that fails keeps the delete after it, and all after that, from happening."""
    rows = make_ops(4, action=[R, D, W, R], edges=[(0, 1), (1, 2), (2, 3)])
    found = run(ENGINE, (memory_lane(),), rows, options(arena, verify=Verify.STAMPS)).times
    assert found.error.tolist() == [VERIFY_FAILED] + [DEPENDENCY_FAILED] * 3
    assert (found.submit_ns[1:] == NO_TIME_NS).all()


def test_reading_past_the_end_is_an_error_and_never_a_short_success(
    arena: NDArray[np.uint8], open_file: Callable[..., int]
) -> None:
    """A file that is too short gives EIO."""
    rows = make_ops(1, length_bytes=8192)
    chosen = options(arena, verify=Verify.NONE)
    ran = run(ENGINE, (file_lane(open_file(4096)),), rows, chosen)
    assert ran.times.error.tolist() == [errno.EIO]


def test_an_errno_is_the_ops_result(
    arena: NDArray[np.uint8], open_file: Callable[..., int]
) -> None:
    """Writing through a read-only descriptor is EBADF on that op."""
    lane = file_lane(open_file(MIB, os.O_RDONLY))
    ran = run(ENGINE, (lane,), make_ops(1, action=W), options(arena))
    assert ran.times.error.tolist() == [errno.EBADF]


def test_stopping_leaves_what_was_not_started_as_interrupted(arena: NDArray[np.uint8]) -> None:
    """A stop that was set before the first op: nothing runs, all are marked."""
    control = Control(1)
    control.stop[0] = 1
    rows, _edges = objects(3, 4096)
    found = run(ENGINE, (memory_lane(),), rows, options(arena, mode=Mode.OPEN), control)
    assert set(found.times.error.tolist()) == {INTERRUPTED}


@pytest.mark.parametrize("kind", [LaneKind.DIR, LaneKind.EXTERNAL, LaneKind.SIMULATED])
def test_other_lanes_need_the_compiled_loop(kind: LaneKind, arena: NDArray[np.uint8]) -> None:
    """What only the compiled loop can do is refused, not left out."""
    with pytest.raises(TargetError, match=f"{kind.name.lower()} needs the compiled loop"):
        run(ENGINE, (Lane(kind, 1, 4096),), make_ops(1), options(arena))


@pytest.mark.parametrize(
    ("columns", "said"),
    [({"lane": 1}, "no such lane"), ({"edges": [(0, 0)]}, "isn't an earlier op")],
)
def test_impossible_ops_end_the_run(
    columns: dict[str, Any], said: str, arena: NDArray[np.uint8]
) -> None:
    """An op that could never be executed is an error with its number."""
    with pytest.raises(TargetError, match=f"op 0: .*{said}"):
        run(ENGINE, (NULL_LANE,), make_ops(1, **columns), options(arena))
