"""Rows that pass through a ring much smaller than they are many."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

import numpy as np
import pytest

from replay.engine import native
from replay.engine.python import PythonEngine
from replay.ops.columns import DEPENDENCY_FAILED, INTERRUPTED, VERIFY_FAILED, Times
from replay.ops.contract import Action, Control, Engine, Lane, LaneKind, Mode, Verify
from tests.support import native_kit as kit
from tests.support.native_kit import (
    KIB,
    MIB,
    NULL_LANE,
    Rows,
    Streamer,
    assert_times,
    make_ops,
    options,
    when_completed,
)

PLACES = 16
ENGINES = (native.threads, PythonEngine())

if native.threads.available() is not None:
    pytest.skip(str(native.threads.available()), allow_module_level=True)

pytestmark = pytest.mark.slow


@pytest.fixture(params=ENGINES, ids=lambda engine: engine.name)
def engine(request: pytest.FixtureRequest) -> Engine:
    """The compiled loop, and the reference that must do the same."""
    chosen: Engine = request.param
    return chosen


@dataclass
class Place:
    """What is known of one place in the pool: its latest write, and reads since."""

    writer: int = -1
    readers: list[int] = field(default_factory=list)
    generation: int = 0


def random_rows(
    count: int, lanes: int, capacity: int, seed: int
) -> tuple[Rows, list[tuple[int, int]]]:
    """Return reads and writes of few places by all lanes, ordered where they conflict.

    A few random edges more go to ops of the last `capacity`.
    """
    rng = np.random.default_rng(seed)
    places = [Place() for _ in range(PLACES)]
    edges: set[tuple[int, int]] = set()
    columns: dict[str, list[int]] = {"action": [], "key": [], "generation": []}
    for row in range(count):
        key = int(rng.integers(PLACES))
        place = places[key]
        action = Action(int(rng.choice([Action.NONE, Action.READ, Action.WRITE])))
        if action == Action.READ and place.writer < 0:
            action = Action.WRITE
        if action == Action.READ:
            edges.add((place.writer, row))
            place.readers.append(row)
        elif action == Action.WRITE:
            edges |= {(before, row) for before in (place.writer, *place.readers) if before >= 0}
            place.writer, place.readers = row, []
            place.generation += 1
        if row:
            near = rng.integers(max(0, row - capacity), row, rng.integers(3))
            edges |= {(int(before), row) for before in near}
        for name, value in (("action", action), ("key", key), ("generation", place.generation)):
            columns[name].append(value)
    offsets = np.array(columns["key"]) * 4 * KIB
    rows = make_ops(
        count,
        edges=sorted(edges),
        lane=rng.integers(0, lanes, count),
        due_ns=np.arange(count) * 2_000,
        offset_bytes=offsets,
        arena_bytes=offsets,
        **columns,
    )
    return rows, sorted(edges)


@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize(("lanes", "capacity"), [(1, 8), (2, 64), (3, 16), (4, 32)])
def test_order_is_kept_through_a_small_ring(
    engine: Engine, arena: np.typing.NDArray[np.uint8], mode: Mode, lanes: int, capacity: int
) -> None:
    """Several lanes share a pool: each read finds the latest write, as times say, too."""
    count = 2000 if engine is native.threads else 400
    rows, edges = random_rows(count, lanes, capacity, seed=lanes)
    pool = np.zeros(PLACES * 4 * KIB, np.uint8)
    lane = Lane(LaneKind.MEMORY, queue_depth=4, io_bytes=4 * KIB, pool=pool)
    streamer = Streamer(rows, capacity, lanes)
    ran = streamer.run(engine, (lane,) * lanes, options(arena, mode=mode))
    assert not ran.times.error.any()
    before, after = np.array(edges).T
    assert (ran.times.complete_ns[before] <= ran.times.submit_ns[after]).all()
    assert_times(ran, rows, mode)
    assert streamer.control.completed_ops.sum() == rows.count
    assert streamer.control.start_ns[0] == ran.start_ns


@pytest.mark.slow
@pytest.mark.parametrize("spin_ns", [0, 20_000])
def test_many_rows_on_null_lanes(arena: np.typing.NDArray[np.uint8], spin_ns: int) -> None:
    """The waiter lists of the compiled loop hold where four lanes race for every op."""
    count, capacity = 200_000, 1024
    rng = np.random.default_rng(3)
    after = np.repeat(np.arange(1, count), 2)
    before = np.maximum(0, after - rng.integers(1, capacity, len(after)))
    edges = np.unique(np.stack([before, after], axis=1), axis=0)
    rows = make_ops(count, edges=edges, lane=rng.integers(0, 4, count))
    ran = Streamer(rows, capacity, 4).run(
        native.threads, (NULL_LANE,) * 4, options(arena, spin_ns=spin_ns)
    )
    assert not ran.times.error.any()
    assert (ran.times.complete_ns[edges[:, 0]] <= ran.times.submit_ns[edges[:, 1]]).all()
    assert (ran.times.ready_ns >= ran.start_ns).all()


@pytest.mark.slow
@pytest.mark.parametrize("mode", list(Mode))
def test_failures_reach_ops_planned_long_after(
    engine: Engine, arena: np.typing.NDArray[np.uint8], mode: Mode
) -> None:
    """What waits for a failed op isn't executed, though the failed one has left the ring."""
    count = 3000
    edges = [(0, 100), (0, 2000), (2000, 2001), (2001, 2900), (1, 2500)]
    action = np.where(np.arange(count) == 0, Action.READ, Action.NONE)
    rows = make_ops(count, edges=edges, action=action, lane=np.arange(count) % 2)
    lane = Lane(LaneKind.MEMORY, queue_depth=4, io_bytes=4096, pool=np.zeros(4096, np.uint8))
    streamer = Streamer(rows, 16, 2)
    chosen = options(arena, mode=mode, verify=Verify.STAMPS)
    times = streamer.run(engine, (lane, NULL_LANE), chosen).times
    failed = np.flatnonzero(times.error).tolist()
    assert failed == [0, 100, 2000, 2001, 2900]
    assert times.error[failed].tolist() == [VERIFY_FAILED] + [DEPENDENCY_FAILED] * 4


def test_an_op_waits_for_all_even_if_one_failed(
    engine: Engine, arena: np.typing.NDArray[np.uint8]
) -> None:
    """A dependent of a failed op is given up only when the last it waits for has finished."""
    edges = [(0, 2), (1, 2)]
    action = [Action.READ, Action.NONE, Action.NONE]
    rows = make_ops(3, edges=edges, action=action, due_ns=[0, 3_000_000, 3_000_000])
    lane = Lane(LaneKind.MEMORY, queue_depth=4, io_bytes=4096, pool=np.zeros(4096, np.uint8))
    ran = kit.run(engine, (lane,), rows, options(arena, mode=Mode.OPEN))
    assert ran.times.error.tolist() == [VERIFY_FAILED, 0, DEPENDENCY_FAILED]
    assert ran.times.ready_ns[2] == ran.times.complete_ns[:2].max()


@pytest.mark.parametrize("mode", list(Mode))
def test_a_slow_planner_is_counted(
    engine: Engine, arena: np.typing.NDArray[np.uint8], mode: Mode
) -> None:
    """A lane that ran out of planned ops says so once per wait; all ops are done all the same."""
    rows = make_ops(3, due_ns=[0, 1, 2])
    streamer = Streamer(rows, 8, 1)
    streamer.plan(1)

    def feed() -> None:
        threading.Event().wait(0.02)  # time to run out of ops, which nothing tells from outside
        streamer.plan(2)

    feeder = when_completed(streamer.control, 1, feed)
    counters = engine.run(
        (NULL_LANE,), streamer.ops, streamer.times, options(arena, mode=mode), streamer.control
    ).counters
    feeder.join()
    # That there is no more is told after the last ops: they may be done by then, a wait of its own.
    assert counters[0].planner_stalls in (1, 2)
    assert streamer.control.completed_ops[0] == 3


def test_no_stall_where_all_is_planned(engine: Engine, arena: np.typing.NDArray[np.uint8]) -> None:
    """A run whose ops are all there never waits for the planner."""
    counters = kit.run(engine, (NULL_LANE,), make_ops(1000), options(arena)).counters
    assert counters[0].planner_stalls == 0


def test_writes_wait_for_their_payload(engine: Engine, arena: np.typing.NDArray[np.uint8]) -> None:
    """No write goes out before its bytes have been made; reads aren't kept by that."""
    filled = np.array([8 * KIB], np.uint64)
    pool = np.zeros(MIB, np.uint8)
    lanes = (Lane(LaneKind.MEMORY, queue_depth=1, io_bytes=4 * KIB, pool=pool),) * 2
    action = [Action.WRITE, Action.WRITE, Action.WRITE, Action.READ]
    offsets = np.array([0, 4, 8, 64]) * KIB
    rows = make_ops(4, action=action, offset_bytes=offsets, arena_bytes=offsets, lane=[0, 0, 0, 1])
    control = Control(2)
    seen: list[bool] = []

    def fill() -> None:
        threading.Event().wait(0.02)  # time to find the payload missing
        seen.append(bool(pool[8 * KIB : 12 * KIB].any()))
        native.publish(filled, 12 * KIB)

    filler = when_completed(control, 3, fill)
    chosen = options(arena, verify=Verify.NONE, filled_bytes=filled)
    ran = kit.run(engine, lanes, rows, chosen, control)
    filler.join()
    assert seen == [False]
    assert not ran.times.error.any()
    assert [counters.payload_stalls for counters in ran.counters] == [1, 0]
    assert pool[: 12 * KIB].reshape(3, -1).any(axis=1).all()


def test_writes_without_stamps_are_the_arena(
    engine: Engine, arena: np.typing.NDArray[np.uint8]
) -> None:
    """Without stamping the arena is written as it is, and stays so."""
    before = arena[:MIB].copy()
    pool = np.zeros(MIB, np.uint8)
    lane = Lane(LaneKind.MEMORY, queue_depth=4, io_bytes=64 * KIB, pool=pool)
    offsets = np.arange(16) * 64 * KIB
    rows = make_ops(
        16, action=Action.WRITE, offset_bytes=offsets, arena_bytes=offsets, length_bytes=64 * KIB
    )
    assert not kit.run(engine, (lane,), rows, options(arena, stamp=False)).times.error.any()
    assert (pool == before).all()
    assert (arena[:MIB] == before).all()


def test_stop_ends_a_run_that_waits_for_its_planner(
    engine: Engine, arena: np.typing.NDArray[np.uint8]
) -> None:
    """`stop` is seen while nothing has been planned, and what was not done says so."""
    streamer = Streamer(make_ops(4, edges=[(1, 2)], due_ns=[0, kit.HOUR_NS, 0, 0]), 8, 1)
    streamer.plan(3)
    watcher = when_completed(streamer.control, 1, lambda: streamer.control.stop.fill(1))
    chosen = options(arena, mode=Mode.OPEN)
    times: Times = streamer.times
    engine.run((NULL_LANE,), streamer.ops, times, chosen, streamer.control)
    watcher.join()
    assert times.error[:3].tolist() == [0, INTERRUPTED, INTERRUPTED]
    assert times.finished(0, 3) == 1
    assert times.ready_ns[2] == -1
