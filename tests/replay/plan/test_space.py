"""Space needed of a tier: bounded by its live set, order kept, whatever the sizes of objects."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvtrace.placement import defaults, extents
from kvtrace.placement.extents import SPACE_RATIO, Space, lane_of_tier
from kvtrace.placement.rows import TraceRows
from kvtrace.placement.survey import survey
from kvtrace.recording.config import resolve
from kvtrace.recording.pipeline import record
from kvtrace.trace.reader import open_trace
from kvtrace.trace.schema import Op, Phase, Tier
from replay.ops.columns import DIVIDED, EXTRA, Ops
from replay.ops.divided import places
from tests.support.examples import examples
from tests.support.fragments import IO_BYTES, fragmenting, planned, random_rows

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.traces import Row

R, W, D = Op.READ, Op.WRITE, Op.DELETE
NVME, CPU = Tier.NVME, Tier.CPU
EVICT, DECODE, PREFILL, PROMOTE = Phase.EVICT, Phase.DECODE, Phase.PREFILL, Phase.PROMOTE
KIB4, MIB = 4096, 1 << 20
TIERS = (CPU, NVME)


def closure_of(ops: Ops, count: int) -> list[set[int]]:
    """Return everything that each op waits for, however indirectly."""
    full: list[set[int]] = []
    for begin, waits in zip(ops.edge_begin[:count], ops.wait_count[:count], strict=True):
        waited = set(ops.edges[int(begin) : int(begin) + int(waits)].tolist())
        full.append(waited.union(*(full[item] for item in waited)))
    return full


def blocks_of(ops: Ops, op: int) -> list[tuple[int, int]]:
    """Return (lane, block of 4 KiB) of all that an op touches."""
    length = int(ops.length_sectors[op]) * 512
    return [
        (int(ops.lane[op]), block)
        for begin, size in places(ops, op, 0, length)
        for block in range(begin // KIB4, (begin + size) // KIB4)
    ]


def check_blocks(rows: list[Row], ops: Ops, spaces: tuple[Space, ...]) -> None:
    """Check block by block: one live owner, within the space; a write waits for all before it."""
    assert not (ops.pad_bytes[: len(rows)] == EXTRA).any()
    waits = closure_of(ops, len(rows))
    owner: dict[tuple[int, int], int] = {}
    users: dict[tuple[int, int], set[int]] = {}
    homes: dict[tuple[Tier, int], list[tuple[int, int]]] = {}
    for op, (_, what, tier, key, _, size) in enumerate(rows):
        home = (tier, key)
        if what == D:
            for block in homes.pop(home):
                assert owner.pop(block) == key
                users[block].add(op)
            continue
        blocks = blocks_of(ops, op)
        assert len(set(blocks)) == len(blocks) == size // KIB4
        assert homes.setdefault(home, blocks) == blocks
        for block in blocks:
            space = spaces[block[0]]
            assert space.size_bytes is not None
            assert space.begin_bytes // KIB4 <= block[1]
            assert (block[1] + 1) * KIB4 <= space.begin_bytes + space.size_bytes
            assert owner.setdefault(block, key) == key
            if what == W:
                assert users.get(block, set()) <= waits[op]
            users.setdefault(block, set()).add(op)


@settings(max_examples=examples(15), deadline=None)
@given(
    seed=st.integers(0, 1 << 30),
    slack=st.sampled_from([0.0, 0.05, 0.3]),
    spare=st.sampled_from([0, KIB4, 40 * KIB4]),
)
def test_extents_are_apart_in_order_and_within_the_bound(
    seed: int, slack: float, spare: int
) -> None:
    """No two live objects overlap, a write waits for all that used its blocks, space is bounded."""
    rows = random_rows(seed, 150)
    needs, spaces, planner, ops = planned(rows, slack, spare)
    ends = planner.space_ends()
    while planner.advance(0):
        pass
    assert planner.final
    assert ends == tuple(planner.extent_ends.tolist())
    for need in needs:
        assert need.live_bytes <= need.size_bytes
        assert need.size_bytes <= max(SPACE_RATIO, 1 + slack) * need.live_bytes + KIB4
    live = {tier: naive_peak(rows, tier) for tier in TIERS}
    assert [need.live_bytes for need in needs] == [live[tier] for tier in TIERS]
    check_blocks(rows, ops, spaces)


def naive_peak(rows: list[Row], tier: Tier) -> int:
    """Return the most bytes that a tier holds at once."""
    held: dict[int, int] = {}
    peak = 0
    for _, op, where, key, _, size in rows:
        if where is tier and op == W:
            held[key] = size
        elif where is tier and op == D:
            del held[key]
        peak = max(peak, sum(held.values()))
    return peak


def test_canary_a_plan_that_forgets_its_waits_is_caught() -> None:
    """The check can fail: without edges a write into freed space is found."""
    rows = random_rows(3, 150)
    _, spaces, planner, ops = planned(rows, 0.0)
    while planner.advance(0):
        pass
    check_blocks(rows, ops, spaces)
    ops.wait_count[:] = 0
    with pytest.raises(AssertionError):
        check_blocks(rows, ops, spaces)


def test_an_object_is_divided_at_whole_ios_where_no_free_range_holds_it() -> None:
    """Two freed ranges with a live object between them take one object of their length."""
    big = 2 * IO_BYTES
    rows: list[Row] = [
        (0, W, NVME, 1, PREFILL, big),
        (1, W, NVME, 2, PREFILL, KIB4),
        (2, W, NVME, 3, PREFILL, big),
        (3, D, NVME, 1, EVICT, big),
        (4, D, NVME, 3, EVICT, big),
        (5, W, NVME, 4, PREFILL, 2 * big),
        (6, R, NVME, 4, DECODE, 2 * big),
    ]
    _, _, planner, ops = planned(rows, 0.0)
    while planner.advance(0):
        pass
    assert planner.final
    assert int(ops.offset_bytes[5]) & DIVIDED
    found = places(ops, 5, 0, 2 * big)
    assert sorted(found) == sorted(places(ops, 0, 0, big) + places(ops, 2, 0, big))
    assert places(ops, 6, 0, 2 * big) == found
    assert {3, 4} <= closure_of(ops, 7)[5]


def test_a_hole_at_the_top_that_holds_all_is_taken_once() -> None:
    """Behind the eight holes that are looked at. Buggy: the object after it got the same bytes."""
    rows: list[Row] = []
    for key in range(10):  # holes of 32 blocks, kept apart by live objects
        rows += [(0, W, NVME, key, PREFILL, 32 * KIB4), (0, W, NVME, 100 + key, PREFILL, KIB4)]
    rows += [(0, W, NVME, 50, PREFILL, 33 * KIB4)]
    rows += [(0, D, NVME, key, EVICT, 32 * KIB4) for key in range(10)]
    rows += [(0, D, NVME, 50, EVICT, 33 * KIB4)]
    rows += [(0, W, NVME, key, PREFILL, 33 * KIB4) for key in (60, 61)]
    _, spaces, planner, ops = planned(rows, 0.05, part=MIB)
    while planner.advance(0):
        pass
    assert planner.final
    check_blocks(rows, ops, spaces)


def test_one_seed_one_plan() -> None:
    """Two plans of one trace are equal, byte for byte."""
    rows = random_rows(11, 300)
    plans = []
    for _ in range(2):
        _, _, planner, ops = planned(rows)
        while planner.advance(0):
            pass
        plans.append((ops.offset_bytes.tobytes(), ops.extents.tobytes(), ops.edges.tobytes()))
    assert plans[0] == plans[1]


def test_the_bound_holds_where_no_two_free_blocks_are_neighbours() -> None:
    """Checkerboards defeat every allocator of contiguous extents; here objects are divided."""
    rows = fragmenting(2000)
    needs, spaces, planner, ops = planned(rows)
    while planner.advance(0):
        pass
    assert needs[1].size_bytes <= SPACE_RATIO * 2000 * KIB4
    assert (ops.offset_bytes[: len(rows)] >= np.uint64(DIVIDED)).sum() > 100
    check_blocks(rows, ops, spaces)


@pytest.mark.slow
def test_many_parts_are_waited_for_through_joins() -> None:
    """A write into what tens of thousands of deletes have freed waits for each of them."""
    count = 20_000
    rows: list[Row] = [(0, W, NVME, key, PREFILL, KIB4) for key in range(count)]
    rows += [(0, D, NVME, key, EVICT, KIB4) for key in range(count)]
    rows += [(0, W, NVME, count, PREFILL, count * KIB4)]
    _, _, planner, ops = planned(rows, 0.0)
    while planner.advance(0):
        pass
    last = planner.planned - 1
    left, seen = [last], set()
    while left:
        op = left.pop()
        begin = int(ops.edge_begin[op])
        direct = set(ops.edges[begin : begin + int(ops.wait_count[op])].tolist()) - seen
        seen |= direct
        left += direct
    assert int(ops.wait_count[last]) < 1 << 14
    assert len(seen) == planner.planned - 1


@pytest.mark.slow
def test_request_layout_of_3_gib_needs_little_more_than_3_gib(tmp_path: Path) -> None:
    """Layout `request` with a tier of 3 GiB. Buggy: 71.56 GiB of device, class by class."""
    options = {
        "layout": "request",
        "source.users": "10",
        "tiers.gpu.capacity": "0",
        "tiers.cpu.capacity": "1GiB",
        "tiers.nvme.capacity": "3GiB",
        "duration": "60s",
    }
    path = tmp_path / "request.parquet"
    record(resolve(None, options, (), None).config, path)
    with open_trace(path) as trace:
        found = survey(TraceRows(trace), lane_of_tier(TIERS))
        needs = extents.needs(found, (Space(KIB4),) * 2, defaults.SLACK_RATIO)
    for need, capacity in zip(needs, (1 << 30, 3 << 30), strict=True):
        assert 0.8 * capacity < need.live_bytes <= capacity + 4096 * need.live_objects_max
        assert need.size_bytes <= SPACE_RATIO * need.live_bytes
        assert need.uniform_bytes == 0


@pytest.mark.parametrize(
    "layout", ["lmcache", "lmcache-layerwise", "vllm", "sglang", "mooncake", "request"]
)
def test_every_layout_is_within_the_bound(tmp_path: Path, layout: str) -> None:
    """Space needed is at most 1.15 x the live set under each layout."""
    options = {
        "layout": layout,
        "tiers.gpu.capacity": "0",
        "tiers.cpu.capacity": "0",
        "tiers.nvme.capacity": "3GiB",
        "requests": "12",
    }
    path = tmp_path / "t.parquet"
    record(resolve(None, options, (), None).config, path)
    with open_trace(path) as trace:
        found = survey(TraceRows(trace), lane_of_tier((NVME,)))
        (need,) = extents.needs(found, (Space(KIB4),), defaults.SLACK_RATIO)
    assert 0 < need.live_bytes <= need.size_bytes <= SPACE_RATIO * need.live_bytes


def test_runs_of_places() -> None:
    """A part of a divided op is where the whole op's bytes of it are."""
    ops = Ops.empty(1, 1, extents=4)
    ops.extents[:] = [100, 8, 500, 4, 300, 20, 0, 0]
    ops.offset_bytes[0] = DIVIDED
    ops.length_sectors[0] = 1
    whole = [at + k for at, size in places(ops, 0, 0, 32) for k in range(size)]
    assert whole == [*range(100, 108), *range(500, 504), *range(300, 320)]
    for begin, end in itertools.combinations(range(33), 2):
        part = [at + k for at, size in places(ops, 0, begin, end - begin) for k in range(size)]
        assert part == whole[begin:end]
