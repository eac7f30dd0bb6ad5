"""WEKA's agentic traces: one JSON per conversation, with think times and subagents."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from kvtrace.errors import TraceError, UsageError
from kvtrace.requests import jsonlines, jsonstream, lanes
from kvtrace.requests.request import Ragged
from kvtrace.requests.sessions import SESSION_KEYS, Sessions, SessionSource
from kvtrace.requests.source import Told, need_input
from kvtrace.requests.timing import chosen

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kvtrace.requests.source_config import SourceConfig
    from kvtrace.sources import SourceContext

KEYS = (
    SESSION_KEYS | {"start_ratio", "warmup_requests", "idle_max", "own_plays"} | {"speed", "timing"}
)
MAX_DEPTH = 32
MAX_BLOCK_TOKENS = 1 << 20


def recognises(start: bytes) -> bool:
    """Return whether a file begins with a conversation of such a trace."""
    return start.lstrip().startswith((b"{", b"[")) and jsonlines.has_keys(
        start, ("block_size", "requests"), without=("conversations",)
    )


@dataclass(frozen=True, slots=True)
class _Request:
    """One request of a conversation. `stream`: 0, or the number of the subagent that sent it."""

    place: str
    time_ns: int
    input_tokens: int
    output_tokens: int
    ids: list[int]
    api_ns: int
    think_ns: int | None
    stream: int


@dataclass(frozen=True, slots=True)
class _Conversation:
    place: str
    block_tokens: int
    local: bool
    requests: list[_Request]


class _Reader:
    """Reads the requests of one conversation, those of subagents among the others."""

    def __init__(self, block_tokens: int) -> None:
        self._block_tokens = block_tokens
        self._agents = 0
        self.requests: list[_Request] = []

    def read(self, entries: Any, place: str, *, stream: int = 0, depth: int = 0) -> None:
        """Add the requests in `entries`. Raises TraceError."""
        if not isinstance(entries, list) or depth > MAX_DEPTH:
            raise TraceError("no list of requests", where=place, accepted='"requests": [...]')
        for number, entry in enumerate(entries, start=1):
            where = f"{place}, request {number}"
            fields = jsonlines.as_object(entry, where)
            if fields.get("type") == "subagent":
                self._agents += 1
                self.read(fields.get("requests"), where, stream=self._agents, depth=depth + 1)
            else:
                self.requests.append(self._request(fields, where, stream))

    def _request(self, fields: dict[str, Any], where: str, stream: int) -> _Request:
        size = self._block_tokens
        tokens = jsonlines.whole(fields, "in", where, least=1)
        # Only full blocks are listed, by most writers.
        ids = jsonlines.hash_ids(fields, where, tokens, size, of="in", full_only=True)
        api, think = fields.get("api_time"), fields.get("think_time")
        return _Request(
            place=where,
            time_ns=jsonlines.seconds_ns(fields, "t", where),
            input_tokens=tokens,
            output_tokens=jsonlines.whole(fields, "out", where),
            ids=ids[: tokens // size],
            api_ns=0 if api is None else jsonlines.seconds_ns(fields, "api_time", where),
            think_ns=None if think is None else jsonlines.seconds_ns(fields, "think_time", where),
            stream=stream,
        )


def parse(value: Any, place: str) -> _Conversation:
    """Return the conversation in `value`, its requests in order of time. Raises TraceError."""
    fields = jsonlines.as_object(value, place)
    block_tokens = jsonlines.whole(fields, "block_size", place, least=1, most=MAX_BLOCK_TOKENS)
    scope = fields.get("hash_id_scope", "local")
    if scope not in ("local", "global"):
        raise TraceError(
            "bad hash_id_scope", where=place, got=repr(scope)[:40], accepted="local or global"
        )
    reader = _Reader(block_tokens)
    reader.read(fields.get("requests"), place)
    ordered = sorted(reader.requests, key=lambda request: request.time_ns)
    if not ordered:
        raise TraceError("no requests", where=place, accepted="at least one in a conversation")
    return _Conversation(place, block_tokens, scope == "local", ordered)


def _think_ns(requests: list[_Request]) -> list[int]:
    """Return the time from the end of the request before to each request.

    It is the recorded think time, or what its times leave of it where the request before was
    another agent's or where none was recorded.
    """
    thinks = [requests[0].think_ns or 0]
    for before, request in pairwise(requests):
        if request.think_ns is not None and request.stream == before.stream:
            thinks.append(request.think_ns)
        else:
            thinks.append(max(0, request.time_ns - before.time_ns - before.api_ns))
    return thinks


def _sessions(conversation: _Conversation, ids: Ragged, idle_max_ns: int | None) -> Sessions:
    requests = conversation.requests
    offset_ns, think_ns = lanes.shortened(
        np.array([r.time_ns - requests[0].time_ns for r in requests], np.int64),
        np.array(_think_ns(requests), np.int64),
        idle_max_ns,
    )
    columns = [(r.input_tokens, r.output_tokens, r.stream) for r in requests]
    inputs, outputs, stream = np.array(columns, np.int64).T
    return Sessions(
        turns=np.array([len(requests)]),
        input_tokens=inputs.copy(),
        output_tokens=outputs.copy(),
        think_ns=think_ns,
        stream=stream.copy(),
        ids=ids,
        offset_ns=offset_ns,
    )


def _conversations(context: SourceContext) -> Iterator[_Conversation]:
    """Yield the conversations. Raises TraceError if they aren't of one kind."""
    first: _Conversation | None = None
    for path in context.inputs:
        for place, value in jsonstream.values(path):
            conversation = parse(value, place)
            first = first or conversation
            if conversation.block_tokens != first.block_tokens:
                raise TraceError(
                    "another block_size",
                    where=place,
                    got=conversation.block_tokens,
                    accepted=f"{first.block_tokens}, as in {first.place}",
                )
            if conversation.local != first.local:
                raise TraceError(
                    "another hash_id_scope", where=place, accepted=f"that of {first.place}"
                )
            yield conversation


def _pieces(context: SourceContext, plays: list[int]) -> Iterator[Sessions]:
    """Yield the conversations; ids that mean something in one of them only get their own names.

    With `own_plays` all do, and others each time: `plays` has the names that were given.
    """
    config = context.config
    names = plays[0] if config.own_plays else 0
    for conversation in _conversations(context):
        requests = conversation.requests
        ids = jsonlines.id_lists([r.ids for r in requests], [r.place for r in requests])
        if conversation.local or config.own_plays:
            known, inverse = np.unique(ids.values, return_inverse=True)
            ids = Ragged(ids.begin, names + inverse.astype(np.int64))
            names += len(known)
            plays[0] = names
        yield _sessions(conversation, ids, config.idle_max)


def _check(config: SourceConfig) -> None:
    """Raise UsageError for keys that have no effect beside the others."""
    needs = (
        ("start_ratio", config.start_ratio is None or bool(config.users), "users"),
        ("warmup_requests", not config.warmup_requests or config.start_ratio, "start_ratio"),
        ("own_plays", not config.own_plays or config.scale_sessions <= 1, "no copies of sessions"),
    )
    for key, is_met, wanted in needs:
        if not is_met:
            raise UsageError(
                "has no effect beside the other keys", where=f"source.{key}",
                got=getattr(config, key), accepted=f"{key} with {wanted}",
            )  # fmt: skip


def create(context: SourceContext) -> SessionSource:
    """Return the source; its block size is that of the first conversation.

    Raises UsageError without an input or for a key without effect, TraceError if that conversation
    can't be read.
    """
    need_input(context, "FILE.json or a directory of them")
    _check(context.config)
    first = next(_conversations(context), None)
    if first is None:
        raise TraceError("no requests", where=context.inputs[0], accepted="a conversation")
    remarks = Told(invented=["when conversations begin"])
    plays = [0]
    timing = chosen(context, "think", remarks)
    return SessionSource(
        context,
        KEYS,
        lambda: _pieces(context, plays),
        block_tokens=first.block_tokens,
        remarks=remarks,
        recorded=timing == "recorded",
    )
