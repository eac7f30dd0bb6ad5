"""Recorded arrivals and recorded think times, of sources that have both."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from kvtrace.errors import UsageError
from kvtrace.units import MS_NS, S_NS
from tests.support.making import make
from tests.support.request_files import (
    dynamo_line,
    good,
    litellm_log,
    read,
    weka,
    weka_request,
    write,
)

if TYPE_CHECKING:
    from pathlib import Path

TALK = "".join([
    dynamo_line(1000, session="a", ended=1400),
    dynamo_line(1200, session="b", total_time_ms=300.5),
    dynamo_line(1900, session="a", ended=1950),
    dynamo_line(1920, session="a", ended=1930),
    dynamo_line(2100, session="b"),
])  # fmt: skip


def ms(columns: dict[str, Any], name: str) -> list[float]:
    return [value / MS_NS if value >= 0 else -1 for value in columns[name]]


def test_dynamo(tmp_path: Path) -> None:
    """By default requests come as recorded; with think times after the answer before them."""
    path = write(tmp_path / "a.jsonl", TALK)
    recorded, info = read("dynamo", path)
    assert info["parameters"]["timing"] == "recorded"
    assert ms(recorded, "arrival_ns") == [0, 200, 900, 920, 1100]
    think, info = read("dynamo", path, timing="think")
    assert info["parameters"]["timing"] == "think"
    assert think["session"] == [0, 0, 0, 1, 1]
    assert think["turn"] == [0, 1, 2, 0, 1]
    assert think["follow"] == [1, 1, 0, 1, 0]
    assert ms(think, "arrival_ns") == [0, -1, -1, 200, -1]
    assert ms(think, "think_ns") == [0, 500, 0, 0, 599.5]
    assert info["notes"] == [
        "1 requests came before the answer to the one before them had ended: they follow it"
    ]


def test_speed_and_cycles(tmp_path: Path) -> None:
    """Starts and think times are divided by the speed; a cycle begins after the last start."""
    path = write(tmp_path / "a.jsonl", TALK)
    think = read("dynamo", path, timing="think", speed=2, cycles=2)[0]
    assert ms(think, "arrival_ns")[:4] == [0, -1, -1, 100]
    assert ms(think, "think_ns")[:3] == [0, 250, 0]
    assert ms(think, "arrival_ns")[5:9] == [200, -1, -1, 300]
    assert think["session"] == [0, 0, 0, 1, 1, 2, 2, 2, 3, 3]
    assert think["block_ids"][:5] == think["block_ids"][5:]


def test_copies_begin_later(tmp_path: Path) -> None:
    """Copies of sessions begin up to a minute after them, all in order of their starts."""
    path = write(tmp_path / "a.jsonl", TALK)
    think = read("dynamo", path, timing="think", scale_sessions=3)[0]
    begins = [ns for ns in think["arrival_ns"] if ns >= 0]
    assert len(begins) == 6
    assert begins == sorted(begins)
    assert S_NS < begins[-1] < 61 * S_NS


def test_think_times_need_sessions(tmp_path: Path) -> None:
    """Requests without sessions follow none, and a clock's ticks are of arrivals."""
    with pytest.raises(UsageError, match=r"--timing: the requests name no sessions.*got think"):
        read("dynamo", good(tmp_path, "dynamo"), timing="think")
    talk = write(tmp_path / "b.jsonl", TALK)
    with pytest.raises(UsageError, match=r"source\.dequantise: has no effect on think times"):
        read("dynamo", talk, timing="think", dequantise="1ms")


def test_litellm(tmp_path: Path) -> None:
    """A spend log's endTime is when its answer ended."""
    ids = ["0" * 16]
    logs = [
        litellm_log(1, 10, ids, session_id="a", endTime="2026-11-16T18:00:03Z"),
        litellm_log(2, 10, ids),
        litellm_log(7.5, 10, ids, session_id="a"),
    ]
    path = write(tmp_path / "a.json", json.dumps(logs))
    think = read("litellm", path, timing="think")[0]
    assert ms(think, "arrival_ns") == [0, -1, 1000]
    assert ms(think, "think_ns") == [0, 4500, 0]
    assert read("litellm", path)[1]["parameters"]["timing"] == "recorded"


def talks() -> str:
    """Two conversations: of requests at 0, 20 and 21 s, and at 0 and 0.5 s."""
    first = [weka_request(0.0), weka_request(20.0, think_time=3, api_time=17), weka_request(21.0)]
    second = [weka_request(5.0), weka_request(5.5)]
    return "\n".join([weka(first), weka(second, id="d")])


def test_weka(tmp_path: Path) -> None:
    """By default think times; recorded times count from the conversation's first request."""
    path = write(tmp_path / "a.json", talks())
    think, info = read("weka", path, rate=1, arrival="constant")
    assert info["parameters"]["timing"] == "think"
    assert ms(think, "arrival_ns") == [2500, -1, -1, 5000, -1]
    recorded, info = read("weka", path, rate=1, arrival="constant", timing="recorded")
    assert info["parameters"]["timing"] == "recorded"
    assert info["invented"] == ["when conversations begin"]
    assert ms(recorded, "arrival_ns") == [2500, 5000, 5500, 22_500, 23_500]
    assert recorded["session"] == [0, 1, 1, 0, 0]
    assert recorded["follow"] == [0] * 5
    assert recorded["think_ns"] == [0] * 5
    assert recorded["block_ids"] == [[0, 1], [2, 3], [2, 3], [0, 1], [0, 1]]
    fast = read("weka", path, rate=1, arrival="constant", timing="recorded", speed=2)[0]
    assert ms(fast, "arrival_ns") == [2500, 5000, 5250, 12_500, 13_000]
    turns = read("weka", path, rate=1, arrival="constant", timing="recorded", by_turn=True)[0]
    assert turns["turn_tokens"] == [[130]] * 5


def test_recorded_times_have_no_users(tmp_path: Path) -> None:
    """Users who wait for answers can't keep recorded times."""
    path = write(tmp_path / "a.json", talks())
    with pytest.raises(UsageError, match=r"source\.users: .* accepted: a rate, or --timing think"):
        read("weka", path, users=2, timing="recorded")


@pytest.mark.parametrize("timing", ["recorded", "think"])
def test_it_reaches_the_trace(tmp_path: Path, timing: str) -> None:
    """A trace is recorded under either timing, and its header states it."""
    made = make(
        tmp_path / "t.parquet", source__users=None, duration=None, source__name="dynamo",
        source__input=[str(write(tmp_path / "a.jsonl", TALK))], source__timing=timing,
        block_tokens=64,
    )  # fmt: skip
    assert made.header.statistics["requests"] == 5
    assert made.header.source.parameters["timing"] == timing
