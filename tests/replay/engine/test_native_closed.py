"""Closed mode: clients that send their next request some time after an answer."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import numpy as np
import pytest

from kvtrace.errors import TargetError
from replay.engine import native
from replay.engine.python import PythonEngine
from replay.ops.columns import DEPENDENCY_FAILED, GATING, NO_CLOCK, NO_TIME_NS
from replay.ops.contract import Action, Engine, Mode
from tests.support.native_kit import (
    NULL_LANE,
    Streamer,
    make_ops,
    options,
    run,
    run_virtual,
    simulated_lane,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tests.support import native_kit as kit

if native.threads.available() is not None:
    pytest.skip(str(native.threads.available()), allow_module_level=True)

MS = 1_000_000
READ, WRITE, GATE, NONE = Action.READ, Action.WRITE, Action.GATE, Action.NONE


@pytest.fixture(params=[native.threads, PythonEngine()], ids=lambda engine: engine.name)
def engine(request: pytest.FixtureRequest) -> Engine:
    """The compiled loop, and the reference that must do the same."""
    chosen: Engine = request.param
    return chosen


def ms_after_start(ran: kit.Ran, name: str) -> list[float]:
    """Return a column of times in ms after the start."""
    column: NDArray[np.int64] = getattr(ran.times, name)
    return [float(value) for value in (column - ran.start_ns) / MS]


def test_a_gate_opens_after_the_latest_answer() -> None:
    """Two requests of a client: the second comes its think time after the first one's last read.

    The store of the first request takes longer than all, and nobody waits for it.
    """
    rows = make_ops(
        6,
        action=[READ, READ, WRITE, GATE, READ, READ],
        due_ns=[2 * MS, 2 * MS, 2 * MS, 5 * MS, NO_TIME_NS, NO_TIME_NS],
        clock=[GATING, GATING, 0, 0, GATING, GATING],
        edges=[(0, 3), (1, 3), (3, 4), (3, 5), (4, 5)],
    )
    lane = simulated_lane([10 * MS, 20 * MS, 100 * MS, 3 * MS, 4 * MS])
    ran = run_virtual(lane, rows, Mode.CLOSED, clocks=1)
    assert not ran.times.error.any()
    assert ms_after_start(ran, "submit_ns") == [2, 2, 2, 27, 27, 30]
    assert ms_after_start(ran, "complete_ns") == [12, 22, 102, 27, 30, 34]
    assert ms_after_start(ran, "ready_ns") == [0, 0, 0, 22, 27, 30]
    assert (rows.ops.due_ns[4:6] == 27 * MS).all()


def test_clocks_are_apart() -> None:
    """Each client's gate follows its own clock; one without any answer counts from the start."""
    rows = make_ops(
        6,
        action=[READ, READ, GATE, GATE, GATE, READ],
        due_ns=[0, 0, 1 * MS, 2 * MS, 3 * MS, NO_TIME_NS],
        clock=[GATING | 0, GATING | 1, 0, 1, 2, 2],
        edges=[(0, 2), (1, 3), (4, 5)],
    )
    lane = simulated_lane([10 * MS, 30 * MS, 1 * MS])
    ran = run_virtual(lane, rows, Mode.CLOSED, clocks=3)
    assert ms_after_start(ran, "complete_ns") == [10, 30, 11, 32, 3, 4]


def test_a_failed_read_opens_the_gate_all_the_same() -> None:
    """A failure goes along order, to the clock with its time, and not through a gate."""
    rows = make_ops(
        4,
        action=[READ, READ, GATE, READ],
        due_ns=[0, 0, 5 * MS, NO_TIME_NS],
        clock=[GATING, GATING, 0, GATING],
        edges=[(0, 1), (0, 2), (1, 2), (2, 3)],
    )
    lane = simulated_lane([7 * MS], [-errno.EIO])
    ran = run_virtual(lane, rows, Mode.CLOSED, clocks=1)
    assert ran.times.error.tolist() == [errno.EIO, DEPENDENCY_FAILED, 0, errno.EIO]
    assert ms_after_start(ran, "complete_ns")[2:] == [12, 19]
    assert ran.times.ready_ns[1] == ran.times.complete_ns[0]


def test_ops_of_a_gate_go_in_the_order_they_are_due() -> None:
    """With one slot, what has been due for longer goes first, then what comes first."""
    rows = make_ops(5, due_ns=[4 * MS, 0, 3 * MS, 1 * MS, 3 * MS], action=READ, clock=NO_CLOCK)
    ran = run_virtual(simulated_lane([10 * MS], queue_depth=1), rows, Mode.CLOSED)
    assert ms_after_start(ran, "submit_ns") == [40, 0, 20, 10, 30]


def clients(count: int, turns: int) -> tuple[kit.Rows, NDArray[np.int64], NDArray[np.int64]]:
    """Return `turns` requests of each client, interleaved, as a gate and two lookups each.

    Also the clock and the gap of each op; gates are every third op.
    """
    total = count * turns * 3
    row = np.arange(total)
    client = row // 3 % count
    gate = row % 3 == 0
    before = 3 * count
    edges = []
    for at in np.flatnonzero(gate).tolist():
        edges += [(at, at + 1), (at, at + 2)]
        if at >= before:
            edges += [(at - before + 1, at), (at - before + 2, at)]
    gap_ns = np.random.default_rng(count).integers(0, 50_000, total)
    rows = make_ops(
        total,
        edges=sorted(edges),
        action=np.where(gate, GATE, READ),
        due_ns=np.where(gate, gap_ns, NO_TIME_NS),
        clock=client | np.where(gate, 0, GATING),
        lane=row % 2,
    )
    return rows, client, gap_ns


@pytest.mark.parametrize(("count", "turns", "capacity"), [(4, 100, 16), (16, 40, 64)])
def test_gates_through_a_small_ring(
    engine: Engine, arena: NDArray[np.uint8], count: int, turns: int, capacity: int
) -> None:
    """Each gate opens its gap after the latest of the client's reads; its ops are due then."""
    rows, _client, gap_ns = clients(count, turns)
    streamer = Streamer(rows, capacity, 2)
    chosen = options(arena, mode=Mode.CLOSED, clocks=count)
    ran = streamer.run(engine, (NULL_LANE, NULL_LANE), chosen)
    times, due_ns = ran.times, streamer.due_ns[: rows.count]
    assert not times.error.any()
    opened = times.complete_ns[::3]
    answered = np.full(len(opened), ran.start_ns)
    answered[count:] = np.maximum(times.complete_ns[1::3], times.complete_ns[2::3])[:-count]
    assert (opened == answered + gap_ns[::3]).all()
    assert (ran.start_ns + due_ns[1::3] == opened).all()
    assert (ran.start_ns + due_ns[2::3] == opened).all()
    assert (times.submit_ns[1::3] >= opened).all()
    assert (times.submit_ns[::3] == opened).all()


def test_more_ops_than_any_look_ahead(arena: NDArray[np.uint8]) -> None:
    """Timers of the whole ring are held: an op far behind is not late for those before it."""
    count = 100_000
    due_ns = np.where(np.arange(count) == count - 1, 0, 50 * MS)
    rows = make_ops(count, due_ns=due_ns, action=NONE, clock=NO_CLOCK)
    ran = run(native.threads, (NULL_LANE,), rows, options(arena, mode=Mode.CLOSED))
    assert ran.times.complete_ns[-1] == ran.start_ns
    assert (ran.times.complete_ns[:-1] == ran.start_ns + 50 * MS).all()


@pytest.mark.parametrize(
    ("clock", "action"), [(1, READ), (NO_CLOCK, GATE), (NO_CLOCK, READ), (GATING | 1, GATE)]
)
def test_a_clock_that_is_none_is_refused(
    arena: NDArray[np.uint8], clock: int, action: Action
) -> None:
    """An op that needs a clock that isn't there ends the run."""
    rows = make_ops(1, due_ns=NO_TIME_NS, action=action, clock=clock)
    with pytest.raises(TargetError, match="op 0: no such clock"):
        run(native.threads, (NULL_LANE,), rows, options(arena, mode=Mode.CLOSED, clocks=1))
