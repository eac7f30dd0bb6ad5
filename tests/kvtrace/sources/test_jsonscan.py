"""The scanner of JSON lines: it reads what the exact parser reads, and leaves the rest to it."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvtrace.errors import TraceError
from kvtrace.requests.jsonscan import MISSING, Wanted, scan
from kvtrace.requests.lines import Lines
from kvtrace.sources import dynamo, mooncake
from tests.support.request_files import dynamo_line, mooncake_line

if TYPE_CHECKING:
    from collections.abc import Callable

    from kvtrace.requests.rows import FileRows

WANTED = (
    Wanted("kind", "constant", "a"),
    Wanted("n", "number"),
    Wanted("o", "object"),
    Wanted("o.t", "text"),
    Wanted("o.d", "decimal"),
    Wanted("o.ids", "list"),
)
PLAIN = '{"kind": "a", "n": 12, "o": {"t": "x\u00e9", "d": 1.25, "ids": [1, 18446744073709551615]}}'


def test_plain_lines() -> None:
    """Fields are found by their paths; others are skipped, whatever they hold."""
    more = '{"x":[{"n":3},[],{}],"n":7,"y":-1.5,"z":"n","w":null,"v":true,"o":{"n":9,"ids":[5]}}'
    scanned = scan([PLAIN + "\n", more + "\n", "{}"], WANTED)
    assert scanned.is_plain.tolist() == [True] * 3
    assert scanned.numbers["n"].tolist() == [12, 7, MISSING]
    assert scanned.decimals["o.d"].tolist()[0] == 1.25
    assert np.isnan(scanned.decimals["o.d"][1:]).all()
    assert scanned.texts("o.t", np.arange(3)) == ["x\u00e9", None, None]
    assert scanned.has["kind"].tolist() == [True, False, False]
    assert scanned.ids.counts.tolist() == [2, 1, 0]
    assert scanned.ids.values.view(np.uint64).tolist() == [1, (1 << 64) - 1, 5]


ODD = [
    "", "[]", "5", "{", '{"n"', '{"n":', '{"n":1', '{"n":1,}', '{"n":1}}', '{"n":1} {}', '{"n":01}',
    '{"n":-1}', '{"n":1.0}', '{"n":1e3}', '{"n":"1"}', '{"n":true}', '{"n":null}', '{"n":1,"n":1}',
    '{"n":1000000000000000000000}', '{"n":1234567890123456789}', '{"o":[]}', '{"o":{"t":5}}',
    '{"o":{"t":"\\n"}}', '{"o":{"t":"a\tb"}}', '{"o":{"d":-1.5}}', '{"o":{"d":1.}}',
    '{"o":{"d":NaN}}', '{"kind":"b"}', '{"kind":"aa"}',
    '{"o":{"ids":[]}}', '{"o":{"ids":[1,]}}', '{"o":{"ids":[18446744073709551616]}}',
    '{"o":{"ids":[-1]}}', '{"o":{"ids":[1.5]}}', '{"o":{"ids":[1]]}}',
    '{"x":nul}', '{"x":.5}', '{"x":+5}', '{"x":tru}', '{"\\u006e":1}', "{'n':1}",
    '{"x":' + "[" * 40,
    '{"x":1 "n":2}', '{"n" 1}', '{n:1}',
]  # fmt: skip


@pytest.mark.parametrize("line", ODD)
def test_odd_lines(line: str) -> None:
    """What isn't plain is left alone, and changes nothing of the lines around it."""
    scanned = scan([PLAIN + "\n", line + "\n", PLAIN], WANTED)
    assert scanned.is_plain.tolist() == [True, False, True]
    assert scanned.ids.counts.tolist() == [2, 0, 2]
    assert scanned.ids.values.view(np.uint64).tolist() == [1, (1 << 64) - 1] * 2


VALUES = st.one_of(
    st.integers(-2, 1 << 66), st.floats(allow_nan=True), st.text(max_size=3), st.none(),
    st.booleans(), st.lists(st.integers(0, 3), max_size=3), st.just({}),
    st.just({"session_id": "s"}), st.sampled_from([0, 1, 64, 128, 130, 1e9, 5e12]),
)  # fmt: skip
PATHS = (
    (), ("request",), ("request", "replay"), ("agent_context",),
)  # fmt: skip
KEYS = (
    "schema", "event_type", "event_time_unix_ms", "agent_context", "request", "event", "session_id",
    "request_id", "request_received_ms", "output_tokens", "total_time_ms", "replay",
    "trace_block_size", "input_length", "input_sequence_hashes", "other",
)  # fmt: skip


def mutated(number: int, changes: list[tuple[tuple[str, ...], str, Any, bool]]) -> str:
    """Return a line of a request, some of its fields changed, added or left out."""
    session = "s" if number % 2 else None
    record = json.loads(dynamo_line(number, session=session, total_time_ms=number / 3))
    for path, key, value, drop in changes:
        part: Any = record
        for name in path:
            part = part.get(name) if isinstance(part, dict) else None
        if isinstance(part, dict):
            part.pop(key, None) if drop else part.update({key: value})
    return json.dumps(record) + "\n"


CHANGES = st.lists(
    st.tuples(st.sampled_from(PATHS), st.sampled_from(KEYS), VALUES, st.booleans()), max_size=2
)


def outcome(parser: Any, piece: Lines) -> Any:
    """Return what a parser makes of lines, or its error."""
    try:
        made = asdict(parser(piece))
    except TraceError as error:
        return str(error)
    rows = made.pop("rows")
    return made | {
        name: values.tolist() if isinstance(values, np.ndarray) else values
        for name, values in rows.items()
        if name not in ("ids", "session")  # the source numbers sessions itself
    } | {name: rows["ids"][name].tolist() for name in ("begin", "values")}  # fmt: skip


@given(st.lists(CHANGES, min_size=1, max_size=5))
def test_dynamo_is_read_as_by_the_exact_parser(lists: list[Any]) -> None:
    """Scanned or not, lines give the same requests; what is refused is refused."""
    piece = Lines("f", 3, [mutated(number, changes) for number, changes in enumerate(lists)])
    scanned, exact = outcome(dynamo.parse, piece), outcome(dynamo.parse_exactly, piece)
    if isinstance(exact, str):
        assert isinstance(scanned, str)
    else:
        assert scanned == exact


@given(CHANGES)
def test_errors_of_a_line_are_the_same(changes: list[Any]) -> None:
    """Of a single line, errors are those of the exact parser, word for word."""
    piece = Lines("f", 1, [mutated(1, changes)])
    assert outcome(dynamo.parse, piece) == outcome(dynamo.parse_exactly, piece)


MOONCAKE = [
    mooncake_line(), mooncake_line(7, ids=[(1 << 64) - 1, 1 << 63]), mooncake_line(2.5),
    mooncake_line(9, 512, ids=[3]), mooncake_line(9, 1025), mooncake_line(-1),
    mooncake_line(1 << 60),
    mooncake_line(9, 1 << 23), mooncake_line(9, output_length=-1), mooncake_line(9, ids=[1, -1]),
    mooncake_line(9, 0), "{}\n", "[]\n",
]  # fmt: skip


def requests_of(parse: Callable[[Lines, int], FileRows], piece: Lines) -> Any:
    """Return the columns of what is parsed, or the error."""
    try:
        rows = parse(piece, 512)
    except TraceError as error:
        return str(error)
    assert rows.ids is not None
    names = ("time_ns", "input_tokens", "output_tokens", "session", "last_turn")
    columns = [getattr(rows, name).tolist() for name in names]
    return [*columns, rows.ids.counts.tolist(), rows.ids.values.tolist()]


@given(st.lists(st.sampled_from(MOONCAKE), min_size=1, max_size=5))
def test_lines_of_mooncake(lines: list[str]) -> None:
    """Scanned lines are the requests, or raise the error, that the exact parser gives."""
    piece = Lines("x", 3, lines)
    assert requests_of(mooncake.parse, piece) == requests_of(mooncake.parse_exactly, piece)


def test_plain_lines_of_mooncake_are_scanned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines as Mooncake prints them need no parser in Python."""
    monkeypatch.setattr(mooncake, "parse_exactly", None)
    assert mooncake.parse(Lines("x", 1, MOONCAKE[:2])).time_ns.tolist() == [0, 7_000_000]
