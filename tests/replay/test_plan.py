"""The planner against a naive model of the order rules, and its places by hand."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvtrace.errors import TargetError, TraceError, UsageError
from kvtrace.schema import Op, Phase, Tier
from replay import extents
from replay.extents import Space
from replay.loop import Action, Ops
from replay.plan import Geometry, Plan, Planner, lane_of_tier
from replay.survey import Limit, survey
from tests.replay.conftest import MemoryTrace, Row

R, W, D, L = Op.READ, Op.WRITE, Op.DELETE, Op.LOOKUP
NVME, CPU, GPU = Tier.NVME, Tier.CPU, Tier.GPU
EVICT, DECODE, PREFILL, PROMOTE = Phase.EVICT, Phase.DECODE, Phase.PREFILL, Phase.PROMOTE
KIB4 = 4096
EVERYTHING = Limit()


def make_plan(
    rows: list[Row],
    tiers: tuple[Tier, ...] = (NVME,),
    *,
    limit: Limit = EVERYTHING,
    spare_bytes: int = 0,
    arena_bytes: int = 1 << 20,
    io_bytes: int = 1 << 16,
    **trace_fields: Any,
) -> tuple[Plan, Ops]:
    """Return plan and populate set with exactly the space that is needed, or a little more."""
    trace: Any = MemoryTrace(rows, **trace_fields)
    lanes = lane_of_tier(tiers)
    found = survey(trace, lanes, limit)
    offered = tuple(Space(KIB4, 1 << 20, None) for _ in tiers)
    classes = extents.classify(found, offered)
    needs = extents.needs(classes, len(tiers), 0.0)
    spaces = tuple(Space(KIB4, 1 << 20, need.extent_bytes + spare_bytes) for need in needs)
    geometry = Geometry(lanes, spaces, arena_bytes, io_bytes)
    planner = Planner(found, classes, extents.quotas(classes, spaces), geometry)
    populate = planner.populate("touched", np.random.default_rng(0))
    return planner.plan(trace, limit), populate


def waits_of(ops: Ops) -> list[set[int]]:
    """Return what each op waits for, from the successors' columns."""
    waits: list[set[int]] = [set() for _ in ops.key]
    total = 0
    for op in range(len(ops.key)):
        begin, end = int(ops.successor_begin[op]), int(ops.successor_begin[op + 1])
        for after in ops.successors[begin:end].tolist():
            waits[after].add(op)
            total += 1
    assert total == int(ops.wait_count.sum())
    return waits


def closure(direct: list[set[int]]) -> list[set[int]]:
    """Return everything that each item waits for, however indirectly."""
    full: list[set[int]] = []
    for waited in direct:
        full.append(waited.union(*(full[item] for item in waited)))
    return full


def naive_waits(rows: list[Row], place: dict[int, int]) -> list[set[int]]:
    """Return what each row waits for, by the rules of order read literally, row by row.

    `place`: where each executed row's object lives.
    """
    direct: list[set[int]] = []
    for index, (_, op, tier, key, _, _) in enumerate(rows):
        waits: set[int] = set()
        earlier = list(enumerate(rows[:index]))
        same = [(i, r) for i, r in earlier if r[2] == tier and r[3] == key and r[1] != L]
        if op == R:
            waits |= {i for i, r in same if r[1] in (W, D)}
        if op in (W, D):
            waits |= {i for i, _ in same}
        if op == W:
            moved = [
                i for i, r in earlier if r[3] == key and r[1] == R and r[4] in (EVICT, PROMOTE)
            ]
            waits |= set(moved[-1:])
            if index in place:
                waits |= {i for i in place if i < index and place[i] == place[index]}
        if op == D:
            below = [
                i for i, r in earlier if r[3] == key and r[1] == W and r[4] == EVICT and r[2] > tier
            ]
            waits |= set(below[-1:])
        direct.append(waits)
    return direct


@st.composite
def random_rows(draw: st.DrawFn) -> list[Row]:
    """Rows of few keys on three tiers, in which nothing that was deleted is read."""
    rows: list[Row] = []
    dead: set[tuple[Tier, int]] = set()
    sizes = {key: draw(st.sampled_from([KIB4, KIB4, 2 * KIB4])) for key in range(4)}
    for index in range(draw(st.integers(1, 40))):
        tier = draw(st.sampled_from([GPU, CPU, NVME]))
        key = draw(st.integers(0, 3))
        op = draw(st.sampled_from([R, R, W, D, D, L]))
        phase = draw(st.sampled_from([PREFILL, DECODE, EVICT, PROMOTE]))
        if op == R and (tier, key) in dead:
            op = W
        if op == W:
            dead.discard((tier, key))
        if op == D:
            dead.add((tier, key))
        rows.append((index, op, tier, key, phase, 0 if op == L else sizes[key]))
    return rows


EXECUTED = st.sampled_from([(NVME,), (CPU,), (CPU, NVME), (GPU, NVME), (GPU, CPU, NVME)])


@settings(max_examples=150, deadline=None)
@given(rows=random_rows(), tiers=EXECUTED)
def test_order_is_that_of_the_naive_model(rows: list[Row], tiers: tuple[Tier, ...]) -> None:
    """Every executed row appears once, and waits, in all, for exactly what the rules say."""
    if not any(row[2] in tiers for row in rows):
        return
    plan, populate = make_plan(rows, tiers)
    executed = [index for index, row in enumerate(rows) if row[2] in tiers]
    assert plan.row.tolist() == executed

    lanes = lane_of_tier(tiers)
    spans: dict[tuple[Tier, int], int] = {
        (tiers[lane], int(key)): int(offset) + (int(lane) << 40)
        for lane, key, offset in zip(
            populate.lane, populate.key, populate.offset_bytes, strict=True
        )
    }
    place: dict[int, int] = {}
    for op, index in enumerate(executed):
        _, what, tier, key, _, _ = rows[index]
        if plan.ops.length_bytes[op]:
            spans[tier, key] = int(plan.ops.offset_bytes[op]) + (int(lanes[tier]) << 40)
        if what != L and (tier, key) in spans:
            place[index] = spans[tier, key]
        if what == D:
            spans.pop((tier, key), None)
    wanted = closure(naive_waits(rows, place))
    found = closure(waits_of(plan.ops))
    for op, index in enumerate(executed):
        assert {executed[waited] for waited in found[op]} == wanted[index] & set(executed)


@settings(max_examples=100, deadline=None)
@given(rows=random_rows(), tiers=EXECUTED, spare=st.sampled_from([0, KIB4, 1 << 20]))
def test_live_objects_never_overlap(rows: list[Row], tiers: tuple[Tier, ...], spare: int) -> None:
    """At no row do the extents of two live objects of a lane overlap, or leave their space."""
    if not any(row[2] in tiers for row in rows):
        return
    plan, populate = make_plan(rows, tiers, spare_bytes=spare)
    live: dict[tuple[int, int], tuple[int, int]] = {
        (int(populate.lane[i]), int(populate.key[i])): (
            int(populate.offset_bytes[i]),
            int(populate.offset_bytes[i] + populate.length_bytes[i]),
        )
        for i in range(len(populate.key))
    }
    for op in range(len(plan.row)):
        place = (int(plan.ops.lane[op]), int(plan.ops.key[op]))
        if plan.op[op] == D:
            live.pop(place, None)
        if plan.ops.length_bytes[op]:
            begin = int(plan.ops.offset_bytes[op])
            end = begin + int(plan.ops.length_bytes[op])
            assert begin >= 1 << 20
            assert end <= plan.extent_bytes[place[0]]
            if place in live:
                assert live[place] == (begin, end)
            live[place] = (begin, end)
        spans = sorted((lane, *span) for (lane, _), span in live.items())
        for (lane_a, _, end_a), (lane_b, begin_b, _) in itertools.pairwise(spans):
            assert lane_a != lane_b or end_a <= begin_b


def test_canary_a_model_without_cross_tier_rules_is_caught() -> None:
    """The comparison can fail: without the rule on evict reads the naive model disagrees."""
    rows: list[Row] = [
        (0, W, CPU, 1, PREFILL, KIB4),
        (1, R, CPU, 1, EVICT, KIB4),
        (2, W, NVME, 1, EVICT, KIB4),
    ]
    plan, _ = make_plan(rows, (CPU, NVME))
    assert closure(waits_of(plan.ops))[2] == {0, 1}
    without = [(t, o, tier, k, DECODE, s) for t, o, tier, k, _, s in rows]
    assert closure(naive_waits(without, {}))[2] == set()


def test_demotion_waits_through_a_tier_that_is_not_executed() -> None:
    """A chain of demotions keeps its order when the middle tier isn't executed."""
    rows: list[Row] = [
        (0, R, GPU, 1, EVICT, KIB4),
        (1, W, CPU, 1, EVICT, KIB4),
        (2, D, GPU, 1, EVICT, KIB4),
        (3, R, CPU, 1, EVICT, KIB4),
        (4, W, NVME, 1, EVICT, KIB4),
        (5, D, CPU, 1, EVICT, KIB4),
    ]
    plan, _ = make_plan(rows, (GPU, NVME))
    assert plan.row.tolist() == [0, 2, 4]
    assert waits_of(plan.ops) == [set(), {0}, {0}]


def test_a_reused_extent_waits_for_the_delete_that_freed_it() -> None:
    """Without spare space the next object takes the freed extent, after delete and read."""
    rows: list[Row] = [
        (0, W, NVME, 1, PREFILL, KIB4),
        (1, R, NVME, 1, DECODE, KIB4),
        (2, D, NVME, 1, EVICT, KIB4),
        (3, W, NVME, 2, PREFILL, KIB4),
    ]
    plan, _ = make_plan(rows)
    assert plan.ops.offset_bytes[3] == plan.ops.offset_bytes[0]
    assert closure(waits_of(plan.ops))[3] == {0, 1, 2}


def test_never_used_space_comes_first_then_what_was_freed_longest_ago() -> None:
    """With room for one more object, reuse begins one object later, in order of the deletes."""
    rows: list[Row] = []
    for key in range(5):
        rows.append((len(rows), W, NVME, key, PREFILL, KIB4))
        rows.append((len(rows), D, NVME, key, EVICT, KIB4))
    plan, _ = make_plan(rows, spare_bytes=2 * KIB4)
    writes = plan.ops.offset_bytes[plan.op == W] // KIB4 - (1 << 20) // KIB4
    assert writes.tolist() == [0, 1, 2, 0, 1]


def test_generations_count_writes_and_reads_expect_the_last_one() -> None:
    """Populate is generation 0, each write adds one, also across lives of a key."""
    rows: list[Row] = [
        (0, R, NVME, 9, DECODE, KIB4),
        (1, W, NVME, 9, PREFILL, KIB4),
        (2, R, NVME, 9, DECODE, KIB4),
        (3, D, NVME, 9, EVICT, KIB4),
        (4, W, NVME, 9, PREFILL, KIB4),
        (5, R, NVME, 9, DECODE, KIB4),
    ]
    plan, populate = make_plan(rows)
    assert populate.generation.tolist() == [0]
    moves = plan.ops.action != Action.NONE
    assert plan.ops.generation[moves].tolist() == [0, 1, 1, 2, 2]
    arena = plan.ops.arena_bytes
    assert arena[0] == populate.arena_bytes[0]
    assert arena[1] == arena[2]
    assert arena[4] == arena[5]


def test_parts_of_an_object_share_extent_generation_and_arena() -> None:
    """An object written in two parts and read in the middle is one object of one generation."""
    rows: list[Row] = [
        (0, W, NVME, 5, PREFILL, 2 * KIB4),
        (1, W, NVME, 5, PREFILL, KIB4),
        (2, R, NVME, 5, DECODE, 100),
    ]
    plan, _ = make_plan(rows, offsets=[0, 2 * KIB4, KIB4 + 10])
    ops = plan.ops
    base = int(ops.offset_bytes[0])
    assert (ops.offset_bytes - np.uint64(base)).tolist() == [0, 2 * KIB4, KIB4]
    assert ops.length_bytes.tolist() == [2 * KIB4, KIB4, KIB4]
    assert ops.sector.tolist() == [0, 16, 8]
    assert ops.generation.tolist() == [1, 1, 1]
    assert (ops.arena_bytes - ops.arena_bytes[0]).tolist() == [0, 2 * KIB4, KIB4]


def test_unaligned_partial_write_is_refused_with_its_row() -> None:
    """A write that would overwrite its neighbour's bytes names row, offset and alignment."""
    rows: list[Row] = [
        (0, W, NVME, 5, PREFILL, 2 * KIB4),
        (1, W, NVME, 5, PREFILL, 100),
    ]
    with pytest.raises(UsageError, match=r"row 1.*offset 100, size 100.*4\.00 KiB"):
        make_plan(rows, offsets=[0, 100])


def test_read_of_a_deleted_object_is_a_bad_trace() -> None:
    """Reading what was deleted and not written again names row, key and tier."""
    rows: list[Row] = [
        (0, W, NVME, 5, PREFILL, KIB4),
        (1, D, NVME, 5, EVICT, KIB4),
        (2, R, NVME, 5, DECODE, KIB4),
    ]
    with pytest.raises(TraceError, match=r"row 2.*key 5 on tier nvme"):
        make_plan(rows)


def test_populate_set() -> None:
    """First touched by read or delete, and touched residents; not what is written first."""
    rows: list[Row] = [
        (0, R, NVME, 1, DECODE, KIB4),
        (1, D, NVME, 2, EVICT, KIB4),
        (2, W, NVME, 3, PREFILL, KIB4),
        (3, W, NVME, 4, PREFILL, KIB4),
        (4, L, NVME, 6, DECODE, 0),
    ]
    resident = [(NVME, 4, KIB4), (NVME, 5, KIB4), (CPU, 7, KIB4)]
    plan, populate = make_plan(rows, resident=resident)
    assert sorted(populate.key.tolist()) == [1, 2, 4]
    assert len(set(populate.offset_bytes.tolist())) == 3
    assert plan.extent_bytes[0] == (1 << 20) + 4 * KIB4  # 1, 2, 4, the untouched 5; 3 follows 2


def test_arena_pieces_never_straddle_the_end() -> None:
    """Each I/O's payload is contiguous in the arena, for objects smaller and larger than it."""
    sizes = [KIB4 * n for n in (3, 7, 15, 16, 31, 40, 100, 300, 1, 600)]
    rows: list[Row] = [(i, W, NVME, i, PREFILL, size) for i, size in enumerate(sizes)]
    io_bytes, arena = 1 << 16, 1 << 20
    plan, _ = make_plan(rows, arena_bytes=arena, io_bytes=io_bytes)
    for start, length in zip(plan.ops.arena_bytes, plan.ops.length_bytes, strict=True):
        for piece in range(0, int(length), io_bytes):
            size = min(io_bytes, int(length) - piece)
            assert (int(start) + piece) % arena + size <= arena


def test_limits() -> None:
    """A limit by rows or by time cuts the plan and the populate set alike."""
    rows: list[Row] = [(i * 10, R, NVME, i, DECODE, KIB4) for i in range(10)]
    plan, populate = make_plan(rows, limit=Limit(rows=3))
    assert plan.row.tolist() == [0, 1, 2]
    assert len(populate.key) == 3
    plan, populate = make_plan(rows, limit=Limit(duration_ns=40))
    assert plan.row.tolist() == [0, 1, 2, 3]
    assert len(populate.key) == 4


def test_many_readers_of_one_object_make_room_for_their_edges() -> None:
    """A delete that waits for more reads than the lists had room for waits for all of them."""
    reads = 30_000
    rows: list[Row] = [(0, W, NVME, 1, PREFILL, KIB4)]
    rows += [(1, R, NVME, 1, DECODE, KIB4)] * reads
    rows += [(2, D, NVME, 1, EVICT, KIB4)]
    plan, _ = make_plan(rows)
    assert plan.ops.wait_count[-1] >= reads
    assert waits_of(plan.ops)[-1] == set(range(reads + 1))


def test_lists_grow_when_one_row_needs_more_than_they_hold() -> None:
    """Many exclusive rows after many reads on two tiers outgrow the first estimate."""
    rows: list[Row] = []
    for cycle in range(3_000):
        rows.append((cycle, R, NVME, 1, PROMOTE, KIB4))
        rows.append((cycle, W, CPU, 1, PROMOTE, KIB4))
    rows.append((9_999, D, NVME, 1, EVICT, KIB4))
    plan, _ = make_plan(rows, (NVME,))
    assert waits_of(plan.ops)[-1] == set(range(3_000))


def test_live_set_must_fit() -> None:
    """What doesn't fit is refused with the figures."""
    need = extents.Need(10, 10 << 20, 1 << 20)
    with pytest.raises(
        TargetError, match=r"8\.00 MiB.*10\.00 MiB live.*10 objects.*1\.00 MiB slack"
    ):
        extents.check_fits(need, Space(KIB4, 0, 8 << 20), "target")


@given(st.lists(st.integers(1, 1 << 34), min_size=1, max_size=600))
def test_extent_lengths_waste_little(lengths: list[int]) -> None:
    """Extents hold their objects, are aligned, and are at most 1/16 (and one block) longer."""
    found = extents.round_lengths(np.array(lengths, np.int64), KIB4)
    for length, extent in zip(lengths, found.tolist(), strict=True):
        aligned = -(-length // KIB4) * KIB4
        assert extent % KIB4 == 0
        assert aligned <= extent <= aligned + max(aligned // 16, KIB4) + KIB4
