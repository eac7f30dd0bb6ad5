"""Users met in the middle of a conversation, shortened pauses, plays of their own: source weka."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from kvtrace.errors import UsageError
from kvtrace.recording.config import load_config
from kvtrace.requests.lanes import ratio_of
from tests.support.making import make
from tests.support.request_files import read, weka, weka_request, write

if TYPE_CHECKING:
    from pathlib import Path

TEN = [weka_request(10 * at, think_time=4.0, api_time=6.0) for at in range(10)]
"""Starts 0, 10, … 90 s; answered in 6 s, 4 s of thought."""


def columns(folder: Path, requests: list[Any] = TEN, **options: Any) -> dict[str, Any]:
    path = write(folder / "a.json", weka(requests))
    return read("weka", path, **{"users": 1} | options)[0]


def test_a_user_begins_within_the_first_conversation(tmp_path: Path) -> None:
    """At half of the recorded time: request 5 (45 s up); the next conversation from its start."""
    twice = columns(tmp_path, start_ratio=[0.5, 0.5], cycles=2)
    assert len(twice["input_tokens"]) == 5 + 10
    assert twice["output_tokens"] == [7] * 15


def test_warm_up_requests_come_before_at_once_with_one_token(tmp_path: Path) -> None:
    """Of the five before the start the last three; then as recorded."""
    warm = columns(tmp_path, start_ratio=[0.5, 0.5], warmup_requests=3)
    assert warm["output_tokens"] == [1, 1, 1, 7, 7, 7, 7, 7]
    assert [ns / 1e9 for ns in warm["think_ns"]] == [0, 0, 0, 4, 4, 4, 4, 4]
    more = columns(tmp_path, start_ratio=[0.5, 0.5], warmup_requests=30)
    assert len(more["output_tokens"]) == 10


@pytest.mark.parametrize(("limits", "left"), [([0, 0], 10), ([1, 1], 1)])
def test_at_least_the_last_request_is_left(tmp_path: Path, limits: list[float], left: int) -> None:
    """From the start all of them, from the end one."""
    assert len(columns(tmp_path, start_ratio=limits)["input_tokens"]) == left


def test_starts_are_drawn_between_the_limits_by_seed() -> None:
    """Even between them, another one per user and seed."""
    drawn = [ratio_of(user, (0.25, 0.75), 42) for user in range(1000)]
    assert 0.25 <= min(drawn) < 0.26
    assert 0.74 < max(drawn) <= 0.75
    assert sum(drawn) / len(drawn) == pytest.approx(0.5, abs=0.02)
    assert drawn[0] != ratio_of(0, (0.25, 0.75), 43)
    assert drawn[0] == ratio_of(0, (0.25, 0.75), 42)


def test_pauses_between_starts_are_shortened(tmp_path: Path) -> None:
    """60 s between two starts, 6 of them the answer: 10 leave 4 of thought; short ones stay."""
    talk = [
        weka_request(0, api_time=6.0), weka_request(60, think_time=54.0, api_time=6.0),
        weka_request(68, think_time=2.0),
    ]  # fmt: skip
    whole = columns(tmp_path, talk)
    assert [ns / 1e9 for ns in whole["think_ns"]] == [0, 54, 2]
    short = columns(tmp_path, talk, idle_max="10s")
    assert [ns / 1e9 for ns in short["think_ns"]] == [0, 4, 2]
    recorded = columns(tmp_path, talk, idle_max="10s", users=None, rate=1, timing="recorded")
    begin = recorded["arrival_ns"][0]
    assert [(ns - begin) / 1e9 for ns in recorded["arrival_ns"]] == [0, 10, 18]


def test_each_play_has_ids_of_its_own(tmp_path: Path) -> None:
    """Without, a conversation that is played again hits what it left."""
    again = columns(tmp_path, cycles=2)["block_ids"]
    assert again[0] == again[10]
    own = columns(tmp_path, cycles=2, own_plays=True)["block_ids"]
    assert own[0] == own[9]
    assert not set(own[0]) & set(own[10])


def test_global_ids_are_own_too(tmp_path: Path) -> None:
    """A prefix of its own before the first turn changes every block behind it."""
    for name in ("a.json", "b.json"):
        write(tmp_path / name, weka(TEN, hash_id_scope="global"))
    paths = (tmp_path / "a.json", tmp_path / "b.json")
    shared = read("weka", *paths, users=1)[0]["block_ids"]
    assert shared[0] == shared[10]
    own = read("weka", *paths, users=1, own_plays=True)[0]["block_ids"]
    assert not set(own[0]) & set(own[10])


REFUSED = {
    "warm-ups alone": ({"warmup_requests": 3}, "source.warmup_requests: .*with start_ratio"),
    "at a rate": (
        {"start_ratio": [0, 1], "users": None, "rate": 1}, "source.start_ratio: .*with users"
    ),
    "backwards": ({"start_ratio": [0.7, 0.2]}, "start_ratio: range 0.7 to 0.2"),
    "beyond": ({"start_ratio": [0, 1.5]}, "less than or equal to 1"),
    "copies": ({"own_plays": True, "scale_sessions": 2}, "source.own_plays: .*with no copies"),
}  # fmt: skip


@pytest.mark.parametrize(("options", "message"), REFUSED.values(), ids=REFUSED)
def test_keys_that_make_no_sense_are_refused(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    """Each would change nothing, or mean nothing."""
    with pytest.raises(UsageError, match=message):
        columns(tmp_path, **options)


def test_other_sources_refuse_them(tmp_path: Path) -> None:
    """They would have no effect."""
    with pytest.raises(UsageError, match="idle_max"):
        make(tmp_path / "t.parquet", source__idle_max="10s")


def test_the_preset_is_agentx(tmp_path: Path) -> None:
    """The rules' numbers, and a recording of its first requests."""
    config = load_config(None, {}, preset="agentx")
    source = config.source
    assert (source.start_ratio, source.warmup_requests) == ((0.25, 0.75), 10)
    assert (source.idle_max, source.own_plays) == (10 * 10**9, True)
    assert (config.duration, config.seed) == (3600 * 10**9, 42)
    assert config.warmup == str(int(source.users or 0) * source.warmup_requests)
