"""Traces of traces: cut, merged, scaled, renamed, compared; sound, streaming, and what they say."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvtrace.errors import TraceError, UsageError
from kvtrace.tools import merge
from kvtrace.tools.anonymise import anonymised
from kvtrace.tools.diff import compare
from kvtrace.tools.distribution import Distribution, distances
from kvtrace.tools.ids import mixed
from kvtrace.tools.merge import merged
from kvtrace.tools.sample import Share
from kvtrace.tools.scale import Scaling, scaled
from kvtrace.tools.slice import Cut, sliced
from kvtrace.tools.stream import opened, write
from kvtrace.trace.check import check
from kvtrace.trace.header import Header, SourceInfo, TierInfo
from kvtrace.trace.interleave import interleaved
from kvtrace.trace.reader import open_trace
from kvtrace.trace.reuse import FIRST, ReuseDistances
from kvtrace.trace.schema import Op, Phase, Tier
from tests.support.examples import examples
from tests.support.making import make, write_rows

if TYPE_CHECKING:
    from pathlib import Path

S = 1_000_000_000
WORDS = ("op", "tier", "phase")


def rows_of(path: Path) -> pl.DataFrame:
    """Return a trace's rows, words as strings."""
    frame = pl.read_parquet(path)
    return frame.with_columns(pl.col(name).cast(pl.String) for name in (*WORDS, "qos")
                              if name in frame.columns)  # fmt: skip


def cut(trace: Path, out: Path, **options: Any) -> pl.DataFrame:
    """Slice, check the outcome's invariants, return its rows."""
    with open_trace(trace) as opened_trace:
        write(sliced(opened_trace, Cut(**options)), out)
    sound(out)
    return rows_of(out)


def sound(path: Path) -> None:
    """Fail unless all invariants hold."""
    with open_trace(path) as trace:
        found = check(trace)
    assert found.ok, found.violations


@pytest.fixture(scope="module")
def shared_prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trace whose sessions share prompts and documents, promoted and evicted on all tiers."""
    path = tmp_path_factory.mktemp("shared") / "t.parquet"
    make(
        path, source__system_prompts__probability=1.0, promotion="on-hit", duration="30s",
        source__rag={"probability": 0.5, "documents": 3}, tensor_parallel=2,
    )  # fmt: skip
    return path


def test_a_time_range_begins_at_zero(tmp_path: Path, small_trace: Path) -> None:
    """The rows of a range of time, from 0 on or at their own times; what they find is resident."""
    whole = rows_of(small_trace)
    expected = whole.filter(pl.col("timestamp").is_between(5 * S, 9 * S, closed="left"))
    kept = cut(small_trace, tmp_path / "a.parquet", begin_ns=5 * S, end_ns=9 * S, keep_time=True)
    assert kept.equals(expected)
    moved = cut(small_trace, tmp_path / "b.parquet", begin_ns=5 * S, end_ns=9 * S)
    first_ns = expected["timestamp"][0]
    assert moved.equals(expected.with_columns(pl.col("timestamp") - first_ns))
    with open_trace(tmp_path / "b.parquet") as trace:
        resident = trace.resident()
        assert trace.header.history[-1]["begin_ns"] == 5 * S
        assert trace.header.resident.objects == {
            tier.label: int((resident["tier"] == tier).sum())
            for tier in Tier
            if (resident["tier"] == tier).any()
        }
    assert residents_by_hand(whole, expected) == {tuple(row) for row in resident.tolist()}


def residents_by_hand(whole: pl.DataFrame, kept: pl.DataFrame) -> set[tuple[int, int, int]]:
    """Return (tier, key, size) of what `kept` reads or deletes before it writes it."""
    size: dict[tuple[str, int], int] = {}
    for row in whole.filter(pl.col("timestamp") < kept["timestamp"][0]).iter_rows(named=True):
        if row["op"] == "write":
            size[row["tier"], row["key"]] = row["size"]
        elif row["op"] == "delete":
            del size[row["tier"], row["key"]]
    found, seen = set(), set()
    for row in kept.iter_rows(named=True):
        place = (row["tier"], row["key"])
        if place not in seen and row["op"] != "write":
            found.add((int(Tier[row["tier"].upper()]), row["key"], size[place]))
        seen.add(place)
    return found


def test_rows_and_tiers(tmp_path: Path, small_trace: Path) -> None:
    """Rows by number, and tiers; where demotions lose their other half, `check` knows."""
    whole = rows_of(small_trace)
    nvme = cut(small_trace, tmp_path / "a.parquet", tiers=(Tier.NVME,), keep_time=True)
    assert nvme.equals(whole.filter(pl.col("tier") == "nvme"))
    with open_trace(tmp_path / "a.parquet") as trace:
        assert trace.header.half_demotions
        assert [tier.name for tier in trace.header.tiers] == ["nvme"]
    some = cut(
        small_trace, tmp_path / "b.parquet", first_row=1000, end_row=1500, tiers=(Tier.CPU,),
        keep_time=True,
    )  # fmt: skip
    assert some.equals(whole[1000:1500].filter(pl.col("tier") == "cpu"))


def test_no_end_cuts_a_demotion_in_half(tmp_path: Path) -> None:
    """A demotion across an end of the rows isn't there: before, it has happened; behind, not yet.

    Key 1's read is row 2, its write row 3; key 2's read is row 6, its write row 7.
    """
    rows = [
        (0, Op.WRITE, 8, Tier.CPU, 1, Phase.PREFILL),
        (0, Op.WRITE, 9, Tier.CPU, 2, Phase.PREFILL),
        (1, Op.READ, 8, Tier.CPU, 1, Phase.EVICT),
        (2, Op.WRITE, 8, Tier.NVME, 1, Phase.EVICT),
        (2, Op.DELETE, 8, Tier.CPU, 1, Phase.EVICT),
        (3, Op.READ, 8, Tier.NVME, 1, Phase.DECODE),
        (4, Op.READ, 9, Tier.CPU, 2, Phase.EVICT),
        (5, Op.WRITE, 9, Tier.NVME, 2, Phase.EVICT),
    ]
    path = write_rows(tmp_path / "t.parquet", rows, Header(source=SourceInfo(name="test")))
    kept = cut(path, tmp_path / "s.parquet", first_row=3, end_row=7)
    assert kept["op"].to_list() == ["delete", "read"]
    with open_trace(tmp_path / "s.parquet") as trace:
        assert trace.resident().tolist() == [(Tier.CPU, 1, 8), (Tier.NVME, 1, 8)]


@pytest.mark.slow
@settings(max_examples=examples(15))
@given(data=st.data())
def test_any_slice_is_sound(
    tmp_path_factory: pytest.TempPathFactory, shared_prompts: Path, data: st.DataObject
) -> None:
    """Whatever rows, times, tiers and sessions are kept, all invariants hold."""
    with open_trace(shared_prompts) as trace:
        rows = trace.rows
    first = data.draw(st.integers(0, rows - 1))
    options: dict[str, Any] = {
        "first_row": first,
        "end_row": data.draw(st.integers(first + 1, rows)),
        "sessions": data.draw(st.sampled_from((None, Share(count=3), Share(ratio=0.3)))),
        "tiers": data.draw(st.sampled_from(((), (Tier.NVME,), (Tier.GPU, Tier.CPU)))),
        "seed": data.draw(st.integers(0, 3)),
    }
    try:
        cut(shared_prompts, tmp_path_factory.mktemp("cut") / "s.parquet", **options)
    except UsageError as refusal:
        assert "came out empty" in str(refusal)  # noqa: PT017


def test_a_sample_of_sessions_is_whole(tmp_path: Path, shared_prompts: Path) -> None:
    """Of a sample's sessions each row is there, of others' only what happens to its objects."""
    kept = cut(shared_prompts, tmp_path / "a.parquet", sessions=Share(count=3), seed=1)
    whole = rows_of(shared_prompts)
    serves = pl.col("phase") != "evict"
    sessions = whole["session"].unique().to_numpy()
    chosen = set(sessions[np.argsort(mixed(sessions, 1))][:3].tolist())
    foreign = ~pl.col("session").is_in(list(chosen))
    assert not len(kept.filter((pl.col("op") == "read") & serves & foreign))
    own = serves & pl.col("session").is_in(list(chosen))
    assert kept.filter(own).drop("timestamp").equals(whole.filter(own).drop("timestamp"))
    touched = whole.filter(own)["key"].unique()
    assert set(kept["key"].unique()) <= set(touched)
    other = cut(shared_prompts, tmp_path / "b.parquet", sessions=Share(count=3), seed=2)
    assert not other.equals(kept)
    some = cut(shared_prompts, tmp_path / "c.parquet", sessions=Share(ratio=0.6), seed=1)
    assert 0 < len(some) < len(whole)


def test_a_slice_of_an_unlimited_number_of_rows_takes_no_more_memory(tmp_path: Path) -> None:
    """What follows objects keeps a row for those that are there, not for all there ever were."""
    rows = []
    for key in range(5000):
        rows += [(key, Op.WRITE, 8, Tier.CPU, key, Phase.PREFILL)]
        rows += [(key, Op.DELETE, 8, Tier.CPU, key, Phase.EVICT)]
    path = write_rows(tmp_path / "t.parquet", rows)
    with open_trace(path) as trace:
        stream = sliced(trace, Cut(end_ns=4999))
        live = stream.resident.__self__  # type: ignore[attr-defined]
        for _ in stream.batches:
            pass
    assert live._tiers[Tier.CPU]._pool.used <= 2


def of_node(rows: pl.DataFrame, node: int) -> pl.DataFrame:
    """Return the rows whose keys have this node's number on top."""
    return rows.filter(pl.col("key").is_between(node << 48, (node + 1) << 48, closed="left"))


def merge_two(a: Path, b: Path, out: Path, **options: Any) -> pl.DataFrame:
    with open_trace(a) as first, open_trace(b) as second:
        write(merged([first, second], **options), out)
    sound(out)
    return rows_of(out)


def test_merged_nodes_are_kept_apart(tmp_path: Path, small_trace: Path) -> None:
    """Ids have their node's number on top, times are in order, ties in order of the nodes."""
    other = tmp_path / "other.parquet"
    make(other, seed=5, tiers__cpu__capacity="100MiB")
    found = merge_two(small_trace, other, tmp_path / "m.parquet")
    assert found["timestamp"].is_sorted()
    for node, path in enumerate((small_trace, other)):
        own = of_node(found, node)
        ids = [name for name in ("key", "request", "session", "block") if name in own.columns]
        back = own.with_columns(pl.col(name) - (node << 48) for name in ids)
        assert back.equals(rows_of(path))
    with open_trace(tmp_path / "m.parquet") as trace, open_trace(small_trace) as first:
        assert trace.header.source is not None
        limits = {tier.name: tier.capacity_bytes for tier in trace.header.tiers}
        assert limits["cpu"] == (128 + 100) << 20
        entry = trace.header.history[-1]
        assert entry["inputs"][0] == {
            "rows": first.rows, "content_sha256": first.header.content_sha256
        }  # fmt: skip


def test_parts_of_a_trace_merge_into_it_again(tmp_path: Path, small_trace: Path) -> None:
    """Tiers that were cut apart and merged with shared keys are the trace's rows again.

    Their requests and sessions are two nodes'.
    """
    parts = []
    for name, tiers in (("up", (Tier.GPU, Tier.CPU)), ("down", (Tier.NVME,))):
        cut(small_trace, tmp_path / f"{name}.parquet", tiers=tiers, keep_time=True)
        parts.append(tmp_path / f"{name}.parquet")
    found = merge_two(*parts, tmp_path / "m.parquet", shared_keys=True)
    columns = [name for name in found.columns if name not in ("request", "session")]
    found = found.select(columns)
    assert found.sort(columns).equals(rows_of(small_trace).select(columns).sort(columns))


def test_shared_keys_that_dont_fit_are_refused(tmp_path: Path) -> None:
    """Two nodes' traces with the same numbers aren't parts of one: a read of a deleted object."""
    a = write_rows(
        tmp_path / "a.parquet",
        [(0, Op.WRITE, 8, Tier.CPU, 1, Phase.PREFILL), (1, Op.DELETE, 8, Tier.CPU, 1, Phase.EVICT)],
        Header(source=SourceInfo(name="test")),
    )
    b = write_rows(
        tmp_path / "b.parquet",
        [(0, Op.WRITE, 8, Tier.CPU, 1, Phase.PREFILL), (2, Op.READ, 8, Tier.CPU, 1, Phase.DECODE)],
        Header(source=SourceInfo(name="test")),
    )
    with pytest.raises(TraceError, match=r"reads an object after it was deleted.*leave it out"):
        merge_two(a, b, tmp_path / "m.parquet", shared_keys=True)
    assert not (tmp_path / "m.parquet").exists()
    assert not list(tmp_path.glob("*.partial"))
    merge_two(a, b, tmp_path / "m.parquet")


def test_hashed_keys_are_kept_apart_too(tmp_path: Path) -> None:
    """Keys that use the top 16 bits are combined with a number of their node's."""
    rows = [(0, Op.WRITE, 8, Tier.CPU, (1 << 63) + 5, Phase.PREFILL)]
    path = write_rows(tmp_path / "a.parquet", rows)
    found = merge_two(path, path, tmp_path / "m.parquet")
    assert found["key"][0] == (1 << 63) + 5
    assert found["key"].n_unique() == 2


def test_recordings_of_live_systems_keep_their_distance(tmp_path: Path) -> None:
    """Traces that know when they began begin as far apart when merged."""
    paths = [
        write_rows(
            tmp_path / f"{name}.parquet",
            [(0, Op.WRITE, 8, Tier.CPU, 1, Phase.PREFILL)],
            Header(epoch_ns=epoch_ns),
        )
        for name, epoch_ns in (("a", 5000), ("b", 2000))
    ]
    found = merge_two(*paths, tmp_path / "m.parquet")
    assert found["timestamp"].to_list() == [0, 3000]
    assert found["key"].to_list() == [1 << 48 | 1, 1]


@settings(max_examples=examples(100))
@given(
    st.lists(st.lists(st.integers(0, 6), max_size=12).map(sorted), min_size=1, max_size=4),
    st.integers(1, 4),
)
def test_interleaving_is_a_stable_sort(times: list[list[int]], batch: int) -> None:
    """However streams are cut into batches, their rows come out as sorted stably by time."""

    def stream(number: int) -> Any:
        values = np.array(times[number], np.int64)
        for at in range(0, len(values), batch):
            part = values[at : at + batch]
            keys = np.arange(at, at + len(part)).astype(np.uint64) + np.uint64(100 * number)
            yield {"timestamp": part, "key": keys}

    streams = [stream(number) for number in range(len(times))]
    found = [
        (int(t), int(k))
        for columns in interleaved(streams, ("timestamp", "key"))
        for t, k in zip(columns["timestamp"], columns["key"], strict=True)
    ]
    every = [(t, 100 * n + i) for n, values in enumerate(times) for i, t in enumerate(values)]
    assert found == sorted(every, key=lambda row: row[0])


def scale(trace: Path, out: Path, **options: Any) -> pl.DataFrame:
    with open_trace(trace) as source, ExitStack() as stack:
        write(scaled(source, Scaling(**options), stack), out)
    sound(out)
    return rows_of(out)


def test_scaled_time(tmp_path: Path, small_trace: Path) -> None:
    """Times are multiplied, nothing else changes."""
    whole = rows_of(small_trace)
    found = scale(small_trace, tmp_path / "s.parquet", time_factor=2.5)
    assert found["timestamp"].to_list() == [round(2.5 * t) for t in whole["timestamp"]]
    assert found.drop("timestamp").equals(whole.drop("timestamp"))


@pytest.mark.slow
def test_cloned_sessions_have_fresh_keys(tmp_path: Path, shared_prompts: Path) -> None:
    """Two and a half times the sessions: the trace, a copy, a sample's copy, on larger tiers."""
    whole = rows_of(shared_prompts)
    found = scale(
        shared_prompts, tmp_path / "s.parquet", sessions_factor=2.5, spread_ns=S, seed=3
    )  # fmt: skip
    copies = [of_node(found, node) for node in range(3)]
    assert copies[0].equals(whole)
    later_ns = copies[1]["timestamp"][0] - whole["timestamp"][0]
    assert 0 < later_ns <= S
    back = copies[1].with_columns(
        pl.col("timestamp") - later_ns,
        *(pl.col(name) - (1 << 48) for name in ("key", "request", "session", "block")),
    )
    assert back.equals(whole)
    assert 0 < len(copies[2]) < len(whole)
    with open_trace(tmp_path / "s.parquet") as made, open_trace(shared_prompts) as before:
        limits = [tier.capacity_bytes or 0 for tier in before.header.tiers]
        assert [tier.capacity_bytes for tier in made.header.tiers] == [3 * x for x in limits]
    same = scale(
        shared_prompts, tmp_path / "t.parquet", sessions_factor=2.5, spread_ns=S, seed=3
    )  # fmt: skip
    assert same.equals(found)
    other = scale(
        shared_prompts, tmp_path / "u.parquet", sessions_factor=2.5, spread_ns=S, seed=4
    )  # fmt: skip
    assert not other.equals(found)


def test_thinned_sessions(tmp_path: Path, shared_prompts: Path) -> None:
    """Below 1 a seeded sample of the sessions stays, with its own keys."""
    found = scale(shared_prompts, tmp_path / "s.parquet", sessions_factor=0.5)
    whole = rows_of(shared_prompts)
    assert found["session"].n_unique() > 0
    assert set(found["key"]) < set(whole["key"])
    sample = cut(shared_prompts, tmp_path / "c.parquet", sessions=Share(ratio=0.5), keep_time=True)
    assert found.equals(sample)


def test_anonymised_names_nothing(tmp_path: Path, small_trace: Path) -> None:
    """Ids are others, equal ones stay equal, the rest of the rows stays, the source isn't told."""
    with open_trace(small_trace) as trace:
        write(anonymised(trace, b"k" * 32), tmp_path / "a.parquet")
    sound(tmp_path / "a.parquet")
    before, after = rows_of(small_trace), rows_of(tmp_path / "a.parquet")
    for name in ("key", "block", "session", "request"):
        pairs = pl.DataFrame({"a": before[name], "b": after[name]}).unique()
        assert pairs["a"].n_unique() == pairs["b"].n_unique() == len(pairs)
        assert not set(before[name]) & set(after[name])
    same = before.columns
    for name in ("key", "block", "session", "request"):
        same = [other for other in same if other != name]
    assert after.select(same).equals(before.select(same))
    with open_trace(tmp_path / "a.parquet") as trace:
        header = trace.header
    assert header.anonymised
    assert header.config == {}
    assert header.source is not None
    assert (header.source.parameters, header.source.sha256, header.seed) == ({}, [], None)
    assert header.history == [{"tool": "anonymise", "hash": "blake2b-64"}]


def test_another_key_gives_other_names(tmp_path: Path, small_trace: Path) -> None:
    """One key gives one renaming, another key another; a column's names aren't another's."""
    found = []
    for name, secret in (("a", b"k" * 32), ("b", b"k" * 32), ("c", b"l" * 32)):
        with open_trace(small_trace) as trace:
            write(anonymised(trace, secret), tmp_path / f"{name}.parquet")
        found.append(rows_of(tmp_path / f"{name}.parquet"))
    assert found[0].equals(found[1])
    assert not set(found[0]["key"]) & set(found[2]["key"])
    assert not set(found[0]["key"]) & set(found[0]["block"])


@pytest.mark.slow
def test_residents_are_renamed_and_kept_apart(tmp_path: Path, small_trace: Path) -> None:
    """What is there at the start is still there under its new name, through all tools."""
    part = tmp_path / "part.parquet"
    cut(small_trace, part, begin_ns=5 * S)
    with open_trace(part) as trace:
        before = trace.resident()
        write(anonymised(trace, b"k" * 32), tmp_path / "a.parquet")
    sound(tmp_path / "a.parquet")
    with open_trace(tmp_path / "a.parquet") as trace:
        assert len(trace.resident()) == len(before)
        assert not set(trace.resident()["key"]) & set(before["key"])
    merge_two(part, part, tmp_path / "m.parquet")
    with open_trace(tmp_path / "m.parquet") as trace:
        assert len(trace.resident()) == 2 * len(before)
    scale(part, tmp_path / "s.parquet", sessions_factor=2)


def differences(a: Path, b: Path) -> dict[tuple[str, str], Any]:
    with open_trace(a) as first, open_trace(b) as second:
        return {(d.tier, d.quantity): d for d in compare(first, second)}


def test_a_trace_is_like_itself(small_trace: Path) -> None:
    """Nothing differs between a trace and itself."""
    found = differences(small_trace, small_trace)
    assert {d.ks for d in found.values()} == {0.0}
    assert {d.wasserstein for d in found.values()} == {0.0, None}


def test_differences_by_hand(tmp_path: Path) -> None:
    """Sizes, reuse distances, gaps and reads:writes differ as counted by hand."""

    def trace(name: str, rows: list[tuple[int, Op, int, int]]) -> Path:
        on_nvme = [(t, op, size, Tier.NVME, key, Phase.DECODE) for t, op, size, key in rows]
        return write_rows(tmp_path / name, on_nvme)

    a = trace("a.parquet", [
        (0, Op.WRITE, 10, 1), (10, Op.WRITE, 10, 2), (20, Op.READ, 10, 1), (30, Op.READ, 10, 1),
    ])  # fmt: skip
    b = trace("b.parquet", [
        (0, Op.WRITE, 30, 1), (30, Op.READ, 30, 1), (60, Op.DELETE, 30, 1), (90, Op.WRITE, 30, 1),
    ])  # fmt: skip
    found = differences(a, b)
    assert (found["nvme", "size"].ks, found["nvme", "size"].wasserstein) == (1.0, 20.0)
    assert (found["nvme", "gap"].ks, found["nvme", "gap"].wasserstein) == (1.0, 20.0)
    # A: key 1 again after one other, then after none; B: after none; deleted, it begins anew.
    reuse = found["nvme", "reuse_distance"]
    assert (reuse.a["count"], reuse.a["mean"]) == (2, 0.5)
    assert (reuse.b["count"], reuse.b["mean"], reuse.ks) == (1, 0.0, 0.5)
    shares = found["nvme", "read_share"]
    assert (shares.a["mean"], shares.b["mean"]) == (0.5, pytest.approx(1 / 3))
    assert shares.ks == pytest.approx(1 / 6)


def test_a_tier_that_one_lacks_is_as_far_as_can_be(tmp_path: Path) -> None:
    """A tier in one trace only differs by 1."""
    a = write_rows(tmp_path / "a.parquet", [(0, Op.WRITE, 1, Tier.CPU, 1, Phase.PREFILL)])
    b = write_rows(tmp_path / "b.parquet", [(0, Op.WRITE, 1, Tier.GPU, 1, Phase.PREFILL)])
    found = differences(a, b)
    assert found["cpu", "size"].ks == found["gpu", "size"].ks == 1.0
    assert found["cpu", "read_share"].ks == 1.0


@settings(max_examples=examples(50))
@given(
    st.lists(st.integers(0, 900), min_size=1, max_size=30),
    st.lists(st.integers(0, 900), min_size=1, max_size=30),
)
def test_distances_of_distributions(a: list[int], b: list[int]) -> None:
    """Kolmogorov–Smirnov and Wasserstein are what their definitions say."""
    both = [Distribution(), Distribution()]
    for of, values in zip(both, (a, b), strict=True):
        of.add(np.array(values, np.int64))
    ks, wasserstein = distances(*both)
    share = lambda values, x: sum(v <= x for v in values) / len(values)  # noqa: E731
    apart = [abs(share(a, x) - share(b, x)) for x in range(901)]
    assert ks == pytest.approx(max(apart))
    assert wasserstein == pytest.approx(sum(apart))


def test_large_numbers_are_kept_to_their_leading_bits() -> None:
    """A distribution's memory is bounded: what is 0.2 % apart may be the same."""
    found = Distribution()
    found.add(np.arange(1 << 20, (1 << 20) + (1 << 16), dtype=np.int64))
    assert found.count == 1 << 16
    assert len(found._counts) <= 1 << 6
    assert found.quantile(0.5) == pytest.approx((1 << 20) + (1 << 15), rel=0.002)


@settings(max_examples=examples(60))
@given(st.lists(st.tuples(st.integers(0, 12), st.booleans()), max_size=60), st.integers(1, 9))
def test_reuse_distances(touches: list[tuple[int, bool]], batch: int) -> None:
    """A touch's distance is the number of other keys touched since, deleted ones not counting."""
    expected, order = [], []
    for key, gone in touches:
        expected.append(len(order) - 1 - order.index(key) if key in order else FIRST)
        order = [other for other in order if other != key] + ([] if gone else [key])
    reuse, found = ReuseDistances(), []
    reuse._tree = np.zeros(6, np.int64)  # renumbered soon
    for at in range(0, len(touches), batch):
        part = touches[at : at + batch]
        keys = np.array([key for key, _ in part], np.int64)
        found += reuse.add(keys, np.array([gone for _, gone in part], np.bool_)).tolist()
    assert found == expected


def test_csv_in_and_out(tmp_path: Path, small_trace: Path) -> None:
    """A CSV is a trace, too, as far as its words go."""
    with open_trace(small_trace) as trace:
        write(sliced(trace, Cut(end_ns=9 * S)), tmp_path / "t.csv")
    with opened(tmp_path / "t.csv") as trace:
        made = write(sliced(trace, Cut(begin_ns=2 * S, end_ns=5 * S)), tmp_path / "t.parquet")
    assert made.residents
    sound(tmp_path / "t.parquet")
    assert rows_of(tmp_path / "t.parquet")["timestamp"].max() < 3 * S


def test_columns_that_one_trace_lacks_are_null(tmp_path: Path, small_trace: Path) -> None:
    """Merged with a trace that doesn't know requests, those rows have none."""
    bare = write_rows(tmp_path / "b.parquet", [(0, Op.WRITE, 1, Tier.CPU, 1, Phase.PREFILL)])
    found = merge_two(small_trace, bare, tmp_path / "m.parquet")
    assert found.filter(pl.col("key") == 1 << 48 | 1)["request"].to_list() == [None]


def test_tiers_of_nodes_are_added_up() -> None:
    """Merged tiers are as large as all nodes'; where factors differ, in bytes of the rows."""

    def header(**changes: Any) -> Header:
        return Header(tiers=[TierInfo(name="gpu", capacity_bytes=100).model_copy(update=changes)])

    both = merge.joined_tiers([header(), header(capacity_bytes=50)])
    assert [(t.name, t.capacity_bytes, t.occupancy_factor) for t in both] == [("gpu", 150, 1.0)]
    mixed = merge.joined_tiers([header(occupancy_factor=2.0), header()])
    assert (mixed[0].capacity_bytes, mixed[0].occupancy_factor) == (150, 1.0)
    assert merge.joined_tiers([header(), header(capacity_bytes=None)])[0].capacity_bytes is None
