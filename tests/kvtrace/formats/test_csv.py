"""The MLPerf Storage KV benchmark's CSV: out, and in."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pytest
import zstandard

from kvtrace.formats.common import exporting as exporters
from kvtrace.formats.common import importing as importers
from kvtrace.formats.common.exporting import ExportOptions
from kvtrace.formats.mlperf_csv.csvfile import LOSES
from kvtrace.trace.check import check
from kvtrace.trace.header import Header
from kvtrace.trace.reader import open_trace
from kvtrace.trace.schema import Op, Phase, Tier
from tests.support import places
from tests.support.making import make, write_rows

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.command import Outcome

SAMPLES = places.SAMPLES / "mlperf"
needs_samples = pytest.mark.skipif(not SAMPLES.exists(), reason="the MLPerf samples aren't here")
COLUMNS = ["timestamp", "op", "size", "tier", "key", "phase"]


def export(trace_path: Path, out: Path, **options: Any) -> exporters.Exported:
    with open_trace(trace_path) as trace:
        return exporters.export(trace, out, "mlperf-csv", ExportOptions(**options))


def text_of(path: Path) -> str:
    if path.suffix == ".zst":
        return (
            zstandard.ZstdDecompressor()
            .stream_reader(io.BytesIO(path.read_bytes()))
            .read()
            .decode()
        )
    return path.read_text()


def rows_of(path: Path) -> pl.DataFrame:
    return (
        pl.read_parquet(path)
        .select(pl.col(COLUMNS))
        .with_columns(pl.col("op", "tier", "phase").cast(pl.String))
    )


def test_the_words_are_exact(tmp_path: Path) -> None:
    """Header, words, six decimals and 16 hex digits are those of the benchmark."""
    path = write_rows(
        tmp_path / "t.parquet",
        [
            (1_500, Op.WRITE, 131_072, Tier.GPU, 10, Phase.PREFILL),
            (2_000_000, Op.READ, 5, Tier.CPU, 1 << 63, Phase.DECODE),
            (3_000_000, Op.WRITE, 5, Tier.NVME, 2, Phase.EVICT),
            (3_000_000, Op.WRITE, 5, Tier.GPU, 2, Phase.PROMOTE),
            (3_000_001, Op.DELETE, 5, Tier.CPU, 2, Phase.EVICT),
            (3_000_001, Op.LOOKUP, 0, Tier.CPU, 2, Phase.DECODE),
            (4_000_000, Op.WRITE, 5, Tier.OBJECT, 2, Phase.EVICT),
        ],
        Header(epoch_ns=1_740_553_426_194_021_000),
    )
    made = export(path, tmp_path / "t.csv")
    assert text_of(tmp_path / "t.csv").splitlines() == [
        "Timestamp,Operation,Object_Size_Bytes,Tier,Key,Phase",
        "1740553426.194022,Write,131072,Tier-0,000000000000000a,Prefill",
        "1740553426.196021,Read,5,Tier-1,8000000000000000,Decode",
        "1740553426.197021,Write,5,Tier-2,0000000000000002,Evict",
        "1740553426.197021,Write,5,Tier-0,0000000000000002,Decode",
    ]
    assert (made.rows, made.dropped_rows, made.loses) == (4, 3, LOSES)
    with_deletes = export(path, tmp_path / "d.csv", with_deletes=True)
    assert (with_deletes.rows, with_deletes.dropped_rows) == (5, 2)
    assert "Delete,5,Tier-1,0000000000000002,Evict" in text_of(tmp_path / "d.csv")


@pytest.mark.parametrize("suffix", [".csv", ".csv.zst"])
def test_round_trip(tmp_path: Path, small_trace: Path, suffix: str) -> None:
    """A trace with its deletes comes back with equal rows, less the declared losses."""
    out, back = tmp_path / f"t{suffix}", tmp_path / "back.parquet"
    export(small_trace, out, with_deletes=True)
    importers.convert([out], back)
    ours = rows_of(small_trace)
    start_us = ours["timestamp"][0] // 1000
    expected = ours.with_columns(
        pl.col("timestamp") // 1000 * 1000 - start_us * 1000,
        pl.col("phase").replace("promote", "decode"),
    )
    assert rows_of(back).equals(expected)
    with open_trace(back) as trace:
        assert check(trace).ok


def test_record_writes_csv(tmp_path: Path) -> None:
    """`record` to a CSV gives what recording and exporting give."""
    make(tmp_path / "t.parquet")
    made = make(tmp_path / "t.csv")
    exported = export(tmp_path / "t.parquet", tmp_path / "e.csv")
    assert text_of(tmp_path / "t.csv") == text_of(tmp_path / "e.csv")
    assert made.header.totals.rows == exported.rows
    assert made.header.dropped_rows == exported.dropped_rows > 0


def test_eviction_pairs_become_three_rows(tmp_path: Path) -> None:
    """A pair of Read and Write with phase Evict means read, write and delete."""
    path = tmp_path / "t.csv"
    path.write_text(
        "Timestamp,Operation,Object_Size_Bytes,Tier,Key,Phase\n"
        "1.0,Write,8,Tier-0,a,Prefill\n"
        "2.0,Read,8,Tier-0,a,Evict\n"
        "2.1,Write,8,Tier-1,a,Evict\n"
        "3.0,Read,8,Tier-1,a,Decode\n"
        "4.0,Read,4,Tier-2,b,Decode\n"
    )
    made = importers.convert([path], tmp_path / "t.parquet", format_name="mlperf-csv")
    rows = rows_of(tmp_path / "t.parquet")
    assert rows["op"].to_list() == ["write", "read", "write", "delete", "read", "read"]
    assert rows["tier"].to_list() == ["gpu", "gpu", "cpu", "gpu", "cpu", "nvme"]
    assert "1 deletes added, one per eviction pair" in made.notes
    assert "1 objects are read before any write: declared resident" in made.notes
    with open_trace(tmp_path / "t.parquet") as trace:
        assert trace.header.epoch_ns == 10**9
        resident = trace.resident()
        assert (resident["tier"].tolist(), resident["size"].tolist()) == ([Tier.NVME], [4])
        assert check(trace).ok


@needs_samples
@pytest.mark.parametrize(
    ("name", "rows", "added"),
    [
        ("mlcstorage_llama3.1-8b_8users_30s.csv", 567, 86),
        ("t10_8b_nvmeonly_cap50.csv.zst", 26_987, 0),
    ],
)
def test_the_benchmarks_own_files(tmp_path: Path, name: str, rows: int, added: int) -> None:
    """The benchmark's own files come in whole, every byte and key of them."""
    importers.convert([SAMPLES / name], tmp_path / "t.parquet")
    theirs = pl.read_csv(io.StringIO(text_of(SAMPLES / name)))
    ours = rows_of(tmp_path / "t.parquet")
    kept = ours.filter(pl.col("op") != "delete")
    assert (len(theirs), len(kept), len(ours)) == (rows, rows, rows + added)
    assert kept["size"].sum() == theirs["Object_Size_Bytes"].sum()
    names = pl.read_parquet(tmp_path / "t.keys.parquet")
    joined = kept.join(names, on="key", how="left", maintain_order="left")
    assert joined["name"].to_list() == theirs["Key"].to_list()
    stamps = (theirs["Timestamp"].to_numpy() * 1e6).round().astype(np.int64)
    np.testing.assert_array_equal(kept["timestamp"].to_numpy() // 1000, stamps - stamps[0])


@pytest.mark.parametrize("more", [(), ("--restart-at", "4s")], ids=["", "restarted"])
def test_a_recordings_summary_is_that_of_the_csvs_rows(
    tmp_path: Path, cli: Callable[..., Outcome], more: tuple[str, ...]
) -> None:
    """Bytes, times and a row per tier, as of the same recording with a header; deletes aside."""
    words = ("--model", "tiny-1b", "--rate", "4/s", "--duration", "10s", "--seed", "1",
             "--gpu-mem", "64MiB", "--cpu-mem", "128MiB", "--nvme-capacity", "2GiB",
             *more)  # fmt: skip
    texts = {}
    for name in ("t.csv", "t.parquet"):
        ended = cli("record", tmp_path / name, *words)
        assert ended.code == 0, ended.error
        texts[name] = [" ".join(line.split()) for line in ended.out.splitlines()]
    assert any("rows have no word in the CSV and were left out" in x for x in texts["t.csv"])
    for tier in ("gpu", "cpu", "nvme"):
        [written] = [line.split() for line in texts["t.csv"] if line.startswith(f"{tier} ")]
        [whole] = [line.split() for line in texts["t.parquet"] if line.startswith(f"{tier} ")]
        assert written[1] == whole[1], "hit ratio"
        assert written[3:] == whole[3:], "bytes read and written, their ratio, most held"
    [line] = [x for x in texts["t.csv"] if "of virtual time" in x]
    rows = len((tmp_path / "t.csv").read_text().splitlines()) - 1
    assert line.startswith(f"{rows:,} rows, ")
    assert " 0 B " not in line
    assert "in 0.0 s" not in line
    assert any(x.startswith("restart at 4 s") for x in texts["t.csv"]) == bool(more)
