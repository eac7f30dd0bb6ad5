"""TraceLab's traces of coding agents: rounds as JSONL, or the CSV of its session runner.

No hashes: a round says how many tokens of its prompt come from the cache, so it continues the
context of the round before it as far as that reaches. Source: uw-syfi/TraceLab at 0b8a262
(2026-06-25), `artifacts/utils/DB_SCHEMA.md`, `artifacts/trace_facts/csv_export/convert.py`,
`replay/README.md`, `replay/src/trace.rs`; read on 2026-11-30.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from kvtrace.errors import TraceError, UsageError
from kvtrace.files.textfile import open_text
from kvtrace.native.core import function
from kvtrace.native.library import I64, INT, POINTER
from kvtrace.requests import csvrows, jsonlines
from kvtrace.requests.request import Lineage, Ragged
from kvtrace.requests.rows import MAX_TOKENS
from kvtrace.requests.sessions import SESSION_KEYS, Sessions, SessionSource
from kvtrace.requests.source import Told, need_input
from kvtrace.requests.timing import chosen

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from kvtrace.requests.lines import Lines
    from kvtrace.sources import SourceContext

KEYS = SESSION_KEYS | {"speed", "timing"}
INPUTS = frozenset({"user_message", "tool_result"})
OUTPUTS = frozenset({"reasoning", "text", "tool_call"})
REPORT = "usage_report"
"""What Codex writes behind an answer, maybe much later."""
NO_SESSION = "rounds without session_id"
TIMELESS = "rounds of sessions without any time"
UNTIMED = "rounds without a time: they follow the round before them at once"
AGAIN = "rounds have the index of another one of their session: they follow it"
BEYOND = "rounds have more cached tokens than their session's context: they are taken as its own"
LOWER_BOUND = "prefix_tokens is what the provider's cache served: prompts may share more"
_NUMBERS = ("round_idx", "prefix_len", "input_len", "output_len")
_WAIT, _ARRIVAL = "tool_wait_after_ms", "arrival_time"
_ROW_KEYS = ("session_id", "round_index", "prefix_tokens", "newly_append_tokens")
_UNKNOWN = -1
_START = 4096

_lineage = function("kv_lineage", I64, I64, I64, INT, I64, INT, I64, POINTER, POINTER, returns=INT)


def recognises(start: bytes) -> bool:
    """Return whether a file begins with a round, or with the header of the runner's CSV."""
    if start.lstrip().startswith(b"{"):
        return jsonlines.has_keys(start, _ROW_KEYS)
    return csvrows.has_columns(start, (*_NUMBERS, _WAIT))


@dataclass(slots=True)
class _Rounds:
    """Rounds in the order of the files; `session` is any number that a session's rounds share.

    Times are unknown where they are −1. `wait_ns`: from the answer to the next round, where it is
    stated.
    """

    session: NDArray[np.int64]
    index: NDArray[np.int64]
    prefix: NDArray[np.int64]
    appended: NDArray[np.int64]
    output: NDArray[np.int64]
    sent_ns: NDArray[np.int64]
    ended_ns: NDArray[np.int64]
    wait_ns: NDArray[np.int64] | None = None

    def take(self, rows: NDArray[np.int64]) -> _Rounds:
        """Return the rounds at `rows`, in that order."""
        columns: dict[str, Any] = {
            name: None if (values := getattr(self, name)) is None else values[rows]
            for name in self.__slots__
        }
        return _Rounds(**columns)


Row = tuple[str, int, int, int, int, int, int]


def parse(piece: Lines) -> tuple[list[Row], int]:
    """Return the rounds in `piece`, and how many have no session. Raises TraceError.

    A round is session, index, prefix, appended and output tokens, and when it was sent and ended.
    """
    rows, without = [], 0
    for place, fields in jsonlines.objects(piece):
        # One session_id may come from both providers.
        provider = jsonlines.text(fields, "provider", place)
        prefix = jsonlines.whole(fields, "prefix_tokens", place)
        appended = jsonlines.whole(fields, "newly_append_tokens", place)
        if fields.get("session_id") in (None, ""):
            without += 1
            continue
        _check_prompt(prefix, appended, place)
        rows.append(
            (
                f"{provider}\0{jsonlines.text(fields, 'session_id', place)}",
                jsonlines.whole(fields, "round_index", place),
                prefix,
                appended,
                jsonlines.whole(fields, "output_tokens", place),
                *_times_ns(fields, place),
            )
        )
    return rows, without


def _check_prompt(prefix: int, appended: int, place: str) -> None:
    if not 1 <= prefix + appended <= MAX_TOKENS:
        raise TraceError(
            "a prompt of no or too many tokens",
            where=place,
            got=prefix + appended,
            accepted=f"1 to {MAX_TOKENS:,}, cached and appended ones together",
        )


def _times_ns(fields: dict[str, Any], place: str) -> tuple[int, int]:
    """Return when a round was sent and when its answer ended, −1 where no event tells it.

    It was sent with its last input before the first output. Without an output it ended with what
    the provider reported of it.
    """
    events = fields.get("timing_events")
    if not isinstance(events, list):
        got = "nothing" if events is None else repr(events)[:40]
        raise TraceError("bad timing_events", where=place, got=got, accepted="a list of events")
    sent_ns = ended_ns = reported_ns = _UNKNOWN
    for number, event in enumerate(events, start=1):
        where = f"{place}, event {number}"
        kind = jsonlines.text(jsonlines.as_object(event, where), "event_type", where)
        if event.get("timestamp") is None:
            continue
        at_ns = jsonlines.date_ns(event, "timestamp", where)
        if kind in OUTPUTS:
            ended_ns = max(ended_ns, at_ns)
        elif kind == REPORT:
            reported_ns = max(reported_ns, at_ns)
        elif kind not in INPUTS:
            accepted = ", ".join(sorted(INPUTS | OUTPUTS | {REPORT}))
            raise TraceError("bad event_type", where=where, got=repr(kind)[:40], accepted=accepted)
        elif ended_ns == _UNKNOWN:
            sent_ns = max(sent_ns, at_ns)
    if ended_ns == _UNKNOWN:
        ended_ns = reported_ns
    return (ended_ns, ended_ns) if sent_ns == _UNKNOWN else (sent_ns, max(sent_ns, ended_ns))


def _of_lines(context: SourceContext, remarks: Told) -> _Rounds:
    """Return the rounds of JSONL files. Raises TraceError."""
    sessions: dict[str, int] = {}
    columns, without = [], 0
    for _, (rows, missing) in jsonlines.parsed(context.inputs, parse, context.workers):
        without += missing
        numbered = [(sessions.setdefault(row[0], len(sessions)), *row[1:]) for row in rows]
        columns.append(np.array(numbered, np.int64).reshape(-1, 7))
    if without:
        remarks.drop(NO_SESSION, without)
    table = np.concatenate(columns or [np.zeros((0, 7), np.int64)]).T.copy()
    remarks.notes[:] = [LOWER_BOUND]
    session, index, prefix, appended, output, sent_ns, ended_ns = table
    return _Rounds(session, index, prefix, appended, output, sent_ns, ended_ns)


def _of_csv(context: SourceContext, remarks: Told) -> _Rounds:
    """Return the rounds of CSV files. Raises TraceError."""
    names, columns = [], [np.zeros((6, 0), np.int64)]
    headers = [csvrows.header(path, (*_NUMBERS, _WAIT)) for path in context.inputs]
    begins = all(_ARRIVAL in header for header in headers)
    for path, header in zip(context.inputs, headers, strict=True):
        session = "session_id" if "session_id" in header else "id"
        wanted = (session, *_NUMBERS, _WAIT, *([_ARRIVAL] if begins else []))
        for lines, frame in csvrows.read(path, wanted):
            numbers = [csvrows.tokens(frame, name, lines) for name in _NUMBERS]
            _check_prompts(numbers[1] + numbers[2], lines)
            numbers.append(csvrows.ms_ns(frame, _WAIT, lines))
            at_ns = csvrows.ms_ns(frame, _ARRIVAL, lines) if begins else 0 * numbers[0]
            columns.append(np.stack((*numbers, at_ns)))
            names.append(csvrows.names(frame, session, lines))
    index, prefix, appended, output, wait_ns, at_ns = np.concatenate(columns, axis=1)
    remarks.notes.clear()
    return _Rounds(_numbered(names), index, prefix, appended, output, at_ns, at_ns, wait_ns)


def _check_prompts(tokens: NDArray[np.int64], lines: Lines) -> None:
    wrong = np.flatnonzero((tokens < 1) | (tokens > MAX_TOKENS))
    if len(wrong):
        _check_prompt(int(tokens[wrong[0]]), 0, f"{lines.where}:{lines.first + wrong[0]}")


def _numbered(names: list[pl.Series]) -> NDArray[np.int64]:
    """Return of each name the row where it came first."""
    if not names:
        return np.zeros(0, np.int64)
    frame = pl.DataFrame({"name": pl.concat(names)}).with_row_index("row")
    return frame.select(pl.col("row").first().over("name")).to_series().to_numpy().astype(np.int64)


def _sessions(rounds: _Rounds, remarks: Told) -> Sessions:
    """Return the sessions, in order of their begins, or of the files where none is known."""
    rounds = rounds.take(np.lexsort((rounds.index, rounds.session)))
    if rounds.wait_ns is None:
        rounds = _timed(rounds, remarks)
    again = int(((np.diff(rounds.session) == 0) & (np.diff(rounds.index) == 0)).sum())
    remarks.notes += [f"{again:,} {AGAIN}"] * bool(again)
    first = np.append(True, np.diff(rounds.session) != 0)[: len(rounds.session)]
    turns = np.diff(np.append(np.flatnonzero(first), len(first)))
    if rounds.wait_ns is None:
        gaps = rounds.sent_ns - np.append(0, rounds.ended_ns[:-1])[: len(first)]
        think_ns = np.where(first, 0, np.maximum(gaps, 0))
    else:
        think_ns = np.where(first, 0, np.append(0, rounds.wait_ns[:-1])[: len(first)])
    prompt = rounds.prefix + rounds.appended
    lineage, owners = _parts(rounds, prompt, turns)
    begin_ns = rounds.sent_ns[first]
    before = np.append(0, (prompt + rounds.output)[:-1])[: len(first)]
    beyond = int((rounds.prefix > np.where(first, 0, before)).sum())
    remarks.notes += [f"{beyond:,} {BEYOND}"] * bool(beyond)
    sessions = Sessions(
        turns=turns,
        input_tokens=prompt,
        output_tokens=rounds.output,
        think_ns=think_ns,
        stream=_streams(rounds.prefix, prompt, first, turns),
        begin_ns=begin_ns,
        offset_ns=rounds.sent_ns - np.repeat(begin_ns, turns),
        lineage=lineage,
        owners=owners,
    )
    return sessions.take(np.argsort(begin_ns, kind="stable"))


def _timed(rounds: _Rounds, remarks: Told) -> _Rounds:
    """Return the rounds, those without a time at that of the round before them.

    Where their session begins with them it is that of its first round with one; sessions without
    any time are left out.
    """
    known = rounds.sent_ns >= 0
    if known.all():
        return rounds
    kept = np.isin(rounds.session, rounds.session[known])
    if not kept.all():
        remarks.drop(TIMELESS, int((~kept).sum()))
        rounds, known = rounds.take(np.flatnonzero(kept)), known[kept]
    remarks.notes.append(f"{int((~known).sum()):,} {UNTIMED}")
    rows = np.arange(len(known))
    before = np.maximum.accumulate(np.where(known, rows, 0))
    behind = np.minimum.accumulate(np.where(known, rows, len(rows) - 1)[::-1])[::-1]
    follows = known[before] & (rounds.session[before] == rounds.session)
    times = np.where(follows, rounds.ended_ns[before], rounds.sent_ns[behind])
    for column in (rounds.sent_ns, rounds.ended_ns):
        column[~known] = times[~known]
    return rounds


def _streams(
    prefix: NDArray[np.int64],
    prompt: NDArray[np.int64],
    first: NDArray[np.bool_],
    turns: NDArray[np.int64],
) -> NDArray[np.int64]:
    """Return a number that changes in a session where a prompt doesn't repeat the one before."""
    cut = ~first & (prefix < np.append(0, prompt[:-1])[: len(first)])
    counted = np.cumsum(cut)
    return counted - np.repeat(counted[first], turns)


def _parts(
    rounds: _Rounds, prompt: NDArray[np.int64], turns: NDArray[np.int64]
) -> tuple[Lineage, int]:
    """Return of whom the parts of each round's context are, and the most owners of a session."""
    room = int(turns.max(initial=0)) + 1
    stack = np.empty(2 * room, np.int64)
    counts = np.empty(len(prompt), np.int64)
    arguments = (
        rounds.prefix.copy(),
        prompt + rounds.output,
        turns,
        len(turns),
        stack,
        room,
        counts,
    )
    _lineage(*arguments, None, None)
    starts, owners = np.empty((2, int(counts.sum())), np.int64)
    most = _lineage(*arguments, starts.ctypes.data, owners.ctypes.data)
    return Lineage(Ragged.from_counts(counts, starts), Ragged.from_counts(counts, owners)), int(
        most
    )


def create(context: SourceContext) -> SessionSource:
    """Return the source: sessions begin when the files say, unless there is a rate or users.

    Raises UsageError without an input, and for recorded times of a CSV; TraceError.
    """
    need_input(context, "FILE.jsonl or FILE.csv")
    remarks = Told()
    in_csv = not _begins_with_brace(context.inputs[0])
    begins = not in_csv or all(
        _ARRIVAL in csvrows.header(path, (*_NUMBERS, _WAIT)) for path in context.inputs
    )
    config = context.config
    if config.users or config.rate or not begins:
        begins = False
        remarks.invented.append("when sessions begin")
    timing = chosen(context, "think", remarks)
    if in_csv and timing == "recorded":
        raise UsageError(
            "the session runner's CSV tells think times only",
            where="--timing", got=timing, accepted="think",
        )  # fmt: skip
    read = _of_csv if in_csv else _of_lines
    return SessionSource(
        context, KEYS, lambda: _pieces(read(context, remarks), remarks),
        block_tokens=None, remarks=remarks, begins=begins, recorded=timing == "recorded",
    )  # fmt: skip


def _pieces(rounds: _Rounds, remarks: Told) -> Iterator[Sessions]:
    sessions = _sessions(rounds, remarks)
    if len(sessions.turns):
        yield sessions


def _begins_with_brace(path: Path) -> bool:
    with open_text(path) as file:
        return file.read(_START).lstrip().startswith("{")
