"""Recordings of engines become traces: all processes, nothing lost without being told."""

from __future__ import annotations

import errno
import json
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from kvtrace.capture import spool
from kvtrace.capture.recorder import Recorder
from kvtrace.capture.settings import settings_of
from kvtrace.capture.spool import Kind
from kvtrace.errors import TraceError
from kvtrace.formats.capture.recording import processes_of
from kvtrace.formats.capture.rows import TaskRows
from kvtrace.formats.common.importing import Imported, ImportOptions, convert
from kvtrace.trace.check import check
from kvtrace.trace.reader import open_trace
from kvtrace.trace.schema import Op, Phase, Tier
from tests.support import recordings
from tests.support.recordings import KIB32, START_NS, WALL_NS, record, rows, write, write_part

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.command import Cli


def imported(folder: Path, name: str = "t.parquet") -> tuple[Imported, dict[str, list[Any]]]:
    out = folder.parent / name
    made = convert([folder], out, options=ImportOptions(force=True))
    return made, pq.read_table(out).to_pydict()


def test_processes_and_parts_become_one_trace_in_order_of_submission(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    first = [rows(write(1, 0, 90), write(2, 5, 6, batch=1)), recordings.end(2, final=False)]
    write_part(folder, first, ended=False)
    write_part(folder, [rows(record(Op.READ, 1, 100, 120, batch=2))], part=1)
    write_part(folder, [rows(write(3, 4, 8), record(Op.READ, 3, 60, 70, batch=1))], process="8-b")
    made, table = imported(folder)
    assert table["key"] == [1, 3, 2, 3, 1]
    assert table["timestamp"] == table["submit"] == [0, 4000, 5000, 60000, 100000]
    assert table["complete"] == [90000, 8000, 6000, 70000, 120000]
    batches = dict(zip(zip(table["key"], table["op"], strict=True), table["batch"], strict=True))
    assert len(set(batches.values())) == 5
    capture = made.header.capture
    assert capture is not None
    assert (capture.processes, capture.unfinished_processes, capture.dropped_rows) == (2, 0, 0)
    assert (capture.complete_is, capture.not_visible) == ({"nvme": "poll"}, ["gpu tier"])
    assert made.header.format_version == "1.1"
    assert made.header.epoch_ns == WALL_NS
    assert made.notes == ()


def test_a_real_recorders_rows_come_back(tmp_path: Path) -> None:
    """One task of three keys, one without a request: every figure as it was given."""
    settings = settings_of({"out": str(tmp_path / "c"), "secret": "s"})
    recorder = Recorder(settings, "lmcache", "0.5.6")
    recorder.task(
        Op.WRITE, Tier.NVME, Phase.PREFILL, 1000, 9000, [b"a", b"b", b"c"], [10, 20, 30],
        [0, errno.EEXIST, 0], request="req-1", rank=3,
    )  # fmt: skip
    recorder.task(Op.READ, Tier.CPU, Phase.DECODE, [2000, 3000], 9500, [b"a", b"b"], 10)
    recorder.close()
    _, table = imported(tmp_path / "c")
    assert table["size"] == [10, 20, 30, 10, 10]
    assert table["error"] == [0, errno.EEXIST, 0, 0, 0]
    assert table["timestamp"] == [0, 0, 0, 1000, 2000]
    assert table["batch"] == [0, 0, 0, 1, 1]
    assert table["position"] == [0, 1, 2, 0, 1]
    assert table["rank"] == [3, 3, 3, None, None]
    assert table["key"][:2] == table["key"][3:]
    assert len(set(table["request"])) == 2
    assert table["request"][3:] == [None, None]


def test_deletes_get_their_objects_size_and_skipped_stores_hold_nothing(tmp_path: Path) -> None:
    delete = record(Op.DELETE, 1, 50, 51, phase=Phase.EVICT, size=0)
    again = write(1, 10, 11, error=errno.EEXIST, size=2 * KIB32)
    missed = record(Op.READ, 9, 60, 61, error=errno.ENOENT)
    write_part(tmp_path / "c", [rows(write(1, 0, 5), again, delete, missed)])
    made, table = imported(tmp_path / "c")
    assert table["size"] == [KIB32, 2 * KIB32, KIB32, KIB32]
    assert made.header.resident.objects == {}
    with open_trace(tmp_path / "t.parquet") as trace:
        assert check(trace).ok


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    """A killed process, a cut frame, a damaged one, a missing file, drops, rows without a size."""
    folder = tmp_path / "c"
    gap = spool.pack_json(
        Kind.GAP,
        {"dropped_rows": 9, "until_mono_ns": START_NS + 3_000_000, "reason": "queue full"},
    )
    frames = [rows(write(1, 0, 5)), gap, rows(write(2, 6, 7, batch=1))]
    killed = write_part(folder, frames, ended=False, part=2)
    data = killed.read_bytes()
    killed.write_bytes(data[:-5])
    sizeless = rows(write(4, 3, 4), write(5, 4, 5, size=0))
    hurt = write_part(folder, [rows(write(3, 1, 2)), sizeless], process="8-b")
    data = bytearray(hurt.read_bytes())
    first = next(f for f in spool.frames(hurt) if getattr(f, "kind", 0) == Kind.ROWS)
    data[first.offset + 25] ^= 1
    hurt.write_bytes(data)
    made, table = imported(folder)
    assert table["key"] == [1, 4]
    assert made.header.dropped_rows == 9
    capture = made.header.capture
    assert capture is not None
    assert capture.gaps == [{"until_ns": 3_000_000, "dropped_rows": 9, "reason": "queue full"}]
    assert [each["part"] for each in capture.torn] == [killed.name, hurt.name]
    notes = "\n".join(made.notes)
    for text in (
        "9 rows dropped while recording",
        "1 rows written and not in the files any more",
        "2 files missing",
        "1 frames cut off at the end of a file",
        "1 damaged places inside files",
        "1 of 2 processes have no end in their files",
        "1 reads and writes of unknown size left out",
    ):
        assert text in notes


def test_secrets_headers_and_clocks_that_differ_are_said(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    step = spool.pack_json(
        Kind.ANCHOR,
        {"mono_ns": START_NS + 10, "wall_ns": WALL_NS + 50_000_010, "width_ns": 1},
    )
    write_part(folder, [rows(write(1, 0, 5)), step])
    write_part(folder, [rows(write(1, 1, 5))], process="8-b", key_check=78)
    bare = write_part(folder, [rows(write(2, 1, 5))], process="9-c")
    bare.write_bytes(spool.MAGIC + spool.pack_rows(rows(write(2, 1, 5))))
    made, table = imported(folder)
    notes = "\n".join(made.notes)
    assert "2 secrets" in notes
    assert f"{bare.name} left out, 1 rows: no header in it" in notes
    assert "the wall clock moved by 50.0 ms" in notes
    assert len(table["key"]) == 2
    assert made.header.capture is not None
    assert made.header.capture.key_check is None


def bad_head(**head: Any) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        write_part(folder, [rows(write(1, 0, 5))])
        write_part(folder, [rows(write(1, 0, 5))], process="8-b", **head)

    return make


def one_frame(frame: bytes) -> Callable[[Path], None]:
    return lambda folder: write_part(folder, [frame]) and None


def twice(folder: Path) -> None:
    path = write_part(folder, [rows(write(1, 0, 5))])
    path.with_name("copy.kvcap").write_bytes(path.read_bytes())


def out_of_range(name: str, value: int) -> Callable[[Path], None]:
    records = rows(write(1, 0, 5))
    records[name] = value
    return one_frame(spool.pack_rows(records))


OTHER_KIND: Any = 9
BAD: dict[str, tuple[Callable[[Path], None], str]] = {
    "another boot": (bad_head(boot_id="other"), "another boot_id"),
    "another engine": (bad_head(engine="vllm"), "another engine"),
    "another version": (bad_head(spool=2), "unknown version of a recording: got 2"),
    "a part twice": (twice, "the same part of a process twice"),
    "no rows": (lambda folder: write_part(folder, []) and None, "no rows"),
    "an empty folder": (lambda folder: folder.mkdir(), "a folder without a recording"),
    "a header of other words": (bad_head(part=-1), "bad head of a recording at part"),
    "an unknown kind": (one_frame(spool.pack(OTHER_KIND, b"")), "unknown kind of frame: got 9"),
    "an end of nothing": (one_frame(spool.pack_json(Kind.END, {})), "bad end .* at rows"),
    "a gap that isn't JSON": (one_frame(spool.pack(Kind.GAP, b"{")), "bad gap"),
    "rows that aren't as many": (one_frame(spool.pack(Kind.ROWS, b"x", 3)), "frame"),
    "an op": (out_of_range("op", 9), "op out of range: got 9"),
    "a tier": (out_of_range("tier", 4), "tier out of range: got 4"),
    "a size": (out_of_range("size", 1 << 50), "size out of range"),
    "a time": (out_of_range("submit", -1), "submit out of range"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_no_recorder_writes_is_refused(tmp_path: Path, name: str) -> None:
    make, message = BAD[name]
    make(tmp_path / "c")
    with pytest.raises(TraceError, match=message):
        convert([tmp_path / "c"], tmp_path / "t.parquet")
    assert not (tmp_path / "t.parquet").exists()


@pytest.mark.slow
def test_a_truncated_recording_is_never_an_error_and_its_rows_only_grow(tmp_path: Path) -> None:
    three = [[write(k, k, k + 1, batch=k) for k in range(first, first + 3)] for first in (0, 3, 6)]
    frames = [rows(*each) for each in three]
    path = write_part(tmp_path / "c", frames)
    data = path.read_bytes()
    (whole,) = [f.end for f in spool.frames(path) if getattr(f, "kind", 0) == Kind.ROWS][:1]
    counts = []
    for length in range(whole, len(data), 7):
        path.write_bytes(data[:length])
        counts.append(len(imported(tmp_path / "c")[1]["key"]))
    assert all(before <= after for before, after in pairwise(counts))
    assert counts[0] == 3
    assert counts[-1] == 9


def test_import_of_a_folder_by_the_command(tmp_path: Path, cli: Cli) -> None:
    write_part(tmp_path / "c", [rows(write(1, 0, 5))], ended=False)
    ended = cli("import", tmp_path / "c", tmp_path / "t.parquet", "--json")
    document = json.loads(ended.out)
    assert document["rows"] == 1
    assert "1 of 1 processes have no end" in document["notes"][0]


def test_rows_of_processes_side_by_side_interleave(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    for process in ("7-a", "8-b"):
        many = [rows(*(write(k, k, k + 1) for k in range(b, b + 500))) for b in range(0, 2000, 500)]
        write_part(folder, many, process=process)
    _, table = imported(folder)
    assert np.all(np.diff(table["timestamp"]) >= 0)
    assert len(table["key"]) == 4000


def test_a_recording_that_grows_while_it_is_imported(tmp_path: Path) -> None:
    """Rows are read twice: those that came in between are not of this trace."""
    path = write_part(tmp_path / "c", [rows(write(1, 0, 5))], ended=False)
    (process,), _ = processes_of([path])
    stream = TaskRows(process, 0)
    with path.open("ab") as file:
        file.write(spool.pack_rows(rows(write(2, 6, 9), write(3, 7, 9))))
    assert [batch["key"].tolist() for batch in stream] == [[1]]


def test_time_0_is_of_the_first_row_beside_a_process_without_any(tmp_path: Path) -> None:
    """A process all of whose rows lack a size says nothing about when the trace begins."""
    write_part(tmp_path / "c", [rows(write(1, 3, 5), write(2, 4, 5))])
    write_part(tmp_path / "c", [rows(write(9, 0, 5, size=0))], process="8-b")
    made, table = imported(tmp_path / "c")
    assert table["timestamp"] == [0, 1000]
    assert made.header.epoch_ns == WALL_NS + 3000
    assert any("1 reads and writes of unknown size left out" in note for note in made.notes)


def test_numbers_of_batches_begin_anew_behind_the_last_one(tmp_path: Path) -> None:
    write_part(tmp_path / "c", [rows(write(1, 0, 5, batch=2**32 - 1))])
    write_part(
        tmp_path / "c", [rows(write(2, 1, 5, batch=0), write(3, 2, 5, batch=1))], process="8-b"
    )
    _, table = imported(tmp_path / "c")
    assert table["batch"] == [2**32 - 1, 0, 1]


def test_rows_without_any_header_are_told_as_such(tmp_path: Path) -> None:
    path = write_part(tmp_path / "c", [rows(write(1, 0, 5), write(2, 1, 5))])
    data = bytearray(path.read_bytes())
    data[30] ^= 1
    path.write_bytes(data)
    with pytest.raises(TraceError, match="no file with rows has a header: got 2 rows"):
        convert([tmp_path / "c"], tmp_path / "t.parquet")
