"""Random traces through survey, needs, planner and allocator, against the naive model.

    python -m tests.support.plan_fuzz STEPS SEED

The rows are hostile, not realistic: objects of one length, of lengths that share a class of holes,
of any; deletes of what is gone, parts of objects, tiers that aren't executed.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from kvtrace.placement import extents
from kvtrace.placement.allocator import Allocator
from kvtrace.placement.extents import SPACE_RATIO, Need, Space, lane_of_tier
from kvtrace.placement.ground import MIXED
from kvtrace.placement.rows import TraceRows, read_batches
from kvtrace.placement.survey import survey
from kvtrace.trace.schema import Op, Phase, Tier
from replay.ops.columns import EXTRA, Ops
from replay.ops.divided import places
from replay.plan.geometry import Geometry
from replay.plan.planner import Planner, make_ring
from tests.support.placement_model import (
    ALIGN,
    Lane,
    Life,
    Order,
    Step,
    aligned,
    clipped,
    lives_of,
    peak_of,
    place_all,
)
from tests.support.traces import MemoryTrace

if TYPE_CHECKING:
    from numpy.typing import NDArray

STEPS_PER_TRACE = 300
BEGIN = 1 << 20
SIZES = ("one", "class", "fenced", "spread", "any")
TIERS = ((Tier.NVME,), (Tier.CPU, Tier.NVME), (Tier.GPU, Tier.NVME), (Tier.GPU, Tier.CPU))


@dataclass(frozen=True)
class Case:
    """A random trace, and what it is replayed on."""

    steps: list[Step]
    tiers: tuple[Tier, ...]
    slack: float
    spare: int
    part: int
    closed: bool
    batch_rows: int


def _length(rng: np.random.Generator, sizes: str) -> int:
    """Return the length of a new object."""
    if sizes == "one":
        return 3 * ALIGN
    if sizes == "class":
        return int(rng.integers(32, 36)) * ALIGN
    if sizes == "fenced":  # short ones keep the holes of long ones apart
        return (32 + int(rng.random() < 0.2) if rng.random() < 0.5 else 1) * ALIGN
    blocks = int(np.clip(np.exp(rng.normal(1.5, 1.2)), 1, 80))
    return blocks * ALIGN - (int(rng.integers(ALIGN)) if sizes == "any" else 0)


def make_steps(rng: np.random.Generator, count: int) -> list[Step]:
    """Return rows in which nothing that was deleted is read."""
    sizes, keys = SIZES[int(rng.integers(len(SIZES)))], int(rng.integers(2, 120))
    length: dict[tuple[int, int], int] = {}
    steps: list[Step] = []
    dead: set[tuple[int, int]] = set()
    for at in range(count):
        if at % (1 + count // 4) == 0:  # times of many writes, of many deletes
            chances = rng.dirichlet((0.5, 0.8, 0.6, 0.1))
        home = (int(rng.choice(3, p=(0.1, 0.2, 0.7))), int(rng.integers(keys)))
        op = Op(rng.choice(4, p=chances))
        if sizes == "fenced" and at < 2 * count // 3:
            home = (int(Tier.NVME), at if at < count // 3 else int(rng.integers(count // 3)))
            op = Op.WRITE if at < count // 3 else Op.DELETE
            if op == Op.DELETE and length[home] == ALIGN:
                continue
        if op == Op.READ and home in dead:
            op = Op.WRITE
        if home not in length or (home in dead and op == Op.WRITE):
            length[home] = _length(rng, sizes)
        offset, size = 0, length[home]
        if op in (Op.READ, Op.WRITE) and home not in dead and rng.random() < 0.3:
            offset = int(rng.integers(-(-size // ALIGN))) * ALIGN
            size -= offset
        if op == Op.LOOKUP:
            size = 0
        elif op == Op.DELETE:
            dead.add(home)
        elif op == Op.WRITE:
            dead.discard(home)
        steps.append(Step(op, *home, Phase(rng.integers(4)), offset, size))
    return steps


def make_case(rng: np.random.Generator, count: int) -> Case:
    """Return a random trace and what it is replayed on."""
    return Case(
        make_steps(rng, count),
        TIERS[int(rng.integers(len(TIERS)))],
        slack=float(rng.choice((0.0, 0.01, 0.05, 0.4))),
        spare=int(rng.integers(3)) * 40 * ALIGN,
        part=int(rng.integers(1, 9)) * ALIGN,
        closed=bool(rng.random() < 0.2),
        batch_rows=int(rng.integers(1, count + 1)),
    )


def _trace(case: Case, rng: np.random.Generator) -> Any:
    rows: list[Any] = [
        (at, step.op, Tier(step.tier), step.key, step.phase, step.size)
        for at, step in enumerate(case.steps)
    ]
    more = {}
    if case.closed:
        count = len(rows)
        more = {
            "request": rng.integers(0, 1 + count // 8, count).astype(np.uint64),
            "session": rng.integers(0, 6, count).astype(np.uint64),
            "step": rng.integers(0, 4, count).astype(np.uint16),
        }
    offsets = [step.offset for step in case.steps]
    return MemoryTrace(rows, offsets=offsets, batch_rows=case.batch_rows, **more)


def _lanes(case: Case, made: NDArray[np.void]) -> dict[int, Lane]:
    names = ("kind", "top", "limit", "cap", "part")
    return {
        int(tier): Lane(*(int(made[name][at]) for name in names))
        for at, tier in enumerate(case.tiers)
    }


def check_needs(
    case: Case, needs: tuple[Need, ...], originals: list[Life], lives: list[Life | None]
) -> None:
    """Compare what each lane needs with a rehearsal by the model."""
    for tier, need in zip(case.tiers, needs, strict=True):
        peak = peak_of(originals, lives, case.steps, tier)
        assert need.live_bytes == peak
        wanted = aligned(peak + int(peak * case.slack))
        mine = {life.length for life in (*originals, *lives) if life and life.home[0] == tier} - {0}
        if len(mine) > 1:
            limit = BEGIN + wanted
            cap = max(limit, BEGIN + int(peak * SPACE_RATIO) // ALIGN * ALIGN)
            lane = Lane(MIXED, BEGIN, limit, cap, case.part)
            alone = [life if life and life.home[0] == tier else None for life in lives]
            place_all(
                [life for life in originals if life.home[0] == tier],
                alone,
                case.steps,
                {tier: lane},
            )
            wanted = max(wanted, lane.top - BEGIN)
        assert need.size_bytes == wanted


def check_plan(case: Case, ops: Ops, count: int, lives: list[Life | None]) -> None:
    """Compare places and waits of all ops of a plan."""
    executed = [at for at, step in enumerate(case.steps) if step.tier in case.tiers]
    planned = [op for op in range(count) if ops.pad_bytes[op] != EXTRA]
    assert len(planned) == len(executed)
    waits = _closures(ops, count, dict(zip(planned, executed, strict=True)))
    order, mask = Order(), sum(1 << row for row in executed)
    wanted = [
        order.waits(row, step, life)
        for row, (step, life) in enumerate(zip(case.steps, lives, strict=True))
    ]
    for op, row in zip(planned, executed, strict=True):
        step, life = case.steps[row], lives[row]
        assert int(ops.key[op]) == step.key
        length = int(ops.length_sectors[op]) * 512
        if life and step.op != Op.DELETE:
            assert length == step.high - step.low
            assert _joined(places(ops, op, 0, length)) == _joined(
                clipped(life.extents, step.low, step.high)
            )
        if case.closed:
            assert wanted[row] & mask & ~waits[op] == 0
        else:
            assert waits[op] == wanted[row] & mask


def _joined(parts: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return extents with neighbours made one: where one is divided from the next means nothing."""
    joined: list[tuple[int, int]] = []
    for begin, length in parts:
        if joined and sum(joined[-1]) == begin:
            joined[-1] = (joined[-1][0], joined[-1][1] + length)
        else:
            joined.append((begin, length))
    return joined


def _closures(ops: Ops, count: int, row_of: dict[int, int]) -> list[int]:
    """Return the rows that each op waits for, directly or not."""
    whole: list[int] = []
    for op in range(count):
        begin, mine = int(ops.edge_begin[op]), 0
        for waited in ops.edges[begin : begin + int(ops.wait_count[op])].tolist():
            mine |= whole[waited] | (1 << row_of[waited] if waited in row_of else 0)
        whole.append(mine)
    return whole


def check_allocator(case: Case, trace: Any, allocator: Allocator, lives: list[Life | None]) -> None:
    """Compare where an exporter would find the bytes of each row."""
    parts: dict[int, list[tuple[int, int]]] = {}
    for batch in read_batches(TraceRows(trace)):
        placed = allocator.place(batch)
        columns = (placed.row, placed.begin_bytes, placed.length_bytes)
        for row, begin, length in zip(*(column.tolist() for column in columns), strict=True):
            parts.setdefault(batch.first_row + row, []).append((begin, length))
    for row, (step, life) in enumerate(zip(case.steps, lives, strict=True)):
        wanted: list[tuple[int, int]] = []
        if life:
            whole = step.op == Op.DELETE
            low, high = (0, life.length) if whole else (step.low, step.high)
            wanted = clipped(life.extents, low, high)
        assert _joined(parts.get(row, [])) == _joined(wanted)


def check_case(case: Case, rng: np.random.Generator) -> None:
    """Compare everything about one trace."""
    trace, lanes = _trace(case, rng), lane_of_tier(case.tiers)
    surveyed = survey(TraceRows(trace), lanes, count_sessions=case.closed)
    offered = (Space(ALIGN, BEGIN),) * len(case.tiers)
    needs = extents.needs(surveyed, offered, case.slack, case.part)
    check_needs(case, needs, *lives_of(case.steps, case.tiers))

    spaces = tuple(Space(ALIGN, BEGIN, need.size_bytes + case.spare) for need in needs)
    made = extents.lanes(needs, spaces, case.slack, case.part)
    originals, lives = lives_of(case.steps, case.tiers)
    model = _lanes(case, made)
    place_all(originals, lives, case.steps, model)

    geometry = Geometry(lanes, spaces, 1 << 24, case.part, closed=case.closed)
    ops = make_ring(surveyed, closed=case.closed, divided=True)
    planner = Planner(TraceRows(trace), surveyed, made, geometry, ops)
    ends = planner.space_ends()
    while planner.advance(0):
        pass
    assert planner.final
    assert planner.extent_ends.tolist() == [model[tier].top for tier in case.tiers] == list(ends)
    check_plan(case, ops, planner.planned, lives)
    check_allocator(case, trace, Allocator(surveyed, made, spaces, lanes, "fuzz"), lives)


def fuzz(steps: int, seed: int) -> int:
    """Check random traces of so many rows in all; return how many traces that were."""
    traces = 0
    while traces * STEPS_PER_TRACE < steps:
        rng = np.random.default_rng((seed, traces))
        try:
            check_case(make_case(rng, STEPS_PER_TRACE), rng)
        except Exception as error:
            error.add_note(f"trace {traces} of seed {seed}")
            raise
        traces += 1
    return traces


if __name__ == "__main__":
    fuzz(int(sys.argv[1]), int(sys.argv[2]))
