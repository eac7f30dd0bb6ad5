"""Makes small request files of every kind, and sources that read them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from kvtrace import sources
from kvtrace.errors import TraceError
from kvtrace.recording.config import load_config
from kvtrace.requests.request import Ragged
from kvtrace.sources import SourceContext
from tests.support import places

if TYPE_CHECKING:
    from pathlib import Path

SAMPLES = places.SAMPLES

BURSTGPT_HEADER = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
TRACELAB_HEADER = "session_id,round_idx,prefix_len,input_len,output_len,tool_wait_after_ms\n"
AZURE_HEADER = "TIMESTAMP,ContextTokens,GeneratedTokens\n"


def mooncake_line(timestamp: Any = 0, tokens: Any = 600, ids: Any = None, **more: Any) -> str:
    """Return a line of two 512-token blocks, the second partial."""
    fields = {"timestamp": timestamp, "input_length": tokens, "output_length": 5}
    return json.dumps(fields | {"hash_ids": [1, 2] if ids is None else ids} | more) + "\n"


def bailian_line(chat: Any, parent: Any = -1, timestamp: Any = 0.0, **more: Any) -> str:
    """Return a line of 40 tokens: two full 16-token blocks and a partial one."""
    fields = {"chat_id": chat, "parent_chat_id": parent, "timestamp": timestamp, "turn": 1}
    fields |= {"input_length": 40, "output_length": 8, "type": "text", "hash_ids": [1, 2, 3]}
    return json.dumps(fields | more) + "\n"


def dynamo_line(
    received: Any = 0, tokens: Any = 130, session: Any = None, ended: Any = None, **more: Any
) -> str:
    """Return a record of Dynamo of 64-token blocks: two full ones and a partial one.

    `more`: of the request; `replay__x`: of its part `replay`; `record__x`: beside it.
    """
    parts: dict[str, dict[str, Any]] = {"": {}, "replay": {}, "record": {}}
    for key, value in more.items():
        name, _, rest = key.partition("__")
        parts[name if rest else ""][rest or key] = value
    replay = {"trace_block_size": 64, "input_length": tokens, "input_sequence_hashes": [1, 2, 3]}
    request = {"request_id": f"r{received}", "request_received_ms": received, "output_tokens": 5}
    record = {"schema": "dynamo.request.trace.v1", "event_type": "request_end"}
    event_ms = received if ended is None else ended
    record |= {"event_time_unix_ms": event_ms}
    record |= {} if session is None else {"agent_context": {"session_id": session}}
    record["request"] = request | {"replay": replay | parts["replay"]} | parts[""]
    return json.dumps(record | parts["record"]) + "\n"


def litellm_log(
    at_s: float, tokens: Any, ids: Any, *, bare: bool = False, text: bool = False, **more: Any
) -> dict[str, Any]:
    """Return a spend log of LiteLLM, its ids of 64 tokens.

    `bare`: the log doesn't say so; `text`: its metadata are text of JSON.
    """
    listed = ids if bare else {"block_size": 64, "hash_ids": ids}
    metadata: Any = {} if ids is None else {"prefix_block_hashes": listed}
    fields = {
        "request_id": f"c{at_s}", "call_type": "acompletion", "status": "success",
        "startTime": f"2026-11-16T18:00:{at_s:06.3f}Z", "endTime": "2026-11-16T18:01:00Z",
        "prompt_tokens": tokens, "completion_tokens": 7, "cache_hit": "False",
        "metadata": json.dumps(metadata) if text else metadata,
    }  # fmt: skip
    return fields | more


def tracelab_round(
    session: Any, index: Any, prefix: Any, appended: Any, provider: str = "claude", **at_s: float
) -> dict[str, Any]:
    """Return a round of TraceLab; `at_s`: seconds of its events, named by their types."""
    events = [
        {"event_type": kind, "timestamp": f"2026-06-25T10:00:{seconds:06.3f}Z"}
        for kind, seconds in at_s.items()
    ]
    return {
        "provider": provider, "session_id": session, "round_index": index,
        "input_tokens_total": prefix + appended, "prefix_tokens": prefix,
        "newly_append_tokens": appended, "output_tokens": 5, "timing_events": events, "tools": [],
    }  # fmt: skip


def kv_stored(hashes: Any, parent: Any = None, **more: Any) -> dict[str, Any]:
    """Return an event of stored blocks of four tokens each."""
    fields = {"type": "BlockStored", "block_hashes": hashes, "parent_block_hash": parent}
    fields |= {"token_ids": [7] * 4 * len(hashes), "block_size": 4, "medium": "GPU"}
    return fields | more


def kv_batch(time_s: float, *events: Any, seq: int = 0) -> str:
    """Return a line of a recording of KV-cache events."""
    batch = [time_s, list(events), 0]
    number = seq or int(4 * time_s - 4) % 3
    return json.dumps({"topic": "", "seq": number, "recv": time_s, "batch": batch}) + "\n"


def weka_request(t: Any = 0.0, tokens: Any = 130, **more: Any) -> dict[str, Any]:
    """Return a request of two full 64-token blocks."""
    return {"t": t, "type": "n", "in": tokens, "out": 7, "hash_ids": [1, 2]} | more


def weka(requests: list[Any], **more: Any) -> str:
    """Return a conversation."""
    fields = {"id": "c", "block_size": 64, "hash_id_scope": "local", "requests": requests}
    return json.dumps(fields | more)


def sharegpt(*conversations: list[tuple[str, Any]]) -> str:
    """Return a list of conversations, each of (from, value)."""
    entries = [
        {"id": str(number), "conversations": [{"from": side, "value": text} for side, text in said]}
        for number, said in enumerate(conversations)
    ]
    return json.dumps(entries)


def lct(*records: Any, header: dict[str, Any] | None = None) -> bytes:
    """Return a recording of LMCache with `records` behind its header."""
    import msgpack

    head = {"type": "header", "magic": b"LMCT", "format_version": 1, "t_wall_start": 1000.5}
    frames = [msgpack.packb(record) for record in (head | (header or {}), *records)]
    return b"".join(len(frame).to_bytes(4, "big") + frame for frame in frames)


def look_up(t: Any, hashes: list[bytes], *, request: str | None = None, **more: Any) -> Any:
    """Return a look-up of chunks of 16 tokens by two ranks."""
    keys = [
        {"__t__": "ObjectKey", "v": {"chunk_hash": name, "model_name": "m", "kv_rank": rank}}
        for name in hashes
        for rank in (0, 1)
    ]
    layout = {"v": {"shapes": [[2, 32, 16, 128]], "dtypes": ["torch.bfloat16"]} | more}
    group = {"v": {"keys": keys, "layout_desc": layout}}
    arguments = {"spec": {"v": {"key_groups": [group]}}, "external_request_id": request}
    name = "lmcache.v1.distributed.storage_manager.StorageManager.submit_prefetch_task"
    return {"type": "record", "t_mono": t, "qualname": name, "args": arguments}


GOOD: dict[str, tuple[str, str | bytes]] = {
    "mooncake": ("a.jsonl", mooncake_line() + mooncake_line(9, ids=[1, 3])),
    "bailian": ("a.jsonl", bailian_line(0) + bailian_line(1, 0, 2.5)),
    "dynamo": ("a.jsonl", dynamo_line(7) + dynamo_line(9, replay__input_sequence_hashes=[1, 2, 4])),
    "litellm": (
        "a.json",
        json.dumps(
            [
                litellm_log(1, 130, ["0" * 15 + digit for digit in "123"]),
                litellm_log(2, 100, ["0" * 15 + digit for digit in "14"]),
            ]
        ),
    ),
    "tracelab": (
        "a.csv",
        f"{TRACELAB_HEADER}a,0,0,400,20,500\na,1,420,40,10,0\nb,0,0,80,9,0\na,2,60,9,9,0\n",
    ),
    "kv-events": (
        "a.jsonl",
        kv_batch(1, kv_stored([1], block_size=64, token_ids=[0] * 64))
        + kv_batch(2, kv_stored([2, 3], 1, block_size=64, token_ids=[0] * 128)),
    ),
    "weka": ("a.json", weka([weka_request(), weka_request(9.0)])),
    "sharegpt": ("a.json", sharegpt([("human", "a" * 900), ("gpt", "b" * 900)] * 3)),
    "azure": ("a.csv", AZURE_HEADER + "2023-11-16 18:17:03.9799600,480,10\n"),
    "burstgpt": ("a.csv", BURSTGPT_HEADER + "5,ChatGPT,472,18,490,Conversation log\n"),
    "lmcache": ("a.lct", lct(look_up(0.5, [b"a", b"b"]), look_up(0.75, [b"a"]))),
}
"""A good file of each kind: name and content."""


def write(path: Path, content: str | bytes) -> Path:
    """Write a file; return its path."""
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def good(folder: Path, name: str) -> Path:
    """Write the good file of source `name`; return its path."""
    file, content = GOOD[name]
    return write(folder / file, content)


def refused(name: str, path: Path, content: str | bytes) -> str:
    """Return the error, one line that begins with the path, by which a source refuses a file."""
    with pytest.raises(TraceError) as caught:
        read(name, write(path, content))
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(str(path))
    return message.removeprefix(str(path))


def read(name: str, *paths: Path, seed: int = 0, **options: Any) -> tuple[dict[str, Any], Any]:
    """Return all requests of a source, one array (or list of lists) per column, and its info.

    Options are keys of `source`; `by_turn` and `workers` are those of `SourceContext`.
    """
    by_turn, workers = options.pop("by_turn", False), options.pop("workers", 1)
    keys = {f"source.{key}": value for key, value in options.items()}
    config = load_config(None, {"source.name": name} | keys).source
    source = sources.create(
        SourceContext(config, paths, seed=seed, end_ns=1 << 62, by_turn=by_turn, workers=workers)
    )
    batches = list(source.batches())
    chains = range(config.users or 0)
    while chains and (batch := source.more(len(batches) % len(chains))) is not None:
        batches.append(batch)
    columns: dict[str, Any] = {}
    for column in type(batches[0]).__slots__:
        parts = [getattr(batch, column) for batch in batches]
        if isinstance(parts[0], np.ndarray):
            columns[column] = np.concatenate(parts).tolist()
        elif isinstance(parts[0], Ragged):
            columns[column] = [
                part.values[begin:end].tolist()
                for part in parts
                for begin, end in zip(part.begin, part.begin[1:], strict=False)
            ]
    return columns, source.info.model_dump()
