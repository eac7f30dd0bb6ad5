"""What importers share: rows put in order, names turned into keys, objects followed."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from kvtrace.cli.parsing import parse_tier, parse_tiers
from kvtrace.errors import UsageError
from kvtrace.formats.common.names import Names, names_path, parts_of
from kvtrace.formats.common.objects import Objects
from kvtrace.formats.common.order import Again, Reordered, Spool
from kvtrace.formats.perfetto.lanes import Lanes
from kvtrace.trace.schema import Op, Tier

if TYPE_CHECKING:
    from collections.abc import Iterator

TIMES = st.lists(st.lists(st.integers(0, 20), max_size=6), max_size=8)


@given(batches=TIMES)
def test_rows_are_sorted_across_batches(batches: list[list[int]]) -> None:
    """The rows come out as a stable sort of all of them would put them."""
    flat = [time for batch in batches for time in batch]

    def make() -> Iterator[dict[str, Any]]:
        row = 0
        for batch in batches:
            yield {
                "time": np.array(batch),
                "row": np.arange(row, row + len(batch)),
                "since": np.array(batch),
            }
            row += len(batch)

    order = np.argsort(np.array(flat, np.int64), kind="stable").tolist()
    with Spool(make(), Path()) as spool:
        for batches_again in (Again(make), spool):
            rows = Reordered("time", batches_again, since=("since",))
            found = list(rows)
            assert [place for columns in found for place in columns["row"].tolist()] == order
            since = [time for columns in found for time in columns["since"].tolist()]
            assert since == [flat[at] - min(flat) for at in order]
    assert rows.disorder == sum(time < max(flat[:at], default=0) for at, time in enumerate(flat))
    assert rows.first == min(flat, default=0)


@given(batches=TIMES)
def test_only_rows_out_of_place_wait(batches: list[list[int]]) -> None:
    """A batch after which nothing earlier comes leaves nothing waiting: memory stays small."""
    ordered = [sorted(batch) for batch in sorted(filter(None, batches), key=min)]
    ordered = [
        batch for at, batch in enumerate(ordered) if all(max(b) <= batch[0] for b in ordered[:at])
    ]
    rows = Reordered("time", [{"time": np.array(batch)} for batch in ordered])
    assert [columns["time"].tolist() for columns in rows] == ordered


def test_a_spool_gives_batches_twice(tmp_path: Path) -> None:
    """What was kept comes again as it was, masks and all; no file is left."""
    batch = {
        "a": np.array([1, 2], np.uint8),
        "b": np.ma.masked_array(np.array([3, 4], np.uint64), mask=[True, False]),
    }
    with Spool(iter([batch, {"a": np.array([5], np.uint8)}]), tmp_path) as spool:
        for _ in range(3):
            first, second = list(spool)
            assert first["a"].tolist() == [1, 2]
            assert first["b"].tolist() == [None, 4]
            assert (first["a"].dtype, first["b"].dtype) == (np.uint8, np.uint64)
            assert second["a"].tolist() == [5]
    assert not list(tmp_path.iterdir())


def test_names_are_hashed_once_and_kept(tmp_path: Path) -> None:
    """Equal names are equal keys across batches; each hashed name stands in the file once."""
    out = tmp_path / "t.parquet"
    with Names(out, force=False) as names:
        first, _ = names.of(parts_of(pa.array(["b", "a", "b", "00000000000000ff"])), Tier.CPU)
        again, tiers = names.of(parts_of(pa.array(["a", "nvme/00000000000000ff", "c"])), Tier.CPU)
    assert first[0] == first[2] != first[1] == again[0]
    assert first[3] == again[1] == 255
    assert tiers.tolist() == [Tier.CPU, Tier.NVME, Tier.CPU]
    kept = pl.read_parquet(names_path(out))
    assert kept["name"].to_list() == ["b", "a", "c"]
    assert kept["key"].to_list() == [first[0], first[1], again[2]]


def test_no_names_no_file(tmp_path: Path) -> None:
    """Where all names are our own keys nothing is kept beside the trace."""
    with Names(tmp_path / "t.parquet", force=False) as names:
        names.of(parts_of(pa.array(["00000000000000ff"])), Tier.CPU)
    assert not list(tmp_path.iterdir())


HEADS = st.sampled_from(["", "a/", "a/nvme/", "nvme/", "a/gpu", "a/cpu/", "é/"])
TAILS = st.sampled_from(["00000000000000ff", "0123456789abcdef", "0123456789ABCDEF", "f", ""])
NAMES = st.lists(st.lists(st.builds(str.__add__, HEADS, TAILS), max_size=8), max_size=4)


@pytest.mark.slow
@given(batches=NAMES)
def test_keys_of_names(batches: list[list[str]], tmp_path_factory: pytest.TempPathFactory) -> None:
    """Names of the first prefix with 16 digits are the key and tier in them, all others hashes."""
    out, prefix, hashed = tmp_path_factory.mktemp("names") / "t.parquet", None, []
    with Names(out, force=False) as names:
        for batch in batches:
            keys, tiers = names.of(parts_of(pa.array(["x", *batch], pa.string())[1:]), Tier.OBJECT)
            for name, key, tier in zip(batch, keys.tolist(), tiers.tolist(), strict=True):
                own = re.fullmatch(r"(.*?)(?:(gpu|cpu|nvme|object)/)?([0-9a-f]{16})", name)
                prefix = own[1] if own and prefix is None else prefix
                if own and own[1] == prefix:
                    expected = (int(own[3], 16), Tier[own[2].upper()] if own[2] else Tier.OBJECT)
                else:
                    expected = (xxhash.xxh3_64_intdigest(name.encode()), Tier.OBJECT)
                    hashed.append((key, name))
                assert (key, tier) == expected
    kept = pl.read_parquet(names_path(out)).rows() if hashed else []
    assert kept == list(dict.fromkeys(hashed))


LIVES = st.lists(
    st.tuples(
        st.sampled_from(list(Op)), st.sampled_from([Tier.CPU, Tier.NVME]), st.integers(0, 3),
        st.integers(1, 9), st.integers(0, 3),
    ),
    max_size=60,
)  # fmt: skip


@given(lives=LIVES, cuts=st.lists(st.integers(0, 60), max_size=4), forget=st.booleans())
def test_objects_are_followed(
    lives: list[tuple[Op, Tier, int, int, int]], cuts: list[int], forget: bool
) -> None:
    """Sizes of deletes, rows that can't be and residents are those of a naive model.

    However rows are cut into batches, and also when deleted objects leave the table at once.
    """
    expected, sizes, states = [], {}, {}
    found_there: dict[tuple[int, int], int] = {}
    for op, tier, key, size, offset in lives:
        place, end = (int(tier), key), size + offset
        state = states.get(place)
        if op == Op.LOOKUP:
            expected.append((op, size))
        elif op == Op.WRITE:
            sizes[place] = max(end, sizes[place] if state in ("read", "written") else 0)
            states[place] = "written"
            expected.append((op, size))
        elif op == Op.READ and state != "dead":
            if state in (None, "read"):
                sizes[place] = found_there[place] = max(end, sizes.get(place, 0))
                states[place] = "read"
            expected.append((op, size))
        elif op == Op.DELETE and state in ("read", "written"):
            expected.append((op, sizes[place]))
            states[place] = "dead"
    found = []
    places = [0, *sorted(cuts), len(lives)]
    patch = pytest.MonkeyPatch()
    patch.setattr("kvtrace.formats.common.objects._DEAD_AT_ONCE", 1 if forget else 1 << 16)
    patch.setattr("kvtrace.formats.common.objects._MERGED_AT_ONCE", 2)
    with Objects() as objects:
        for begin, end in pairwise(places):
            if part := lives[begin:end]:
                names = ("op", "tier", "key", "size", "offset")
                columns = {
                    name: np.array(
                        [row[at] for row in part], np.uint64 if name == "key" else np.int64
                    )
                    for at, name in enumerate(names)
                }
                columns["op"] = columns["op"].astype(np.uint8)
                settled = objects.settled(columns)
                found += zip(settled["op"].tolist(), settled["size"].tolist(), strict=True)
        there = objects.taken()
    patch.undo()
    assert found == expected
    assert sum(objects.dropped.values()) == len(lives) - len(expected)
    assert {(int(t), int(k)): int(s) for t, k, s in there} == found_there


@given(
    spans=st.lists(st.tuples(st.integers(0, 30), st.integers(0, 10)), max_size=40),
    cut=st.integers(0, 40),
)
def test_lanes_dont_overlap(spans: list[tuple[int, int]], cut: int) -> None:
    """No two spans of a lane overlap, and there are no more lanes than spans at one time."""
    spans = sorted(spans)
    start = np.array([begin for begin, _ in spans], np.int64)
    end = start + np.array([length for _, length in spans], np.int64)
    lanes = Lanes()
    lane = np.concatenate([lanes.of(start[:cut], end[:cut]), lanes.of(start[cut:], end[cut:])])
    for of in set(lane.tolist()):
        mine = lane == of
        assert (start[mine][1:] >= end[mine][:-1]).all()
    instant = start == end
    depth = [
        int(((start <= at) & (end > at)).sum()) + int((instant & (start == at)).any())
        for at in start
    ]
    assert lanes.used <= max(depth, default=0)


def test_tiers_are_words() -> None:
    """An unknown tier is refused, with the known ones."""
    assert parse_tiers("object, nvme") == (Tier.NVME, Tier.OBJECT)
    assert parse_tiers(None) is None
    assert parse_tier("cpu") is Tier.CPU
    for parse in (parse_tiers, parse_tier):
        with pytest.raises(UsageError, match="unknown tier: got 'disk'"):
            parse("disk")
