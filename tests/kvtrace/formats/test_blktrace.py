"""What blktrace recorded: its binary records and blkparse's text of them."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pytest

from kvtrace.errors import TraceError, UsageError
from kvtrace.formats.blktrace.importer import MAGIC, RECORD
from kvtrace.formats.common import importing as importers
from kvtrace.trace.check import check
from kvtrace.trace.reader import open_trace

if TYPE_CHECKING:
    from pathlib import Path

READ, WRITE, FLUSH, NOTIFY, DISCARD = 1 << 16, 1 << 17, 1 << 18, 1 << 26, 1 << 29
QUEUE, ISSUE, COMPLETE = 1 | 1 << 20, 7 | 1 << 22, 8 | 1 << 23
VDA = 254 << 20
Event = tuple[int, int, int, int]
"""Time in ns, sector, bytes, action."""

EVENTS: list[Event] = [
    (1_000, 0, 0, NOTIFY),
    (2_000, 2048, 4096, QUEUE | WRITE),
    (2_500, 2048, 4096, ISSUE | WRITE),
    (3_000, 4096, 8192, QUEUE | READ),
    (3_500, 0, 0, QUEUE | WRITE | FLUSH),
    (4_000, 2048, 4096, COMPLETE | WRITE),
    (5_000, 2048, 4096, QUEUE | READ),
    (6_000, 2048, 4096, QUEUE | DISCARD | WRITE),
    (7_000, 9999, 512, QUEUE | DISCARD | WRITE),
    (8_000, 2048, 4096, QUEUE | READ),
]
ROWS = [
    (0, "write", 4096, 0),
    (1_000, "read", 8192, 1),
    (3_000, "read", 4096, 0),
    (4_000, "delete", 4096, 0),
    (6_000, "read", 4096, 2),
]


def records(events: list[Event], *, order: str = "<", device: int = VDA) -> bytes:
    """Return events as blktrace writes them; the first one is followed by four bytes of its own."""
    made = b""
    for number, (time, sector, size, action) in enumerate(events):
        record = np.zeros(1, RECORD.newbyteorder(order))
        record["magic"], record["sequence"], record["time"] = MAGIC | 7, number + 1, time
        record["sector"], record["bytes"], record["action"] = sector, size, action
        record["device"], record["pdu_len"] = device, 0 if number else 4
        made += record.tobytes() + (b"" if number else b"fio\0")
    return made


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def rows_of(path: Path) -> list[Any]:
    frame = pl.read_parquet(path).with_columns(pl.col("op").cast(pl.String))
    return frame.select("timestamp", "op", "size", "key").rows()


@pytest.mark.slow
@pytest.mark.parametrize("order", ["<", ">"])
def test_queue_events_become_rows(tmp_path: Path, order: str) -> None:
    """Reads, writes and discards that were queued come in, whatever the endianness.

    A discard is a deletion, one of what no op had touched is left out, and what is read after it
    was there all the time.
    """
    path = write(tmp_path / "x.blktrace.0", records(EVENTS, order=order))
    made = importers.convert([path], tmp_path / "t.parquet")
    assert rows_of(tmp_path / "t.parquet") == ROWS
    assert "3 events of other kinds left out" in made.notes
    assert "1 queue events without data left out" in made.notes
    assert "1 trims matched no object and were left out" in made.notes
    with open_trace(tmp_path / "t.parquet") as trace:
        assert trace.resident()["size"].tolist() == [8192, 4096]
        assert check(trace).ok


def test_files_of_cpus_are_merged_by_time(tmp_path: Path) -> None:
    """A file per CPU, each with rows out of order, comes in as one trace in order of time."""
    first = [(0, 0, 0, NOTIFY), (9_000, 8, 512, QUEUE | WRITE), (7_000, 0, 512, QUEUE | WRITE)]
    second = [(0, 0, 0, NOTIFY), (8_000, 16, 512, QUEUE | READ)]
    paths = [
        write(tmp_path / f"x.blktrace.{cpu}", records(events))
        for cpu, events in enumerate((first, second))
    ]
    made = importers.convert(paths, tmp_path / "t.parquet")
    found = [row[:3] for row in rows_of(tmp_path / "t.parquet")]
    assert found == [(0, "write", 512), (1_000, "read", 512), (2_000, "write", 512)]
    assert "1 rows were out of order and have been sorted" in made.notes


def test_devices_are_kept_apart(tmp_path: Path) -> None:
    """One sector of two devices is two objects."""
    event = [(0, 0, 0, NOTIFY), (5, 64, 512, QUEUE | WRITE)]
    data = records(event) + records(event, device=VDA + 1)
    importers.convert([write(tmp_path / "x.bin", data)], tmp_path / "t.parquet")
    assert [row[3] for row in rows_of(tmp_path / "t.parquet")] == [0, 1]


def test_reading_more_than_was_written_is_of_another_object(tmp_path: Path) -> None:
    """A trace never reads beyond an object's end: what lies there was there before."""
    events = [
        (0, 0, 0, NOTIFY),
        (1, 64, 512, QUEUE | WRITE),
        (2, 64, 4096, QUEUE | READ),
        (3, 64, 8192, QUEUE | READ),
    ]
    importers.convert([write(tmp_path / "x.bin", records(events))], tmp_path / "t.parquet")
    assert [row[3] for row in rows_of(tmp_path / "t.parquet")] == [0, 1, 1]
    with open_trace(tmp_path / "t.parquet") as trace:
        assert trace.resident()["size"].tolist() == [8192]
        assert check(trace).ok


@pytest.mark.skipif(shutil.which("blkparse") is None, reason="no blkparse here")
def test_what_blkparse_makes_of_it(tmp_path: Path) -> None:
    """The text that blkparse makes of the records gives the same trace as the records."""
    path = write(tmp_path / "x.blktrace.0", records(EVENTS))
    ended = subprocess.run(
        ["blkparse", "-i", "x"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    text = write(tmp_path / "x.txt", ended.stdout.encode())
    importers.convert([path], tmp_path / "binary.parquet")
    made = importers.convert([text], tmp_path / "text.parquet")
    assert rows_of(tmp_path / "text.parquet") == rows_of(tmp_path / "binary.parquet") == ROWS
    assert "1 queue events without data left out" in made.notes


TEXT = (
    "254,0    3        1     0.000000000   697  Q  WS 2048 + 8 [fio]\n"
    "254,0    3        2     0.000000500   697  G  WS 2048 + 8 [fio]\n"
    "254,0    1        3     0.000002000   697  Q   R 4096 + 16 [fio]\n"
    "254,0    1        4     0.000001000   697  Q FWS [fio]\n"
    "254,0    1        5     0.000001500   697  Q FWS 8192 + 8 [fio]\n"
    "254,0    1        6     0.000003000   697  Q  DS 2048 + 8 [fio]\n"
    "254,0    1        0     0.000003000     0  m   N served vt=0\n"
    "\n"
    "CPU1 (254,0):\n"
    " Reads Queued:           1,        8KiB\n"
)


def test_blkparse_text(tmp_path: Path) -> None:
    """Events come in sorted; those of other kinds, without data and the summary don't."""
    path = write(tmp_path / "x.txt", TEXT.encode())
    made = importers.convert([path], tmp_path / "t.parquet")
    assert [row[:3] for row in rows_of(tmp_path / "t.parquet")] == [
        (0, "write", 4096),
        (1_500, "write", 4096),
        (2_000, "read", 8192),
        (3_000, "delete", 4096),
    ]
    assert set(made.notes) == {
        "2 events of other kinds left out",
        "1 queue events without data left out",
        "1 rows were out of order and have been sorted",
        "1 objects are read before any write: declared resident",
    }


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("0.000002000", "-1.00000000", "line 3: the time isn't accepted"),
        ("0.000002000", "0.0000020001", "line 3: the time isn't accepted"),
        ("0.000002000", "0.0.02000", "line 3: the time isn't accepted"),
        ("0.000002000", "99999999999.0", "line 3: the time isn't accepted"),
        ("4096 + 16", "4096 - 16", "line 3: not an event"),
        ("4096 + 16", "-4096 + 16", "line 3: the sector isn't accepted"),
        ("4096 + 16", "99999999999999999 + 16", "line 3: the sector isn't accepted"),
        ("4096 + 16", "4096 + x", "line 3: the count of sectors isn't accepted"),
        ("4096 + 16", "4096 + 99999999999999", "line 3: the count of sectors isn't accepted"),
        ("CPU1 (254,0):", "garbage", "line 9: not an event"),
        (" Q ", " G ", "no reads or writes"),
    ],
)
def test_bad_lines_are_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    """What isn't blkparse's text is refused, with file and line."""
    path = write(tmp_path / "x.txt", TEXT.replace(old, new).encode())
    with pytest.raises(TraceError, match=message):
        importers.convert([path], tmp_path / "t.parquet", format_name="blkparse")
    assert not list(tmp_path.glob("t.parquet*"))


BAD_FILES = {
    "cut": (records(EVENTS)[:-10], "record 9: the last record is cut short: got 38 bytes"),
    "cut in what follows": (records(EVENTS)[:50], "record 0: the last record is cut short"),
    "garbage within": (records(EVENTS) + bytes(48), "record 10: not a record of blktrace's"),
    "garbage": (bytes(range(200)), "record 0: not a file of blktrace's"),
    "short": (b"\x07tae", "record 0: not a file of blktrace's"),
    "time": (records([(0, 0, 0, NOTIFY), (1 << 63, 0, 512, QUEUE | READ)]), "record 1: value not"),
    "sector": (records([(0, 0, 0, NOTIFY), (1, 1 << 62, 512, QUEUE | READ)]), "record 1: value"),
    "nothing queued": (records(EVENTS[:1]), "no reads or writes"),
    "empty": (b"", "empty file"),
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_bad_records_are_named(tmp_path: Path, kind: str) -> None:
    """What isn't a whole file of blktrace's is refused, with file and record."""
    data, message = BAD_FILES[kind]
    with pytest.raises(TraceError, match=message):
        importers.convert(
            [write(tmp_path / "x", data)], tmp_path / "t.parquet", format_name="blktrace"
        )
    assert not list(tmp_path.glob("t.parquet*"))


def test_text_of_several_files_is_refused(tmp_path: Path) -> None:
    """Blkparse writes one text of all CPUs."""
    path = write(tmp_path / "x.txt", TEXT.encode())
    with pytest.raises(UsageError, match="one file"):
        importers.convert([path, path], tmp_path / "t.parquet")


def test_missing_events_are_counted(tmp_path: Path) -> None:
    """A gap in a CPU's sequence numbers is said; notes have no number of their own."""
    data = np.frombuffer(records(EVENTS)[52:], RECORD).copy()
    data["sequence"] = [7, 8, 9, 10, 14, 15, 15, 18, 19]
    note = data[3:4].copy()
    note["action"], note["sequence"] = NOTIFY, 0
    path = tmp_path / "x.blktrace.0"
    path.write_bytes(data[:4].tobytes() + note.tobytes() + data[4:].tobytes())
    (tmp_path / "x.blktrace.1").write_bytes(records(EVENTS))
    (tmp_path / "x.blktrace.2").touch()
    made = importers.convert([path, tmp_path / "x.blktrace.2"], tmp_path / "o.parquet")
    notes = "; ".join(made.notes)
    assert "5 events are missing by their sequence numbers, on 1 CPUs" in notes
    assert "x.blktrace.2 is empty" in notes
    assert "x.blktrace.1 is beside the files and wasn't named" in notes
