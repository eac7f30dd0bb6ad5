"""Batches of KV-cache events as vLLM and SGLang publish them, and a publisher for them."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import msgpack
import zmq

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

WORD = 424242
"""A token id that no file of a recording may have."""


def stored(*hashes: int, parent: int | None = None, **more: Any) -> dict[str, Any]:
    """Return an event of blocks that were stored, as vLLM has it."""
    return {
        "type": "BlockStored", "block_hashes": list(hashes), "parent_block_hash": parent,
        "token_ids": [WORD] * 16 * len(hashes), "block_size": 16, "lora_id": None, "medium": "GPU",
        "lora_name": "private-lora", "extra_keys": [["private-salt"]], "group_idx": 0,
        "session_id": "private-session",
    } | more  # fmt: skip


def removed(*hashes: int, **more: Any) -> dict[str, Any]:
    """Return an event of blocks that were removed."""
    return {"type": "BlockRemoved", "block_hashes": list(hashes), "medium": "GPU"} | more


CLEARED = {"type": "AllBlocksCleared"}


def message(seq: int, events: Sequence[Any], *, ts: float = 1_796_000_000.5) -> list[bytes]:
    """Return the frames of a batch."""
    return [b"kv@private-pod", seq.to_bytes(8, "big"), msgpack.packb([ts, list(events), 0])]


@contextmanager
def published(messages: Sequence[list[bytes]], address: str, *, bind: bool) -> Iterator[None]:
    """Publish messages again and again, from a thread, until the context ends."""
    stop = threading.Event()
    thread = threading.Thread(target=_publish, args=(messages, address, bind, stop.wait))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _publish(
    messages: Sequence[list[bytes]], address: str, bind: bool, wait: Callable[[float], bool]
) -> None:
    context = zmq.Context()
    socket = context.socket(zmq.PUB)
    (socket.bind if bind else socket.connect)(address)
    while not wait(0.05):
        for frames in messages:
            socket.send_multipart(frames)
    socket.close(linger=0)
    context.term()
