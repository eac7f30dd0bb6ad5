"""What-ifs: the same figures as a recording's, a ceiling that is one, curves that are exact."""

from __future__ import annotations

import json
from functools import cache
from itertools import combinations as subsets
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvtrace.cli.recorded import summary
from kvtrace.errors import TraceError
from kvtrace.hierarchy.hierarchy import Hierarchy
from kvtrace.hierarchy.spec import HierarchySpec, TierSpec
from kvtrace.recording.config import load_config
from kvtrace.recording.pipeline import record
from kvtrace.trace.reader import open_trace
from kvtrace.trace.schema import Tier
from kvtrace.units import UNLIMITED
from kvtrace.whatif import simulated
from kvtrace.whatif import workload as workloads
from kvtrace.whatif.accesses import Traced
from kvtrace.whatif.answers import answer
from kvtrace.whatif.curve import (
    lru_curve,
    lru_hits,
    sizes,
    write_oracle,
)
from kvtrace.whatif.grid import combinations
from kvtrace.whatif.optimal import optimal_hits
from kvtrace.whatif.references import References, collect
from kvtrace.whatif.workload import Configured
from tests.support import places
from tests.support.examples import examples, rest_slow
from tests.support.making import SMALL
from tests.support.reference import Block, Request
from tests.support.requests import cut

if TYPE_CHECKING:
    from pathlib import Path

MOONCAKE = places.SAMPLES / "mooncake/synthetic_trace.jsonl"
needs_mooncake = pytest.mark.skipif(not MOONCAKE.exists(), reason="the Mooncake sample isn't here")

CHOICES = {
    "tiers.cpu.capacity": ["100MiB", "300MiB"],
    "tiers.nvme.capacity": ["400MiB", "unlimited"],
    "eviction": ["lru", "s3-fifo"],
}
WORKLOADS: dict[str, dict[str, Any]] = {
    "users": {"source.users": 6, "lookups": True, "layout": "vllm"},
    "hybrid": {"model": "gpt-oss-20b", "write_policy": "write-through", "tensor_parallel": 2},
    "open": {"source.users": None, "source.rate": 1.0, "source.rag": {"probability": 0.5}},
    "warm": {"source.users": None, "source.rate": 1.0, "warmup": "5s", "prefill_rate": 20_000},
    "turns": {"layout": "request", "block_tokens": None, "source.users": None, "source.rate": 1.0},
}


def configured(options: dict[str, Any]) -> Configured:
    return Configured(lambda tried: load_config(None, SMALL | options | tried))


@pytest.mark.slow
@pytest.mark.parametrize("options", rest_slow(WORKLOADS.values(), quick=2), ids=WORKLOADS)
def test_figures_are_those_of_a_recording(tmp_path: Path, options: dict[str, Any]) -> None:
    """Each combination's hits, ops and bytes equal those that `record --dry-run --json` prints."""
    found = answer(configured(options), CHOICES, curves=None).outcomes
    assert len(found) == 8
    for outcome in found:
        config = load_config(None, SMALL | options | outcome.options)
        made = summary(record(config, tmp_path / "t.parquet", dry_run=True))
        said = outcome.document()
        same = ("requests", "blocks", "hit_ratio", "token_hit_ratio", "ideal_prefix_hit", "cells",
                "duration_s")  # fmt: skip
        assert {name: said[name] for name in same} == {name: made[name] for name in same}
    assert len({str(outcome.counter.cells()) for outcome in found}) > 2


@pytest.mark.slow
def test_an_open_source_is_cut_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many combinations are tried, an open source is read once."""
    passes = []
    taped = workloads._Tape.__init__

    def counted(self: Any, requests: Any) -> None:
        passes.append(1)
        taped(self, requests)

    monkeypatch.setattr(workloads._Tape, "__init__", counted)
    answer(configured(WORKLOADS["open"]), CHOICES, curves=None)
    assert len(passes) == 1


def test_writes_per_day() -> None:
    """Bytes per day and drive writes per day are of the whole node, ranks not emitted included."""
    options = {"tensor_parallel": 2, "ranks": "one", "tiers.nvme.capacity": "600MiB"}
    (one,) = answer(configured(options), {}, curves=None).outcomes
    (both,) = answer(configured(options | {"ranks": "all"}), {}, curves=None).outcomes
    nvme = one.document()["tiers"]["nvme"]
    days = one.counter.duration_ns / 1e9 / 86_400
    assert one.nvme_bytes_per_day == pytest.approx(nvme["write_bytes"] / days)
    assert nvme["write_bytes"] == both.document()["tiers"]["nvme"]["write_bytes"]
    assert one.nvme_bytes_per_day == pytest.approx(both.nvme_bytes_per_day)
    assert one.drive_writes_per_day == pytest.approx(one.nvme_bytes_per_day / (600 << 20))
    (endless,) = answer(
        configured(options | {"tiers.nvme.capacity": "unlimited"}), {}, curves=None
    ).outcomes
    assert endless.nvme_bytes_per_day
    assert endless.drive_writes_per_day is None


def test_combinations_in_order() -> None:
    """The last option changes fastest; without options there is one combination."""
    assert combinations({}) == [{}]
    assert combinations({"a": ["1", "2"], "b": ["x", "y"]}) == [
        {"a": "1", "b": "x"}, {"a": "1", "b": "y"}, {"a": "2", "b": "x"}, {"a": "2", "b": "y"},
    ]  # fmt: skip


OPEN = {
    "source.users": None,
    "source.rate": 1.5,
    "source.system_prompts.probability": 0.0,
    "tiers.nvme.capacity": "unlimited",
}


@pytest.mark.parametrize(
    "more",
    rest_slow([
        {},
        {"touch_order": "in-order", "tensor_parallel": 2},
        {"write_policy": "write-through", "ranks": "one", "tensor_parallel": 2},
        {"model": "deepseek-v3", "tensor_parallel": 2, "tiers.gpu.capacity": "256MiB",
         "tiers.cpu.capacity": "300MiB"},
    ]),
    ids=["plain", "in order", "write-through", "replicated"],
)  # fmt: skip
def test_a_trace_that_lost_nothing_tells_all(tmp_path: Path, more: dict[str, Any]) -> None:
    """A trace of tiers that lose nothing gives the figures that its source gives.

    System prompts are left out: what is asked for while it is being computed is stored twice.
    """
    path = tmp_path / "t.parquet"
    record(load_config(None, SMALL | OPEN | more), path)
    with open_trace(path) as trace:
        traced = Traced(trace)
    choices = {
        "tiers.cpu.capacity": ["300MiB", "500MiB"],
        "tiers.nvme.capacity": ["600MiB", "unlimited"],
        "eviction": ["lru", "sieve"],
    }
    from_trace = answer(traced, choices, curves=None).outcomes
    from_source = answer(configured(OPEN | more), choices, curves=None).outcomes
    for ours, theirs in zip(from_trace, from_source, strict=True):
        assert ours.stats.hits == theirs.stats.hits
        assert ours.stats.blocks == theirs.stats.blocks
        assert ours.counter.cells() == theirs.counter.cells()
        assert ours.optimal == theirs.optimal
        assert ours.nvme_bytes_per_day == pytest.approx(theirs.nvme_bytes_per_day, rel=0.02)


def test_a_trace_under_its_own_options(tmp_path: Path) -> None:
    """Without options a trace is run on the tiers that it was recorded with."""
    path = tmp_path / "t.parquet"
    made = record(load_config(None, SMALL | OPEN), path)
    with open_trace(path) as trace:
        (found,) = answer(Traced(trace), {}, curves=None).outcomes
    assert found.stats.hits == made.stats.hits
    assert found.spec.tiers[Tier.NVME].capacity_bytes == UNLIMITED


def test_a_trace_that_tells_nothing_is_refused(tmp_path: Path) -> None:
    """A trace without requests, and one of a hybrid model, are refused with what to do."""
    import polars as pl

    path = tmp_path / "t.parquet"
    record(load_config(None, SMALL | {"requests": 3}), path)
    pl.read_parquet(path).drop("request").write_parquet(tmp_path / "bare.parquet")
    with (
        open_trace(tmp_path / "bare.parquet") as trace,
        pytest.raises(TraceError, match=r"has no requests.*--config"),
    ):
        Traced(trace)
    record(load_config(None, SMALL | {"requests": 3, "model": "gpt-oss-20b"}), path.with_stem("h"))
    with (
        open_trace(path.with_stem("h")) as trace,
        pytest.raises(TraceError, match="hybrid model"),
    ):
        Traced(trace)


def groups(sizes_of: list[int]) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.repeat(np.arange(len(sizes_of)), sizes_of)


def brute_force(prompts: list[list[tuple[int, bool]]], room: int) -> int:
    """Return the most hits, trying everything that a cache may keep after each prompt."""

    @cache
    def best(at: int, held: frozenset[int]) -> int:
        if at == len(prompts):
            return 0
        hits = sum(asked and key in held for key, asked in prompts[at])
        there = held | {key for key, _ in prompts[at]}
        kept = min(room, len(there))
        return hits + max(best(at + 1, frozenset(some)) for some in subsets(sorted(there), kept))

    return best(0, frozenset())


@settings(max_examples=examples(150))
@given(
    st.lists(
        st.lists(
            st.tuples(st.integers(0, 5), st.booleans()),
            min_size=1,
            max_size=4,
            unique_by=lambda entry: entry[0],
        ),
        max_size=7,
    ),
    st.integers(0, 4),
)
def test_the_optimum_is_one(prompts: list[list[tuple[int, bool]]], room: int) -> None:
    """No choice of what to keep gives more hits than the optimum, and some choice gives as many."""
    flat = [entry for prompt in prompts for entry in prompt]
    key = np.array([k for k, _ in flat], np.int64)
    asked = np.array([a for _, a in flat], np.bool_)
    group = groups([len(prompt) for prompt in prompts])
    assert optimal_hits(key, asked, group, room) == brute_force(prompts, room)


def references_of(keys: list[int]) -> References:
    """Return references to one block each."""
    _, key = np.unique(np.array(keys, np.int64), return_inverse=True)
    count = len(keys)
    return References(key, np.ones(count, np.bool_), np.arange(count), 1.0)


def zipfian(count: int, distinct: int, seed: int) -> list[int]:
    rng = np.random.default_rng(seed)
    weights = 1 / np.arange(1, distinct + 1)
    return [int(k) for k in rng.choice(distinct, count, p=weights / weights.sum())]


def test_the_optimum_bounds_libcachesims(tmp_path: Path) -> None:
    """LibCacheSim's Belady lies between two optima, and meets them where all fits.

    It stores all that is asked for again: more may be had with the choice not to, and no less than
    with a place less for all but what was asked for last.
    """
    pytest.importorskip("libcachesim")
    keys = zipfian(4000, 300, 1)
    repeated = sum(a == b for a, b in pairwise(keys))
    once = [keys[0]] + [b for a, b in pairwise(keys) if a != b]
    ours, theirs = references_of(once), references_of(keys)
    path = tmp_path / "r.oracleGeneral"
    write_oracle(theirs.key, path)
    for room in (2, 10, 50, 150, 300):
        found = simulated.hits(str(path), "Belady", room, theirs.distinct, len(keys))
        most = optimal_hits(theirs.key, theirs.asked, theirs.group, room)
        least = repeated + optimal_hits(ours.key, ours.asked, ours.group, room - 1)
        assert least <= found <= most
        if room >= theirs.distinct:
            assert found == most == len(keys) - theirs.distinct


def test_lru_at_all_sizes_equals_libcachesims(tmp_path: Path) -> None:
    """The curve of one pass has at every size the hits that libCacheSim's LRU has."""
    pytest.importorskip("libcachesim")
    references = references_of(zipfian(5000, 200, 2))
    path = tmp_path / "r.oracleGeneral"
    write_oracle(references.key, path)
    hits = lru_hits(references)
    for room in range(1, 201, 7):
        expected = simulated.hits(str(path), "LRU", room, references.distinct, 5000)
        assert hits[room] == expected, room


def hierarchy_hits(requests: list[Request], capacity: int, eviction: str = "lru") -> int:
    """Return the hits of the hierarchy with one tier of so many blocks."""
    tier = TierSpec(Tier.CPU, capacity, 1, 0, eviction=eviction)
    hierarchy = Hierarchy(HierarchySpec(tiers=(tier,), tail_first=False))
    for _ in hierarchy.events([cut(requests)]):
        pass
    return hierarchy.stats().hits[Tier.CPU]


def test_lru_at_all_sizes_equals_the_hierarchy() -> None:
    """The curve of one pass has at every size the hits that the hierarchy has, block by block."""
    keys = zipfian(1500, 120, 3)
    requests = [Request(row, [Block(key, 1)], row=row) for row, key in enumerate(keys)]
    references = references_of(keys)
    hits = lru_hits(references)
    for room in (1, 2, 3, 10, 40, references.distinct - 1, references.distinct):
        assert hits[room] == hierarchy_hits(requests, room), room


@pytest.mark.slow
def test_no_tier_beats_the_optimum() -> None:
    """No combination has more hits than its ceiling, and an endless cache reaches it."""
    tried = {
        "tiers.gpu.capacity": ["20MiB"],
        "tiers.cpu.capacity": ["20MiB", "100MiB"],
        "tiers.nvme.capacity": ["30MiB", "400MiB"],
        "promotion": ["none", "on-hit"],
    }
    found = answer(configured(WORKLOADS["open"]), tried, curves=None).outcomes
    for outcome in found:
        assert outcome.optimal is not None
        assert outcome.total_hit_ratio <= outcome.optimal
    assert len({outcome.optimal for outcome in found}) > 1
    endless = {"tiers.nvme.capacity": "unlimited"}
    (most,) = answer(configured(WORKLOADS["open"] | endless), {}, curves=None).outcomes
    assert most.optimal is not None
    assert most.total_hit_ratio == pytest.approx(most.optimal, abs=0.01)


def test_tiers_that_dont_begin_empty_have_no_ceiling() -> None:
    """After a warm-up the optimum isn't known, and curves are refused."""
    found = answer(configured(WORKLOADS["warm"]), {}, curves=None).outcomes
    assert found[0].optimal is None


def test_references_are_all_that_is_asked_for() -> None:
    """References are the blocks that a recording counts, in groups of a prompt."""
    workload = configured(WORKLOADS["open"])
    run = workload.reference_run()
    assert run is not None
    references = collect(run)
    (outcome,) = answer(workload, {}, curves=None).outcomes
    assert references.blocks == outcome.stats.blocks
    assert (np.diff(references.group) >= 0).all()
    generated = ~references.asked
    assert generated.any()
    assert references.mean_tokens == 64


@needs_mooncake
def test_mooncakes_curve_is_known() -> None:
    """On Mooncake's synthetic trace, an endless LRU hits as often as is known of it."""
    keys = [k for line in MOONCAKE.read_text().splitlines() for k in json.loads(line)["hash_ids"]]
    references = references_of(keys)
    curve = lru_curve(references, sizes(references.distinct, 20))
    assert (references.blocks, references.distinct) == (121_877, 43_924)
    assert curve.miss_ratio[-1] == pytest.approx(43_924 / 121_877)
    assert list(curve.miss_ratio) == sorted(curve.miss_ratio, reverse=True)


@pytest.mark.slow
def test_other_policies_curves() -> None:
    """Policies that libCacheSim simulates have curves between nothing and the optimum."""
    pytest.importorskip("libcachesim")
    found = answer(configured(WORKLOADS["open"]), {}, curves=["arc", "lirs", "w-tinylfu"])
    by_name = {curve.policy: curve for curve in found.curves}
    assert list(by_name) == ["lru", "opt", "arc", "lirs", "w-tinylfu"]
    best = dict(zip(by_name["opt"].blocks, by_name["opt"].miss_ratio, strict=True))
    for name in ("arc", "lirs", "w-tinylfu"):
        curve = by_name[name]
        assert curve.blocks == by_name["opt"].blocks
        known = [pair for pair in zip(curve.blocks, curve.miss_ratio, strict=True) if pair[1]]
        assert len(known) > len(curve.blocks) // 2
        for blocks, missed in known:
            assert best[blocks] - 1e-9 <= missed <= 1
