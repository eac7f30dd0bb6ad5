"""LiteLLM's spend logs: JSON with times, token counts and hashes of the prompt's blocks.

The callback `prefix_block_hashes` (LiteLLM 1.111.0 and later) writes ids of 16 hexadecimal digits,
chained, that of a partial last block included. Source: LiteLLM's page "Prefix Block Hash IDs" of
2026-11-16; columns of a log: BerriAI/litellm 1.110.2, `proxy/schema.prisma` (`LiteLLM_SpendLogs`)
and `proxy/_types.py`; read on 2026-11-30.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from kvtrace.errors import TraceError, UsageError
from kvtrace.requests import jsonlines, jsonstream
from kvtrace.requests.request import Ragged
from kvtrace.requests.rows import Piece, alone
from kvtrace.requests.sorting import Numbering, by_arrival
from kvtrace.requests.source import BLOCK_OPTION, FILE_KEYS, FileSource, Told, need_input
from kvtrace.requests.timing import timed_source

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from kvtrace.requests.sessions import SessionSource
    from kvtrace.sources import SourceContext

KEYS = FILE_KEYS | {"block_tokens", "timing"}
HASHES = "prefix_block_hashes"
HEX_DIGITS = 16
MAX_BLOCK_TOKENS = 1 << 20
ENTRIES_PER_PIECE = 4096
UNHASHED = f"no {HASHES}"
FAILED = "failed"
CACHED = "answered from LiteLLM's own cache"
STATUSES = frozenset({"", "success", "failure"})
CACHE_HITS = frozenset({"", "none", "true", "false"})


def recognises(start: bytes) -> bool:
    """Return whether a file begins with a spend log."""
    return start.lstrip().startswith((b"{", b"[")) and jsonlines.has_keys(
        start, ("request_id", "startTime", "prompt_tokens", "completion_tokens")
    )


@dataclass(frozen=True, slots=True)
class _Request:
    """A request. `block_tokens`: tokens per id, 0 where the log doesn't state them."""

    place: str
    name: str
    time_ns: int
    end_ns: int
    input_tokens: int
    output_tokens: int
    session: str | None
    ids: NDArray[np.int64]
    block_tokens: int


def parse(value: Any, place: str) -> _Request | str:
    """Return the request that a log tells of, or why there is none. Raises TraceError."""
    fields = jsonlines.as_object(value, place)
    name = jsonlines.text(fields, "request_id", place)
    if _one_of(fields, "status", STATUSES, place) == "failure":
        return FAILED
    if _one_of(fields, "cache_hit", CACHE_HITS, place) == "true":
        return CACHED
    listed = _metadata(fields, place).get(HASHES)
    if listed is None:
        return UNHASHED
    ids, size = _hashes(listed, place)
    session = fields.get("session_id")
    time_ns = jsonlines.date_ns(fields, "startTime", place)
    return _Request(
        place=place,
        name=name,
        time_ns=time_ns,
        end_ns=max(time_ns, jsonlines.date_ns(fields, "endTime", place)),
        input_tokens=jsonlines.whole(fields, "prompt_tokens", place, least=1),
        output_tokens=jsonlines.whole(fields, "completion_tokens", place),
        session=None if session is None else jsonlines.text(fields, "session_id", place),
        ids=ids,
        block_tokens=size,
    )


def _one_of(fields: dict[str, Any], name: str, accepted: frozenset[str], place: str) -> str:
    """Return a column that is a word, in small letters; nothing, and None as text, are "".

    Raises TraceError for another word: whether such a log is a request isn't known.
    """
    value = fields.get(name)
    word = "" if value is None else str(value).lower() if isinstance(value, str | bool) else "?"
    if word not in accepted:
        words = ", ".join(sorted(accepted - {""}))
        raise TraceError(f"bad {name}", where=place, got=repr(value)[:40], accepted=words)
    return word


def _metadata(fields: dict[str, Any], place: str) -> dict[str, Any]:
    """Return a log's metadata, which the database holds as JSON, or as text of JSON."""
    value = fields.get("metadata")
    if value is None:
        return {}
    decoded = jsonlines.decode(value, f"{place}, metadata") if isinstance(value, str) else value
    return jsonlines.part({"metadata": decoded}, "metadata", place)


def _hashes(listed: Any, place: str) -> tuple[NDArray[np.int64], int]:
    """Return ids, viewed as int64, and the tokens of each, or 0. Raises TraceError.

    They are a list, or the one list of an object that may have `block_size` beside it.
    """
    size = 0
    if isinstance(listed, dict):
        if "block_size" in listed:
            size = jsonlines.whole(listed, "block_size", place, least=1, most=MAX_BLOCK_TOKENS)
        lists = [value for value in listed.values() if isinstance(value, list)]
        listed = lists[0] if len(lists) == 1 else None
    if not isinstance(listed, list) or not listed:
        raise TraceError(
            f"bad {HASHES}",
            where=place,
            got=repr(listed)[:40],
            accepted="a list of ids, or an object with one list and block_size",
        )
    try:
        packed = bytes.fromhex("".join(listed)) if set(map(type, listed)) == {str} else b""
    except ValueError:
        packed = b""
    if len(packed) != len(listed) * HEX_DIGITS // 2 or set(map(len, listed)) != {HEX_DIGITS}:
        raise _bad_id(listed, place)
    return np.frombuffer(packed, ">u8").astype(np.uint64).view(np.int64), size


def _bad_id(listed: list[Any], place: str) -> TraceError:
    digits = frozenset("0123456789abcdefABCDEF")
    got = next(
        value
        for value in listed
        if not isinstance(value, str) or len(value) != HEX_DIGITS or not digits.issuperset(value)
    )
    return TraceError(
        "bad hash id", where=place, got=repr(got)[:40], accepted=f"{HEX_DIGITS} hexadecimal digits"
    )


class _Reader:
    """Reads the requests of all files."""

    def __init__(self, context: SourceContext, block_tokens: int, remarks: Told) -> None:
        self._inputs, self._size, self._remarks = context.inputs, block_tokens, remarks
        self._asked = context.config.block_tokens is not None
        self._unequal = 0

    def pieces(self) -> Iterator[Piece]:
        """Yield the requests in order of arrival. Raises TraceError."""
        numbering = Numbering()
        for piece in by_arrival(self._in_files()):
            numbering.follow(piece.rows)
            yield piece

    def _in_files(self) -> Iterator[Piece]:
        sessions: dict[str, int] = {}
        dropped, names = dict.fromkeys((UNHASHED, FAILED, CACHED), 0), set[str]()
        self._unequal = 0
        for path in self._inputs:
            entries = _entries(path)
            while some := list(islice(entries, ENTRIES_PER_PIECE)):
                requests = []
                for number, request in some:
                    if isinstance(request, str):
                        dropped[request] += 1
                    else:
                        _once(names, request)
                        requests.append((number, request))
                if requests:
                    yield self._piece(path, requests, sessions)
        for reason, count in dropped.items():
            if count:
                self._remarks.drop(reason, count)
        self._remarks.notes[:] = [
            f"{self._unequal:,} requests have ids of another number of tokens than prompt_tokens: "
            "their prompts are known as far as both go"
        ] * bool(self._unequal)

    def _piece(
        self, path: Path, requests: list[tuple[int, _Request]], sessions: dict[str, int]
    ) -> Piece:
        ids = [self._ids(request) for _, request in requests]
        columns = [(r.time_ns, r.end_ns, r.input_tokens, r.output_tokens) for _, r in requests]
        table = np.array(columns, np.int64).T
        time_ns, end_ns, inputs, outputs = (column.copy() for column in table)
        counts = np.array([len(part) for part in ids])
        lists = Ragged.from_counts(counts, np.concatenate(ids))
        rows = alone(0, time_ns, inputs, outputs, lists, end_ns)
        names = [r.session or f"\0{path}\0{number}" for number, r in requests]
        rows.session[:] = [sessions.setdefault(name, len(sessions)) for name in names]
        rows.last_turn[:] = [r.session is None for _, r in requests]
        return Piece(str(path), np.array([number for number, _ in requests]), rows, ": entry ")

    def _ids(self, request: _Request) -> NDArray[np.int64]:
        """Return the ids of a request as far as its tokens go.

        Ids are of the tokens that the gateway counted; where the log states their size, another
        number of tokens than the engine's is no error, but the last block of either is partial.
        """
        size, tokens, count = self._size, request.input_tokens, len(request.ids)
        if request.block_tokens not in (0, size):
            raise TraceError(
                "another block_size", where=request.place, got=request.block_tokens, accepted=size
            )
        if count == -(-tokens // size):
            return request.ids
        if not request.block_tokens:
            jsonlines.check_count(
                count, tokens, size, request.place, of="prompt_tokens", option=BLOCK_OPTION,
                name=HASHES,
            )  # fmt: skip
        self._unequal += 1
        return request.ids[: min(count - 1, tokens // size)]


def _once(names: set[str], request: _Request) -> None:
    """Raise TraceError for a request that an earlier log has."""
    if request.name in names:
        raise TraceError(
            "request_id of an earlier log", where=request.place, got=repr(request.name)[:60],
            accepted="one log per request",
        )  # fmt: skip
    names.add(request.name)


def _entries(path: Path) -> Iterator[tuple[int, _Request | str]]:
    for number, (place, value) in enumerate(jsonstream.values(path), start=1):
        yield number, parse(value, place)


def _block_tokens(context: SourceContext) -> int:
    """Return the tokens of an id, as the first request states it or the user.

    Raises UsageError where neither does, TraceError for files without a request.
    """
    every = (request for path in context.inputs for _, request in _entries(path))
    first = next((request for request in every if not isinstance(request, str)), None)
    if first is None:
        raise TraceError(
            "no requests", where=context.inputs[0], accepted=f"logs with {HASHES} in their metadata"
        )
    asked = context.config.block_tokens
    if asked is None and not first.block_tokens:
        hint = jsonlines.fitting(first.input_tokens, len(first.ids))
        raise UsageError(
            "the logs don't state how many tokens an id stands for",
            where=BLOCK_OPTION,
            got="nothing",
            accepted="the block size of the callback",
            hint=hint,
        )
    if asked is not None and first.block_tokens not in (0, asked):
        raise UsageError(
            "the logs state another size",
            where=BLOCK_OPTION,
            got=asked,
            accepted=first.block_tokens,
        )
    return asked or first.block_tokens


def create(context: SourceContext) -> FileSource | SessionSource:
    """Return the source: a session is what shares a session_id; others are one request each.

    Raises UsageError without an input or the tokens per id, TraceError if no request can be read.
    """
    need_input(context, "FILE.json")
    size = _block_tokens(context)
    remarks = Told(parameters={"block_tokens": size})
    return timed_source(
        context,
        KEYS,
        _Reader(context, size, remarks).pieces,
        block_tokens=size,
        remarks=remarks,
        sessions_known=True,
    )
