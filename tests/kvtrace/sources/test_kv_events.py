"""KV-cache events: exact counts of a recording and of files made by hand, and bad ones."""

from __future__ import annotations

import json
import zlib
from typing import TYPE_CHECKING, Any

import pytest

from kvtrace.capture import events, spool
from kvtrace.capture.events import Cleaner
from kvtrace.capture.identity import Hasher
from kvtrace.requests import lines
from kvtrace.sources import recognised
from kvtrace.units import MS_NS
from tests.support import recordings
from tests.support.request_files import SAMPLES, kv_batch, kv_stored, read, refused, write

if TYPE_CHECKING:
    from pathlib import Path

RECORDING = SAMPLES / "capture/vllm_kv_events.jsonl.zst"
TALK = "".join([
    kv_batch(1.0, kv_stored([11, 12]), kv_stored([21], medium="CPU")),
    kv_batch(1.5, kv_stored([13], 12), kv_stored([(1 << 64) - 1], 11)),
    kv_batch(1.25, kv_stored([14], 12), {"type": "BlockRemoved", "block_hashes": [11, 12],
                                         "medium": "GPU"}, seq=3),
    kv_batch(2.0, kv_stored([15], 99), kv_stored([31], group_idx=1), ["AllBlocksCleared"], seq=4),
])  # fmt: skip
"""Two prompts of 11, 12 and more; the second batch came late and the third is the fourth."""


@pytest.mark.skipif(not RECORDING.exists(), reason="shared/samples isn't here")
def test_recording() -> None:
    """Of vLLM's recording: 126 events stored 666 blocks on the GPU, 469 left it."""
    columns, info = read("kv-events", RECORDING)
    assert len(columns["input_tokens"]) == 126
    assert info["listed_ids"]["unique"] == len({i for ids in columns["block_ids"] for i in ids})
    assert info["notes"][0].startswith("666 blocks entered the GPU's cache and 469 left it")
    assert info["notes"][2:] == [
        "220 events BlockRemoved of medium CPU: not the GPU's",
        "573 events BlockStored of medium CPU: not the GPU's",
        "366 events BlockStored of medium STORAGE: not the GPU's",
    ]
    assert info["parameters"]["block_tokens"] == 32
    assert columns["input_tokens"] == [32 * len(ids) for ids in columns["block_ids"]]
    assert recognised([str(RECORDING)]) == "kv-events"


def test_counts(tmp_path: Path) -> None:
    """A prompt is the chain that an event ends; what goes on from its end is its session."""
    columns, info = read("kv-events", write(tmp_path / "a", TALK))
    assert [ns / MS_NS for ns in columns["arrival_ns"]] == [0, 250, 500, 500, 1000]
    assert columns["input_tokens"] == [8, 12, 12, 8, 4]
    assert columns["block_ids"] == [[0, 1], [0, 1, 2], [0, 1, 3], [0, 4], [5]]
    assert columns["session"] == [0, 1, 0, 2, 3]
    assert columns["turn"] == [0, 0, 1, 0, 0]
    assert columns["output_tokens"] == [0] * 5
    assert info["notes"][2:] == [
        "1 events go on from a block that was stored before the first",
        "1 events AllBlocksCleared: their blocks stay known",
        "1 events BlockStored of a further group of layers",
        "1 events BlockStored of medium CPU: not the GPU's",
        "1 batches between those here are missing",
    ]


def test_other_forms(tmp_path: Path) -> None:
    """SGLang's events are lists without medium, batches may be bare; a hash may be negative."""
    stored = ["BlockStored", [11, -1], None, [0] * 8, 4, None]
    gone = ["BlockRemoved", [11]]
    bare = json.dumps([1.0, [stored, gone]]) + "\n"
    named = json.dumps({"ts": 2.0, "events": [["BlockStored", [7], -1, [0] * 4, 4]]}) + "\n"
    columns, info = read("kv-events", write(tmp_path / "a", bare + named))
    assert columns["block_ids"] == [[0, 1], [0, 1, 2]]
    assert info["notes"][0].startswith("3 blocks entered the GPU's cache and 1 left it")
    one = read("kv-events", write(tmp_path / "b", TALK.replace("18446744073709551615", "-1")))[0]
    assert one == read("kv-events", write(tmp_path / "c", TALK))[0]


def test_batches_received_again(tmp_path: Path) -> None:
    """A batch with number and time of an earlier one is left out, one of a new begin isn't."""
    first, second = kv_batch(1.0, kv_stored([1]), seq=4), kv_batch(2.0, kv_stored([2], 1), seq=5)
    anew = kv_batch(9.0, kv_stored([7]), ["BlockRemoved", [1]], seq=4)
    columns, info = read("kv-events", write(tmp_path / "a", first + second + first + anew * 2))
    assert columns["block_ids"] == [[0], [0, 1], [2]]
    assert info["notes"][0].startswith("3 blocks entered the GPU's cache and 1 left it")
    assert info["notes"][2:] == ["2 batches came again, with number and time: left out"]


def test_groups_of_lists(tmp_path: Path) -> None:
    """Events that are lists have their group of layers behind extra keys, or behind the medium."""
    stored = [["BlockStored", [n], None, [0] * 4, 4, None, "GPU", None, None, n] for n in (0, 1)]
    gone = [["BlockRemoved", [n], "GPU", n] for n in (0, 1)]
    columns, info = read("kv-events", write(tmp_path / "a", kv_batch(1.0, *stored, *gone)))
    assert columns["block_ids"] == [[0]]
    assert info["notes"][0].startswith("1 blocks entered the GPU's cache and 1 left it")
    assert info["notes"][2:] == [
        "1 events BlockRemoved of a further group of layers",
        "1 events BlockStored of a further group of layers",
    ]


def test_pieces_dont_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither pieces of lines nor worker processes change what is read."""
    path = write(tmp_path / "a", TALK)
    whole = read("kv-events", path)
    monkeypatch.setattr(lines, "LINES_PER_PIECE", 1)
    for workers in (1, 2):
        columns, info = read("kv-events", path, workers=workers)
        assert (columns, info["notes"]) == (whole[0], whole[1]["notes"])


def batch(event: Any, **more: Any) -> str:
    return kv_batch(1.0, kv_stored([1])) + kv_batch(2.0, event, **more)


BAD = {
    "JSON": (batch(kv_stored([2]))[:-3], ":2: not JSON"),
    "number": ("5", ":1: not a batch of events: got 5; accepted: [time, [event, ...]], or an"),
    "object": ("{}", ":1: not a batch of events"),
    "short": ("[1]", ":1: not a batch of events"),
    "events": ('[1, "x"]', ":1: not a batch of events"),
    "time": (batch(kv_stored([2])).replace("[2.0", "[-2.0"), ":2: bad ts: got -2.0"),
    "seq": (batch(kv_stored([2]), seq=-1), ":2: bad seq: got -1"),
    "event": (batch(5), ":2, event 1: not an event: got 5; accepted: BlockStored, BlockRemoved"),
    "kind": (batch({"type": "BlockLost"}), ":2, event 1: not an event: got 'BlockLost'"),
    "list": (batch(["BlockLost"]), ":2, event 1: not an event: got ['BlockLost']"),
    "no hashes": (batch(kv_stored([])), ":2, event 1: bad block_hashes: got []"),
    "hashes": (batch({"type": "BlockRemoved"}), ":2, event 1: bad block_hashes: got nothing"),
    "hash": (batch(kv_stored(["ab"])), ":2, event 1: bad block hash: got 'ab'; accepted: an int"),
    "big hash": (batch(kv_stored([1 << 64])), ":2, event 1: bad block hash: got 184467"),
    "true": (batch(kv_stored([True])), ":2, event 1: bad block hash: got True"),
    "parent": (batch(kv_stored([2], 1.5)), ":2, event 1: bad block hash: got 1.5"),
    "size": (batch(kv_stored([2], block_size=0)), ":2, event 1: bad block_size: got 0"),
    "other size": (
        batch(kv_stored([2], block_size=2, token_ids=[1, 2])),
        ":2, event 1: another block_size: got 2; accepted: 4",
    ),
    "tokens": (
        batch(kv_stored([2], token_ids=[1])),
        ":2, event 1: bad token_ids: got 1; accepted: 4 of them, 4 a block",
    ),
    "no tokens": (batch(kv_stored([2], token_ids=None)), ":2, event 1: bad token_ids: got None"),
    "medium": (batch(kv_stored([2], medium=True)), ":2, event 1: bad medium: got True"),
    "group": (batch(kv_stored([2], group_idx="a")), ":2, event 1: bad group_idx: got 'a'"),
    "nothing stored": (kv_batch(1.0, kv_stored([1], medium="CPU")), ": no requests: accepted: ev"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_content(tmp_path: Path, case: str) -> None:
    """Wrong content is a bad trace, and the error says where and what."""
    content, message = BAD[case]
    assert message in refused("kv-events", tmp_path / "bad", content)


def as_recording(jsonl: str, folder: Path) -> Path:
    """Return a folder as `kvtrace capture kv-events` leaves it, of the batches of a JSONL."""
    cleaner, lines = Cleaner(Hasher(b"s")), []
    for text in jsonl.splitlines():
        line = json.loads(text)
        topic, seq = (line.get("topic") or "").encode(), line["seq"]
        lines.append(cleaner.line(topic, seq, line["batch"], 0))
    frames = [events.pack(lines[:2]), events.pack(lines[2:])]
    recordings.write_part(folder, frames, engine="kv-events", engine_version="", process="9-b")
    return folder


def test_a_recording_reads_as_its_batches(tmp_path: Path) -> None:
    """Hashes under a secret chain as the published ones do; tokens aren't needed."""
    folder = as_recording(TALK, tmp_path / "c")
    columns, info = read("kv-events", *folder.iterdir())
    expected, told = read("kv-events", write(tmp_path / "a", TALK))
    assert columns == expected
    assert (info["notes"], info["parameters"]["block_tokens"]) == (
        told["notes"], told["parameters"]["block_tokens"],
    )  # fmt: skip
    assert recognised([str(folder)]) == "kv-events"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"[]", "not a request"),
        (b'{"ts_ns":-1}', "bad ts_ns"),
        (b'{"ts_ns":1,"seq":1,"events":5}', "a batch without events"),
        (b'{"ts_ns":1,"seq":1,"events":[{"type":"BlockStored"}]}', "bad block_hashes"),
    ],
)
def test_a_recording_that_no_recorder_writes(tmp_path: Path, line: bytes, message: str) -> None:
    """The error names file and byte."""
    frame = spool.pack(spool.Kind.EVENTS, zlib.compress(line), 1)
    path = recordings.write_part(tmp_path / "c", [frame], engine="kv-events")
    error = refused("kv-events", path, path.read_bytes())
    assert error.startswith(": byte ")
    assert message in error
