"""The planner against a naive model of the order rules, and its places by hand."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvtrace.errors import TargetError, TraceError, UsageError
from kvtrace.placement import extents
from kvtrace.placement.extents import Space
from kvtrace.placement.limit import Limit
from kvtrace.trace.schema import Op, Phase, Tier
from replay.ops.columns import EXTRA, OP_TYPES, Ops
from replay.ops.contract import Action
from replay.ops.divided import places
from tests.support.examples import examples
from tests.support.planner import make_planner

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from replay.plan.planner import Planner
    from tests.support.traces import Row

R, W, D, L = Op.READ, Op.WRITE, Op.DELETE, Op.LOOKUP
NVME, CPU, GPU = Tier.NVME, Tier.CPU, Tier.GPU
EVICT, DECODE, PREFILL, PROMOTE = Phase.EVICT, Phase.DECODE, Phase.PREFILL, Phase.PROMOTE
KIB4 = 4096
EVERYTHING = Limit()


@dataclass(frozen=True)
class Plan:
    """A whole plan: its columns, of as many ops as there are, and what the ops are in the trace."""

    ops: Ops
    extra: NDArray[np.bool_]
    row: NDArray[np.int64]
    extent_bytes: tuple[int, ...]

    @property
    def op(self) -> NDArray[np.uint8]:
        """What each op is."""
        return self.ops.cell >> 2 & 3

    @property
    def length_bytes(self) -> NDArray[np.int64]:
        """How much each op moves."""
        return self.ops.length_sectors.astype(np.int64) * 512


def make_plan(
    rows: list[Row], tiers: tuple[Tier, ...] = (NVME,), **fields: Any
) -> tuple[Plan, Ops]:
    """Return the whole plan and the populate set."""
    planner, ring = make_planner(rows, tiers, **fields)
    populate, count = planner.populate("touched", np.random.default_rng(0))
    ends = planner.space_ends()
    while planner.advance(0):
        pass
    assert planner.final
    executed = [index for index, row in enumerate(rows[: planner.rows]) if row[2] in tiers]
    assert ends == tuple(planner.extent_ends.tolist())
    ops = cut(ring, planner.planned)
    extra = ops.pad_bytes == EXTRA
    assert len(executed) == (~extra).sum()
    return Plan(ops, extra, np.array(executed), ends), cut(populate, count)


def cut(ring: Ops, count: int) -> Ops:
    """Return the columns of the first `count` ops."""
    assert count <= ring.capacity
    rings = ("edges", "extents")
    return Ops(**{k: v if k in rings else v[:count] for k, v in ring._asdict().items()})


def waits_of(ops: Ops) -> list[set[int]]:
    """Return what each op waits for."""
    return [
        set(ops.edges[begin : begin + count].tolist())
        for begin, count in zip(ops.edge_begin.tolist(), ops.wait_count.tolist(), strict=True)
    ]


def spans_of(ops: Ops, op: int) -> set[Span]:
    """Return where an op on a whole object reads or writes."""
    length = int(ops.length_sectors[op]) * 512
    lane = int(ops.lane[op])
    return {(lane, at, at + size) for at, size in places(ops, op, 0, length)}


def closure(direct: list[set[int]]) -> list[set[int]]:
    """Return everything that each item waits for, however indirectly."""
    full: list[set[int]] = []
    for waited in direct:
        full.append(waited.union(*(full[item] for item in waited)))
    return full


Span = tuple[int, int, int]
"""(lane, begin, end): bytes of a target."""


def overlap(some: set[Span], others: set[Span]) -> bool:
    """Whether two sets of spans have a byte in common."""
    return any(
        a[0] == b[0] and a[1] < b[2] and b[1] < a[2] for a, b in itertools.product(some, others)
    )


def naive_waits(rows: list[Row], place: dict[int, set[Span]]) -> list[set[int]]:
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
                waits |= {i for i in place if i < index and overlap(place[i], place[index])}
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


@settings(max_examples=examples(100))
@given(rows=random_rows(), tiers=EXECUTED)
def test_order_is_that_of_the_naive_model(rows: list[Row], tiers: tuple[Tier, ...]) -> None:
    """Every executed row appears once, and waits, in all, for exactly what the rules say."""
    if not any(row[2] in tiers for row in rows):
        return
    plan, populate = make_plan(rows, tiers)
    executed = [index for index, row in enumerate(rows) if row[2] in tiers]
    assert plan.row.tolist() == executed

    spans = {
        (tiers[populate.lane[op]], int(populate.key[op])): spans_of(populate, op)
        for op in range(len(populate.key))
    }
    place: dict[int, set[Span]] = {}
    for op, index in enumerate(executed):
        _, what, tier, key, _, _ = rows[index]
        if plan.length_bytes[op]:
            spans[tier, key] = spans_of(plan.ops, op)
        if what != L and (tier, key) in spans:
            place[index] = spans[tier, key]
        if what == D:
            spans.pop((tier, key), None)
    wanted = closure(naive_waits(rows, place))
    found = closure(waits_of(plan.ops))
    for op, index in enumerate(executed):
        assert {executed[waited] for waited in found[op]} == wanted[index] & set(executed)


@settings(max_examples=examples(60))
@given(rows=random_rows(), tiers=EXECUTED, spare=st.sampled_from([0, KIB4, 1 << 20]))
def test_live_objects_never_overlap(rows: list[Row], tiers: tuple[Tier, ...], spare: int) -> None:
    """At no row do the extents of two live objects of a lane overlap, or leave their space."""
    if not any(row[2] in tiers for row in rows):
        return
    plan, populate = make_plan(rows, tiers, spare_bytes=spare)
    live = {
        (int(populate.lane[op]), int(populate.key[op])): spans_of(populate, op)
        for op in range(len(populate.key))
    }
    for op in range(len(plan.row)):
        place = (int(plan.ops.lane[op]), int(plan.ops.key[op]))
        if plan.op[op] == D:
            live.pop(place, None)
        if plan.length_bytes[op]:
            spans = spans_of(plan.ops, op)
            assert live.get(place, spans) == spans
            live[place] = spans
            assert all(begin >= 1 << 20 for _, begin, _ in spans)
            assert all(end <= plan.extent_bytes[place[0]] for _, _, end in spans)
        ordered = sorted(span for spans in live.values() for span in spans)
        for (lane_a, _, end_a), (lane_b, begin_b, _) in itertools.pairwise(ordered):
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
    assert plan.length_bytes.tolist() == [2 * KIB4, KIB4, KIB4]
    assert ops.sector.tolist() == [0, 16, 8]
    assert ops.generation.tolist() == [1, 1, 1]
    assert (ops.arena_bytes - ops.arena_bytes[0]).tolist() == [0, 2 * KIB4, KIB4]


def test_fresh_payload_is_never_taken_from_an_earlier_place() -> None:
    """A rewrite of a part takes new bytes: those of the object's first write may be overwritten.

    Buggy: the part was written from the object's place in the stream, which the producer had
    released and was filling again, so that stamps were lost and a healthy drive was blamed.
    """
    rows: list[Row] = [(0, W, NVME, 5, PREFILL, 3 * KIB4)]
    rows += [(1 + at, W, NVME, 5, PREFILL, KIB4) for at in range(6)]
    rows += [(9, R, NVME, 5, DECODE, 3 * KIB4), (10, W, NVME, 6, PREFILL, 2 * KIB4)]
    plan, _ = make_plan(rows, offsets=[0, *(at % 2 * KIB4 for at in range(6)), 0, 0], fresh=True)
    writes = plan.op == int(W)
    begins = plan.ops.arena_bytes[writes].astype(np.int64)
    ends = begins + plan.length_bytes[writes]
    assert (begins[1:] >= ends[:-1]).all()


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
    for start, length in zip(plan.ops.arena_bytes, plan.length_bytes, strict=True):
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


@pytest.mark.slow
def test_a_delete_waits_for_all_of_many_readers() -> None:
    """What would be too many waits for one op goes through joins, ops of the plan's own."""
    reads = 70_000
    rows: list[Row] = [(0, W, NVME, 1, PREFILL, KIB4)]
    rows += [(1, R, NVME, 1, DECODE, KIB4)] * reads
    rows += [(2, D, NVME, 1, EVICT, KIB4)]
    plan, _ = make_plan(rows, batch_rows=5_000)
    assert 1 <= plan.extra.sum() <= 8
    waits = waits_of(plan.ops)
    joins = set(np.flatnonzero(plan.extra).tolist())
    found: set[int] = set()
    left = [len(waits) - 1]
    while left:
        for op in waits[left.pop()] - found:
            found.add(op)
            if op in joins:
                left.append(op)
    assert found - joins == set(range(len(waits) - 1)) - joins


def test_lists_grow_when_one_row_needs_more_than_they_hold() -> None:
    """Many exclusive rows after many reads on two tiers outgrow the first estimate."""
    rows: list[Row] = []
    for cycle in range(3_000):
        rows.append((cycle, R, NVME, 1, PROMOTE, KIB4))
        rows.append((cycle, W, CPU, 1, PROMOTE, KIB4))
    rows.append((9_999, D, NVME, 1, EVICT, KIB4))
    plan, _ = make_plan(rows, (NVME,))
    assert waits_of(plan.ops)[-1] == set(range(3_000))


def stream(planner: Planner, ring: Ops) -> tuple[list[tuple[Any, ...]], list[set[int]]]:
    """Return all ops and their waits, planned a ring at a time, drained as late as possible."""
    done: list[tuple[Any, ...]] = []
    waits: list[set[int]] = []
    not_compared = ("edges", "edge_begin", "clock", "generation", "wait_count", "extents")
    names = [name for name in OP_TYPES if name not in not_compared]
    while not planner.final or len(done) < planner.planned:
        while planner.advance(len(done)):
            pass
        left = max(0, (planner.planned - len(done)) // 2)
        for number in range(len(done), planner.planned - left):
            at = number & (ring.capacity - 1)
            done.append(tuple(getattr(ring, name)[at].item() for name in names))
            edges = ring.edge_begin[at].item() + np.arange(ring.wait_count[at])
            waits.append(set(ring.edges[edges & (len(ring.edges) - 1)].tolist()))
    return done, waits


@settings(max_examples=examples(30))
@given(rows=random_rows(), tiers=EXECUTED, repeats=st.integers(1, 8))
def test_a_plan_through_a_small_ring_is_the_whole_plan(
    rows: list[Row], tiers: tuple[Tier, ...], repeats: int
) -> None:
    """Planned a ring at a time, ops are the same; only waits for what was drained are missing."""
    if not any(row[2] in tiers for row in rows):
        return
    rows = rows[:1] + [(row[0], W, *row[2:5], KIB4) if row[1] == R else row for row in rows[1:]]
    span = rows[-1][0] + 1
    rows = [(row[0] + span * turn, *row[1:]) for turn in range(repeats) for row in rows]
    dead: set[tuple[Tier, int]] = set()
    live_rows: list[Row] = []
    for row in rows:
        if row[1] == R and (row[2], row[3]) in dead:
            continue
        if row[1] == D:
            dead.add((row[2], row[3]))
        elif row[1] == W:
            dead.discard((row[2], row[3]))
        live_rows.append(row)
    capacity = 32
    planner, ring = make_planner(live_rows, tiers, ring_ops=capacity)
    found, found_waits = stream(planner, ring)
    whole, whole_ring = make_planner(live_rows, tiers)
    wanted, wanted_waits = stream(whole, whole_ring)
    assert found == wanted
    for number, (some, all_of_them) in enumerate(zip(found_waits, wanted_waits, strict=True)):
        assert some <= all_of_them
        assert all(waited <= number - capacity for waited in all_of_them - some)


@pytest.mark.slow
def test_memory_follows_what_is_live() -> None:
    """Keys that come and go, each once, leave neither state nor waits behind."""
    rows: list[Row] = []
    for key in range(20_000):
        rows += [
            (key, W, NVME, key, PREFILL, KIB4),
            (key, R, NVME, key, DECODE, KIB4),
            (key, D, NVME, key, EVICT, KIB4),
        ]
    planner, ring = make_planner(rows, ring_ops=1024, batch_rows=500)
    drained = 0
    while planner.advance(drained) or not planner.final:
        drained = max(drained, planner.planned - 100)
    assert planner.planned == len(rows)
    assert planner._table.capacity <= 1 << 13
    assert len(planner._lists.array("links")) <= 1 << 12
    assert planner.extent_ends.tolist() == [(1 << 20) + KIB4]
    del ring


@pytest.mark.slow
def test_a_key_that_was_forgotten_is_read_dead_or_deleted_for_nothing() -> None:
    """A read of what was deleted long ago is a bad trace; a second delete is bookkeeping."""
    rows: list[Row] = []
    for key in range(20_000):
        rows += [(key, W, NVME, key, PREFILL, KIB4), (key, D, NVME, key, EVICT, KIB4)]
    late_delete: list[Row] = [*rows, (20_000, D, NVME, 3, EVICT, KIB4)]
    planner, _ = make_planner(late_delete, ring_ops=1024, batch_rows=500)
    assert planner.populate("touched", np.random.default_rng(0))[1] == 0
    late_read: list[Row] = [*rows, (20_000, R, NVME, 3, DECODE, KIB4)]
    with pytest.raises(TraceError, match=r"row 40000.*key 3 on tier nvme"):
        make_planner(late_read, ring_ops=1024, batch_rows=500)


def test_live_set_must_fit() -> None:
    """What doesn't fit is refused with the figures."""
    need = extents.Need(10, 10 << 20, 11 << 20)
    with pytest.raises(
        TargetError,
        match=r"8\.00 MiB for.*11\.00 MiB: live at most 10\.00 MiB in 10 objects.*\(1\.10 x\)",
    ):
        extents.check_fits(need, Space(KIB4, 0, 8 << 20), "target")
