"""Small request files of every kind whose requests share prefixes, made by a seed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tests.support.request_files import (
    AZURE_HEADER,
    BURSTGPT_HEADER,
    TRACELAB_HEADER,
    bailian_line,
    dynamo_line,
    kv_batch,
    kv_stored,
    lct,
    litellm_log,
    look_up,
    mooncake_line,
    sharegpt,
    weka,
    weka_request,
    write,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

REQUESTS = 30


def _lengths(seed: int) -> list[int]:
    return [300 + (number * 1237 + seed) % 2500 for number in range(REQUESTS)]


def _ids(number: int, seed: int, tokens: int, block_tokens: int) -> list[int]:
    """One of three families of prompts, each a prefix of the longest."""
    family = (number * 7 + seed) % 3
    return [(family << 60) + index for index in range(-(-tokens // block_tokens))]


def mooncake(path: Path, seed: int) -> None:
    """Blocks of 512 tokens."""
    write(path, "".join(
        mooncake_line(number * 130, tokens, _ids(number, seed, tokens, 512), output_length=number)
        for number, tokens in enumerate(_lengths(seed))
    ))  # fmt: skip


def bailian(path: Path, seed: int) -> None:
    """Blocks of 16 tokens; every third request begins a conversation."""
    write(path, "".join(
        bailian_line(
            number, number - 1 if number % 3 else -1, number * 0.13, input_length=tokens,
            output_length=number, hash_ids=_ids(number, seed, tokens, 16), turn=1 + number % 3,
        )
        for number, tokens in enumerate(_lengths(seed))
    ))  # fmt: skip


def dynamo(path: Path, seed: int) -> None:
    """Blocks of 64 tokens, listed in order of their ends; three sessions."""
    write(path, "".join(
        dynamo_line(
            130 * (number ^ 1), tokens, f"s{number % 3}", output_tokens=number,
            replay__input_sequence_hashes=_ids(number, seed, tokens, 64),
        )
        for number, tokens in enumerate(_lengths(seed))
    ))  # fmt: skip


def litellm(path: Path, seed: int) -> None:
    """Blocks of 64 tokens; sessions of three requests."""
    write(path, json.dumps([
        litellm_log(
            number * 0.13, tokens, [f"{i:016x}" for i in _ids(number, seed, tokens, 64)],
            session_id=f"s{number // 3}", completion_tokens=number,
        )
        for number, tokens in enumerate(_lengths(seed))
    ]))  # fmt: skip


def tracelab(path: Path, seed: int) -> None:
    """Sessions of ten rounds, some of which go on from the middle of the context."""
    write(path, TRACELAB_HEADER + "".join(
        f"s{number // 10},{number % 10},{max(0, (number % 10) * 300 - number % 3 * 250)},"
        f"{tokens // 4 + 251},{number},{130 * (number % 4)}\n"
        for number, tokens in enumerate(_lengths(seed))
    ))  # fmt: skip


def kv_events(path: Path, seed: int) -> None:
    """Blocks of 64 tokens that go on from three chains at random places."""
    lines = []
    for number, tokens in enumerate(_lengths(seed)):
        ids = _ids(number, seed, tokens, 64)
        at = (number * 7 + seed) % len(ids)
        event = kv_stored(ids[at:], ids[at - 1] if at else None, block_size=64)
        event["token_ids"] = [0] * 64 * len(ids[at:])
        lines.append(kv_batch(1 + number * 0.13, event))
    write(path, "".join(lines))


def weka_file(path: Path, seed: int) -> None:
    """Blocks of 64 tokens; conversations of five requests, the last with a subagent."""
    lines = []
    for conversation in range(4):
        requests = []
        for turn in range(5):
            tokens = 300 + 400 * turn + seed % 50
            ids = list(range(1, tokens // 64 + 1))
            requests.append(weka_request(turn * 0.4, tokens, hash_ids=ids, think_time=0.1))
        lines.append(weka(requests, id=f"c{conversation}"))
    write(path, "\n".join(lines) + "\n")


def azure(path: Path, seed: int) -> None:
    """Lengths only."""
    write(path, AZURE_HEADER + "".join(
        f"2023-11-16 18:17:{number // 8:02}.{number % 8}000000,{tokens},{number + 1}\n"
        for number, tokens in enumerate(_lengths(seed))
    ))  # fmt: skip


def burstgpt(path: Path, seed: int) -> None:
    """Lengths only."""
    write(path, BURSTGPT_HEADER + "".join(
        f"{number / 8},ChatGPT,{tokens},{number + 1},{tokens + number + 1},Conversation log\n"
        for number, tokens in enumerate(_lengths(seed))
    ))  # fmt: skip


def sharegpt_file(path: Path, seed: int) -> None:
    """Conversations of three turns."""
    lengths = _lengths(seed)
    write(path, sharegpt(*[
        [("human", "a" * lengths[number]), ("gpt", "b" * 500)] * 3 for number in range(8)
    ]))  # fmt: skip


def lmcache(path: Path, seed: int) -> None:
    """Chunks of 16 tokens, looked up by two ranks."""
    records = [
        look_up(
            number * 0.13, [json.dumps(i).encode() for i in _ids(number, seed, tokens // 8, 16)]
        )
        for number, tokens in enumerate(_lengths(seed))
    ]
    write(path, lct(*records))


FILES: dict[str, tuple[str, Callable[[Path, int], None]]] = {
    "mooncake": ("a.jsonl", mooncake),
    "bailian": ("a.jsonl", bailian),
    "dynamo": ("a.jsonl", dynamo),
    "litellm": ("a.json", litellm),
    "tracelab": ("a.csv", tracelab),
    "kv-events": ("a.jsonl", kv_events),
    "weka": ("a.jsonl", weka_file),
    "azure": ("a.csv", azure),
    "burstgpt": ("a.csv", burstgpt),
    "sharegpt": ("a.json", sharegpt_file),
    "lmcache": ("a.lct", lmcache),
}
"""Of each source: a file's name, and what makes one."""
