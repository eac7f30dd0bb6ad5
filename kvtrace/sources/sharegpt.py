"""ShareGPT conversations: a JSON list of messages; arrival times are invented."""

from __future__ import annotations

import json
from itertools import groupby, islice
from typing import TYPE_CHECKING, Any

import numpy as np

from kvtrace.errors import TraceError
from kvtrace.requests import jsonlines, jsonstream, tokens
from kvtrace.requests.rows import MAX_TOKENS
from kvtrace.requests.sessions import SESSION_KEYS, Sessions, SessionSource
from kvtrace.requests.source import Told, need_input
from kvtrace.units import S_NS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kvtrace.sources import SourceContext

KEYS = SESSION_KEYS | {"tokenizer", "think_s"}
ENTRIES_PER_PIECE = 64
"""Part of what a rate means: see `SAMPLE_PIECES`."""
TOO_SHORT = "entries with fewer than two turns"
_PROMPT = frozenset({"human", "user", "system", "tool"})
_ANSWER = frozenset({"gpt", "assistant", "chatgpt", "bing", "bard", "model"})
BESIDE = ("system", "system_prompt", "tools")
"""Keys beside `conversations` whose text is a part of the prompt."""
_THINK_STREAM = 25


def recognises(start: bytes) -> bool:
    """Return whether a file begins with a list of conversations."""
    return start.lstrip().startswith(b"[") and jsonlines.has_keys(start, ("conversations",))


Turn = tuple[int, int]
"""Tokens of a prompt, as far as the conversation before it doesn't hold them, and of its answer."""


def parse(entry: Any, place: str, count: Callable[[str], int]) -> list[Turn]:
    """Return the turns of an entry; messages of one side that follow one another are one.

    What stands beside the messages and is a part of the prompt (`BESIDE`) comes before them. An
    answer before the first prompt is context of that prompt; a last prompt without an answer is
    left out. Raises TraceError.
    """
    messages = entry.get("conversations") if isinstance(entry, dict) else None
    if not isinstance(messages, list):
        raise TraceError(
            "not a conversation", where=place, accepted='{"id", "conversations": [...]}'
        )
    sides = [_message(message, f"{place}, message {at}") for at, message in enumerate(messages, 1)]
    turns: list[Turn] = []
    prompt, asked = sum(count(text) for text in _beside(entry, place, sides)), False
    for answers, group in groupby(sides, key=lambda side: side[0]):
        length = sum(count(text) for _, text in group)
        if answers and asked:
            turns.append((prompt, length))
            prompt, asked = 0, False
        else:
            prompt += max(1, length)
            asked |= not answers
    if sum(map(sum, turns)) > MAX_TOKENS:
        raise TraceError(
            "conversation too long", where=place, accepted=f"up to {MAX_TOKENS:,} tokens"
        )
    return turns


def _beside(entry: dict[str, Any], place: str, sides: list[tuple[bool, str]]) -> list[str]:
    """Return the texts beside the messages, but for one that the first message repeats."""
    texts = []
    for name in BESIDE:
        value = entry.get(name)
        if value is None or value == "":
            continue
        if name == "tools" and isinstance(value, list | dict):
            value = json.dumps(value)
        if not isinstance(value, str):
            raise TraceError(
                f"bad {name}", where=place, got=repr(value)[:60], accepted="text, or none"
            )
        if not sides or sides[0] != (False, value):
            texts.append(value)
    return texts


def _message(message: Any, place: str) -> tuple[bool, str]:
    """Return whether a message is an answer, and its text."""
    fields = message if isinstance(message, dict) else {}
    side, text = fields.get("from"), fields.get("value")
    known = isinstance(side, str) and side in _PROMPT | _ANSWER
    if not known or not isinstance(text, str):
        raise TraceError(
            "not a message",
            where=place,
            got=repr(message)[:60],
            accepted='{"from": "human" or "gpt", "value": text}',
        )
    return side in _ANSWER, text


def _conversations(
    context: SourceContext, count: Callable[[str], int], remarks: Told
) -> Iterator[list[Turn]]:
    for path in context.inputs:
        for place, entry in jsonstream.values(path, array_only=True):
            turns = parse(entry, place, count)
            if turns:
                yield turns
            else:
                remarks.drop(TOO_SHORT, 1)


def _pieces(
    context: SourceContext, count: Callable[[str], int], remarks: Told
) -> Iterator[Sessions]:
    conversations = _conversations(context, count, remarks)
    seeds = np.random.SeedSequence(context.seed, spawn_key=(_THINK_STREAM,))
    rng, (low, high) = np.random.default_rng(seeds), context.config.think_s
    while some := list(islice(conversations, ENTRIES_PER_PIECE)):
        prompts, answers = np.array([turn for turns in some for turn in turns], np.int64).T
        lengths = np.array([len(turns) for turns in some])
        # A later turn's prompt repeats all before it.
        whole = np.cumsum(prompts + answers)
        begin = np.repeat(np.cumsum(lengths) - lengths, lengths)
        before = (whole - prompts - answers)[begin]
        think_ns = np.rint((low + rng.random(len(prompts)) * (high - low)) * S_NS)
        yield Sessions(
            turns=lengths,
            input_tokens=whole - answers - before,
            output_tokens=answers.copy(),
            think_ns=think_ns.astype(np.int64),
            stream=np.zeros(len(prompts), np.int64),
        )


def create(context: SourceContext) -> SessionSource:
    """Return the source: sessions know their tokens, so that any block size will do.

    Raises UsageError without an input or for a tokenizer that can't be used.
    """
    need_input(context, "FILE.json")
    count, tokenizer_fields = tokens.counter(context.config.tokenizer)
    invented = ["arrivals", "think times"]
    if context.config.tokenizer is None:
        invented.append(f"tokens: {tokens.BY_LENGTH}")
    remarks = Told(parameters=tokenizer_fields, invented=invented)
    return SessionSource(
        context, KEYS, lambda: _pieces(context, count, remarks), block_tokens=None, remarks=remarks
    )
