"""The operation log of warp, warp-replay, sai3-bench and polarWarp: out, and in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings

from kvtrace.errors import KvtraceError, TraceError, UsageError
from kvtrace.files.textfile import open_binary
from kvtrace.formats.common import exporting as exporters
from kvtrace.formats.common import importing as importers
from kvtrace.formats.common.exporting import ExportOptions
from kvtrace.formats.common.importing import ImportOptions
from kvtrace.formats.common.sidecar import map_path
from kvtrace.formats.warp.oplog import COLUMNS, WITH_CATEGORIES
from kvtrace.formats.warp.oplog_export import LOSES, resident_path
from kvtrace.trace.check import check
from kvtrace.trace.header import Header
from kvtrace.trace.reader import open_trace
from kvtrace.trace.schema import Op, Phase, Tier
from tests.support.examples import examples
from tests.support.making import write_rows
from tests.support.random_traces import Rows, read_rows, residents, rows

if TYPE_CHECKING:
    from pathlib import Path

EPOCH_NS = 1_740_553_426_194_021_003
ALL = tuple(Tier)
ROWS = [
    (0, Op.WRITE, 4096, Tier.GPU, 9, Phase.PREFILL),
    (1_500, Op.WRITE, 131_072, Tier.NVME, 10, Phase.EVICT),
    (2_000_000, Op.READ, 131_072, Tier.NVME, 10, Phase.DECODE),
    (3_000_000, Op.LOOKUP, 0, Tier.OBJECT, 1 << 63, Phase.DECODE),
    (3_000_000, Op.WRITE, 7, Tier.OBJECT, 1 << 63, Phase.PREFILL),
    (5_000_000_000, Op.DELETE, 131_072, Tier.NVME, 10, Phase.EVICT),
]


def text_of(path: Path) -> str:
    with open_binary(path) as stream:
        return str(stream.read().decode())


def export(path: Path, out: Path, to: str = "warp", **options: Any) -> exporters.Exported:
    with open_trace(path) as trace:
        return exporters.export(trace, out, to, ExportOptions(**options))


def bring(path: Path, out: Path, **options: Any) -> importers.Imported:
    return importers.convert([path], out, options=ImportOptions(**options))


def line(*fields: object) -> str:
    return "\t".join(map(str, fields))


def test_warps_lines_are_exact(tmp_path: Path) -> None:
    """Header, words, nanoseconds with Z, a tab between columns, names without a bucket."""
    path = write_rows(tmp_path / "t.parquet", ROWS, Header(epoch_ns=EPOCH_NS))
    made = export(path, tmp_path / "t.csv.zst", endpoint="http://10.0.0.1:9000", prefix="kv/")
    day, place = "2025-02-26T07:03:", "http://10.0.0.1:9000"
    times = [f"{day}46.194022503Z", f"{day}46.196021003Z", f"{day}46.197021003Z"]
    tenth, high = "kv/nvme/000000000000000a", "kv/object/8000000000000000"
    expected = [
        line(*COLUMNS),
        line(0, 0, "PUT", "kvtrace", 1, 131072, place, tenth, "", times[0], "", times[0], 0),
        line(1, 0, "GET", "kvtrace", 1, 131072, place, tenth, "", times[1], "", times[1], 0),
        line(2, 0, "STAT", "kvtrace", 1, 0, place, high, "", times[2], "", times[2], 0),
        line(3, 0, "PUT", "kvtrace", 1, 7, place, high, "", times[2], "", times[2], 0),
        line(4, 0, "DELETE", "kvtrace", 1, 0, place, tenth, "", f"{day}51.194021003Z", "",
             f"{day}51.194021003Z", 0),
    ]  # fmt: skip
    assert text_of(tmp_path / "t.csv.zst").splitlines() == expected
    assert (made.rows, made.dropped_rows, made.loses) == (5, 1, LOSES)


def test_sai3_has_uris(tmp_path: Path) -> None:
    """Endpoint and file, one behind the other, are the URI of the object."""
    path = write_rows(tmp_path / "t.parquet", ROWS)
    for options, expected in (
        ({}, "s3://kvtrace/nvme/000000000000000a"),
        ({"bucket": "b", "prefix": "p/"}, "s3://b/p/nvme/000000000000000a"),
        ({"endpoint": "file:///mnt/x"}, "file:///mnt/x/nvme/000000000000000a"),
    ):
        export(path, tmp_path / "t.tsv", "sai3", force=True, **options)
        first = text_of(tmp_path / "t.tsv").splitlines()[1].split("\t")
        assert first[6] + first[7] == expected


def test_fifteen_columns_for_analysis(tmp_path: Path) -> None:
    """On request there are last_byte and cat: 1 for a computed block, 2 for one found."""
    recorded = [
        (0, Op.WRITE, 5, Tier.NVME, 1, Phase.PREFILL),
        (1, Op.READ, 5, Tier.NVME, 1, Phase.DECODE),
        (2, Op.READ, 5, Tier.NVME, 1, Phase.EVICT),
        (3, Op.DELETE, 5, Tier.NVME, 1, Phase.EVICT),
    ]
    path = write_rows(tmp_path / "t.parquet", recorded)
    export(path, tmp_path / "t.csv", with_cat=True)
    frame = pl.read_csv(tmp_path / "t.csv", separator="\t")
    assert tuple(frame.columns) == WITH_CATEGORIES
    assert frame["cat"].to_list() == [1, 2, 0, 0]
    assert frame["last_byte"].equals(frame["end"])
    made = bring(tmp_path / "t.csv", tmp_path / "back.parquet")
    assert made.header.totals.rows == 4


def test_measured_ops_have_their_times_and_errors(tmp_path: Path) -> None:
    """Of a result the log says when ops were submitted, how long they took and what failed."""
    times = {
        "submit": np.ma.masked_array([900, 100, 200, 300, 400, 500], mask=[0, 0, 0, 0, 0, 1]),
        "complete": np.array([950, 1100, 1200, 1300, 1400, 0]),
        "error": np.array([0, 0, 110, 0, 0, 0], np.int32),
        "rank": np.array([1, 2, 3, 4, 65535, 6], np.uint16),
    }
    path = write_rows(tmp_path / "t.parquet", ROWS, **times)
    made = export(path, tmp_path / "t.tsv", tiers=ALL)
    frame = pl.read_csv(tmp_path / "t.tsv", separator="\t")
    assert frame["start"].is_sorted()
    assert frame["duration_ns"].to_list() == [1000, 1000, 1000, 1000, 50]
    assert frame["thread"].to_list() == [2, 3, 4, 65535, 1]
    assert frame["error"].to_list()[1] == "errno 110: Connection timed out"
    assert made.dropped_rows == 1  # never submitted
    assert pl.read_parquet(map_path(tmp_path / "t.tsv"))["key"].to_list() == [
        10,
        10,
        1 << 63,
        1 << 63,
        9,
    ]


def test_polars_reads_it_as_polarwarp_does(tmp_path: Path, small_trace: Path) -> None:
    """Types are right without being told, times parse, totals are the trace's."""
    export(small_trace, tmp_path / "t.csv.zst", tiers=ALL)
    frame = pl.read_csv(tmp_path / "t.csv.zst", separator="\t", ignore_errors=True)
    whole = {"idx", "thread", "n_objects", "bytes", "duration_ns"}
    assert {n for n, kind in frame.schema.items() if kind == pl.Int64} == whole
    form = "%Y-%m-%dT%H:%M:%S%.f%z"
    start = frame["start"].str.replace("Z$", "+00:00").str.strptime(pl.Datetime("ns"), form)
    ours = read_rows(small_trace, ["timestamp", "op", "size"])
    assert (start.dt.epoch("ns") == ours["timestamp"]).all()
    moved = ours.filter(pl.col("op").is_in(["read", "write"]))
    assert frame["bytes"].sum() == moved["size"].sum()
    assert frame["op"].value_counts().sort("op")["count"].to_list() == (
        ours.with_columns(pl.col("op").replace({"read": "GET", "write": "PUT", "delete": "DELETE"}))
        ["op"].value_counts().sort("op")["count"].to_list()
    )  # fmt: skip


def test_map_leads_back(tmp_path: Path, small_trace: Path) -> None:
    """The map has key, tier, phase and request of each line of the log."""
    export(small_trace, tmp_path / "t.csv", tiers=(Tier.NVME,))
    log = pl.read_csv(tmp_path / "t.csv", separator="\t")
    found = pl.read_parquet(map_path(tmp_path / "t.csv"))
    assert found["record"].to_list() == log["idx"].to_list()
    keys = log["file"].str.tail(16).str.to_integer(base=16, dtype=pl.UInt64)
    assert found["key"].equals(keys, check_names=False)
    ours = read_rows(small_trace, ["tier", "phase", "request"]).filter(tier="nvme")
    assert found["request"].equals(ours["request"])
    assert found["phase"].cast(pl.String).equals(ours["phase"])


@pytest.mark.slow
@settings(max_examples=examples(60))
@given(trace=rows())
def test_round_trip(trace: Rows, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A log that is read back has the trace's ops, objects, times and outcomes."""
    folder = tmp_path_factory.mktemp("round")
    path, back = trace.write(folder / "t.parquet"), folder / "back.parquet"
    measured = "submit" in trace.columns
    for to in ("warp", "sai3"):
        export(path, folder / "t.tsv.zst", to, tiers=ALL, force=True)
        bring(folder / "t.tsv.zst", back, force=True)
        start = trace.columns["submit" if measured else "timestamp"]
        took = trace.columns["complete"] - start if measured else np.zeros(len(start), np.int64)
        names = ["op", "size", "tier", "key"]
        found = read_rows(back, [*names, "timestamp", "submit", "complete", "error"])
        assert found.select(names).equals(read_rows(path, names))
        assert (found["timestamp"] == start - start[0]).all()
        assert (found["submit"] == found["timestamp"]).all()
        assert (found["complete"] - found["submit"] == took).all()
        assert found["error"].to_list() == trace.columns.get("error", np.zeros(len(start))).tolist()
        assert residents(back) == trace.touched
        with open_trace(back) as opened:
            assert check(opened).ok
            assert opened.header.epoch_ns == (trace.epoch_ns or 0) + start[0]


@given(trace=rows(measured=False))
@settings(max_examples=examples(20))
def test_residents_are_put_first(trace: Rows, tmp_path_factory: pytest.TempPathFactory) -> None:
    """What the log expects to find is in a log of its own, to be run before."""
    folder = tmp_path_factory.mktemp("resident")
    path, out = trace.write(folder / "t.parquet"), folder / "t.csv"
    made = export(path, out, tiers=ALL)
    assert resident_path(out).exists() == bool(len(trace.resident))
    if len(trace.resident):
        assert resident_path(out) in made.beside
        puts = pl.read_csv(resident_path(out), separator="\t")
        assert set(puts["op"]) == {"PUT"}
        names = {f"{Tier(int(t)).label}/{int(k):016x}": int(s) for t, k, s in trace.resident}
        assert dict(puts.select("file", "bytes").iter_rows()) == names


@pytest.mark.parametrize(
    ("options", "out", "message"),
    [
        ({}, "t.txt", "unknown kind of output"),
        ({"tiers": (Tier.CPU,)}, "t.csv", "no row of the tiers"),
        ({"endpoint": "http://KEY:SECRET@host"}, "t.csv", "credentials"),
        ({"endpoint": "a\tb"}, "t.csv", "--endpoint: unsafe character"),
        ({"prefix": 'a"b'}, "t.csv", "--prefix: unsafe character"),
        ({"prefix": "a\nb"}, "t.csv", "--prefix: unsafe character"),
        ({"bucket": "b"}, "t.csv", "format warp has no option --bucket"),
    ],
)
def test_refusals_of_warp(tmp_path: Path, options: Any, out: str, message: str) -> None:
    """What would break a line, say too much or leave nothing is refused, and nothing is made."""
    path = write_rows(tmp_path / "t.parquet", ROWS)
    with pytest.raises(UsageError, match=message):
        export(path, tmp_path / out, **options)
    assert [p.name for p in tmp_path.iterdir()] == ["t.parquet"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bucket": "b", "endpoint": "file:///x"}, "both --bucket and --endpoint"),
        ({"endpoint": "/mnt/x"}, "not a URI"),
        ({"with_cat": True}, "format sai3 has no option --with-cat"),
    ],
)
def test_refusals_of_sai3(tmp_path: Path, options: Any, message: str) -> None:
    """A place is told once, and as a URI."""
    path = write_rows(tmp_path / "t.parquet", ROWS)
    with pytest.raises(UsageError, match=message):
        export(path, tmp_path / "t.tsv", "sai3", **options)


def test_a_write_of_a_part_is_refused(tmp_path: Path) -> None:
    """S3 writes objects whole; a trace that doesn't is no operation log."""
    path = write_rows(
        tmp_path / "t.parquet", ROWS, offset=np.array([0, 4096, 0, 0, 0, 0], np.uint64)
    )
    with pytest.raises(UsageError, match=r"row 0 of those exported: a write of a part"):
        export(path, tmp_path / "t.tsv")
    assert [p.name for p in tmp_path.iterdir()] == ["t.parquet"]


HEAD = line(*COLUMNS)
T0, T1 = "2026-01-01T00:00:00.000000001Z", "2026-01-01T00:00:01Z"


def log(tmp_path: Path, *lines: str, head: str = HEAD) -> Path:
    path = tmp_path / "ops.tsv"
    path.write_text("\n".join((head, *lines)) + "\n")
    return path


def op(
    word: str, size: object = 10, *, file: str = "b/o", endpoint: str = "s3://b", error: str = "",
    start: str = T0, end: str = T1, took: object = 5, thread: object = 1, count: int = 1,
    client: str = "",
) -> str:  # fmt: skip
    return line(0, thread, word, client, count, size, endpoint, file, error, start, "", end, took)


def test_ops_of_all_dialects_come_in(tmp_path: Path) -> None:
    """GET_RANGE reads, HEAD looks up; LIST and ops on many objects are counted and left out."""
    path = log(
        tmp_path,
        op("PUT", 1000),
        op("GET_RANGE", 10, thread=7364705619221056123),
        op("HEAD", 1000),
        op("LIST", 0, count=3),
        op("DELETE", 0, count=100, file=""),
        op("GET", 0),
        op("GET", 0, error="NoSuchKey: object key does not exist"),
        op("PUT", 77, error="connection reset"),
        op("DELETE", 0, error="SlowDown"),
        op("DELETE", 0),
        "# warp get --host=x",
    )
    made = bring(path, tmp_path / "t.parquet")
    found = read_rows(tmp_path / "t.parquet", ["op", "size", "error", "complete"])
    assert found.select("op", "size", "error").rows() == [
        ("write", 1000, 0), ("read", 10, 0), ("lookup", 0, 0), ("lookup", 0, 2), ("write", 77, 5),
        ("lookup", 0, 5), ("delete", 1000, 0),
    ]  # fmt: skip
    assert set(found["complete"]) == {999_999_999}
    assert set(made.notes[:3]) == {
        "2 ops that aren't of one object (LIST and others) left out",
        "1 GETs and PUTs of no bytes left out",
        "2 failed ops that moved nothing became look-ups",
    }


@pytest.mark.parametrize(
    ("endpoint", "file", "name"),
    [
        ("s3://b", "b/a/o", "b/a/o"),  # s3dlio has the bucket twice
        ("s3://b/", "a/o", "b/a/o"),
        ("s3://", "b/a/o", "b/a/o"),
        ("", "s3://b/a/o", "b/a/o"),
        ("s3://AKIAKEY@b", "b/a/o", "b/a/o"),
        ("http://10.0.0.1:9000", "a/o", "a/o"),
        ("file://", "/mnt/a", "/mnt/a"),
    ],
)
def test_names_are_the_same_in_all_dialects(
    tmp_path: Path, endpoint: str, file: str, name: str
) -> None:
    """An object has one name, whichever tool wrote the log."""
    bring(log(tmp_path, op("PUT", endpoint=endpoint, file=file)), tmp_path / "t.parquet")
    assert pl.read_parquet(tmp_path / "t.keys.parquet")["name"].to_list() == [name]


def test_an_access_key_is_kept_nowhere(tmp_path: Path) -> None:
    """Who the client was isn't in the trace nor beside it."""
    path = log(tmp_path, op("PUT", client="AKIASECRETKEY"), op("GET", client="AKIASECRETKEY"))
    bring(path, tmp_path / "t.parquet")
    for made in (tmp_path / "t.parquet", tmp_path / "t.keys.parquet"):
        assert b"AKIASECRETKEY" not in made.read_bytes()
        assert b"AKIASECRETKEY" not in pl.read_parquet(made).write_csv().encode()


def test_order_of_completion_becomes_order_of_start(tmp_path: Path) -> None:
    """Logs are written as ops end; a trace is in order of their start."""
    path = log(tmp_path, op("PUT", 2, start=T1, file="b/2"), op("PUT", 1, start=T0, file="b/1"))
    made = bring(path, tmp_path / "t.parquet")
    assert read_rows(tmp_path / "t.parquet", ["size"])["size"].to_list() == [1, 2]
    assert "1 rows were out of order and have been sorted" in made.notes


def test_times_with_offsets_and_few_digits(tmp_path: Path) -> None:
    """RFC 3339 in all its forms: other zones, any number of decimals."""
    path = log(
        tmp_path,
        op("PUT", start="2026-01-01T02:00:00+02:00", file="b/1"),
        op("PUT", start="2026-01-01T00:00:00.25Z", file="b/2"),
    )
    bring(path, tmp_path / "t.parquet")
    assert read_rows(tmp_path / "t.parquet", ["timestamp"])["timestamp"].to_list() == [
        0,
        250_000_000,
    ]


def test_no_end_is_told_by_the_duration(tmp_path: Path) -> None:
    """An op without an end took what duration_ns says."""
    bring(log(tmp_path, op("PUT", end="", took=123)), tmp_path / "t.parquet")
    assert read_rows(tmp_path / "t.parquet", ["complete"])["complete"].to_list() == [123]


@pytest.mark.slow
def test_tier_is_the_users_choice(tmp_path: Path) -> None:
    """Foreign ops are on the object tier unless --tier says otherwise."""
    for options, tier in (
        ({}, "object"),
        ({"tier": Tier.NVME}, "nvme"),
        ({"tier": Tier.GPU}, "gpu"),
    ):
        bring(log(tmp_path, op("PUT")), tmp_path / "t.parquet", force=True, **options)
        assert read_rows(tmp_path / "t.parquet", ["tier"])["tier"].to_list() == [tier]


def test_two_prefixes_are_two_objects(tmp_path: Path) -> None:
    """Names that look like ours below different prefixes never become one key."""
    own = "nvme/000000000000000a"
    path = log(tmp_path, op("PUT", file=f"b/x/{own}"), op("PUT", file=f"b/y/{own}"))
    bring(path, tmp_path / "t.parquet")
    keys = read_rows(tmp_path / "t.parquet", ["key"])["key"].to_list()
    assert keys[0] == 10
    assert keys[1] != 10


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (op("GET", -1), "row 2: bytes not accepted"),
        (op("GET", 1 << 50), "row 2: bytes not accepted"),
        (op("GET", 1 << 70), r"ops.tsv:3: not a int64.*1180591620717411303424"),
        (op("GET", "x"), r"ops.tsv:3: not a int64"),
        (op("GET", start=""), "row 2: start not accepted"),
        (op("GET", start="yesterday"), r"ops.tsv:3: not a timestamp"),
        (op("GET", start="1000000000"), r"ops.tsv:3: not a timestamp"),
        (op("GET", start=T1, end=T0), "row 2: end not accepted"),
        (op("GET", took=-5), "row 2: duration_ns not accepted"),
        ("half a line", r"ops.tsv:3: wrong number of columns"),
    ],
)
def test_bad_rows_are_named(tmp_path: Path, bad: str, message: str) -> None:
    """A row that can't be is refused by its number; nothing is left behind."""
    path = log(tmp_path, op("PUT"), bad, op("GET"))
    with pytest.raises(TraceError, match=message):
        bring(path, tmp_path / "t.parquet")
    assert [p.name for p in tmp_path.iterdir()] == ["ops.tsv"]


def test_bad_files_are_refused(tmp_path: Path) -> None:
    """Empty, header only, truncated, without a column: refused, nothing half-written."""
    for name, data, message in (
        ("ops.tsv", b"", "empty file"),
        ("ops.tsv", HEAD.encode() + b"\n", "no rows"),
        ("ops.tsv", (HEAD + "\n" + op("LIST", 0, count=2) + "\n").encode(), "no rows"),
        ("ops.tsv.zst", b"\x28\xb5\x2f\xfd garbage", "can't read"),
    ):
        path = tmp_path / name
        path.write_bytes(data)
        with pytest.raises(KvtraceError, match=message):
            importers.convert([path], tmp_path / "t.parquet", format_name="warp")
        path.unlink()
    with pytest.raises(TraceError, match="missing column start"):
        importers.convert(
            [log(tmp_path, head=HEAD.replace("start", "begin"))], tmp_path / "t.parquet",
            format_name="warp",
        )  # fmt: skip
    assert [p.name for p in tmp_path.iterdir()] == ["ops.tsv"]


@pytest.mark.slow
def test_a_truncated_log_is_refused(tmp_path: Path, small_trace: Path) -> None:
    """A compressed log that is cut off anywhere never becomes a shorter trace."""
    export(small_trace, tmp_path / "t.tsv.zst")
    whole = (tmp_path / "t.tsv.zst").read_bytes()
    for share in (0.3, 0.9):
        (tmp_path / "cut.tsv.zst").write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(TraceError):
            bring(tmp_path / "cut.tsv.zst", tmp_path / "back.parquet")
        assert not (tmp_path / "back.parquet").exists()
