"""fio's logs: out, with the jobs that run them, and in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvtrace.errors import TargetError, TraceError, UsageError
from kvtrace.formats.common import exporting as exporters
from kvtrace.formats.common import importing as importers
from kvtrace.formats.common.exporting import ExportOptions
from kvtrace.formats.common.sidecar import map_path
from kvtrace.formats.fio import exporter
from kvtrace.formats.fio import iolog as fiolog
from kvtrace.trace.check import check
from kvtrace.trace.header import RESIDENT_DTYPE
from kvtrace.trace.reader import open_trace
from kvtrace.trace.schema import Op, Phase, Tier
from replay.options import ReplayOptions, Timing
from tests.support.examples import examples
from tests.support.making import Row, write_rows
from tests.support.random_rows import traces

if TYPE_CHECKING:
    from pathlib import Path

R, W, D, L = Op.READ, Op.WRITE, Op.DELETE, Op.LOOKUP
NVME, CPU = Tier.NVME, Tier.CPU
PREFILL, DECODE = Phase.PREFILL, Phase.DECODE
MIB = 1 << 20
DEVICE = "/dev/disk/by-id/nvme-none"


def export(trace: Path, out: Path, **options: Any) -> exporters.Exported:
    options.setdefault("fio_version", "3.34")
    with open_trace(trace) as opened:
        return exporters.export(opened, out, "fio", ExportOptions(**options))


def some_rows(tmp_path: Path, **more: Any) -> Path:
    """Return a trace: an object written, read and deleted, one there before, others elsewhere."""
    rows: list[Row] = [
        (0, W, 5000, NVME, 7, PREFILL),
        (1_999, R, 4096, NVME, 8, DECODE),
        (2_000, W, 10, CPU, 7, PREFILL),
        (2_000, L, 0, NVME, 7, DECODE),
        (3_000_000, R, 5000, NVME, 7, DECODE),
        (4_000_000, D, 5000, NVME, 7, Phase.EVICT),
    ]
    path = tmp_path / "t.parquet"
    return path if path.exists() else write_rows(path, rows, **more)


def test_the_log_is_as_fio_reads_it(tmp_path: Path) -> None:
    """First line, files added, opened and closed late, times from 1 µs on, extents aligned.

    Objects that are there before the first row have the first extents, behind the first MiB.
    """
    made = export(some_rows(tmp_path), tmp_path / "t.log", device=DEVICE)
    assert (tmp_path / "t.log").read_text().splitlines() == [
        "fio version 3 iolog",
        f"1 {DEVICE} add",
        f"1 {DEVICE} open",
        f"1 {DEVICE} write {MIB + 4096} 8192",
        f"2 {DEVICE} read {MIB} 4096",
        f"3001 {DEVICE} read {MIB + 4096} 8192",
        f"4001 {DEVICE} trim {MIB + 4096} 8192",
        f"1004001 {DEVICE} close",
    ]
    assert (made.rows, made.dropped_rows) == (4, 2)
    assert any("1 objects (4.00 KiB) are there before the first row" in lost for lost in made.loses)
    assert [path.name for path in made.beside] == ["t.log.map.parquet", "t.fio", "t.fill.fio"]


def test_files_get_no_trims(tmp_path: Path) -> None:
    """On a file deletes are dropped, and that is said."""
    made = export(some_rows(tmp_path), tmp_path / "t.log", filename="kv.dat")
    assert " trim " not in (tmp_path / "t.log").read_text()
    assert (made.rows, made.dropped_rows) == (3, 3)
    assert "deletes, since files aren't trimmed: 1" in made.loses
    assert "rows of other tiers than nvme: 1" in made.loses
    assert "lookups: 1" in made.loses


def test_a_version_that_runs_no_trims_gets_none(tmp_path: Path) -> None:
    """Fio before 3.34 drops a log's trims: they are left out, which is said."""
    made = export(some_rows(tmp_path), tmp_path / "t.log", device=DEVICE, fio_version="3.33")
    assert " trim " not in (tmp_path / "t.log").read_text()
    assert "deletes, since fio before 3.34 runs no trims of a log: 1" in made.loses
    assert (made.rows, made.dropped_rows) == (3, 3)


def test_the_map_leads_back(tmp_path: Path) -> None:
    """Each record of the log has its key, tier, phase, request and extent."""
    requests = np.array([1, 2, 3, 4, 5, 6], np.uint64)
    export(some_rows(tmp_path, request=requests), tmp_path / "t.log", filename="kv.dat")
    found = pl.read_parquet(map_path(tmp_path / "t.log"))
    assert found.with_columns(pl.col("tier", "phase").cast(pl.String)).rows() == [
        (0, 7, "nvme", "prefill", 1, MIB + 4096, 8192),
        (1, 8, "nvme", "decode", 2, MIB, 4096),
        (2, 7, "nvme", "decode", 5, MIB + 4096, 8192),
    ]


def test_long_ops_are_split(tmp_path: Path) -> None:
    """No length reaches 2³², pieces follow each other, and together they are the op."""
    size = (5 << 30) + 1
    path = write_rows(tmp_path / "t.parquet", [(0, W, size, NVME, 1, PREFILL)])
    made = export(path, tmp_path / "t.log", io_size_bytes=1 << 30)
    lines = [line.split() for line in (tmp_path / "t.log").read_text().splitlines()[3:-1]]
    begins, sizes = ([int(line[at]) for line in lines] for at in (3, 4))
    assert max(sizes) < 1 << 32
    assert sum(sizes) == -(-size // 4096) * 4096
    assert begins == [MIB + sum(sizes[:at]) for at in range(len(sizes))]
    assert "long ops as one: 1 rows become 6 pieces" in made.loses
    assert len(pl.read_parquet(map_path(tmp_path / "t.log"))) == 6


@pytest.mark.slow
def test_io_size_splits(tmp_path: Path) -> None:
    """--io-size is the longest I/O."""
    path = write_rows(tmp_path / "t.parquet", [(0, W, 3 * MIB + 1, NVME, 1, PREFILL)])
    export(path, tmp_path / "t.log", io_size_bytes=MIB)
    sizes = [line.split()[4] for line in (tmp_path / "t.log").read_text().splitlines()[3:-1]]
    assert sizes == [str(MIB)] * 3 + ["4096"]


def test_fio_is_given_the_same_io_as_a_replay_unless_asked_otherwise(tmp_path: Path) -> None:
    """Pieces of 4 MiB; in flight 32 at full speed, else 1,024 as far as fio's buffers allow."""
    options = ReplayOptions()
    path = write_rows(tmp_path / "long.parquet", [(0, W, 10 * MIB, NVME, 1, PREFILL)])
    export(path, tmp_path / "t.log")
    sizes = [line.split()[4] for line in (tmp_path / "t.log").read_text().splitlines()[3:-1]]
    assert sizes == [str(options.io_size_bytes)] * 2 + [str(2 * MIB)]
    full = ReplayOptions(mode=Timing.MAX)
    assert job(tmp_path, no_stall=True)["iodepth"] == str(full.depth) == "32"
    assert job(tmp_path, fio_version="3.41")["iodepth"] == str(options.depth) == "1024"
    export(path, tmp_path / "t.log", fio_version="3.41", force=True)
    assert "iodepth=256" in (tmp_path / "t.fio").read_text()


def job(tmp_path: Path, **options: Any) -> dict[str, str]:
    """Export, and return what the job file says."""
    export(some_rows(tmp_path), tmp_path / "t.log", force=True, **options)
    lines = (tmp_path / "t.fio").read_text().splitlines()
    assert lines[1] == "[replay]"
    return dict(line.split("=", 1) for line in lines[2:])


def test_the_job_says_what_fio_must_know(tmp_path: Path) -> None:
    """Direct I/O, order, fresh buffers, percentiles, what its guard of mounted devices needs."""
    found = job(tmp_path, device="/dev/disk/by-path/pci-0000:00:04.0")
    assert found == {
        "read_iolog": str(tmp_path / "t.log"),
        "filename": "/dev/disk/by-path/pci-0000\\:00\\:04.0",
        "rw": "randrw",
        "direct": "1",
        "ioengine": "psync",
        "iodepth": "1",
        "serialize_overlap": "1",
        "refill_buffers": "1",
        "percentile_list": "50:90:95:99:99.9:99.99",
    }


@pytest.mark.parametrize(
    ("version", "engine", "depth"),
    [
        ("3.31", "psync", "1"),
        ("fio-3.35", "psync", "1"),
        ("3.36", "libaio", "1024"),
        ("fio-3.40-12-gabcdef", "libaio", "1024"),
        ("3.41", "libaio", "1024"),
    ],
)
def test_the_engine_fits_the_version(tmp_path: Path, version: str, engine: str, depth: str) -> None:
    """Timed logs run with the engine that this version of fio times rightly."""
    found = job(tmp_path, fio_version=version)
    assert (found["ioengine"], found["iodepth"]) == (engine, depth)


def test_the_version_found_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without --fio-version it is that of the fio found here; without any, psync is right."""
    monkeypatch.setattr(fiolog, "installed_version", lambda: (3, 39))
    assert job(tmp_path, fio_version="")["ioengine"] == "libaio"
    monkeypatch.setattr(fiolog, "installed_version", lambda: None)
    assert job(tmp_path, fio_version="")["ioengine"] == "psync"


def test_no_stall_runs_deep_and_loses_nothing(tmp_path: Path) -> None:
    """At maximum speed ops run side by side; fio waits once, after the last one, for all."""
    found = job(tmp_path, no_stall=True)
    assert found["replay_no_stall"] == "1"
    assert (found["ioengine"], found["iodepth"]) == ("libaio", "32")
    assert (found["thinktime_blocks"], found["thinktime_blocks_type"]) == ("3", "issue")
    assert job(tmp_path, no_stall=True, queue_depth=4)["iodepth"] == "4"


def test_buffers_stay_below_a_gib(tmp_path: Path) -> None:
    """Fio has a buffer of the longest op per op in flight: long ones make the queue shorter."""
    path = write_rows(tmp_path / "l.parquet", [(0, W, 256 * MIB, NVME, 1, PREFILL)])
    export(path, tmp_path / "l.log", no_stall=True, io_size_bytes=1 << 30)
    assert "iodepth=4\n" in (tmp_path / "l.fio").read_text()


def test_a_log_that_only_reads_has_a_job_that_only_reads(tmp_path: Path) -> None:
    """Fio then opens its target for reading."""
    path = write_rows(tmp_path / "r.parquet", [(0, R, 4096, NVME, 1, DECODE)])
    export(path, tmp_path / "r.log")
    assert "rw=randread\n" in (tmp_path / "r.fio").read_text()


def test_tiers_lie_side_by_side(tmp_path: Path) -> None:
    """--tiers names whose rows; extents of several tiers never overlap."""
    made = export(some_rows(tmp_path), tmp_path / "t.log", tiers=(CPU, NVME))
    assert made.rows == 4
    found = pl.read_parquet(map_path(tmp_path / "t.log")).sort("offset")
    ends = (found["offset"] + found["bytes"]).to_list()
    begins = found["offset"].to_list()
    assert all(a == b or a >= end for a, b, end in zip(begins[1:], begins, ends, strict=False))
    assert set(found["tier"].cast(pl.String)) == {"cpu", "nvme"}


def test_a_larger_device_is_used(tmp_path: Path) -> None:
    """With --size, room beyond the live set is used before freed space; too little is refused."""
    rows: list[Row] = []
    for turn in range(10):
        rows += [(turn, W, MIB, NVME, turn, PREFILL), (turn, D, MIB, NVME, turn, DECODE)]
    path = write_rows(tmp_path / "t.parquet", rows)
    export(path, tmp_path / "small.log")
    export(path, tmp_path / "large.log", size_bytes=6 * MIB)
    places = [
        pl.read_parquet(map_path(tmp_path / f"{name}.log"))["offset"].n_unique()
        for name in ("small", "large")
    ]
    assert places == [1, 5]
    with pytest.raises(TargetError, match="smaller than the trace needs"):
        export(path, tmp_path / "tiny.log", size_bytes=MIB + 4096)


def test_extents_are_aligned_as_asked(tmp_path: Path) -> None:
    """Objects start and end on multiples of --extent-align."""
    export(some_rows(tmp_path), tmp_path / "t.log", extent_align_bytes=65_536)
    found = pl.read_parquet(map_path(tmp_path / "t.log"))
    assert (found["offset"] % 65_536 == 0).all()
    assert found["bytes"].unique().to_list() == [65_536]


def test_a_file_per_key(tmp_path: Path) -> None:
    """On request each object is a file, added and opened before its first op."""
    made = export(some_rows(tmp_path), tmp_path / "t.log", filename="kv", file_per_key=True)
    assert (tmp_path / "t.log").read_text().splitlines() == [
        "fio version 3 iolog",
        "1 kv/0000000000000007 add",
        "1 kv/0000000000000007 open",
        "1 kv/0000000000000007 write 0 8192",
        "2 kv/0000000000000008 add",
        "2 kv/0000000000000008 open",
        "2 kv/0000000000000008 read 0 4096",
        "3001 kv/0000000000000007 read 0 8192",
        "1003001 kv/0000000000000007 close",
        "1003001 kv/0000000000000008 close",
    ]
    assert "filename=kv/0000000000000007\n" in (tmp_path / "t.fio").read_text()
    assert [path.name for path in made.beside] == ["t.log.map.parquet", "t.fio"]


def test_too_many_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fio looks files up in a list: thousands of objects belong into one file."""
    monkeypatch.setattr(exporter, "FILES_MAX", 1)
    with pytest.raises(UsageError, match="too many files"):
        export(some_rows(tmp_path), tmp_path / "t.log", file_per_key=True)
    assert not list(tmp_path.glob("t.log*"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"filename": "a b"}, "--filename: fio's logs can't hold this name: got 'a b'"),
        ({"filename": "a\tb"}, "--filename: fio's logs can't hold this name"),
        ({"filename": "x" * 257}, "up to 256 characters"),
        ({"device": DEVICE, "filename": "x"}, "a log is for one target"),
        ({"device": DEVICE, "file_per_key": True}, "a log is for one target"),
        ({"device": "/dev"}, "isn't a block device"),
        ({"extent_align_bytes": 5000}, "--extent-align: not accepted"),
        ({"extent_align_bytes": 0}, "--extent-align: not accepted"),
        ({"io_size_bytes": 1 << 32}, "--io-size: not accepted"),
        ({"io_size_bytes": 512}, "--io-size: not accepted"),
        ({"queue_depth": 0}, "--queue-depth: out of range"),
        ({"size_bytes": 1, "file_per_key": True}, "--size is of one device or file"),
        ({"fio_version": "3.30"}, "no logs with timestamps before 3.31"),
        ({"fio_version": "new"}, "--fio-version: not a version"),
        ({"tiers": (Tier.OBJECT,)}, "nothing to export.*accepted: tiers of the trace: cpu, nvme"),
    ],
)
def test_what_fio_cannot_take_is_refused(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    """Each option that fio or the format can't take is refused, and nothing is left behind."""
    with pytest.raises(UsageError, match=message):
        export(some_rows(tmp_path), tmp_path / "t.log", **options)
    assert [path.name for path in tmp_path.iterdir()] == ["t.parquet"]


@pytest.mark.parametrize("name", ["t.fio", "t.log.zst", "t.log.gz", "t.parquet", "a b.log"])
def test_a_log_that_fio_would_not_read_is_refused(tmp_path: Path, name: str) -> None:
    """Fio reads no compressed logs, and the job's name isn't the log's."""
    with pytest.raises(UsageError):
        export(some_rows(tmp_path), tmp_path / name)


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    """Log, map and both jobs are refused if they exist, unless forced."""
    path = some_rows(tmp_path)
    for name in ("t.log", "t.log.map.parquet", "t.fio", "t.fill.fio"):
        (tmp_path / name).write_text("mine")
        with pytest.raises(TargetError, match=f"{name}: exists already"):
            export(path, tmp_path / "t.log")
        assert sorted(found.name for found in tmp_path.iterdir()) == sorted({name, "t.parquet"})
        (tmp_path / name).unlink()
    export(path, tmp_path / "t.log")
    export(path, tmp_path / "t.log", force=True)


def expected(rows: list[Row]) -> list[tuple[int, str, int, int]]:
    """Return what a log of nvme keeps of rows: time in µs, op, aligned size, and which object."""
    return [
        (time // 1000 * 1000, op.label, -(-size // 4096) * 4096, key)
        for time, op, size, tier, key, _ in rows
        if tier is NVME and op is not L
    ]


@pytest.mark.slow
@settings(max_examples=examples(60))
@given(rows=traces(), extra=st.booleans())
def test_round_trip(tmp_path_factory: pytest.TempPathFactory, rows: list[Row], extra: bool) -> None:
    """A trace comes back with equal ops, sizes, order and objects, less the declared losses."""
    tmp_path = tmp_path_factory.mktemp("fio")
    path = write_rows(tmp_path / "t.parquet", rows)
    wanted = expected(rows)
    if not any(op in ("read", "write") for _, op, _, _ in wanted):
        with pytest.raises(UsageError, match="nothing to export"):
            export(path, tmp_path / "t.log", device=DEVICE)
        return
    options = {"size_bytes": 64 * MIB} if extra else {}
    export(path, tmp_path / "t.log", device=DEVICE, **options)
    importers.convert([tmp_path / "t.log"], tmp_path / "back.parquet")
    found = pl.read_parquet(tmp_path / "back.parquet").with_columns(pl.col("op").cast(pl.String))
    assert found.select("timestamp", "op", "size").rows() == [row[:3] for row in wanted]
    life: dict[int, int] = {}  # key → its number in the log while it lives
    for (_, op, _, key), number in zip(wanted, found["key"].to_list(), strict=True):
        assert life.setdefault(key, number) == number
        assert list(life.values()).count(number) == 1
        if op == "delete":
            del life[key]
    with open_trace(tmp_path / "back.parquet") as trace:
        assert check(trace).ok


def test_residents_that_nothing_reads_keep_their_place(tmp_path: Path) -> None:
    """Declared residents have extents, whether read or not, as in a replay."""
    resident = np.array([(NVME, 5, 4096), (NVME, 6, 4096)], RESIDENT_DTYPE)
    from kvtrace.trace.header import Header
    from kvtrace.trace.writer import TraceWriter

    with (
        open_trace(write_rows(tmp_path / "a.parquet", [(0, R, 4096, NVME, 6, DECODE)])) as trace,
        TraceWriter(tmp_path / "t.parquet", Header(), resident=resident) as writer,
    ):
        for columns in trace.batches():
            writer.append(columns)
    export(tmp_path / "t.parquet", tmp_path / "t.log")
    assert pl.read_parquet(map_path(tmp_path / "t.log"))["offset"].to_list() == [MIB + 4096]


LOG_V3 = (
    "fio version 3 iolog\n"
    "5 /dev/a add\n"
    "5 /dev/a open\n"
    "7 /dev/b add\n"
    "15 /dev/a write 0 4096\n"
    "25 /dev/b read 0 8192\n"
    "25 /dev/a sync 0 0\n"
    "24 /dev/a read 0 4096\n"
    "35 /dev/a trim 0 4096\n"
    "40 /dev/a close\n"
)
LOG_V2 = (
    "fio version 2 iolog\n"
    "/dev/a add\n"
    "/dev/a open\n"
    "/dev/a wait 10 0\n"
    "/dev/a write 0 4096\n"
    "/dev/b wait 20 0\n"
    "/dev/b wait 15 0\n"
    "/dev/b read 0 8192\n"
    "/dev/a datasync 0 0\n"
    "/dev/a read 0 4096\n"
    "/dev/a wait 30 0\n"
    "/dev/a trim 0 4096\n"
    "/dev/a close\n"
)
ROWS = [
    (10_000, "write", 4096, 0, "prefill"),
    (20_000, "read", 8192, 1, "decode"),
    (20_000, "read", 4096, 0, "decode"),
    (30_000, "delete", 4096, 0, "evict"),
]


def rows_of(path: Path) -> list[Any]:
    frame = pl.read_parquet(path).with_columns(pl.col("op", "phase").cast(pl.String))
    return frame.select("timestamp", "op", "size", "key", "phase").rows()


@pytest.mark.parametrize("text", [LOG_V3, LOG_V2, LOG_V3.replace("\n", "\r\n")])
def test_logs_of_both_versions(tmp_path: Path, text: str) -> None:
    """Both come in: µs from the first line on, or waits that end so many ms after the start."""
    path = tmp_path / "x.log"
    path.write_bytes(text.encode())
    made = importers.convert([path], tmp_path / "t.parquet")
    unit = 1000 if "version 2" in text else 1
    assert rows_of(tmp_path / "t.parquet") == [(row[0] * unit, *row[1:]) for row in ROWS]
    assert {"2 files", "1 syncs left out"} <= set(made.notes)
    late = "1 rows were earlier than the one before: they follow it"
    assert (late in made.notes) == ("version 3" in text)
    with open_trace(tmp_path / "t.parquet") as trace:
        assert trace.resident()["size"].tolist() == [8192]
        assert check(trace).ok


def test_logs_of_several_jobs(tmp_path: Path) -> None:
    """Logs of jobs that ran side by side come in as one trace in order of time."""
    for name, start in (("a", 0), ("b", 5)):
        lines = [f"{start + 10 * turn} f read {4096 * turn} 4096\n" for turn in range(3)]
        text = f"fio version 3 iolog\n0 f add\n{''.join(lines)}"
        (tmp_path / f"{name}.log").write_text(text)
    importers.convert([tmp_path / "a.log", tmp_path / "b.log"], tmp_path / "t.parquet")
    found = rows_of(tmp_path / "t.parquet")
    assert [row[0] // 1000 for row in found] == [0, 5, 10, 15, 20, 25]
    assert [row[3] for row in found] == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("fio version 3 iolog", "fio version 1 iolog", "line 1: not a log of fio's"),
        ("15 /dev/a write 0", "15 /dev/a scribble 0", "line 5: no such action"),
        ("15 /dev/a write 0", "15 /dev/a wait 0", "line 5: a wait"),
        ("15 /dev/a write 0 4096", "15 /dev/a write 0", "line 5: not a line of such a log"),
        ("15 /dev/a write 0 4096", "15 /dev/a write 0 4096 1", "line 5: not a line of such a log"),
        ("15 /dev/a write 0 4096", "15 /dev/a write -1 4096", "line 5: the offset isn't accepted"),
        ("write 0 4096", f"write {1 << 60} 4096", "line 5: the offset isn't accepted"),
        ("write 0 4096", f"write {1 << 70} 4096", "line 5: the offset isn't accepted"),
        ("write 0 4096", "write 0 0", "line 5: a length of 0"),
        ("write 0 4096", "write 0 -4096", "line 5: the length isn't accepted"),
        ("write 0 4096", f"write 0 {1 << 41}", "line 5: the length isn't accepted"),
        ("15 /dev/a write", "-15 /dev/a write", "line 5: the time isn't accepted"),
        ("15 /dev/a write", f"{1 << 62} /dev/a write", "line 5: the time isn't accepted"),
        ("7 /dev/b add", "7 /dev/b remove", "line 4: no such action"),
        ("40 /dev/a close\n", "40 /dev/a clo", "line 10: the last line doesn't end"),
        ("40 /dev/a close\n", "\0\1\2\n", "line 10: not a line of such a log"),
        (LOG_V3[20:], "", "no reads or writes"),
    ],
)
def test_bad_lines_are_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    """What isn't such a log is refused, with file and line, and leaves nothing behind."""
    path = tmp_path / "x.log"
    path.write_text(LOG_V3.replace(old, new, 1))
    with pytest.raises(TraceError, match=message):
        importers.convert([path], tmp_path / "t.parquet", format_name="fio")
    assert [found.name for found in tmp_path.iterdir()] == ["x.log"]


def test_a_wait_that_is_too_long(tmp_path: Path) -> None:
    """Time of version 2 can't run over."""
    path = tmp_path / "x.log"
    path.write_text(f"fio version 2 iolog\n/a wait {(1 << 50) - 1} 0\n/a read 0 512\n")
    with pytest.raises(TraceError, match="line 2: too long a wait"):
        importers.convert([path], tmp_path / "t.parquet")


def test_an_empty_log_is_refused(tmp_path: Path) -> None:
    """A file without a byte isn't a log."""
    (tmp_path / "x.log").touch()
    with pytest.raises(TraceError, match="empty file"):
        importers.convert([tmp_path / "x.log"], tmp_path / "t.parquet", format_name="fio")


def lat_log(tmp_path: Path, text: str, name: str = "x_lat.1.log") -> Path:
    path = tmp_path / name
    path.write_text(text)
    return path


def outcomes(path: Path) -> list[Any]:
    frame = pl.read_parquet(path).with_columns(pl.col("op").cast(pl.String))
    return frame.select("timestamp", "op", "size", "key", "submit", "complete", "error").rows()


def test_a_latency_log_is_a_result(tmp_path: Path) -> None:
    """Each op has when it was submitted and when it completed, in the log's order."""
    text = "1, 400000, 1, 4096, 0, 0\n2, 900000, 0, 8192, 65536, 0\n2, 1500000, 0, 4096, 0, 0\n"
    made = importers.convert([lat_log(tmp_path, text)], tmp_path / "t.parquet")
    assert outcomes(tmp_path / "t.parquet") == [
        (600_000, "write", 4096, 0, 600_000, 1_000_000, 0),
        (1_100_000, "read", 8192, 1, 1_100_000, 2_000_000, 0),
        (1_100_000, "read", 4096, 0, 500_000, 2_000_000, 0),
    ]
    assert "times are of whole milliseconds, rows in order of completion" in made.notes
    with open_trace(tmp_path / "t.parquet") as trace:
        assert check(trace).ok


def test_an_op_that_began_before_the_clock_moves_all(tmp_path: Path) -> None:
    """Times are whole ms: where an op seems to begin before 0, all are later by that."""
    path = lat_log(tmp_path, "0, 300000, 1, 4096, 0, 0x4001\n5, 1, 1, 4096, 4096, 0x0000\n")
    importers.convert([path], tmp_path / "t.parquet")
    assert [row[4:6] for row in outcomes(tmp_path / "t.parquet")] == [
        (0, 300_000),
        (5_299_999, 5_300_000),
    ]


def test_issue_times_are_taken(tmp_path: Path) -> None:
    """A log with the time of issue (log_issue_time) tells when each op was submitted."""
    path = lat_log(tmp_path, "1, 400000, 1, 4096, 0, 0, 612345\n")
    importers.convert([path], tmp_path / "t.parquet")
    assert outcomes(tmp_path / "t.parquet")[0][4:6] == (612_345, 1_012_345)


def test_a_latency_log_without_offsets(tmp_path: Path) -> None:
    """Each op is then of an object of its own, and that is said."""
    path = lat_log(tmp_path, "1, 400000, 0, 4096, 0\n1, 400000, 0, 4096, 0\n", "x_clat.log")
    made = importers.convert([path], tmp_path / "t.parquet")
    assert [row[3] for row in outcomes(tmp_path / "t.parquet")] == [0, 1]
    assert any("2 ops without an offset (log_offset=1 adds it)" in note for note in made.notes)


@pytest.mark.slow
def test_latency_logs_of_several_jobs(tmp_path: Path) -> None:
    """Logs of several jobs come in side by side; one offset of each is an object of its own."""
    paths = [lat_log(tmp_path, f"{at}, 1000, 1, 4096, 0, 0\n", f"x_lat.{at}.log") for at in (1, 2)]
    importers.convert(paths, tmp_path / "t.parquet")
    assert [row[3] for row in outcomes(tmp_path / "t.parquet")] == [0, 1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1, 400000, 1, 4096\n", "line 1: not a line of such a log"),
        ("1, 4, 1, 4096, 0, 0\n1, 4, 1, 4096, 0\n", "line 2: not a line of such a log"),
        ("1, -4, 1, 4096, 0, 0\n", "line 1: the latency isn't accepted"),
        ("1, 4, 3, 4096, 0, 0\n", "line 1: the direction isn't accepted"),
        ("1, 4, 1, 0, 0, 0\n", "line 1: an average over time"),
        ("1, 4, 1, 99999999999999, 0, 0\n", "line 1: the block size isn't accepted"),
        ("1, 4, 1, 4096, 99999999999999999999, 0\n", "line 1: the offset isn't accepted"),
        (f"{1 << 50}, 4, 1, 4096, 0, 0\n", "line 1: the time isn't accepted"),
        ("1, 4, 1, 4096, 0, 0\n1, 4, 1", "line 2: the last line doesn't end"),
        ("\n", "no reads or writes"),
        ("", "empty file"),
    ],
)
def test_bad_latency_logs_are_named(tmp_path: Path, text: str, message: str) -> None:
    """What isn't a log of each op's latency is refused, with file and line."""
    with pytest.raises(TraceError, match=message):
        importers.convert([lat_log(tmp_path, text)], tmp_path / "t.parquet", format_name="fio-lat")
    assert not list(tmp_path.glob("t.parquet*"))


@pytest.mark.parametrize("name", ["x_bw.1.log", "x_iops.1.log", "x_slat.1.log"])
def test_logs_of_other_things_are_refused(tmp_path: Path, name: str) -> None:
    """Bandwidth logs look the same as latency logs: their name tells."""
    path = lat_log(tmp_path, "1, 400000, 1, 4096, 0, 0\n", name)
    with pytest.raises(TraceError, match="isn't a log of whole latencies"):
        importers.convert([path], tmp_path / "t.parquet", format_name="fio-lat")
    with pytest.raises(TraceError, match="format not recognised"):
        importers.convert([path], tmp_path / "t.parquet")
