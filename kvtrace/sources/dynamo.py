"""NVIDIA Dynamo's request traces: JSONL with arrival, lengths and hashes of the prompt's blocks.

Source: ai-dynamo/dynamo, `lib/llm/src/request_trace/types.rs` and `replay.rs` at 0366e63 (schema
`dynamo.request.trace.v1`), the project's page "Request Replay Tracing"; read on 2026-11-30.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from kvtrace.errors import TraceError
from kvtrace.requests import jsonlines
from kvtrace.requests.jsonscan import Scanned, Wanted, scan
from kvtrace.requests.rows import MAX_TIME_NS, MAX_TOKENS, FileRows, Piece, alone, join
from kvtrace.requests.sorting import Numbering, by_arrival
from kvtrace.requests.source import FILE_KEYS, FileSource, Told, need_input
from kvtrace.requests.timing import timed_source
from kvtrace.units import MS_NS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from kvtrace.requests.lines import Lines
    from kvtrace.requests.sessions import SessionSource
    from kvtrace.sources import SourceContext

KEYS = FILE_KEYS | {"timing"}
SCHEMA = "dynamo.request.trace.v1"
REQUEST = "request_end"
BESIDE = frozenset({"tool_start", "tool_end", "tool_error", "request_payload"})
"""Events that are no requests; they are counted."""
HASHES = "input_sequence_hashes"
MAX_BLOCK_TOKENS = 1 << 20
NOTHING = alone(0, *np.zeros((3, 0), np.int64))


def recognises(start: bytes) -> bool:
    """Return whether a file begins with a record of such a trace."""
    return start.lstrip().startswith(b"{") and SCHEMA.encode() in start.partition(b"\n")[0]


@dataclass(slots=True)
class Parsed:
    """Requests of some lines, with line, session and name of each.

    `block_tokens`: tokens per hash, 0 without a request; `beside`: how many events are no requests.
    """

    rows: FileRows
    lines: list[int] = field(default_factory=list)
    sessions: list[str | None] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    block_tokens: int = 0
    beside: Counter[str] = field(default_factory=Counter)


WANTED = (
    Wanted("event", "object"),
    Wanted("schema", "constant", SCHEMA),
    Wanted("event_type", "constant", REQUEST),
    Wanted("event_time_unix_ms", "number"),
    Wanted("agent_context", "object"),
    Wanted("agent_context.session_id", "text"),
    Wanted("request", "object"),
    Wanted("request.request_id", "text"),
    Wanted("request.request_received_ms", "number"),
    Wanted("request.output_tokens", "number"),
    Wanted("request.total_time_ms", "decimal"),
    Wanted("request.replay", "object"),
    Wanted("request.replay.trace_block_size", "number"),
    Wanted("request.replay.input_length", "number"),
    Wanted("request.replay.input_sequence_hashes", "list"),
)
_LONGEST_MS = 1e9
"""Of a request that is scanned: the product with a million is exact as a float."""
_NEEDED = ("event_time_unix_ms", *(f"request.{name}" for name in (
    "request_received_ms", "output_tokens", "replay.trace_block_size", "replay.input_length",
)))  # fmt: skip


def parse(piece: Lines) -> Parsed:
    """Return the requests in `piece`. Raises TraceError that names the file and the line.

    Lines are scanned; one by one are parsed those that don't look as Dynamo prints requests.
    """
    scanned = scan(piece.lines, WANTED)
    plain = _plain(scanned)
    odd = [
        parse_exactly(replace(piece, first=piece.first + at, lines=piece.lines[at : at + 1]))
        for at in np.flatnonzero(~plain).tolist()
    ]
    rows = np.flatnonzero(plain)
    parts = [part for part in odd if part.lines]
    if len(rows):
        parts.append(_scanned_rows(scanned, rows, piece.first))
    made = _together(parts, piece)
    for part in odd:
        made.beside += part.beside
    return made


def _plain(scanned: Scanned) -> NDArray[np.bool_]:
    """Return which lines are whole requests whose values are all in range."""
    event, received, output, size, tokens = (scanned.numbers[name] for name in _NEEDED)
    total, has = scanned.decimals["request.total_time_ms"], scanned.has
    plain = scanned.is_plain & has["schema"] & has["event_type"] & ~has["event"]
    plain &= has["request.request_id"] & (has["agent_context"] == has["agent_context.session_id"])
    for times in (event, received):
        plain &= (times >= 0) & (times <= MAX_TIME_NS // MS_NS)
    plain &= ~(total > _LONGEST_MS) & (tokens >= 1) & (tokens <= MAX_TOKENS)
    plain &= (output >= 0) & (output <= MAX_TOKENS) & (size >= 1) & (size <= MAX_BLOCK_TOKENS)
    plain &= scanned.ids.counts == -(-tokens // np.maximum(size, 1))
    first = size[plain][:1]
    return plain & (size == first) if len(first) else plain


def _scanned_rows(scanned: Scanned, rows: NDArray[np.int64], first: int) -> Parsed:
    """Return the requests of lines that are plain."""
    event, received, output, size, tokens = (scanned.numbers[name][rows] for name in _NEEDED)
    total = scanned.decimals["request.total_time_ms"][rows]
    time_ns = received * MS_NS
    took_ns = np.rint(np.nan_to_num(total) * MS_NS).astype(np.int64)
    end_ns = np.where(np.isnan(total), event * MS_NS, time_ns + took_ns)
    return Parsed(
        alone(0, time_ns, tokens, output, scanned.ids.take(rows), np.maximum(time_ns, end_ns)),
        (first + rows).tolist(),
        scanned.texts("agent_context.session_id", rows),
        [name or "" for name in scanned.texts("request.request_id", rows)],
        int(size[0]),
    )


def _together(parts: list[Parsed], piece: Lines) -> Parsed:
    """Return the requests of parts in order of their lines. Raises TraceError for other sizes."""
    if not parts:
        return Parsed(NOTHING)
    if len(parts) == 1:
        return parts[0]
    size = min(parts, key=lambda part: part.lines[0]).block_tokens
    for part in parts:
        _same_size(size, part.block_tokens, f"{piece.where}:{part.lines[0]}")
    lines = np.concatenate([part.lines for part in parts])
    order = np.argsort(lines)
    sessions = [name for part in parts for name in part.sessions]
    names = [name for part in parts for name in part.names]
    return Parsed(
        join([part.rows for part in parts]).take(order),
        lines[order].tolist(),
        [sessions[at] for at in order.tolist()],
        [names[at] for at in order.tolist()],
        size,
    )


def parse_exactly(piece: Lines) -> Parsed:
    """Return the requests in `piece`. Raises TraceError that names the file and the line."""
    made = Parsed(NOTHING)
    numbers, ids, places = [], [], []
    for line, (place, fields) in enumerate(jsonlines.objects(piece), start=piece.first):
        record = _record(fields, place)
        if record.get("event_type") != REQUEST:
            made.beside[_beside(record.get("event_type"), place)] += 1
            continue
        request = jsonlines.part(record, "request", place)
        made.lines.append(line)
        made.sessions.append(_session(record, place))
        made.names.append(jsonlines.text(request, "request_id", place))
        replay = jsonlines.part(request, "replay", place)
        made.block_tokens = _size(replay, made.block_tokens, place)
        tokens = jsonlines.whole(replay, "input_length", place, least=1)
        outputs = jsonlines.whole(request, "output_tokens", place)
        numbers.append((*_times_ns(record, request, place), tokens, outputs))
        ids.append(
            jsonlines.hash_ids(
                replay, place, tokens, made.block_tokens, of="input_length", name=HASHES
            )
        )
        places.append(place)
    columns = np.array(numbers, np.int64).reshape(-1, 4).T
    time_ns, end_ns, inputs, output = (column.copy() for column in columns)
    made.rows = alone(0, time_ns, inputs, output, jsonlines.id_lists(ids, places), end_ns)
    return made


def _record(fields: dict[str, Any], place: str) -> dict[str, Any]:
    """Return the record of a line, which may lie in an envelope `{"timestamp", "event"}`."""
    record = jsonlines.as_object(fields["event"], place) if "event" in fields else fields
    if record.get("schema") != SCHEMA:
        raise TraceError(
            "bad schema", where=place, got=repr(record.get("schema"))[:40], accepted=SCHEMA
        )
    return record


def _beside(event: Any, place: str) -> str:
    if not isinstance(event, str) or event not in BESIDE:
        raise TraceError(
            "bad event_type",
            where=place,
            got=repr(event)[:40],
            accepted=", ".join([REQUEST, *sorted(BESIDE)]),
        )
    return event


def _session(record: dict[str, Any], place: str) -> str | None:
    if record.get("agent_context") is None:
        return None
    return jsonlines.text(jsonlines.part(record, "agent_context", place), "session_id", place)


def _times_ns(record: dict[str, Any], request: dict[str, Any], place: str) -> tuple[int, int]:
    """Return when a request came and when it ended: after its total time, else as its event says.

    One that seems to end before it came ends at once, as in Dynamo's own replay.
    """
    time_ns = jsonlines.ms_ns(request, "request_received_ms", place)
    end_ns = jsonlines.ms_ns(record, "event_time_unix_ms", place)
    if request.get("total_time_ms") is not None:
        end_ns = time_ns + jsonlines.ms_ns(request, "total_time_ms", place)
    return time_ns, max(time_ns, end_ns)


def _size(replay: dict[str, Any], first: int, place: str) -> int:
    """Return the tokens per hash. Raises TraceError if they aren't those of the `first` request."""
    size = jsonlines.whole(replay, "trace_block_size", place, least=1, most=MAX_BLOCK_TOKENS)
    _same_size(first or size, size, place)
    return size


def _same_size(first: int, size: int, place: str) -> None:
    if size != first:
        raise TraceError(
            "another trace_block_size", where=place, got=size, accepted=f"{first}, as before"
        )


class _Reader:
    """Reads the requests of all files, which must all have sessions or none."""

    def __init__(self, context: SourceContext, block_tokens: int, remarks: Told) -> None:
        self._context, self._block_tokens, self._remarks = context, block_tokens, remarks

    def pieces(self) -> Iterator[Piece]:
        """Yield the requests in order of arrival. Raises TraceError."""
        numbering, count, known = Numbering(), 0, list[bool]()
        for piece in by_arrival(self._in_files(known)):
            rows = piece.rows
            if known[0]:
                numbering.follow(rows)
                rows.last_turn[:] = False
            else:
                rows.session[:] = count + np.arange(len(rows))
            count += len(rows)
            yield piece

    def _in_files(self, known: list[bool]) -> Iterator[Piece]:
        sessions, names, beside = dict[str, int](), set[str](), Counter[str]()
        for piece, made in jsonlines.parsed(self._context.inputs, parse, self._context.workers):
            beside += made.beside
            if made.lines:
                place = f"{piece.where}:{made.lines[0]}"
                _same_size(self._block_tokens, made.block_tokens, place)
                _alike(known, made, piece.where)
                _once(names, made, piece.where)
                made.rows.session[:] = [
                    sessions.setdefault(name or "", len(sessions)) for name in made.sessions
                ]
                yield Piece(piece.where, np.array(made.lines), made.rows)
        self._remarks.notes[:] = [
            f"{count:,} records of {event} aren't requests" for event, count in beside.items()
        ]


def _alike(known: list[bool], made: Parsed, where: str) -> None:
    """Raise TraceError where some requests have a session and others don't."""
    known[:] = known or [made.sessions[0] is not None]
    for line, session in zip(made.lines, made.sessions, strict=True):
        if (session is not None) != known[0]:
            raise TraceError(
                "agent_context of some requests only",
                where=f"{where}:{line}",
                got="none" if session is None else f"session {session[:40]!r}",
                accepted="one in every request, or in none",
            )


def _once(names: set[str], made: Parsed, where: str) -> None:
    """Raise TraceError for a request that an earlier record has."""
    for line, name in zip(made.lines, made.names, strict=True):
        if name in names:
            raise TraceError(
                "request_id of an earlier record",
                where=f"{where}:{line}",
                got=repr(name[:60]),
                accepted=f"one record of {REQUEST} per request",
            )
        names.add(name)


def _first(context: SourceContext) -> Parsed:
    """Return the first requests. Raises TraceError for files without one."""
    for _, made in jsonlines.parsed(context.inputs, parse, 1):
        if made.lines:
            return made
    raise TraceError("no requests", where=context.inputs[0], accepted=f"a record of {REQUEST}")


def create(context: SourceContext) -> FileSource | SessionSource:
    """Return the source: hashes are global and prefix-chained, the last one may be partial.

    Raises UsageError without an input, TraceError if the first requests can't be read.
    """
    need_input(context, "FILE.jsonl")
    first = _first(context)
    size = first.block_tokens
    remarks = Told(parameters={"block_tokens": size})
    return timed_source(
        context,
        KEYS,
        _Reader(context, size, remarks).pieces,
        block_tokens=size,
        remarks=remarks,
        sessions_known=first.sessions[0] is not None,
    )
