"""The MLPerf KV benchmark's CSV: deletes inferred, rows sorted, what is lost and refused."""

from __future__ import annotations

import re
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from kvtrace.errors import TraceError, UsageError
from kvtrace.formats.common import exporting as exporters
from kvtrace.formats.common import importing as importers
from kvtrace.formats.common.exporting import ExportOptions
from kvtrace.formats.common.importing import ImportOptions
from kvtrace.formats.common.sidecar import map_path
from kvtrace.formats.mlperf_csv.csvfile import HEADER
from kvtrace.trace.check import check
from kvtrace.trace.reader import open_trace
from kvtrace.trace.schema import Op, Phase, Tier
from replay.result.trace_info import describe
from tests.support import places
from tests.support.examples import examples
from tests.support.making import Row, write_rows
from tests.support.random_rows import traces

if TYPE_CHECKING:
    from pathlib import Path

SAMPLES = places.SAMPLES / "mlperf"
SAMPLE = SAMPLES / "t10_8b_nvmeonly_cap50.csv.zst"
needs_samples = pytest.mark.skipif(not SAMPLE.exists(), reason="the MLPerf samples aren't here")
HEAD = ",".join(HEADER) + "\n"
COLUMNS = ["timestamp", "op", "size", "tier", "key", "phase"]


def rows_of(path: Path) -> pl.DataFrame:
    return (
        pl.read_parquet(path)
        .select(COLUMNS)
        .with_columns(pl.col("op", "tier", "phase").cast(pl.String))
    )


def convert(path: Path, out: Path, **options: Any) -> importers.Imported:
    return importers.convert([path], out, options=ImportOptions(**options))


def csv(tmp_path: Path, *lines: str) -> Path:
    path = tmp_path / "t.csv"
    path.write_text(HEAD + "".join(f"{line}\n" for line in lines))
    return path


@pytest.mark.slow
@needs_samples
def test_deletes_of_a_real_file(tmp_path: Path) -> None:
    """A run with 50 GiB of nvme deleted 2,919 objects, left 106, and read none that was gone."""
    made = convert(SAMPLE, tmp_path / "t.parquet", nvme_capacity_bytes=50 << 30)
    rows = rows_of(tmp_path / "t.parquet")
    assert (rows["op"] == "delete").sum() == 2_919
    last = rows.group_by("key").agg(pl.col("op").last())
    assert (last["op"] != "delete").sum() == 106
    assert "2,919 deletes added for room on nvme; 106 objects live" in made.notes
    with open_trace(tmp_path / "t.parquet") as trace:
        report = check(trace)
    assert report.ok
    assert report.peak_bytes[Tier.NVME] <= 50 << 30


@pytest.mark.slow
@needs_samples
def test_too_small_a_capacity_is_refused(tmp_path: Path) -> None:
    """What was read must have been there: a smaller capacity than the run's is noticed."""
    with pytest.raises(
        TraceError, match=r"no room any more on nvme: .* give the capacity"
    ) as raised:
        convert(SAMPLE, tmp_path / "t.parquet", nvme_capacity_bytes=45 << 30)
    assert "row 971: " in str(raised.value)
    assert "key conv_user_0009_1795486886652_turn_1, " in str(raised.value)
    assert not list(tmp_path.iterdir())
    fits = int(str(raised.value).split("accepted: ")[1].split()[0].replace(",", ""))
    with pytest.raises(TraceError, match="no room any more"):
        convert(SAMPLE, tmp_path / "t.parquet", nvme_capacity_bytes=fits - 1)
    convert(SAMPLE, tmp_path / "t.parquet", nvme_capacity_bytes=fits)


@needs_samples
def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    """A file that was cut anywhere never becomes a shorter trace."""
    data = SAMPLE.read_bytes()
    for share in (0.1, 0.5, 0.999):
        path = tmp_path / "cut.csv.zst"
        path.write_bytes(data[: int(len(data) * share)])
        with pytest.raises(TraceError, match=r"cut\.csv\.zst"):
            convert(path, tmp_path / "t.parquet")
        assert [found.name for found in tmp_path.iterdir()] == ["cut.csv.zst"]


def test_a_truncated_frame_is_refused(tmp_path: Path) -> None:
    """So is one of our own making."""
    path = tmp_path / "t.csv.zst"
    text = HEAD + "".join(f"{at}.5,Write,8,Tier-2,k{at},Prefill\n" for at in range(5_000))
    path.write_bytes(zstandard.ZstdCompressor().compress(text.encode())[:-9])
    with pytest.raises(TraceError, match=r"t\.csv\.zst: can't read"):
        convert(path, tmp_path / "t.parquet")


def test_a_header_alone_is_refused(tmp_path: Path) -> None:
    """Zero rows is an error."""
    with pytest.raises(TraceError, match="no rows: accepted: at least one row below the header"):
        convert(csv(tmp_path), tmp_path / "t.parquet")


def naive_deletes(rows: list[tuple[str, int, int]], capacity: int) -> list[Any] | str:
    """Return rows (op, key, size) with deletes before what needs room, or why there are none."""
    live: OrderedDict[int, int] = OrderedDict()
    gone: set[int] = set()
    made: list[Any] = []
    for op, key, size in rows:
        if op == "read" and key in gone:
            return "no room any more"
        size_now = max(size, live.pop(key, 0))
        while sum(live.values()) + size_now > capacity:
            if not live:
                return "larger than the nvme tier"
            oldest, length = live.popitem(last=False)
            gone.add(oldest)
            made.append(("delete", oldest, length))
        live[key] = size_now
        gone.discard(key)
        made.append((op, key, size))
    return made


@pytest.mark.slow
@settings(max_examples=examples(100))
@given(
    rows=st.lists(
        st.tuples(st.sampled_from(("read", "write")), st.integers(0, 5), st.integers(1, 4)),
        min_size=1,
        max_size=40,
    ),
    capacity=st.integers(3, 12),
)
def test_deletes_as_a_naive_cache_has_them(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, int, int]], capacity: int
) -> None:
    """Least recently used first, by reads and writes, each before the row that needs the room."""
    tmp_path = tmp_path_factory.mktemp("lru")
    lines = [
        f"{at}.0,{op.title()},{size},Tier-2,{key:016x},Decode"
        for at, (op, key, size) in enumerate(rows)
    ]
    path = csv(tmp_path, *lines)
    wanted = naive_deletes(rows, capacity)
    if isinstance(wanted, str):
        with pytest.raises(TraceError, match=wanted) as raised:
            convert(path, tmp_path / "t.parquet", nvme_capacity_bytes=capacity)
        named = re.search(r"accepted: ([\d,]+) bytes, with which", str(raised.value))
        assert named is not None
        capacity = int(named[1].replace(",", ""))
        wanted = naive_deletes(rows, capacity)
        assert not isinstance(wanted, str)
    convert(path, tmp_path / "t.parquet", nvme_capacity_bytes=capacity)
    assert rows_of(tmp_path / "t.parquet").select("op", "key", "size").rows() == wanted


def test_other_tiers_have_no_capacity(tmp_path: Path) -> None:
    """Only nvme's objects are deleted for room; a demotion's pair still gets its own delete."""
    path = csv(
        tmp_path,
        "1.0,Write,8,Tier-1,a,Prefill",
        "2.0,Read,8,Tier-1,a,Evict",
        "2.0,Write,8,Tier-2,a,Evict",
        "3.0,Write,8,Tier-2,b,Evict",
        "4.0,Write,8,Tier-1,c,Prefill",
    )
    made = convert(path, tmp_path / "t.parquet", nvme_capacity_bytes=8)
    found = rows_of(tmp_path / "t.parquet").select("op", "tier", "phase").rows()
    assert found == [
        ("write", "cpu", "prefill"),
        ("read", "cpu", "evict"),
        ("write", "nvme", "evict"),
        ("delete", "cpu", "evict"),
        ("delete", "nvme", "evict"),
        ("write", "nvme", "evict"),
        ("write", "cpu", "prefill"),
    ]
    assert "1 deletes added, one per eviction pair" in made.notes
    assert "1 deletes added for room on nvme; 1 objects live" in made.notes


@pytest.mark.parametrize(
    ("line", "capacity", "message"),
    [
        ("1.0,Delete,8,Tier-2,a,Evict", 8, "the file has deletes already"),
        ("1.0,Write,8,Tier-2,a,Evict", 0, "--nvme-capacity: not a capacity"),
    ],
)
def test_a_capacity_that_means_nothing(
    tmp_path: Path, line: str, capacity: int, message: str
) -> None:
    """A capacity is refused where deletes are there, or where there is none."""
    with pytest.raises(UsageError, match=message):
        convert(csv(tmp_path, line), tmp_path / "t.parquet", nvme_capacity_bytes=capacity)


def test_keys_of_both_kinds(tmp_path: Path) -> None:
    """Keys of 16 hex digits are taken as they are, others hashed and their names kept, once."""
    lines = [f"1.0,Write,8,Tier-2,{key},Prefill" for key in ("00ff00ff00ff00ff", "x", "x", "00FF")]
    convert(csv(tmp_path, *lines), tmp_path / "t.parquet")
    keys = rows_of(tmp_path / "t.parquet")["key"].to_list()
    assert keys[0] == 0x00FF00FF00FF00FF
    assert keys[1] == keys[2]
    names = pl.read_parquet(tmp_path / "t.keys.parquet").rows()
    assert sorted(names) == sorted([(keys[1], "x"), (keys[3], "00FF")])


def test_no_names_no_file(tmp_path: Path) -> None:
    """Where no key was hashed there is nothing to keep."""
    convert(csv(tmp_path, "1.0,Write,8,Tier-2,00ff00ff00ff00ff,Prefill"), tmp_path / "t.parquet")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["t.csv", "t.parquet"]


def test_rows_out_of_order_are_sorted(tmp_path: Path) -> None:
    """Rows come in order of time, ties as they stand in the file; how many were late is said."""
    lines = [f"{t}.0,Write,{8 + at},Tier-2,k{at},Prefill" for at, t in enumerate((5, 3, 5, 4, 3))]
    made = convert(csv(tmp_path, *lines), tmp_path / "t.parquet")
    rows = rows_of(tmp_path / "t.parquet")
    assert rows["size"].to_list() == [9, 12, 11, 8, 10]
    assert "3 rows were out of order and have been sorted" in made.notes


def test_the_map_leads_back(tmp_path: Path) -> None:
    """Each row of the CSV has its key, tier, phase and request, those left out not among them."""
    rows: list[Row] = [
        (0, Op.WRITE, 8, Tier.GPU, 1, Phase.PREFILL),
        (1, Op.LOOKUP, 0, Tier.GPU, 1, Phase.DECODE),
        (2, Op.WRITE, 8, Tier.GPU, 2, Phase.PROMOTE),
    ]
    path = write_rows(tmp_path / "t.parquet", rows, request=np.array([4, 5, 6], np.uint64))
    with open_trace(path) as trace:
        made = exporters.export(trace, tmp_path / "t.csv", "mlperf-csv", ExportOptions())
    assert made.beside == (map_path(tmp_path / "t.csv"),)
    found = pl.read_parquet(made.beside[0]).with_columns(pl.col("tier", "phase").cast(pl.String))
    assert found.rows() == [(0, 1, "gpu", "prefill", 4), (1, 2, "gpu", "promote", 6)]


@pytest.mark.slow
@settings(max_examples=examples(60))
@given(rows=traces(), compressed=st.booleans())
def test_round_trip(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Row], compressed: bool
) -> None:
    """A trace comes back with equal rows, less lookups, promotions' name and nanoseconds."""
    tmp_path = tmp_path_factory.mktemp("csv")
    out = tmp_path / ("t.csv.zst" if compressed else "t.csv")
    wanted = [row for row in rows if row[1] is not Op.LOOKUP]
    with open_trace(write_rows(tmp_path / "t.parquet", rows)) as trace:
        if not wanted:
            with pytest.raises(UsageError, match="no row of this trace"):
                exporters.export(trace, out, "mlperf-csv", ExportOptions(with_deletes=True))
            return
        exporters.export(trace, out, "mlperf-csv", ExportOptions(with_deletes=True))
    convert(out, tmp_path / "back.parquet")
    start_us = wanted[0][0] // 1000
    has_deletes = any(op is Op.DELETE for _, op, _, _, _, _ in wanted)
    found = rows_of(tmp_path / "back.parquet")
    if not has_deletes:  # of a pair of Read and Write of phase Evict a delete is inferred
        found = found.filter(pl.col("op") != "delete")
    assert found.rows() == [
        (
            (time // 1000 - start_us) * 1000,
            op.label,
            size,
            tier.label,
            key,
            "decode" if phase is Phase.PROMOTE else phase.label,
        )
        for time, op, size, tier, key, phase in wanted
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("-1.0,Write,8,Tier-2,a,Evict", "row 3, column Timestamp: got -1.0"),
        ("1e9,Write,8,Tier-2,a,Evict", "row 3, column Timestamp: got 1e9"),
        ("9300000000.0,Write,8,Tier-2,a,Evict", "row 3, column Timestamp: got 9300000000.0"),
        (",Write,8,Tier-2,a,Evict", "row 3, column Timestamp: got nothing"),
        ("1.0,Append,8,Tier-2,a,Evict", "row 3, column Operation: got Append"),
        ("1.0,Write,0,Tier-2,a,Evict", "row 3, column Object_Size_Bytes: got 0"),
        ("1.0,Write,99999999999999,Tier-2,a,Evict", "row 3, column Object_Size_Bytes"),
        ("1.0,Write,-8,Tier-2,a,Evict", "not such a CSV at or after row 2: .*'-8'"),
        ("1.0,Write,8,Tier-3,a,Evict", "row 3, column Tier: got Tier-3"),
        ("1.0,Write,8,Tier-2,,Evict", "row 3, column Key: got nothing"),
        ("1.0,Write,8,Tier-2,a,Promote", "row 3, column Phase: got Promote"),
        ("1.0,Write,8,Tier-2,a", "not such a CSV at or after row 2"),
        ("garbage", "not such a CSV at or after row 2"),
    ],
)
def test_bad_rows_are_named(tmp_path: Path, line: str, message: str) -> None:
    """What isn't such a row is refused, with file, row and column, and leaves nothing behind."""
    path = csv(tmp_path, "1.0,Write,8,Tier-2,a,Prefill", line)
    pattern = message.replace(": got", ": value not accepted: got")
    with pytest.raises(TraceError, match=pattern):
        convert(path, tmp_path / "t.parquet")
    assert [found.name for found in tmp_path.iterdir()] == ["t.csv"]


def test_other_columns_are_refused(tmp_path: Path) -> None:
    """A CSV of another kind is named by its first line."""
    path = tmp_path / "t.csv"
    path.write_text("Timestamp,Operation,Object_Size_Bytes,Tier,Key\n1.0,Write,8,Tier-2,a\n")
    with pytest.raises(TraceError, match="wrong columns: got 'Timestamp,Operation"):
        convert(path, tmp_path / "t.parquet")


def test_mlperf_capacity(tmp_path: Path) -> None:
    """A capacity that is too small names key, row and the smallest that fits."""
    path = places.FAULTS / "mlperf_capacity.csv"
    with pytest.raises(TraceError, match=r"row 5: .*got key u1, .*accepted: 600,000 bytes, with"):
        convert(path, tmp_path / "t.parquet", nvme_capacity_bytes=500_000)
    convert(path, tmp_path / "t.parquet", nvme_capacity_bytes=600_000)


def test_a_model_makes_tokens_of_bytes(tmp_path: Path) -> None:
    """The header has the model's bytes per token; sizes that are no whole tokens are refused."""
    path = csv(tmp_path, f"1.0,Write,{3 * 24_576},Tier-2,a,Prefill")
    made = convert(path, tmp_path / "t.parquet", model="tiny-1b")
    assert made.header.model is not None
    assert made.header.layout is not None
    assert made.header.model["name"] == "tiny-1b"
    assert made.header.layout["emitted_bytes_per_token"] == 24_576
    with open_trace(tmp_path / "t.parquet") as trace:
        told = describe(trace, sha256="", rows_replayed=1, duration_ns=1)
    assert told.bytes_per_token == 24_576
    csv(tmp_path, "1.0,Write,8,Tier-2,a,Prefill")
    with pytest.raises(TraceError, match=r"row 2, column Object_Size_Bytes: .*whole tokens of the"):
        convert(path, tmp_path / "u.parquet", model="tiny-1b")
