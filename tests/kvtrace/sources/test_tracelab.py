"""TraceLab's rounds and its runner's CSV: exact counts of files made by hand, and bad ones."""

from __future__ import annotations

import gzip
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvtrace import sources
from kvtrace.errors import UsageError
from kvtrace.hierarchy.blocks import INDEX_BITS, SessionBlocks
from kvtrace.recording.config import load_config
from kvtrace.sources import SourceContext, recognised
from kvtrace.units import MS_NS
from tests.support.request_files import TRACELAB_HEADER as HEADER
from tests.support.request_files import read, refused, tracelab_round, write

if TYPE_CHECKING:
    from pathlib import Path

CSV = HEADER + (
    "a,0,0,100,20,500\na,1,120,40,10,0\nb,0,30,50,5,0\na,2,100,60,10,250.5\na,3,40,10,10,0\n"
)
"""Session a goes on whole, then from 100 and from 40 tokens; b begins with 30 cached ones."""


def ms(values: list[int]) -> list[float]:
    return [value / MS_NS if value >= 0 else -1 for value in values]


def cut(
    path: Path, size: int, *, generated: bool = False, **options: Any
) -> list[list[tuple[int, int]]]:
    """Return owner and index of the blocks of each request of a file."""
    keys = {f"source.{key}": value for key, value in options.items()}
    config = load_config(None, {"source.name": "tracelab"} | keys).source
    context = SourceContext(config, (path,), seed=0, end_ns=1 << 62, by_turn=False, workers=1)
    (batch,) = sources.create(context).batches()
    blocks = SessionBlocks(size, generated=generated).cut(batch).blocks
    idents = [(value >> INDEX_BITS, value % (1 << INDEX_BITS)) for value in blocks.values.tolist()]
    return [idents[first:last] for first, last in zip(blocks.begin, blocks.begin[1:], strict=False)]


def test_counts_of_csv(tmp_path: Path) -> None:
    """Sessions with their think times; prompts are cached and appended tokens together."""
    path = write(tmp_path / "a.csv", CSV)
    columns, info = read("tracelab", path, rate=1, arrival="constant")
    assert columns["session"] == [0, 0, 0, 0, 1]
    assert columns["turn"] == [0, 1, 2, 3, 0]
    assert columns["input_tokens"] == [100, 160, 160, 50, 80]
    assert columns["output_tokens"] == [20, 10, 10, 10, 5]
    assert ms(columns["think_ns"]) == [0, 500, 0, 250.5, 0]
    assert ms(columns["arrival_ns"]) == [2500, -1, -1, -1, 5000]
    assert info["invented"] == ["when sessions begin"]
    assert info["notes"] == [
        "1 rounds have more cached tokens than their session's context: they are taken as its own"
    ]
    assert info["parameters"]["timing"] == "think"
    assert recognised([str(path)]) == "tracelab"


def test_contexts_go_on_from_their_prefix(tmp_path: Path) -> None:
    """A block is the earlier one's as far as the prefix holds all of it, else a new one."""
    first, second, third, fourth, other = cut(write(tmp_path / "a.csv", CSV), 16)
    assert first == [(0, k) for k in range(6)]
    assert second == [(0, k) for k in range(10)]
    assert third == [(0, k) for k in range(6)] + [(1, k) for k in range(6, 10)]
    assert fourth == [(0, 0), (0, 1), (2, 2)]
    assert other == [(3, k) for k in range(5)]


def test_copies_own_their_contexts(tmp_path: Path) -> None:
    """Copies of sessions, and sessions of another cycle, share no block."""
    path = write(tmp_path / "a.csv", CSV)
    copies = [set(blocks) for blocks in cut(path, 16, scale_sessions=2)]
    assert not copies[0] & copies[4]
    assert len(set().union(*copies)) == 2 * (10 + 4 + 1 + 5)


@given(st.lists(st.tuples(st.integers(0, 90), st.integers(1, 60), st.integers(0, 40)), min_size=1,
                max_size=12), st.sampled_from([1, 4, 16]))  # fmt: skip
def test_shared_blocks_are_shared_tokens(
    tmp_path_factory: pytest.TempPathFactory, rounds: list[tuple[int, int, int]], size: int
) -> None:
    """Blocks are equal where all tokens up to their ends are, by a model of tokens."""
    path = tmp_path_factory.mktemp("t") / "a.csv"
    rows = [f"a,{n},{p},{i},{o},0\n" for n, (p, i, o) in enumerate(rounds)]
    blocks = cut(write(path, HEADER + "".join(rows)), size, generated=True)
    context: list[int] = []
    names = iter(range(1 << 30))
    expected: dict[tuple[int, ...], tuple[int, int]] = {}
    for (prefix, appended, output), got in zip(rounds, blocks, strict=True):
        shared = min(prefix, len(context))
        more = prefix + appended + output - shared
        context = context[:shared] + [next(names) for _ in range(more)]
        assert len(got) == len(context) // size
        for k, block in enumerate(got):
            prompt = tuple(context[: (k + 1) * size])
            assert expected.setdefault(prompt, block) == block
    assert len(set(expected.values())) == len(expected)


def test_arrival_times_of_csv(tmp_path: Path) -> None:
    """A CSV with arrival_time says when sessions begin, in whatever order, unless a rate does."""
    text = (
        "id,input_len,output_len,arrival_time,round_idx,tool_wait_after_ms,prefix_len\n"
        "x,10,5,900,0,70,0\nx,10,5,900,1,0,15\ny,20,5,400.5,0,0,0\n"
    )
    path = write(tmp_path / "a.csv", text)
    columns, info = read("tracelab", path)
    assert columns["input_tokens"] == [20, 10, 25]
    assert ms(columns["arrival_ns"]) == [0, 499.5, -1]
    assert ms(columns["think_ns"]) == [0, 0, 70]
    assert info["invented"] == []
    assert ms(read("tracelab", path, rate=2, arrival="constant")[0]["arrival_ns"])[:2] == [
        750,
        1500,
    ]
    assert read("tracelab", path, users=1)[0]["follow"] == [-1, 1, -1]
    with pytest.raises(UsageError, match=r"--timing: the session runner's CSV .* accepted: think"):
        read("tracelab", path, timing="recorded")


ROUNDS = [
    tracelab_round("s", 1, 60, 20, user_message=5.0, tool_call=6.5),
    tracelab_round("s", 0, 0, 50, user_message=1.0, reasoning=2.0, text=3.0, tool_result=4.5),
    tracelab_round("t", 0, 0, 9, tool_result=2.5, text=4.0),
    tracelab_round(None, 0, 0, 9, text=4.0),
    tracelab_round("s", 2, 60, 20),
    tracelab_round("s", 3, 60, 20, user_message=8.0, text=9.0),
    tracelab_round("u", 0, 0, 7),
    tracelab_round("s", 0, 0, 9, provider="codex", text=4.0),
]
ROUND_LINES = "".join(json.dumps(row) + "\n" for row in ROUNDS)


def test_counts_of_rounds(tmp_path: Path) -> None:
    """Rounds are ordered in their sessions; a round is sent with its last input."""
    path = write(tmp_path / "a.jsonl.gz", gzip.compress(ROUND_LINES.encode()))
    columns, info = read("tracelab", path)
    assert columns["input_tokens"] == [50, 80, 80, 80, 9, 9]
    assert columns["session"] == [0, 0, 0, 0, 1, 2]
    assert ms(columns["arrival_ns"]) == [0, -1, -1, -1, 1500, 3000]
    assert ms(columns["think_ns"]) == [0, 2000, 0, 1500, 0, 0]
    assert info["dropped"] == {
        "rounds without session_id": 1, "rounds of sessions without any time": 1,
    }  # fmt: skip
    assert info["notes"] == [
        "prefix_tokens is what the provider's cache served: prompts may share more",
        "1 rounds without a time: they follow the round before them at once",
        "1 rounds have more cached tokens than their session's context: they are taken as its own",
    ]
    assert recognised([str(path)]) == "tracelab"


def test_recorded_times_of_rounds(tmp_path: Path) -> None:
    """Rounds come when they were sent, those of other sessions in between."""
    path = write(tmp_path / "a.jsonl", ROUND_LINES)
    columns, info = read("tracelab", path, timing="recorded")
    assert ms(columns["arrival_ns"]) == [0, 1500, 3000, 4000, 5500, 7000]
    assert columns["session"] == [0, 1, 2, 0, 0, 0]
    assert info["parameters"]["timing"] == "recorded"


def test_reports_behind_answers(tmp_path: Path) -> None:
    """What Codex reports of an answer doesn't end it, unless nothing else does."""
    rows = [
        tracelab_round("s", 0, 0, 50, user_message=1.0, text=2.0, usage_report=6.0),
        tracelab_round("s", 1, 55, 9, user_message=7.0, usage_report=9.0),
        tracelab_round("s", 2, 60, 9, user_message=9.5, text=10.0),
    ]
    path = write(tmp_path / "a.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    assert ms(read("tracelab", path)[0]["think_ns"]) == [0, 5000, 500]


def test_rounds_of_one_index(tmp_path: Path) -> None:
    """Rounds of one index, as of a file given twice, keep the order of the files, and are told."""
    path = write(tmp_path / "a.csv", HEADER + "a,0,0,9,5,0\na,1,14,2,5,0\na,1,14,3,5,0\n")
    columns, info = read("tracelab", path)
    assert columns["input_tokens"] == [9, 16, 17]
    assert info["notes"] == [
        "1 rounds have the index of another one of their session: they follow it"
    ]
    rounds = write(tmp_path / "a.jsonl", ROUND_LINES)
    assert not any("have the index" in note for note in read("tracelab", rounds)[1]["notes"])
    assert any(
        note.startswith("6 rounds have the index")
        for note in read("tracelab", rounds, rounds)[1]["notes"]
    )


def test_empty_sessions(tmp_path: Path) -> None:
    """Rounds whose session_id is empty belong to no session."""
    rows = [tracelab_round(name, 0, 0, 9, text=1.0) for name in ("", None, "s")]
    path = write(tmp_path / "a.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    columns, info = read("tracelab", path)
    assert columns["session"] == [0]
    assert info["dropped"] == {"rounds without session_id": 2}


def test_turns_of_cut_contexts(tmp_path: Path) -> None:
    """Under layout `request` a prompt that doesn't repeat the one before begins a new context."""
    columns = read("tracelab", write(tmp_path / "a.csv", CSV), by_turn=True)[0]
    assert columns["turn_tokens"] == [[100], [100, 60], [160], [50], [80]]


def csv(row: str) -> str:
    return f"{HEADER}a,0,0,100,20,500\n{row}\n"


def rounds(**more: Any) -> str:
    return ROUND_LINES + json.dumps(tracelab_round("s", 0, 0, 50, text=3.0) | more)


BAD = {
    "header": ("session_id,round_idx\n1,2\n", ":1: no column prefix_len"),
    "only a header": (HEADER, ": no requests"),
    "width": (csv("a,1,2"), ":3: not a row of this file"),
    "commas of another row": (
        HEADER + "a,0,0,100,20\na,1,120,40,10,0\nb,0,0,80,9,9,0\n",
        ":2: not a row of this file",
    ),
    "round": (csv("a,x,0,1,1,0"), ":3: bad round_idx: got 'x'"),
    "prefix": (csv("a,1,-1,1,1,0"), ":3: bad prefix_len: got '-1'"),
    "input": (csv("a,1,0,1.5,1,0"), ":3: bad input_len: got '1.5'"),
    "output": (csv("a,1,0,1,,0"), ":3: bad output_len: got nothing"),
    "wait": (csv("a,1,0,1,1,inf"), ":3: bad tool_wait_after_ms: got 'inf'; accepted: millisec"),
    "no prompt": (csv("a,1,0,0,1,0"), ":3: a prompt of no or too many tokens: got 0"),
    "long prompt": (csv("a,1,8000000,8000000,1,0"), ":3: a prompt of no or too many tokens"),
    "no name": (csv(",1,0,1,1,0"), ":3: bad session_id: got nothing; accepted: a name"),
    "deep": ("[" * 70_000, ":1: too long a header: accepted: a header with round_idx,prefix_len,"),
    "JSON": (ROUND_LINES + "{", ":9: not JSON"),
    "another format": (ROUND_LINES + '{"chat_id": 1}', ":9: bad provider: got nothing"),
    "far": (
        rounds(timing_events=[{"event_type": "text", "timestamp": "9999-12-31T23:59:59Z"}]),
        ":9, event 1: bad timestamp: got '9999-12-31",
    ),
    "list": (ROUND_LINES + "[]", ":9: not a request"),
    "provider": (rounds(provider=None), ":9: bad provider: got nothing"),
    "session": (rounds(session_id=7), ":9: bad session_id: got 7"),
    "index": (rounds(round_index=-1), ":9: bad round_index: got -1"),
    "cached": (rounds(prefix_tokens=None), ":9: bad prefix_tokens: got None"),
    "appended": (rounds(newly_append_tokens="9"), ":9: bad newly_append_tokens: got '9'"),
    "answer": (rounds(output_tokens=1.5), ":9: bad output_tokens: got 1.5"),
    "none": (rounds(newly_append_tokens=0), ":9: a prompt of no or too many tokens: got 0"),
    "events": (rounds(timing_events=None), ":9: bad timing_events: got nothing"),
    "event": (rounds(timing_events=[5]), ":9, event 1: not a request"),
    "kind": (
        rounds(timing_events=[{"event_type": "sigh", "timestamp": "2026-06-25T10:00:00Z"}]),
        ":9, event 1: bad event_type: got 'sigh'; accepted: reasoning, text, tool_call, tool_res",
    ),
    "time": (
        rounds(timing_events=[{"event_type": "text", "timestamp": "noon"}]),
        ":9, event 1: bad timestamp: got 'noon'",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_content(tmp_path: Path, case: str) -> None:
    """Wrong content is a bad trace, and the error says where and what."""
    content, message = BAD[case]
    assert message in refused("tracelab", tmp_path / "bad", content)


def test_long_sessions(tmp_path: Path) -> None:
    """A session whose every round goes on from a later token has as many parts as rounds."""
    count = 300
    rows = [f"a,{n},{10 * n},15,5,0\n" for n in range(count)]
    blocks = cut(write(tmp_path / "a.csv", HEADER + "".join(rows)), 5)
    assert [len(each) for each in blocks] == [2 * n + 3 for n in range(count)]
    assert len({block for each in blocks for block in each}) == 3 * count
    assert np.all([owner == k // 2 for owner, k in blocks[-1][:-1]])
