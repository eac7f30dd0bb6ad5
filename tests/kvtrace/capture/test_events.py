"""KV-cache events are recorded without tokens and names, their hashes under the secret."""

from __future__ import annotations

import json
import zlib
from typing import Any

import pytest

from kvtrace.capture import events, spool
from kvtrace.capture.events import Cleaner, EventError
from kvtrace.capture.identity import Hasher
from kvtrace.capture.sglang_rows import block_bytes as sglang_block
from kvtrace.capture.vllm_rows import block_bytes as vllm_block
from tests.support import kv_batches
from tests.support.kv_batches import removed, stored


def cleaner() -> Cleaner:
    return Cleaner(Hasher(b"s"))


def clean(*made: Any, to: Cleaner | None = None, seq: int = 0) -> dict[str, Any]:
    return (to or cleaner()).line(b"topic", seq, [12.5, list(made), 3], 77)


def test_a_line_has_what_a_trace_needs() -> None:
    """Times, number, rank; of an event its blocks, parent, tokens per block, medium and group."""
    line = clean(stored(1, 2, parent=9), removed(1, medium="CPU", group_idx=2), kv_batches.CLEARED)
    hashed = {n: Hasher(b"s")(b"b", n.to_bytes(8, "big")) for n in (1, 2, 9)}
    assert (line["ts_ns"], line["at_ns"], line["rank"], line["seq"]) == (12_500_000_000, 77, 3, 0)
    assert line["events"] == [
        {"type": "BlockStored", "blocks": [hashed[1], hashed[2]], "medium": "GPU", "group": 0,
         "parent": hashed[9], "tokens": 16},
        {"type": "BlockRemoved", "blocks": [hashed[1]], "medium": "CPU", "group": 2},
        {"type": "AllBlocksCleared"},
    ]  # fmt: skip


def test_events_that_are_lists_are_the_same() -> None:
    """SGLang's and older publishers name no fields."""
    named = stored(5, parent=None)
    fields = [named[name] for name in events.NAMES["BlockStored"]]
    assert clean(["BlockStored", *fields]) == clean(named)


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_a_block_is_the_adapters_block(engine: str) -> None:
    """Rows of the GPU's cache and of the tiers below can be joined under one secret."""
    whole = bytes(range(200, 232))
    if engine == "vllm":
        below, published = vllm_block(whole + b"\0\0\0\1"), int.from_bytes(whole[-8:], "big")
    else:
        below = sglang_block(whole.hex())
        published = int.from_bytes(whole[:8], "big", signed=True)
    (event,) = clean(stored(published))["events"]
    assert event["blocks"] == [Hasher(b"s")(b"b", below)]


def test_hashes_that_are_bytes_are_their_end() -> None:
    """An engine that publishes whole hashes names the same block."""
    whole = bytes(range(32))
    number = int.from_bytes(whole[-8:], "big")
    assert clean(stored(whole)) == clean(stored(number))


def test_nothing_private_is_in_a_frame() -> None:
    """Neither token ids nor names of adapters, salts, sessions or topics."""
    frame = spool.Frame(6, 1, events.pack([clean(stored(1, 2))])[spool.HEAD.size :], 0)
    text = events.text_of(frame.payload)
    assert not [w for w in (str(kv_batches.WORD), "private", "topic", "token_ids") if w in text]
    assert json.loads(text)["events"][0]["tokens"] == 16


def test_numbers_tell_what_is_missing() -> None:
    """A gap counts as missed; a smaller number is that of a new engine."""
    counts = cleaner()
    for seq in (4, 5, 9, 0, 1):
        clean(removed(1), to=counts, seq=seq)
    assert (counts.before, counts.missed, counts.batches) == (4, 3, 5)
    assert counts.counts()["events"] == {"BlockRemoved GPU": 5}


@pytest.mark.parametrize(
    "batch",
    [
        None, 5, [], [1.0], ["x", []], [-1.0, []], [1.0, 5], [1.0, [5]], [1.0, [["Unknown"]]],
        [1.0, [], "rank"], [True, []], [1.0, [stored("x")]], [1.0, [stored(1 << 64)]],
        [1.0, [stored(1, block_size="16")]], [1.0, [stored(1, medium="a prompt of words")]],
        [1.0, [stored(1, group_idx=-1)]], [1.0, [removed(b"short")]], [float("nan"), []],
    ],
)  # fmt: skip
def test_other_messages_are_counted(batch: Any) -> None:
    """They are refused whole: nothing of them is recorded."""
    counts = cleaner()
    with pytest.raises(EventError):
        counts.line(b"", 0, batch, 0)
    assert (counts.unreadable, counts.batches) == (1, 0)


def test_a_damaged_payload_is_told() -> None:
    """A frame that isn't text, or is cut off, is an error and no guess."""
    good = zlib.compress(b"{}\n")
    assert events.text_of(good) == "{}\n"
    for bad in (b"", good[:-3], zlib.compress(b"\xff"), b"text"):
        with pytest.raises(spool.SpoolError):
            events.text_of(bad)
