"""Dynamo's request traces: exact counts of a file made by hand, and what is refused in one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from kvtrace.errors import TraceError
from kvtrace.requests import lines
from kvtrace.sources import recognised
from kvtrace.units import MS_NS
from tests.support.request_files import dynamo_line, read, refused, write

if TYPE_CHECKING:
    from pathlib import Path

HUGE = 1 << 64
START = 1_777_312_800_000
TALK = "".join([
    dynamo_line(START + 700, 64, "b", START + 800, replay__input_sequence_hashes=[HUGE - 1]),
    '{"timestamp": 5, "event": '
    + dynamo_line(START, 128, "a", START + 900, replay__input_sequence_hashes=[7, 8]).strip()
    + "}\n",
    dynamo_line(START + 850, record__event_type="tool_end", record__request=None),
    dynamo_line(START + 950, 200, "a", replay__input_sequence_hashes=[7, 8, 9, 10]),
    dynamo_line(START + 960, record__event_type="request_payload", record__request=None),
])  # fmt: skip
"""Three requests of two sessions, listed in the order in which they ended."""


def test_counts(tmp_path: Path) -> None:
    """Requests come in order of arrival, with sessions, turns and the ids of their prefix."""
    path = write(tmp_path / "a.jsonl", TALK)
    columns, info = read("dynamo", path)
    assert [ns // MS_NS for ns in columns["arrival_ns"]] == [0, 700, 950]
    assert columns["input_tokens"] == [128, 64, 200]
    assert columns["output_tokens"] == [5, 5, 5]
    assert columns["session"] == [0, 1, 0]
    assert columns["turn"] == [0, 0, 1]
    assert columns["block_ids"] == [[0, 1], [2], [0, 1, 3, 4]]
    assert info["parameters"]["block_tokens"] == 64
    assert info["notes"] == [
        "1 records of tool_end aren't requests",
        "1 records of request_payload aren't requests",
    ]
    assert info["listed_ids"] == {"references": 7, "unique": 5}
    assert recognised([str(path)]) == "dynamo"


def test_requests_without_sessions(tmp_path: Path) -> None:
    """Without agent_context each request is one of its own, in order of arrival over all files."""
    late = write(tmp_path / "a.jsonl", dynamo_line(30) + dynamo_line(10))
    early = write(tmp_path / "b.jsonl", dynamo_line(20) + dynamo_line(0))
    columns, _ = read("dynamo", late, early)
    assert [ns // MS_NS for ns in columns["arrival_ns"]] == [0, 10, 20, 30]
    assert columns["session"] == [0, 1, 2, 3]
    assert columns["turn"] == [0, 0, 0, 0]


def test_pieces_dont_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither pieces of lines nor worker processes change what is read."""
    text = "".join(dynamo_line(7 * n % 50, session=f"s{n % 3}") for n in range(50))
    path = write(tmp_path / "a.jsonl", text)
    whole = read("dynamo", path)[0]
    monkeypatch.setattr(lines, "LINES_PER_PIECE", 4)
    assert read("dynamo", path)[0] == whole
    assert read("dynamo", path, workers=2)[0] == whole


BAD = {
    "JSON": (dynamo_line() + "{oops\n", ":2: not JSON"),
    "list": ("[1]\n", ":1: not a request"),
    "schema": (
        dynamo_line(record__schema="dynamo.request.trace.v2"),
        ":1: bad schema: got 'dynamo.request.trace.v2'; accepted: dynamo.request.trace.v1",
    ),
    "no schema": ("{}\n", ":1: bad schema: got None"),
    "envelope": ('{"timestamp": 0, "event": 5}\n', ":1: not a request"),
    "event": (
        dynamo_line(record__event_type="request_start"),
        ":1: bad event_type: got 'request_start'; accepted: request_end, request_payload, tool_end",
    ),
    "event's type": (
        dynamo_line(record__event_type=["request_end"]), ":1: bad event_type: got ['requ",
    ),
    "request": (
        dynamo_line(record__request=None), ":1: bad request: got nothing; accepted: a J",
    ),
    "replay": (dynamo_line(replay=None), ":1: bad replay: got nothing"),
    "replay's type": (dynamo_line(replay=[5]), ":1: bad replay: got [5]"),
    "name": (dynamo_line(request_id=5), ":1: bad request_id: got 5"),
    "time": (dynamo_line(request_received_ms=None), ":1: bad request_received_ms"),
    "negative": (dynamo_line(-1), ":1: bad request_received_ms: got -1"),
    "end": (dynamo_line(ended="x"), ":1: bad event_time_unix_ms: got 'x'"),
    "total": (dynamo_line(total_time_ms=-1), ":1: bad total_time_ms: got -1"),
    "output": (dynamo_line(output_tokens=None), ":1: bad output_tokens: got None"),
    "tokens": (dynamo_line(tokens=0), ":1: bad input_length: got 0"),
    "size": (
        dynamo_line(replay__trace_block_size=0), ":1: bad trace_block_size: got 0",
    ),
    "other size": (
        dynamo_line() + dynamo_line(2, replay__trace_block_size=128,
                                    replay__input_sequence_hashes=[1, 2]),
        ":2: another trace_block_size: got 128; accepted: 64, as before",
    ),
    "few": (
        dynamo_line(tokens=193),
        ":1: too few input_sequence_hashes: got 3; accepted: 4, one per 64 tokens of input_length",
    ),
    "many": (dynamo_line(tokens=64), ":1: too many input_sequence_hashes: got 3"),
    "big hash": (
        dynamo_line(replay__input_sequence_hashes=[1, 2, HUGE]), f":1: bad hash id: got {HUGE}",
    ),
    "context": (
        dynamo_line(record__agent_context=5), ":1: bad agent_context: got 5",
    ),
    "session": (dynamo_line(session=5), ":1: bad session_id: got 5"),
    "some sessions": (
        dynamo_line(session="a") + dynamo_line(1),
        ":2: agent_context of some requests only: got none; accepted: one in every request",
    ),
    "twice": (dynamo_line() * 2, ":2: request_id of an earlier record: got 'r0'"),
    "units": (dynamo_line() + dynamo_line(10**12), ":2: time leaps"),
    "no requests": (
        dynamo_line(record__event_type="tool_end"), ": no requests: accepted: a record of",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_content(tmp_path: Path, case: str) -> None:
    """Wrong content is a bad trace, and the error says where and what."""
    content, message = BAD[case]
    assert message in refused("dynamo", tmp_path / "bad", content)


def test_the_file_of_a_wrong_line_is_named(tmp_path: Path) -> None:
    """Requests sorted over several files keep file and line."""
    first = write(tmp_path / "a.jsonl", dynamo_line(0))
    path = tmp_path / "b.jsonl"
    with pytest.raises(TraceError, match=r"b\.jsonl:2: time leaps"):
        read("dynamo", first, write(path, dynamo_line(1) + dynamo_line(10**12)))
