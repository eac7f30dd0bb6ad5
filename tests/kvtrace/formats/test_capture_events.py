"""Recorded KV-cache events: rows of the GPU's cache, beside those of the tiers below."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any

import pytest

from kvtrace.capture import events, spool
from kvtrace.capture.events import Cleaner
from kvtrace.capture.identity import Hasher
from kvtrace.errors import TraceError, UsageError
from kvtrace.formats.capture.events import key_of
from kvtrace.formats.common.importing import ImportOptions, convert
from kvtrace.models import load_model
from kvtrace.trace.check import check
from kvtrace.trace.reader import open_trace
from kvtrace.trace.schema import MAX_TIME_NS, Op, Phase
from tests.support import recordings
from tests.support.kv_batches import CLEARED, removed, stored
from tests.support.recordings import START_NS, WALL_NS, record

if TYPE_CHECKING:
    from pathlib import Path

    import polars as pl

BLOCK = 4096
HASHER = Hasher(b"s")


def hashed(number: int) -> int:
    return HASHER(b"b", number.to_bytes(8, "big"))


def part(folder: Path, *batches: list[Any], rank: int = 0, **head: Any) -> Path:
    """Write a recording of batches, 1 ms apart."""
    cleaner = Cleaner(HASHER)
    lines = [
        cleaner.line(b"", seq, [(WALL_NS + seq * 10**6) / 1e9, batch, rank], START_NS)
        for seq, batch in enumerate(batches)
    ]
    frames = [events.pack(lines[:2]), events.pack(lines[2:])]
    head = {"engine": "kv-events", "engine_version": "", "process": "9-b", **head}
    return recordings.write_part(folder, frames, **head)


def imported(folder: Path, **options: Any) -> tuple[pl.DataFrame, tuple[str, ...]]:
    out = folder.parent / "t.parquet"
    made = convert([folder], out, options=ImportOptions(force=True, **options))
    with open_trace(out) as trace:
        assert check(trace).ok
        return trace.lazy().collect(), made.notes


def gpu(frame: pl.DataFrame) -> list[tuple[Any, ...]]:
    return frame.filter(frame["tier"] == "gpu").select(
        "timestamp", "op", "size", "block", "phase", "error"
    ).rows()  # fmt: skip


def test_blocks_are_rows_of_the_gpu(tmp_path: Path) -> None:
    """What is stored is a write, what is removed a delete of its size, at the batch's time."""
    part(tmp_path / "c", [stored(1, 2)], [stored(3, parent=2), removed(1)])
    frame, _ = imported(tmp_path / "c", block_size_bytes=BLOCK)
    rows = [(op, size, block, phase) for _, op, size, block, phase, _ in gpu(frame)]
    assert rows == [
        ("write", BLOCK, hashed(1), "prefill"),
        ("write", BLOCK, hashed(2), "prefill"),
        ("write", BLOCK, hashed(3), "prefill"),
        ("delete", BLOCK, hashed(1), "evict"),
    ]
    assert frame["timestamp"].to_list()[0] == 0
    assert abs(frame["timestamp"].to_list()[-1] - 10**6) < 1000
    assert frame["batch"].to_list() == [0, 0, 1, 2]
    assert frame["position"].to_list() == [0, 1, 0, 0]
    assert frame["complete"].null_count() == 4


def test_a_model_sizes_blocks(tmp_path: Path) -> None:
    """Tokens of a block times the model's bytes per token, in a type if one is given."""
    part(tmp_path / "c", [stored(1, block_size=32, token_ids=[])])
    frame, _ = imported(tmp_path / "c", model="llama3.1-8b")
    per_token = int(load_model("llama3.1-8b").rank_bytes_per_token(1))
    assert frame["size"].to_list() == [32 * per_token]
    frame, _ = imported(tmp_path / "c", model="llama3.1-8b", dtype="fp8")
    assert frame["size"].to_list() == [16 * per_token]


def test_a_clearing_deletes_all_of_its_rank(tmp_path: Path) -> None:
    """Another data-parallel rank's cache, whose blocks are other objects, keeps its own."""
    part(tmp_path / "c", [stored(1, 2)], [removed(2)], [CLEARED, stored(1)])
    part(tmp_path / "c", [stored(1)], rank=1, process="8-a")
    frame, _ = imported(tmp_path / "c", block_size_bytes=BLOCK)
    deletes = [row[3] for row in gpu(frame) if row[1] == "delete"]
    assert deletes == [hashed(2), hashed(1)]
    keys = set(frame.filter(frame["block"] == hashed(1))["key"])
    assert keys == {hashed(1), key_of(hashed(1), 1, 0)}
    assert len(keys) == 2


def test_a_block_that_is_held_twice_leaves_once(tmp_path: Path) -> None:
    """Engines may compute a block twice: only its last copy's removal is a delete."""
    part(tmp_path / "c", [stored(1), stored(1)], [removed(1)], [removed(1)])
    frame, notes = imported(tmp_path / "c", block_size_bytes=BLOCK)
    assert [(row[1], row[5]) for row in gpu(frame)] == [
        ("write", 0), ("write", 17), ("delete", 0),
    ]  # fmt: skip
    assert "1 removals of a block that the GPU's cache still had elsewhere left out" in notes


def test_other_tiers_are_counted(tmp_path: Path) -> None:
    """The adapters' rows tell the CPU's and storage's tiers better."""
    part(tmp_path / "c", [stored(1), stored(2, medium="CPU"), removed(3, 4, medium="STORAGE")])
    frame, notes = imported(tmp_path / "c", block_size_bytes=BLOCK)
    assert len(frame) == 1
    assert "3 blocks in events of other tiers: counted, no rows" in notes


def test_groups_that_a_model_doesnt_size(tmp_path: Path) -> None:
    """They are left out and counted; a size of all blocks takes them as other objects."""
    part(tmp_path / "c", [stored(1), stored(1, group_idx=1)])
    frame, notes = imported(tmp_path / "c", model="llama3.1-8b")
    assert len(frame) == 1
    assert any(note.startswith("1 blocks in events of further groups") for note in notes)
    frame, _ = imported(tmp_path / "c", block_size_bytes=BLOCK)
    assert frame["key"].n_unique() == 2
    assert frame["block"].n_unique() == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "events don't tell how large a block is"),
        ({"block_size_bytes": 0}, "no size of a block"),
        ({"dtype": "fp8"}, "needs --model"),
        ({"block_size_bytes": 1, "model": "llama3.1-8b"}, "excludes --model"),
    ],
)
def test_sizes_are_never_guessed(tmp_path: Path, options: Any, message: str) -> None:
    """Events alone need a size, and one."""
    part(tmp_path / "c", [stored(1)])
    with pytest.raises(UsageError, match=message):
        imported(tmp_path / "c", **options)


def test_events_without_blocks_of_the_gpu_are_no_trace(tmp_path: Path) -> None:
    """Nothing would be in it."""
    part(tmp_path / "c", [removed(1, medium="CPU")])
    with pytest.raises(TraceError, match="no rows"):
        imported(tmp_path / "c", block_size_bytes=BLOCK)


def test_an_engines_rows_and_its_events_are_one_trace(tmp_path: Path) -> None:
    """They lie in one folder; the header names the engine, and without sizes a note what lacks."""
    block = record(Op.WRITE, 5, 1500, 1600, phase=Phase.PREFILL)
    recordings.write_part(tmp_path / "c", [recordings.rows(block)], engine="vllm")
    part(tmp_path / "c", [stored(1)], [removed(1)], [stored(2)])
    frame, _ = imported(tmp_path / "c", block_size_bytes=BLOCK)
    assert frame["tier"].to_list() == ["gpu", "gpu", "nvme", "gpu"]
    assert frame["batch"].n_unique() == 4
    with open_trace(tmp_path / "t.parquet") as trace:
        assert trace.header.capture is not None
        assert (trace.header.capture.engine, trace.header.capture.processes) == ("vllm", 2)
    frame, notes = imported(tmp_path / "c")
    assert frame["tier"].to_list() == ["nvme"]
    assert any(note.startswith("2 blocks of the GPU's cache left out: give") for note in notes)


@pytest.mark.parametrize(
    "line",
    [
        b"{}", b"not json", b'{"publisher":1,"seq":0,"ts_ns":-1,"at_ns":0,"events":[]}',
        b'{"publisher":1,"seq":0,"ts_ns":1,"at_ns":0,"events":[{"type":"Other"}]}',
    ],
)  # fmt: skip
def test_a_frame_that_no_recorder_writes(tmp_path: Path, line: bytes) -> None:
    """The error names file and byte."""
    frame = spool.pack(spool.Kind.EVENTS, zlib.compress(line), 1)
    path = recordings.write_part(tmp_path / "c", [frame], engine="kv-events", process="9-b")
    with pytest.raises(TraceError, match="bad batch of events") as caught:
        imported(tmp_path / "c", block_size_bytes=BLOCK)
    assert f"{path}: byte" in str(caught.value)


def test_numbers_of_batches_begin_anew_behind_the_last(tmp_path: Path) -> None:
    """As an engine's own do: a column of 32 bits holds them."""
    row = record(Op.READ, 5, 1500, 1600, batch=0xFFFF_FFFF)
    recordings.write_part(tmp_path / "c", [recordings.rows(row)], engine="vllm")
    part(tmp_path / "c", [stored(1)])
    frame, _ = imported(tmp_path / "c", block_size_bytes=BLOCK)
    assert frame["batch"].to_list() == [0, 0xFFFF_FFFF]


@pytest.mark.parametrize("time_s", [1.0, 4e9])
def test_a_time_of_another_clock(tmp_path: Path, time_s: float) -> None:
    """An event before this host's start, or centuries behind it, is refused."""
    line = Cleaner(HASHER).line(b"", 0, [time_s, [stored(1)], 0], START_NS)
    anchor = {
        "mono_ns": MAX_TIME_NS - 10**9 if time_s > 1 else 5,
        "wall_ns": WALL_NS,
        "width_ns": 1,
    }
    head = {"engine": "kv-events", "process": "9-b", "anchor": anchor}
    recordings.write_part(tmp_path / "c", [events.pack([line])], **head)
    with pytest.raises(TraceError, match="none since this host's start"):
        imported(tmp_path / "c", block_size_bytes=BLOCK)


def test_ranks_and_groups_have_keys_of_their_own() -> None:
    """Rank 0 of group 0 has the block's own number; no two of the others meet."""
    block = hashed(1)
    keys = {key_of(block, rank, group) for rank in range(50) for group in range(8)}
    assert len(keys) == 400
    assert key_of(block, 0, 0) == block
    assert max(keys) < 1 << 63
