"""Other tools' files that were read wrongly: each fault's input, and what is right.

Those in `faults` are made by the project and named after the fault; further ones of the same kinds
lie beside the project, where they are.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest

from kvtrace.errors import TraceError, UsageError
from kvtrace.formats.blktrace.importer import MAGIC, VERSION
from kvtrace.formats.common import importing as importers
from kvtrace.formats.common.importing import ImportOptions
from kvtrace.trace.check import check
from kvtrace.trace.reader import open_trace
from kvtrace.units import MS_NS
from tests.support import places

if TYPE_CHECKING:
    from pathlib import Path

    from kvtrace.formats.common.importing import Imported

FAULTS = places.FAULTS
SAMPLES = places.SAMPLES / "faults"
needs_samples = pytest.mark.skipif(
    not SAMPLES.exists(), reason="shared/samples/faults isn't beside the project"
)
MIB = 1 << 20


def bring(folder: Path, *paths: Path, **options: Any) -> tuple[Imported, pl.DataFrame]:
    """Import files; return what was made of them, checked, and the rows."""
    out = folder / "t.parquet"
    made = importers.convert(list(paths), out, options=ImportOptions(force=True, **options))
    with open_trace(out) as trace:
        assert check(trace).ok
    words = pl.col("op", "tier", "phase").cast(pl.String)
    return made, pl.read_parquet(out).with_columns(words)


def ms(frame: pl.DataFrame, name: str = "timestamp") -> list[float]:
    return [time / MS_NS for time in frame[name].to_list()]


# --- fio ----------------------------------------------------------------------------------------


def test_fio_wait_v2(tmp_path: Path) -> None:
    """A wait ends so many ms after the job's start; one that is over doesn't wait."""
    _, frame = bring(tmp_path, FAULTS / "fio_wait_v2.log")
    assert ms(frame) == [0, 40, 40, 90]


@needs_samples
def test_wait_v2(tmp_path: Path) -> None:
    """Fio 3.33 did these reads 893 and 1,393 ms after the job's start, 107 ms after its own."""
    _, frame = bring(tmp_path, SAMPLES / "wait_v2.log")
    assert ms(frame) == [1000, 1500]


def test_fio_syncs(tmp_path: Path) -> None:
    """All syncs that fio logs are left out and counted."""
    made, frame = bring(tmp_path, FAULTS / "fio_syncs.log")
    assert frame["op"].to_list() == ["write", "read"]
    assert "4 syncs left out" in made.notes
    assert made.header.epoch_ns == 5_000


@needs_samples
def test_sync_file_range(tmp_path: Path) -> None:
    """Its three syncs are left out and counted, all 16 writes are there."""
    made, frame = bring(tmp_path, SAMPLES / "sync_file_range.log")
    assert frame["op"].to_list() == ["write"] * 16
    assert "3 syncs left out" in made.notes


def test_fio_issue_lat(tmp_path: Path) -> None:
    """An issue time of 0 is unknown: an op began its latency before it ended."""
    made, frame = bring(tmp_path, FAULTS / "fio_issue_lat.1.log")
    assert (ms(frame, "submit"), ms(frame, "complete")) == ([2, 6], [3, 8])
    assert "2 issue times are 0, unknown: ends less latencies are taken" in made.notes


@needs_samples
def test_issue_lat(tmp_path: Path) -> None:
    """Submits are at 9, 19 and 28 ms."""
    _, frame = bring(tmp_path, SAMPLES / "issue_lat.1.log")
    assert ms(frame, "submit") == [9, 19, 28]


@pytest.mark.parametrize(
    ("name", "first_ms"), [("epoch", 1_790_000_000_003), ("uptime", 86_400_003)]
)
def test_fio_epoch_lat(tmp_path: Path, name: str, first_ms: int) -> None:
    """Times of another epoch start at 0, which the header says of that clock."""
    made, frame = bring(tmp_path, FAULTS / f"fio_{name}_lat.1.log")
    assert (ms(frame), ms(frame, "complete")) == ([0, 5], [2, 6])
    assert made.header.epoch_ns == first_ms * MS_NS


def test_fio_epoch_of_issue_times(tmp_path: Path) -> None:
    """Issue times count from the job's start, whatever clock the log has."""
    path = tmp_path / "x_clat.1.log"
    path.write_text("1790000000012, 2000000, 1, 4096, 0, 0, 10000000\n")
    made, frame = bring(tmp_path, path)
    assert (ms(frame, "submit"), ms(frame, "complete")) == ([10], [12])
    assert made.header.epoch_ns == 1_790_000_000_000 * MS_NS


@needs_samples
def test_unix_epoch_lat(tmp_path: Path) -> None:
    """It starts at 0, and the header has the epoch."""
    made, frame = bring(tmp_path, SAMPLES / "unix_epoch_lat.1.log")
    assert (frame["timestamp"].min(), frame["submit"].min()) == (0, 0)
    assert made.header.epoch_ns == 1_795_967_040_829 * MS_NS - 176_970


def test_fio_both_lat(tmp_path: Path) -> None:
    """Averages and maxima side by side are refused by the option that makes them."""
    with pytest.raises(TraceError, match=r"line 1: .*log_window_value=both"):
        bring(tmp_path, FAULTS / "fio_both_lat.1.log")
    for text in ("1, 4000, 0, 1, 4096, 0\n", "1, 40, 90, 0, 4096, 0, 0, 7\n", "9, 4, 8, 2, 0, 0\n"):
        (tmp_path / "y_lat.1.log").write_text(text)
        with pytest.raises(TraceError, match=r"log_window_value=both"):
            bring(tmp_path, tmp_path / "y_lat.1.log")


def test_oracle_late(tmp_path: Path) -> None:
    """An oracle of Unix times starts at 0, and the header has the first."""
    made, frame = bring(tmp_path, FAULTS / "oracle_late.oracleGeneral")
    assert ms(frame) == [0, 3_000, 9_000]
    assert made.header.epoch_ns == 1_700_000_000 * 10**9


# --- blktrace -----------------------------------------------------------------------------------


def test_blkparse_zoned(tmp_path: Path) -> None:
    """Zone appends are writes, with a flush or a further word; a reset is named with its bytes."""
    made, frame = bring(tmp_path, FAULTS / "blkparse_zoned.txt")
    assert frame.select("op", "size", "key").rows() == [
        ("write", 8192, 0), ("write", 8192, 1), ("write", 8192, 2), ("read", 8192, 0),
    ]  # fmt: skip
    assert any(
        note.startswith("1 queue events of kind ZR left out: 65,536 b") for note in made.notes
    )
    assert made.header.epoch_ns == 10**9


@needs_samples
def test_zoned(tmp_path: Path) -> None:
    """Both queue events are writes."""
    _, frame = bring(tmp_path, SAMPLES / "zoned.txt")
    assert frame.select("op", "size").rows() == [("write", 4096)] * 2


def no_queue_events() -> list[Any]:
    return [
        FAULTS / "blkparse_no_queue.txt",
        pytest.param(SAMPLES / "only_dc.txt", marks=needs_samples, id="only_dc"),
    ]


@pytest.mark.parametrize("path", no_queue_events())
def test_only_dc(tmp_path: Path, path: Path) -> None:
    """Issues and completions alone are refused: queue events are needed."""
    with pytest.raises(TraceError, match=r"no queue events \(Q\): got 2 events of other kinds"):
        bring(tmp_path, path)


@pytest.mark.parametrize("name", ["blkparse_stacked.txt", "blkparse_same_sectors.txt"])
def test_stacked_devices(tmp_path: Path, name: str) -> None:
    """I/O that is queued on a device and again below is refused, unless a device is named."""
    upper = "253,1" if "stacked" in name else "9:0"
    with pytest.raises(UsageError, match=r"stacked.*--device-filter MAJOR,MINOR"):
        bring(tmp_path, FAULTS / name)
    made, frame = bring(tmp_path, FAULTS / name, device_filter=(upper,))
    assert len(frame) == 3
    lower = "259,3" if "stacked" in name else "8,16"
    assert f"device {lower} left out: 3 queue events, 12,288 bytes" in made.notes
    assert len(bring(tmp_path, FAULTS / name, device_filter=(upper, lower))[1]) == 6
    with pytest.raises(UsageError, match="no queue event of this device: got 8,99"):
        bring(tmp_path, FAULTS / name, device_filter=("8,99",))
    with pytest.raises(UsageError, match="--device-filter: not a device: got 'sda'"):
        bring(tmp_path, FAULTS / name, device_filter=("sda",))


@pytest.mark.parametrize("order", ["<", ">"])
def test_remaps_of_binary_records(tmp_path: Path, order: str) -> None:
    """A remap event, whose devices are big-endian whatever the rest is, shows a stack, too."""
    dm, disk, queued, remapped = 253 << 20 | 1, 8 << 20 | 16, 1 | 1 << 20 | 1 << 17, 15 | 1 << 20
    events = [
        (dm, 2048, queued, b""),
        (disk, 4096, remapped, struct.pack(">IIQ", dm, disk, 2048)),
        (disk, 4096, queued, b""),
    ]
    data = b"".join(
        struct.pack(f"{order}IIQQIIIIIHH", MAGIC | VERSION, number, 100 * number, sector, 4096,
                    action, 7, device, 0, 0, len(behind)) + behind
        for number, (device, sector, action, behind) in enumerate(events)
    )  # fmt: skip
    path = tmp_path / "x.blktrace.0"
    path.write_bytes(data)
    with pytest.raises(UsageError, match=r"stacked.*8,16 \(1 queue events\), 253,1 \(1 queue"):
        bring(tmp_path, path)
    assert len(bring(tmp_path, path, device_filter=("253,1",))[1]) == 1


def test_blkset(tmp_path: Path) -> None:
    """Files of CPUs are read together, an empty one first or last; one alone names the others."""
    paths = [FAULTS / "blkset" / f"y.blktrace.{cpu}" for cpu in (2, 0, 1)]
    made, frame = bring(tmp_path, *paths)
    assert frame.select("timestamp", "op", "key").rows() == [
        (0, "write", 0), (2_000, "write", 1), (4_000, "read", 0),
    ]  # fmt: skip
    assert "y.blktrace.2 is empty" in made.notes
    made, _ = bring(tmp_path, paths[2])
    assert any(note.startswith("y.blktrace.0 is beside the files") for note in made.notes)


@needs_samples
def test_blkset_of_three(tmp_path: Path) -> None:
    """The empty third file is skipped."""
    made, frame = bring(tmp_path, *sorted((SAMPLES / "blkset").iterdir()))
    assert len(frame) == 4
    assert "x.blktrace.2 is empty" in made.notes


# --- elbencho -----------------------------------------------------------------------------------


def test_elbencho_aio(tmp_path: Path) -> None:
    """Ops of which the log has the start only are on their worker's file, without times."""
    made, frame = bring(tmp_path, FAULTS / "elbencho_aio.log")
    assert frame.select("op", "size", "offset", "complete").rows() == [
        ("write", 8192, 0, MS_NS), ("write", 4096, 0, None), ("write", 4096, 4096, None),
        ("read", 4096, 4096, None),
    ]  # fmt: skip
    keys = frame["key"].to_list()
    assert (keys[0] == keys[3], keys[1] == keys[2], len(set(keys))) == (True, True, 2)
    assert "2 ops uringread (not understood) left out: 4,096 bytes" in made.notes
    assert not any("S3ListObjectsV2" in note for note in made.notes)


@needs_samples
def test_sync_write_aio_read(tmp_path: Path) -> None:
    """The synchronous writes are there, and 8 reads of 1 MiB of the same files."""
    _, frame = bring(tmp_path, SAMPLES / "sync_write_aio_read.log")
    reads, writes = (frame.filter(op=op) for op in ("read", "write"))
    assert reads["size"].to_list() == writes["size"].to_list() == [MIB] * 8
    assert set(reads["key"]) == set(writes["key"])
    assert (reads["complete"].null_count(), writes["complete"].null_count()) == (8, 0)


@needs_samples
def test_aio_only(tmp_path: Path) -> None:
    """Its asynchronous reads and writes are all there."""
    _, frame = bring(tmp_path, SAMPLES / "aio_only.log")
    assert sorted(frame["op"].to_list()) == ["read"] * 8 + ["write"] * 8
    assert frame["size"].sum() == 16 * MIB


# --- warp ---------------------------------------------------------------------------------------


def test_warp_parts(tmp_path: Path) -> None:
    """Parts and appends follow one another in their object; a fan-out is a write of each copy."""
    made, frame = bring(tmp_path, FAULTS / "warp_parts.csv")
    assert frame.select("op", "size", "offset").rows() == [
        ("write", 600, 0), ("write", 400, 600), ("read", 1000, 0), ("write", 50, 0),
        ("write", 30, 50), ("read", 80, 0), *[("write", 30, 0)] * 3, ("read", 30, 0),
        ("write", 500, 0),
    ]  # fmt: skip
    names = dict(pl.read_parquet(tmp_path / "t.keys.parquet").iter_rows())
    assert names[frame["key"][9]] == "b/q/copy-2.ext"
    assert len(made.header.source.sha256 if made.header.source else []) == 1
    assert "1 ops SELECT (not understood) left out: 77 bytes" in made.notes
    assert "1 ops PUTPART (names no object) left out: 11 bytes" in made.notes


@needs_samples
def test_putpart(tmp_path: Path) -> None:
    """12,582,912 B of writes are kept, beside the GETs."""
    _, frame = bring(tmp_path, SAMPLES / "putpart.csv")
    assert frame.filter(op="write")["size"].sum() == 12_582_912
    assert frame.filter(op="read")["size"].to_list() == [10_485_760, 2_097_152]


def test_warp_quotes(tmp_path: Path) -> None:
    """Names may have quotes anywhere; an error in quotes may go on over lines."""
    _, frame = bring(tmp_path, FAULTS / "warp_quotes.csv")
    assert frame.select("op", "size", "error").rows() == [
        ("write", 1, 0), ("write", 2, 0), ("write", 3, 0), ("read", 3, 5), ("read", 1, 0),
    ]  # fmt: skip
    names = pl.read_parquet(tmp_path / "t.keys.parquet")["name"].to_list()
    assert names == ['"x', 'y"', '"z"']


@needs_samples
def test_quotes(tmp_path: Path) -> None:
    """All 4 rows are there."""
    _, frame = bring(tmp_path, SAMPLES / "quotes.csv")
    assert frame["size"].to_list() == [100, 200, 300, 400]


def test_warp_failed(tmp_path: Path) -> None:
    """Failed ops stay failed: "not found" is ENOENT, and they make no object and no resident."""
    made, frame = bring(tmp_path, FAULTS / "warp_failed.csv")
    assert frame.select("op", "error").rows() == [
        ("write", 0), ("write", 5), ("read", 2), ("read", 2), ("read", 5), ("read", 0),
    ]  # fmt: skip
    assert made.header.resident.objects == {}
