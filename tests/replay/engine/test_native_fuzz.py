"""Random graphs of ops on random lanes, run by both engines and judged from times and bytes."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replay.engine import native
from replay.ops.contract import Action, Lane, LaneKind, LoopOptions, Mode, Verify
from tests.support.examples import examples
from tests.support.native_kit import Ran, make_ops, run

KIB = 1024
EXTENT_BYTES = 256 * KIB
EXTENTS = 8
IO_BYTES = 64 * KIB
ARENA_BYTES = 512 * KIB
LANES = 4


@dataclass
class Extent:
    """What the naive planner knows of one place: its latest write, and reads since."""

    writer: int = -1
    readers: list[int] = field(default_factory=list)
    length_bytes: int = 0
    generation: int = 0
    arena_bytes: int = 0


@dataclass
class Plan:
    """Rows and edges, one list per column."""

    columns: dict[str, list[int]]
    edges: set[tuple[int, int]]


def add_op(plan: Plan, rng: np.random.Generator, extents: dict[tuple[int, int], Extent]) -> None:
    """Append one op, ordered after what it conflicts with and after a few random others."""
    row = len(plan.columns["lane"])
    lane, place = int(rng.integers(LANES)), int(rng.integers(EXTENTS))
    extent = extents.setdefault((lane, place), Extent())
    action = int(rng.choice([Action.NONE, Action.READ, Action.WRITE], p=[0.2, 0.4, 0.4]))
    if action == Action.READ and extent.writer < 0:
        action = Action.WRITE
    if action == Action.READ:
        plan.edges.add((extent.writer, row))
        extent.readers.append(row)
    elif action == Action.WRITE:
        plan.edges |= {(before, row) for before in [extent.writer, *extent.readers] if before >= 0}
        extent.writer, extent.readers = row, []
        extent.length_bytes = 512 * int(rng.integers(1, EXTENT_BYTES // 512 + 1))
        extent.generation += 1
        extent.arena_bytes = int(rng.integers(0, 64)) * IO_BYTES
    if row:
        plan.edges |= {(int(before), row) for before in rng.integers(0, row, rng.integers(3))}
    values = {
        "lane": lane,
        "action": action,
        "offset_bytes": place * EXTENT_BYTES,
        "length_bytes": extent.length_bytes,
        "key": lane * EXTENTS + place,
        "generation": extent.generation,
        "arena_bytes": extent.arena_bytes,
        "due_ns": row * 2_000,
    }
    for name, value in values.items():
        plan.columns.setdefault(name, []).append(value)


def random_plan(seed: int) -> Plan:
    """Return a plan whose reads can only find what its order rules promise."""
    rng = np.random.default_rng(seed)
    plan = Plan({"lane": []}, set())
    extents: dict[tuple[int, int], Extent] = {}
    for _ in range(int(rng.integers(1, 300))):
        add_op(plan, rng, extents)
    return plan


def lanes_of(fds: list[int], rng: np.random.Generator) -> tuple[Lane, ...]:
    """Return two file lanes, a memory lane and a null lane, of random depths."""
    depths = rng.choice([1, 2, 7, 32], 3)
    files = (
        Lane(LaneKind.FILE, queue_depth=int(depth), io_bytes=IO_BYTES, fd=fd)
        for depth, fd in zip(depths, fds, strict=False)
    )
    pool = np.zeros(EXTENTS * EXTENT_BYTES, np.uint8)
    return (
        *files,
        Lane(LaneKind.MEMORY, queue_depth=int(depths[2]), io_bytes=IO_BYTES, pool=pool),
        Lane(LaneKind.NULL, queue_depth=1, io_bytes=IO_BYTES),
    )


def run_plan(engine: native.NativeEngine, plan: Plan, seed: int, fds: list[int]) -> Ran:
    """Run the plan with a small arena, few read buffers and every byte verified."""
    rng = np.random.default_rng(seed)
    arena = rng.integers(0, 256, ARENA_BYTES, dtype=np.uint8)
    ops = make_ops(len(plan.columns["lane"]), edges=sorted(plan.edges), **plan.columns)
    options = LoopOptions(
        mode=Mode(int(rng.integers(3))),
        arena=arena,
        run_id=seed % 65536,
        verify=Verify.FULL,
        spin_ns=int(rng.choice([0, 20_000])),
        read_buffer_bytes=int(rng.choice([64, 256, 4096])) * KIB,
    )
    return run(engine, lanes_of(fds, rng), ops, options)


@pytest.mark.slow
@pytest.mark.parametrize("engine", [native.uring, native.threads], ids=lambda engine: engine.name)
@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=examples(25), deadline=None)
def test_random_graphs(engine: native.NativeEngine, seed: int) -> None:
    """No op goes out before all it waits for, and every read finds the latest write's bytes."""
    if engine.available() is not None:
        pytest.skip(str(engine.available()))
    plan = random_plan(seed)
    with tempfile.TemporaryFile() as one, tempfile.TemporaryFile() as other:
        fds = [one.fileno(), other.fileno()]
        for fd in fds:
            os.truncate(fd, EXTENTS * EXTENT_BYTES)
        outcome = run_plan(engine, plan, seed, fds)
    times = outcome.times
    assert not times.error.any()
    if plan.edges:
        before, after = np.array(sorted(plan.edges)).T
        assert (times.complete_ns[before] <= times.submit_ns[after]).all()
    assert (times.complete_ns >= times.submit_ns).all()
    assert (times.submit_ns >= times.slot_ns).all()
    assert (times.slot_ns >= times.ready_ns).all()
