"""What a trace looks like: figures over time add up and are those of a naive count."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings

from kvtrace.errors import TraceError
from kvtrace.tools.diff import compare
from kvtrace.tools.profile import SLICES_MAX, Profile, profile
from kvtrace.tools.profile_document import document
from kvtrace.tools.stats import summarise
from kvtrace.trace.check import check
from kvtrace.trace.header import Header
from kvtrace.trace.reader import open_trace
from kvtrace.trace.schema import Op, Phase, Tier
from kvtrace.trace.writer import TraceWriter
from tests.support import random_traces
from tests.support.examples import examples
from tests.support.making import make, write_rows

if TYPE_CHECKING:
    from pathlib import Path

MIB = 1 << 20


def profile_of(path: Path, **more: Any) -> Profile:
    """Return the profile of a trace."""
    with open_trace(path) as trace:
        return profile(trace, **more)


def info_of(path: Path) -> dict[str, Any]:
    """Return what `kvtrace info --json` prints."""
    with open_trace(path) as trace:
        return summarise(trace)


def assert_sums(path: Path) -> None:
    """Fail unless sums over time are the totals of `kvtrace info`, cell by cell."""
    made, info = profile_of(path), info_of(path)
    ops: Counter[tuple[str, str]] = Counter()
    moved: Counter[tuple[str, str]] = Counter()
    for cell in info["cells"]:
        ops[cell["tier"], cell["op"]] += cell["ops"]
        moved[cell["tier"], cell["op"]] += cell["bytes"]
    for tier, own in made.tiers.items():
        for op in Op:
            assert own.ops[:, op].sum() == ops[tier.label, op.label]
            assert own.bytes[:, op].sum() == moved[tier.label, op.label]
        reads = own.sizes[Op.READ]
        assert reads.count == ops[tier.label, "read"]
    assert made.slices.count <= SLICES_MAX


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recorded trace with all tiers under pressure."""
    path = tmp_path_factory.mktemp("profile") / "t.parquet"
    make(path)
    return path


def test_a_recorded_trace_adds_up(recorded: Path) -> None:
    """Ops and bytes over time are the totals; most held is what `check` finds, slice by slice."""
    assert_sums(recorded)
    made = profile_of(recorded)
    with open_trace(recorded) as trace:
        peaks = check(trace).peak_bytes
    for tier, own in made.tiers.items():
        assert own.held_bytes_max == peaks[tier]
        assert own.held_bytes().max() == peaks[tier]
        assert own.derived == 0


def test_hits_are_those_of_the_simulation(recorded: Path) -> None:
    """Hits per tier are the simulated blocks × objects of a block; the slices add up to them."""
    made, info = profile_of(recorded), info_of(recorded)
    hits = info["header"]["statistics"]["hit_blocks"]
    for tier, own in made.tiers.items():
        assert made.hits[tier].sum() == hits[tier.label]
        assert len(own.held_bytes()) == made.slices.count
    computed = [c["ops"] for c in info["cells"]
                if (c["tier"], c["phase"], c["op"]) == ("gpu", "prefill", "write")]  # fmt: skip
    assert made.computed.sum() == sum(computed)
    asked = sum(hits.values()) + sum(computed)
    assert made.hit_ratio == sum(hits.values()) / asked
    assert made.asked == asked


def test_unique_bytes_are_those_of_the_rows(recorded: Path) -> None:
    """Touched objects and bytes are polars' count, at the end and by the end of each slice."""
    made = profile_of(recorded)
    rows = pl.read_parquet(recorded).filter(pl.col("op").cast(pl.String).is_in(["read", "write"]))
    first = rows.group_by("key").agg(pl.col("size").max(), pl.col("timestamp").min())
    assert made.keys.objects == len(first)
    assert made.keys.bytes == first["size"].sum()
    ends = made.slices.begin_ns() + made.slices.width_ns
    expected = [first.filter(pl.col("timestamp") < int(end))["size"].sum() for end in ends]
    assert made.keys.touched_bytes().tolist() == expected


def naive_lru(touches: list[tuple[int, bool]], room: int) -> float:
    """Return the hit ratio of an LRU cache of `room` objects, of touches (key, asked)."""
    cached: dict[int, None] = {}
    hits = 0
    for key, asked in touches:
        hits += asked and key in cached
        cached.pop(key, None)
        cached[key] = None
        if len(cached) > room:
            del cached[next(iter(cached))]
    return hits / max(1, sum(asked for _, asked in touches))


def test_one_lru_cache_serves_what_a_simulated_one_does(recorded: Path) -> None:
    """At each size: an LRU of the requests' objects, gone through one by one."""
    made = profile_of(recorded)
    words = (pl.col(name).cast(pl.String) for name in ("op", "tier", "phase"))
    touches = []
    for key, op, tier, phase in pl.read_parquet(recorded).select("key", *words).iter_rows():
        read = (op, phase) == ("read", "decode")
        stored = (op, tier) == ("write", "gpu") and phase in ("prefill", "decode")
        if read or stored:
            touches.append((key, read or phase == "prefill"))
    sizes = made.lru_sizes(8)
    expected = [naive_lru(touches, int(size)) for size in sizes]
    assert made.lru_hit_ratio(sizes).tolist() == pytest.approx(expected)
    assert expected[-1] > expected[0]


def test_reuse_is_that_of_diff(recorded: Path) -> None:
    """Sizes and reuse distances are those that `kvtrace diff` compares."""
    made = profile_of(recorded)
    with open_trace(recorded) as trace:
        differences = {(d.tier, d.quantity): d.a for d in compare(trace, trace)}
    for tier, own in made.tiers.items():
        ours = own.reuse_distance
        assert ours.count == differences[tier.label, "reuse_distance"]["count"]
        assert ours.mean == differences[tier.label, "reuse_distance"]["mean"]
        assert own.reuse_ns.count == ours.count


@pytest.mark.slow
@given(rows=random_traces.rows())
@settings(max_examples=examples(60))
def test_any_trace_adds_up(rows: random_traces.Rows, tmp_path_factory: Any) -> None:
    """Whatever the rows: totals, bytes held and times between touches are a naive count's."""
    path = rows.write(tmp_path_factory.mktemp("any") / "t.parquet")
    assert_sums(path)
    made = profile_of(path)
    held, peaks, waits = naive(rows)
    for tier, own in made.tiers.items():
        assert own.held_bytes_max == peaks[tier]
        assert own.held_bytes()[-1] >= held[tier]
        assert own.reuse_ns.count == len(waits[tier])
        assert own.reuse_ns.mean == pytest.approx(np.mean(waits[tier] or [0]), rel=0.003)
    told = document(made)
    assert all(
        len(values) == made.slices.count
        for values in told["time_slices"]["tiers"].get("nvme", {}).values()
    )


def naive(rows: random_traces.Rows) -> tuple[Counter[int], Counter[int], dict[int, list[int]]]:
    """Return bytes held at the end, the most held, and times between touches, per tier."""
    sizes = {(int(t), int(k)): int(s) for t, k, s in rows.resident}
    held: Counter[int] = Counter()
    for (tier, _), size in sizes.items():
        held[tier] += size
    peaks, last = Counter(held), dict[tuple[int, int], int]()
    waits: dict[int, list[int]] = {tier: [] for tier in Tier}
    names = ("timestamp", "op", "size", "tier", "key")
    for time, op, size, tier, key in zip(*(rows.columns[n].tolist() for n in names), strict=True):
        place = tier, key
        if op == Op.LOOKUP:
            continue
        if op == Op.DELETE:
            held[tier] -= sizes.pop(place, 0)
            last.pop(place, None)
            continue
        held[tier] += max(0, size - sizes.get(place, 0))
        sizes[place] = max(size, sizes.get(place, 0))
        peaks[tier] = max(peaks[tier], held[tier])
        if place in last:
            waits[tier].append(time - last[place])
        last[place] = time
    return held, peaks, waits


def test_held_bytes_stay_between_rows(tmp_path: Path) -> None:
    """Slices without rows hold what was held before; residents are held from the start."""
    second = 1_000_000_000
    path = write_rows(tmp_path / "t.parquet", [
        (0, Op.WRITE, 2 * MIB, Tier.NVME, 1, Phase.PREFILL),
        (100 * second, Op.DELETE, 2 * MIB, Tier.NVME, 1, Phase.EVICT),
        (199 * second, Op.READ, MIB, Tier.CPU, 2, Phase.DECODE),
    ])  # fmt: skip
    made = profile_of(path)
    held = made.tiers[Tier.NVME].held_bytes()
    assert made.slices.count == 200
    assert held[:101].tolist() == [2 * MIB] * 101
    assert held[101:].tolist() == [0] * 99
    assert made.tiers[Tier.CPU].derived == 1
    assert made.tiers[Tier.CPU].held_bytes()[-2:].tolist() == [0, MIB]


def test_without_requests_there_is_no_hit_ratio(tmp_path: Path) -> None:
    """Rows that don't know their requests aren't taken for hits and misses; reads are asked for."""
    rows = [(at, Op.READ, MIB, Tier.NVME, at % 2, Phase.DECODE) for at in range(6)]
    made = profile_of(write_rows(tmp_path / "t.parquet", rows))
    assert made.hit_ratio is None
    assert (made.asked, made.hits.sum()) == (6, 0)
    assert made.lru_hit_ratio(np.array([1, 2])).tolist() == [0, pytest.approx(4 / 6)]


def test_more_objects_than_are_followed_are_sampled(tmp_path: Path) -> None:
    """Unique objects, bytes and hit ratios of many objects are estimated to some per cent."""
    rng = np.random.default_rng(1)
    count = 60_000
    columns = {
        "timestamp": np.arange(count, dtype=np.int64) * 1000,
        "op": np.full(count, Op.READ, np.uint8),
        "size": np.full(count, 4096, np.uint64),
        "tier": np.full(count, Tier.NVME, np.uint8),
        "key": rng.integers(0, 20_000, count).astype(np.uint64),
        "phase": np.full(count, Phase.DECODE, np.uint8),
    }
    path = tmp_path / "t.parquet"
    with TraceWriter(path, Header(), ()) as writer:
        writer.append(columns)
    whole, part = profile_of(path), profile_of(path, followed_max=4000)
    assert (whole.keys.weight, part.keys.weight) == (1, 8)
    assert part.keys.objects == pytest.approx(whole.keys.objects, rel=0.08)
    assert part.keys.bytes == part.keys.objects * 4096
    sizes = np.array([5_000, 10_000, 15_000, 20_000])
    ours, exact = part.lru_hit_ratio(sizes), whole.lru_hit_ratio(sizes)
    assert ours.tolist() == pytest.approx(exact.tolist(), abs=0.05)
    ends = part.keys.touched_bytes()
    assert (np.diff(ends) >= 0).all()
    assert ends[-1] == part.keys.bytes


def test_a_damaged_row_is_refused(tmp_path: Path) -> None:
    """Time that runs backwards is an error with its row, never a chart."""
    path = tmp_path / "t.parquet"
    frame = pl.DataFrame(
        {"timestamp": [5, 3], "op": ["read", "read"], "size": [1, 1], "tier": ["cpu", "cpu"],
         "key": [1, 1], "phase": ["decode", "decode"]},
        schema={"timestamp": pl.Int64, "op": pl.Categorical, "size": pl.UInt64,
                "tier": pl.Categorical, "key": pl.UInt64, "phase": pl.Categorical},
    )  # fmt: skip
    frame.write_parquet(path)
    with open_trace(path) as trace, pytest.raises(TraceError, match="row 1"):
        profile(trace)
