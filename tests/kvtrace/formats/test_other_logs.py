"""elbencho's ops log and CacheBench's traces: in."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvtrace.errors import TraceError
from kvtrace.formats.common import importing as importers
from kvtrace.formats.common.importing import ImportOptions
from kvtrace.trace.check import check
from kvtrace.trace.reader import open_trace
from kvtrace.trace.schema import Op, Tier
from tests.support.examples import examples
from tests.support.random_traces import Rows, read_rows, residents, rows

if TYPE_CHECKING:
    from pathlib import Path


def bring(path: Path, out: Path, **options: Any) -> importers.Imported:
    return importers.convert([path], out, options=ImportOptions(**options))


def line(ms: int, name: str, entry: str, offset: int = 0, length: int = 0, *, done: bool,
         rank: int = 0, error: bool = False) -> str:  # fmt: skip
    """Return a line as elbencho's logOpJSON prints it."""
    return (
        f'{{ "date": "2026-03-01T10:00:{ms // 1000:02}.{ms % 1000:03}+0100", '
        f'"worker_rank": {rank}, "op_name": "{name}", "entry_name": "{entry}", '
        f'"offset": {offset}, "length": {length}, "is_finished": {json.dumps(done)}, '
        f'"is_error": {json.dumps(error)} }}'
    )


def whole(ms: int, name: str, entry: str, offset: int = 0, length: int = 0, *, rank: int = 0,
          error: bool = False, took: int = 2) -> list[str]:  # fmt: skip
    """Return the lines before and after an op."""
    return [
        line(ms, name, entry, offset, length, done=False, rank=rank),
        line(ms + took, name, entry, offset, length, done=True, rank=rank, error=error),
    ]


def log(tmp_path: Path, *lines: str) -> Path:
    path = tmp_path / "ops.log"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_elbencho_ops_come_in(tmp_path: Path) -> None:
    """Ops of files and objects, with their offsets, times and errors; a descriptor is its file."""
    path = log(
        tmp_path,
        *whole(0, "mkdirat", "/d/r0"),
        line(3, "S3ListObjectsV2", "b/", 0, 1000, done=False, rank=2),
        line(4, "S3ListObjectsV2", "b/", 0, 17, done=True, rank=2),  # what it has found
        *whole(5, "openat", "/d/r0/f"),
        line(8, "pwrite", "7", 0, 4096, done=False),
        line(8, "openat", "/d/r1/f", done=False, rank=1),
        line(8, "openat", "/d/r1/f", done=True, rank=1),
        line(9, "pwrite", "7", 0, 512, done=False, rank=1),
        line(10, "pwrite", "7", 0, 4096, done=True),
        line(12, "pwrite", "7", 0, 512, done=True, rank=1),
        *whole(12, "pwrite", "7", 4096, 4096),
        *whole(15, "close", "/d/r0/f"),
        *whole(20, "openat", "/d/r0/f"),
        *whole(22, "pread", "7", 0, 8192, error=True),
        *whole(25, "close", "/d/r0/f"),
        *whole(26, "pread", "7", 0, 100),
        *whole(30, "unlinkat", "/d/r0/f"),
        *whole(33, "unlinkat", "/d/r0"),
        *whole(36, "S3PutObject", "b/o", 0, 50, rank=2),
        *whole(40, "S3HeadObject", "b/o", rank=2),
        *whole(44, "S3GetObject", "b/o", 10, 40, rank=2),
        *whole(50, "S3DeleteObject", "b/o", rank=2, error=True),
        *whole(55, "pread", "7", 0, 0),
        line(60, "pread", "7", 0, 10, done=False),
    )
    made = bring(path, tmp_path / "t.parquet")
    names = ["timestamp", "op", "size", "offset", "error", "tier", "key"]
    found = read_rows(tmp_path / "t.parquet", names)
    assert found.select(names[:5]).rows() == [
        (0, "write", 4096, 0, 0), (1_000_000, "write", 512, 0, 0),
        (4_000_000, "write", 4096, 4096, 0), (14_000_000, "read", 8192, 0, 5),
        (18_000_000, "read", 100, 0, 0), (22_000_000, "delete", 8192, 0, 0),
        (28_000_000, "write", 50, 0, 0), (32_000_000, "lookup", 0, 0, 0),
        (36_000_000, "read", 40, 10, 0), (42_000_000, "lookup", 0, 0, 5),
    ]  # fmt: skip
    assert set(found["tier"]) == {"nvme"}
    known = dict(pl.read_parquet(tmp_path / "t.keys.parquet").iter_rows())
    assert [known[key] for key in found["key"]] == [
        "/d/r0/f", "/d/r1/f", "/d/r0/f", "/d/r0/f", "descriptor 7", "/d/r0/f", *["b/o"] * 4,
    ]  # fmt: skip
    assert made.notes[:4] == (
        "7 ops that move no object (open, mkdirat and others) left out",
        "1 reads and writes of no bytes left out",
        "1 ops that never finished left out",
        "1 deletes of objects that nothing else tells of left out",
    )
    assert made.header.epoch_ns == 1_772_355_600_008_000_000
    with open_trace(tmp_path / "t.parquet") as trace:
        assert check(trace).ok


ENTRIES = st.lists(
    st.tuples(
        st.integers(0, 2), st.sampled_from(["S3PutObject", "S3GetObject"]), st.integers(0, 3),
        st.integers(1, 5), st.integers(0, 9),
    ),
    min_size=1, max_size=30,
)  # fmt: skip


@pytest.mark.slow
@settings(max_examples=examples(30))
@given(entries=ENTRIES, block=st.sampled_from([300, 1000, 8 << 20]))
def test_elbencho_ops_that_overlap(
    entries: list[tuple[int, str, int, int, int]], block: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:  # fmt: skip
    """Starts and ends of several workers are paired, however the file is cut into blocks."""
    folder = tmp_path_factory.mktemp("elbencho")
    lines, expected, free = [], [], dict.fromkeys(range(3), 0)
    for at, (rank, name, _entry, size, took) in enumerate(entries):
        start = max(free[rank], at)
        free[rank] = start + took
        lines += [(start, at, 0), (start + took, at, 1)]
        expected.append((start, "write" if name == "S3PutObject" else "read", size, start + took))
    text = [
        line(ms, entries[at][1], f"b/{entries[at][2]}", 0, entries[at][3], done=bool(end),
             rank=entries[at][0])
        for ms, at, end in sorted(lines)
    ]  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kvtrace.formats.elbencho.lines._BLOCK_BYTES", block)
        bring(log(folder, *text), folder / "t.parquet")
    found = read_rows(folder / "t.parquet", ["submit", "op", "size", "complete"])
    first = min(start for start, *_ in expected)
    shifted = [((s - first) * 10**6, op, size, (e - first) * 10**6) for s, op, size, e in expected]
    assert sorted(found.rows()) == sorted(shifted)


GOOD = whole(0, "pread", "7", 0, 10)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([*GOOD, "{"], r"ops.log:3: not a line of elbencho"),
        ([*GOOD, "null"], r"ops.log:3: not a line of elbencho"),
        ([*GOOD, '{"date": "2026-03-01T10:00:00.000+0100"}'], r"ops.log:3: not a line"),
        ([*GOOD, GOOD[0].replace("2026-03-01", "yesterday")], r"ops.log:3: not a line.*yesterday"),
        ([*GOOD, line(5, "pread", "7", -1, 10, done=False)], r"ops.log:3: not a line"),
        ([*GOOD, line(5, "pread", "7", 0, 1 << 50, done=False)], r"ops.log:3: not a line"),
        ([*GOOD, line(5, "pread", "7", 0, 10, done=True)], r"ops.log:3: an op's end without"),
        (GOOD[1:], r"ops.log:1: an op's end without its start"),
        (whole(0, "mkdirat", "/d"), "no rows"),
    ],
)
def test_bad_ops_logs_are_refused(tmp_path: Path, lines: list[str], message: str) -> None:
    """A line that can't be is named; nothing is left behind."""
    path = log(tmp_path, *lines)
    with pytest.raises(TraceError, match=message):
        bring(path, tmp_path / "t.parquet")
    assert [p.name for p in tmp_path.iterdir()] == ["ops.log"]


OLD = "key,op,size,op_count,key_size"
NEW = "op_time,key,key_size,op,op_count,size,cache_hits,ttl,usecase,sub_usecase"


def csv(tmp_path: Path, head: str, *lines: str) -> Path:
    path = tmp_path / "kvcache_traces_1.csv"
    path.write_text("\n".join((head, *lines)) + "\n")
    return path


def test_cachebench_without_times(tmp_path: Path) -> None:
    """The first format has no times: rows at 0 in their order, op_count times each."""
    path = csv(tmp_path, OLD, "1668757755,SET,82,1,40", "1668757755,GET,82,3,40",
               "1668757755,GET,0,2,40", "7,SET,0,1,40", "7,ADD,5,4,40", "1668757755,DELETE,0,1,40",
               "1668757755,GET_LEASE,0,1,40")  # fmt: skip
    made = bring(path, tmp_path / "t.parquet")
    found = read_rows(tmp_path / "t.parquet", ["timestamp", "op", "size", "tier"])
    assert found.rows() == [
        (0, "write", 82, "cpu"), *[(0, "read", 82, "cpu")] * 3, *[(0, "lookup", 0, "cpu")] * 2,
        (0, "delete", 82, "cpu"), (0, "lookup", 0, "cpu"),
    ]  # fmt: skip
    assert made.notes[:4] == (
        "the file has no times: all rows are at 0",
        "1 SETs of no bytes left out",
        "3 GETs of no bytes, which missed, became look-ups",
        "4 ops ADD (not understood) left out: 20 bytes",
    )


def test_cachebench_with_times(tmp_path: Path) -> None:
    """Later formats have seconds and other columns; hashed keys of 16 digits stay as they are."""
    path = csv(
        tmp_path, NEW,
        "604038473,828769c1e1ce3a29,67,SET_LEASE,1,65,0,7200,2777918327,655456894",
        "604038471,82131353f9ddc8c6,48,GET,2,87,1,0,366387042,3003229276",
    )  # fmt: skip
    made = bring(path, tmp_path / "t.parquet", tier=Tier.NVME)
    found = read_rows(tmp_path / "t.parquet", ["timestamp", "op", "size", "key", "tier"])
    assert found.rows() == [
        *[(0, "read", 87, 0x82131353F9DDC8C6, "nvme")] * 2,
        (2 * 10**9, "write", 65, 0x828769C1E1CE3A29, "nvme"),
    ]
    assert "2 rows were out of order and have been sorted" in made.notes
    assert residents(tmp_path / "t.parquet") == {(Tier.NVME, 0x82131353F9DDC8C6, 87)}


@settings(max_examples=examples(30))
@given(trace=rows(measured=False), block=st.sampled_from([2, 1 << 17]))
def test_cachebench_round_trip(
    trace: Rows, block: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """One tier's reads, writes and deletes, written as CacheBench has them, come back."""
    folder = tmp_path_factory.mktemp("cachebench")
    columns = {
        name: values[trace.columns["op"] != Op.LOOKUP] for name, values in trace.columns.items()
    }
    columns = {name: values[columns["tier"] == Tier.CPU] for name, values in columns.items()}
    count = len(columns["op"])
    if count == 0:
        return
    words = np.array(["GET", "SET", "DELETE"])[columns["op"]]
    lines = [
        f"{int(t) // 10**9},{int(k):016x},16,{word},1,{int(size)},0,0"
        for t, k, word, size in zip(
            columns["timestamp"], columns["key"], words, columns["size"], strict=True
        )
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kvtrace.formats.cachebench.importer._ROWS_PER_BATCH", block)
        bring(csv(folder, NEW.partition(",usecase")[0], *lines), folder / "t.parquet")
    found = read_rows(folder / "t.parquet", ["timestamp", "op", "size", "key"])
    seconds = columns["timestamp"] // 10**9
    assert (found["timestamp"] == (seconds - seconds[0]) * 10**9).all()
    assert found["op"].to_list() == [Op(int(op)).label for op in columns["op"]]
    assert found["size"].to_list() == columns["size"].tolist()
    assert found["key"].to_list() == columns["key"].tolist()
    assert residents(folder / "t.parquet") == {r for r in trace.touched if r[0] == Tier.CPU}


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["1,GET,5,1,4", "1,GET,-5,1,4"], "row 2: size not accepted"),
        (["1,GET,5,1,4", f"1,GET,{1 << 50},1,4"], "row 2: size not accepted"),
        (["1,GET,5,1,4", "1,GET,x,1,4"], r"kvcache_traces_1.csv:3: not a int64"),
        (["1,GET,5,0,4"], "row 1: op_count not accepted"),
        (["1,GET,5,70000,4"], "row 1: op_count not accepted"),
        ([",GET,5,1,4"], "row 1: key not accepted"),
        (["1,GET,5"], r"kvcache_traces_1.csv:2: wrong number of columns"),
        (["1,ADD,5,1,4"], "no rows"),
        ([], "no rows"),
    ],
)
def test_bad_cachebench_traces_are_refused(tmp_path: Path, lines: list[str], message: str) -> None:
    """A row that can't be is named; nothing is left behind."""
    path = csv(tmp_path, OLD, *lines)
    with pytest.raises(TraceError, match=message):
        bring(path, tmp_path / "t.parquet")
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
