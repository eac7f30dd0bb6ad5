"""What both compiled engines promise of order, times and stopping."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import numpy as np
import pytest

from replay.engine import native
from replay.ops.columns import INTERRUPTED, NO_TIME_NS
from replay.ops.contract import Action, Control, Lane, LaneKind, Mode
from tests.support.native_kit import (
    HOUR_NS,
    KIB,
    MIB,
    NULL_LANE,
    assert_order,
    assert_times,
    file_lane,
    make_ops,
    options,
    run,
    when_completed,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray


def test_chain_in_one_lane(
    engine: native.NativeEngine, arena: NDArray[np.uint8], open_file: Callable[..., int]
) -> None:
    """Dependents in one lane never go out before their predecessors have completed."""
    edges = [(row, row + 1) for row in range(299)]
    ops = make_ops(
        300, edges=edges, action=Action.WRITE, offset_bytes=np.arange(300) % 16 * 4 * KIB
    )
    outcome = run(engine, (file_lane(open_file(64 * KIB)),), ops, options(arena))
    assert not outcome.times.error.any()
    assert outcome.counters[0].in_flight_max == 1
    assert_order(outcome, edges)
    assert_times(outcome, ops, Mode.MAX)


def test_chain_across_lanes(
    engine: native.NativeEngine, arena: NDArray[np.uint8], open_file: Callable[..., int]
) -> None:
    """A completion on one lane wakes the lane whose op it made ready, in order."""
    edges = [(row, row + 1) for row in range(299)]
    lanes = (
        file_lane(open_file(64 * KIB)),
        file_lane(open_file(64 * KIB)),
        NULL_LANE,
        Lane(LaneKind.MEMORY, queue_depth=1, io_bytes=MIB, pool=np.zeros(4096, np.uint8)),
    )
    ops = make_ops(
        300,
        edges=edges,
        lane=np.arange(300) % 4,
        action=Action.WRITE,
        arena_bytes=np.arange(300) * 4 * KIB,
    )
    outcome = run(engine, lanes, ops, options(arena))
    assert not outcome.times.error.any()
    assert_order(outcome, edges)
    assert_times(outcome, ops, Mode.MAX)


def test_fan_in_waits_for_the_last(
    engine: native.NativeEngine, arena: NDArray[np.uint8], open_file: Callable[..., int]
) -> None:
    """An op with many predecessors on two lanes waits for the last of them."""
    edges = [(row, 64) for row in range(64)]
    lanes = (file_lane(open_file(MIB)), file_lane(open_file(MIB)))
    ops = make_ops(
        65,
        edges=edges,
        lane=np.arange(65) % 2,
        action=Action.WRITE,
        arena_bytes=np.arange(65) * 4 * KIB,
    )
    outcome = run(engine, lanes, ops, options(arena))
    assert_order(outcome, edges)
    assert outcome.times.ready_ns[64] == outcome.times.complete_ns[:64].max()


def test_bookkeeping_passes_order_on(
    engine: native.NativeEngine, arena: NDArray[np.uint8], open_file: Callable[..., int]
) -> None:
    """An op without I/O completes when it is due and ready, and order goes through it."""
    action = [Action.WRITE, Action.NONE, Action.NONE, Action.READ]
    edges = [(0, 1), (1, 2), (2, 3)]
    ops = make_ops(4, edges=edges, action=action, key=0, due_ns=[0, 0, 3_000_000, 0])
    lanes = (file_lane(open_file(MIB)),)
    outcome = run(engine, lanes, ops, options(arena, mode=Mode.OPEN))
    times = outcome.times
    assert not times.error.any()
    assert_order(outcome, edges)
    assert times.complete_ns[1] == times.complete_ns[0] == times.submit_ns[1]
    assert times.complete_ns[2] == max(outcome.start_ns + 3_000_000, times.complete_ns[1])


def test_only_the_blocked_op_waits(
    engine: native.NativeEngine, arena: NDArray[np.uint8], open_file: Callable[..., int]
) -> None:
    """Rows after a blocked one complete without it."""
    count = 102
    first = np.arange(count) == 0
    ops = make_ops(
        count,
        edges=[(0, 1)],
        lane=first,
        due_ns=np.where(first, HOUR_NS, 0),
        action=Action.WRITE,
        arena_bytes=np.arange(count) * 4 * KIB,
    )
    control = Control(2)
    watcher = when_completed(control, count - 2, lambda: control.stop.fill(1))
    lanes = (file_lane(open_file(MIB)), NULL_LANE)
    outcome = run(engine, lanes, ops, options(arena, mode=Mode.OPEN), control)
    watcher.join()
    assert outcome.times.error.tolist() == [INTERRUPTED] * 2 + [0] * (count - 2)
    assert outcome.times.ready_ns[1] == NO_TIME_NS


def test_ready_ops_go_in_row_order(
    engine: native.NativeEngine, arena: NDArray[np.uint8], open_file: Callable[..., int]
) -> None:
    """With one slot, ops that are due together are submitted in the order of their rows."""
    ops = make_ops(200, action=Action.WRITE, offset_bytes=np.arange(200) * 4 * KIB)
    lanes = (file_lane(open_file(MIB), queue_depth=1),)
    for mode in Mode:
        outcome = run(engine, lanes, ops, options(arena, mode=mode))
        assert (np.diff(outcome.times.submit_ns) > 0).all()
        assert (outcome.times.submit_ns[1:] >= outcome.times.complete_ns[:-1]).all()
        assert outcome.counters[0].in_flight_max == 1


@pytest.mark.parametrize("spin_ns", [0, 50_000])
def test_open_mode_never_early(
    engine: native.NativeEngine,
    arena: NDArray[np.uint8],
    open_file: Callable[..., int],
    spin_ns: int,
) -> None:
    """In open mode no op goes out before it is due."""
    due_ns = np.arange(100) * 200_000
    ops = make_ops(
        100,
        due_ns=due_ns,
        lane=np.arange(100) % 2,
        action=Action.WRITE,
        arena_bytes=np.arange(100) * 4 * KIB,
    )
    lanes = (file_lane(open_file(MIB)), NULL_LANE)
    outcome = run(engine, lanes, ops, options(arena, mode=Mode.OPEN, spin_ns=spin_ns))
    assert not outcome.times.error.any()
    assert (outcome.times.submit_ns >= outcome.start_ns + due_ns).all()
    assert (outcome.times.ready_ns == outcome.start_ns).all()
    assert_times(outcome, ops, Mode.OPEN)


def test_waiting_for_a_slot_is_told_apart(
    engine: native.NativeEngine, arena: NDArray[np.uint8], open_file: Callable[..., int]
) -> None:
    """An op that found the queue full has the time a slot came free, else its eligible time."""
    ops = make_ops(3, action=Action.WRITE, offset_bytes=np.arange(3) * 4 * KIB)
    lanes = (file_lane(open_file(MIB), queue_depth=1),)
    outcome = run(engine, lanes, ops, options(arena, mode=Mode.OPEN))
    times = outcome.times
    assert times.slot_ns[0] == outcome.start_ns
    assert times.slot_ns[1:].tolist() == times.complete_ns[:2].tolist()


def test_depth_beyond_the_workers_is_a_wait_for_a_slot(
    engine: native.NativeEngine, arena: NDArray[np.uint8], open_file: Callable[..., int]
) -> None:
    """A queue deeper than an engine can serve counts as full where the engine's own limit is."""
    ops = make_ops(
        2000,
        action=Action.WRITE,
        offset_bytes=np.arange(2000) % 16 * 4 * KIB,
        arena_bytes=np.arange(2000) * 4 * KIB,
    )
    lanes = (file_lane(open_file(MIB), queue_depth=1024),)
    outcome = run(engine, lanes, ops, options(arena))
    assert not outcome.times.error.any()
    assert outcome.counters[0].in_flight_max <= (1024 if engine is native.uring else 256)
    assert_times(outcome, ops, Mode.MAX)


def test_null_lane_needs_no_arena(engine: native.NativeEngine) -> None:
    """A null lane completes everything, without payload."""
    ops = make_ops(100_000, action=np.arange(100_000) % 3, length_bytes=512)
    control = Control(1)
    empty = np.zeros(0, np.uint8)
    outcome = run(engine, (NULL_LANE,), ops, options(empty), control)
    assert not outcome.times.error.any()
    assert control.completed_ops[0] == 100_000
    assert outcome.outcome.cpu_ns > 0
    assert_times(outcome, ops, Mode.MAX)


def test_more_blocked_rows_than_the_look_ahead(
    engine: native.NativeEngine, arena: NDArray[np.uint8]
) -> None:
    """A backlog beyond the look-ahead is worked off, and nothing waits for ever."""
    count = 200_000
    edges = [(0, row) for row in range(2, count, 2)]
    lane = (np.arange(count) % 2).astype(np.uint8)
    lane[0] = 1
    due_ns = np.zeros(count)
    ops = make_ops(count, edges=edges, lane=lane, due_ns=due_ns)
    outcome = run(engine, (NULL_LANE, NULL_LANE), ops, options(arena, mode=Mode.OPEN))
    assert not outcome.times.error.any()
    assert (outcome.times.submit_ns[2::2] >= outcome.times.complete_ns[0]).all()


def test_no_ops(
    engine: native.NativeEngine, arena: NDArray[np.uint8], open_file: Callable[..., int]
) -> None:
    """Nothing to do is done at once."""
    outcome = run(engine, (file_lane(open_file(MIB)), NULL_LANE), make_ops(0), options(arena))
    assert len(outcome.times.error) == 0


def test_stopped_before_it_began(
    engine: native.NativeEngine, arena: NDArray[np.uint8], open_file: Callable[..., int]
) -> None:
    """With `stop` set nothing is submitted, and every op says so."""
    control = Control(1)
    control.stop[0] = 1
    ops = make_ops(10, edges=[(0, 1)])
    outcome = run(engine, (file_lane(open_file(MIB)),), ops, options(arena), control)
    assert outcome.times.error.tolist() == [INTERRUPTED] * 10
    assert (outcome.times.submit_ns == NO_TIME_NS).all()
    assert (outcome.times.ready_ns == NO_TIME_NS).all()


def test_stop_drains(
    engine: native.NativeEngine, arena: NDArray[np.uint8], open_file: Callable[..., int]
) -> None:
    """`stop` ends a waiting run: what was submitted completes, the rest is interrupted."""
    control = Control(2)
    due_ns = np.where(np.arange(40) < 20, 0, HOUR_NS)
    ops = make_ops(
        40,
        due_ns=due_ns,
        action=Action.WRITE,
        lane=np.arange(40) % 2,
        arena_bytes=np.arange(40) * 4 * KIB,
    )
    lanes = (file_lane(open_file(MIB)), NULL_LANE)
    watcher = when_completed(control, 20, lambda: control.stop.fill(1))
    outcome = run(engine, lanes, ops, options(arena, mode=Mode.OPEN), control)
    watcher.join()
    assert outcome.times.error.tolist() == [0] * 20 + [INTERRUPTED] * 20
    assert (outcome.times.complete_ns[:20] != NO_TIME_NS).all()
    assert (outcome.times.complete_ns[20:] == NO_TIME_NS).all()


def test_interrupt_from_the_keyboard(
    engine: native.NativeEngine, arena: NDArray[np.uint8], open_file: Callable[..., int]
) -> None:
    """Ctrl-C during a run stops and drains the engine before Python sees the exception."""
    control = Control(1)
    ops = make_ops(2, due_ns=[0, HOUR_NS], action=Action.WRITE)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        watcher = when_completed(control, 1, lambda: os.kill(os.getpid(), signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            run(engine, (file_lane(open_file(MIB)),), ops, options(arena, mode=Mode.OPEN), control)
        watcher.join()
    finally:
        signal.signal(signal.SIGINT, before)
    assert control.stop[0] == 1
    assert control.completed_ops[0] == 1
