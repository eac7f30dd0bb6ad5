"""LiteLLM's spend logs: exact counts of a file made by hand, and what is refused in one."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from kvtrace.errors import UsageError
from kvtrace.sources import litellm, recognised
from kvtrace.units import MS_NS, S_NS
from tests.support.request_files import litellm_log, read, refused, write

if TYPE_CHECKING:
    from pathlib import Path

A, B, C, D = "00000000000000aa", "ffffffffffffffff", "fffffffffffffffe", "0123456789ABCDEF"
LOGS = [
    litellm_log(3.0, 130, [A, B, D], session_id="x"),
    litellm_log(1.5, 64, [A], session_id="y"),
    litellm_log(4.0, 130, [A, B, D], status="failure"),
    litellm_log(4.5, 130, [A, B, D], cache_hit="True"),
    litellm_log(5.0, 130, None),
    litellm_log(6.0, 128, [A, C], session_id="x", text=True),
    litellm_log(7.25, 10, [D]),
]


@pytest.mark.parametrize("lines", [False, True])
def test_counts(tmp_path: Path, lines: bool) -> None:
    """Lists and lines of logs give the requests by arrival; what is none is counted."""
    text = "\n".join(map(json.dumps, LOGS)) if lines else json.dumps(LOGS)
    path = write(tmp_path / "a.json", text)
    columns, info = read("litellm", path)
    assert columns["arrival_ns"] == [0, 1500 * MS_NS, 4500 * MS_NS, 5750 * MS_NS]
    assert columns["input_tokens"] == [64, 130, 128, 10]
    assert columns["output_tokens"] == [7] * 4
    assert columns["session"] == [0, 1, 1, 2]
    assert columns["turn"] == [0, 0, 1, 0]
    assert columns["block_ids"] == [[0], [0, 1, 2], [0, 3], [2]]
    assert info["dropped"] == {
        "no prefix_block_hashes": 1, "failed": 1, "answered from LiteLLM's own cache": 1,
    }  # fmt: skip
    assert info["parameters"]["block_tokens"] == 64
    assert recognised([str(path)]) == "litellm"


def test_dates(tmp_path: Path) -> None:
    """Dates with a zone, a space and without either are the same time."""
    dates = ["2026-11-16T18:00:01Z", "2026-11-16 18:00:02+00:00", "2026-11-16T19:00:03.5+01:00",
             "2026-11-16T18:00:05"]  # fmt: skip
    logs = [litellm_log(0, 10, [A], startTime=date, request_id=date) for date in dates]
    arrivals = read("litellm", write(tmp_path / "a", json.dumps(logs)))[0]["arrival_ns"]
    assert arrivals == [0, S_NS, 2500 * MS_NS, 4 * S_NS]


def test_size_of_ids(tmp_path: Path) -> None:
    """A size that logs don't state is asked for, and then ids must fit the prompt."""
    path = write(tmp_path / "a", json.dumps([litellm_log(0, 130, [A, B, D], bare=True)]))
    with pytest.raises(UsageError, match=r"--source-block-tokens: .* 64 tokens per id would fit"):
        read("litellm", path)
    assert read("litellm", path, block_tokens=64)[0]["block_ids"] == [[0, 1, 2]]
    with pytest.raises(Exception, match=r"entry 1: too many .* got 3; accepted: 2, .*-tokens 64"):
        read("litellm", path, block_tokens=128)
    stated = write(tmp_path / "b", json.dumps([litellm_log(0, 130, [A, B, D])]))
    with pytest.raises(UsageError, match="the logs state another size: got 32; accepted: 64"):
        read("litellm", stated, block_tokens=32)


def test_tokens_counted_twice(tmp_path: Path) -> None:
    """Gateway and engine may count other tokens; blocks are known as far as both go."""
    logs = [litellm_log(0, 200, [A, B, D]), litellm_log(1, 100, [A, B, D])]
    columns, info = read("litellm", write(tmp_path / "a", json.dumps(logs)))
    assert columns["block_ids"] == [[0, 1], [0]]
    assert info["notes"][0].startswith("2 requests have ids of another number of tokens")


def test_words(tmp_path: Path) -> None:
    """Whether a log is an answer of the cache is told by a word in any case, or not at all."""
    words = [None, "", "None", "False", False, "True", True]
    logs = [litellm_log(n, 10, [A], cache_hit=word, status=None) for n, word in enumerate(words)]
    columns, info = read("litellm", write(tmp_path / "a", json.dumps(logs)))
    assert len(columns["session"]) == 5
    assert info["dropped"] == {"answered from LiteLLM's own cache": 2}


def test_pieces_dont_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of entries read at a time changes nothing."""
    path = write(tmp_path / "a.json", json.dumps(LOGS))
    whole = read("litellm", path)[0]
    monkeypatch.setattr(litellm, "ENTRIES_PER_PIECE", 2)
    assert read("litellm", path)[0] == whole


def log(**more: Any) -> str:
    other = litellm_log(0, 130, [A, B, D]) | {"request_id": "c1"} | more
    return json.dumps([litellm_log(0, 130, [A, B, D]), other])


def hashed(*ids: Any) -> str:
    return json.dumps([litellm_log(0, 130, [A, B, D]), litellm_log(0, 130, list(ids))])


BAD = {
    "JSON": (log()[:-3], ": entry 2: not JSON"),
    "number": ("[5]", ": entry 1: not a request"),
    "none": ("[]", ": no requests: accepted: logs with prefix_block_hashes in their metadata"),
    "metadata": (log(metadata=5), ": entry 2: bad metadata: got 5; accepted: a JSON object"),
    "metadata's text": (log(metadata="{"), ": entry 2, metadata: not JSON"),
    "metadata's list": (log(metadata="[1]"), ": entry 2: bad metadata: got [1]"),
    "hashes": (
        log(metadata={"prefix_block_hashes": "abc"}),
        ": entry 2: bad prefix_block_hashes: got 'abc'; accepted: a list of ids, or an object",
    ),
    "two lists": (
        log(metadata={"prefix_block_hashes": {"block_size": 64, "a": [A], "b": [B]}}),
        ": entry 2: bad prefix_block_hashes",
    ),
    "no hash": (hashed(), ": entry 2: bad prefix_block_hashes: got []"),
    "size": (
        log(metadata={"prefix_block_hashes": {"block_size": 0, "a": [A]}}),
        ": entry 2: bad block_size: got 0",
    ),
    "another size": (
        log(metadata={"prefix_block_hashes": {"block_size": 32, "a": [A]}}),
        ": entry 2: another block_size: got 32; accepted: 64",
    ),
    "short": (hashed(A, "abc", D), ": entry 2: bad hash id: got 'abc'; accepted: 16 hexadecimal"),
    "odd digit": (hashed(A, "00000000000000g0"), ": entry 2: bad hash id: got '00000000000000g0'"),
    "space": (hashed(A, "00000000000000 0"), ": entry 2: bad hash id: got '00000000000000 0'"),
    "other lengths": (hashed(A + "00", B[:-2]), f": entry 2: bad hash id: got '{A}00'"),
    "null": (hashed(A, None), ": entry 2: bad hash id: got None"),
    "no text": (hashed(A, 7), ": entry 2: bad hash id: got 7"),
    "time": (log(startTime="noon"), ": entry 2: bad startTime: got 'noon'; accepted: e.g. 2026-"),
    "no time": (log(startTime=None), ": entry 2: bad startTime: got nothing"),
    "end": (log(endTime=""), ": entry 2: bad endTime: got ''; accepted: e.g. 2026-"),
    "old": (log(startTime="1969-01-01T00:00:00Z"), ": entry 2: bad startTime: got '1969-01-01T"),
    "leap": (log(startTime="2027-11-16T18:00:00Z"), ": entry 2: time leaps"),
    "tokens": (log(prompt_tokens=0), ": entry 2: bad prompt_tokens: got 0"),
    "output": (log(completion_tokens=-1), ": entry 2: bad completion_tokens: got -1"),
    "session": (log(session_id=5), ": entry 2: bad session_id: got 5"),
    "far start": (log(startTime="9999-12-31T23:59:59Z"), ": entry 2: bad startTime: got '9999-12"),
    "far end": (log(endTime="2300-01-01T00:00:00Z"), ": entry 2: bad endTime: got '2300-01-01T"),
    "twice": (log(request_id="c0"), ": entry 2: request_id of an earlier log: got 'c0'; accepted"),
    "no id": (log(request_id=None), ": entry 2: bad request_id: got nothing"),
    "another format": (json.dumps([LOGS[0], {"chat_id": 1}]), ": entry 2: bad request_id: got no"),
    "status": (log(status="queued"), ": entry 2: bad status: got 'queued'; accepted: failure, suc"),
    "no status": (log(status=5), ": entry 2: bad status: got 5"),
    "cache": (log(cache_hit="maybe"), ": entry 2: bad cache_hit: got 'maybe'; accepted: false, n"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_content(tmp_path: Path, case: str) -> None:
    """Wrong content is a bad trace, and the error says where and what."""
    content, message = BAD[case]
    assert message in refused("litellm", tmp_path / "bad", content)
