"""Hashes, clocks and guards: what a capture says of keys, times and faults."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from kvtrace.capture import identity, moment
from kvtrace.capture.guard import Guard
from kvtrace.capture.identity import Hasher, Identities, Names
from kvtrace.capture.spool import UNKNOWN

if TYPE_CHECKING:
    import pytest


def test_hashes_are_keyed() -> None:
    """One secret gives equal hashes, another or none others; 63 bits; domains differ."""
    one, same, other, none = Hasher(b"s"), Hasher(b"s"), Hasher(b"t"), Hasher(None)
    assert one(b"k", b"x") == same(b"k", b"x")
    assert len({made(b"k", b"x") for made in (one, other, none, Hasher(None))}) == 4
    assert one(b"k", b"x") != one(b"r", b"x")
    assert all(one(b"k", bytes([n])) < 1 << 63 for n in range(100))
    assert (one.check, one.secret_given) == (same.check, True)
    assert one.check != other.check
    assert none.secret_given is False


def test_identities_are_remembered_and_may_be_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forgetting changes no hash, and bounds the memory."""
    monkeypatch.setattr(identity, "MOST_REMEMBERED", 10)
    known = Identities(Hasher(b"s"), Names())
    first = known.hashes(known.places(range(8)))
    for base in range(0, 5000, 8):
        known.trim()
        assert len(known.places([*range(base, base + 8), base])) == 9
        known.request(base)
    assert known.hashes(known.places(range(8))) == first
    assert known.request(0) == Hasher(b"s")(b"r", b"0")
    assert len(known._places) < 30
    assert len(known._requests) <= 12
    assert known.request(None) == known.table["block"][0] == UNKNOWN


def test_the_table_of_identities_grows() -> None:
    """Thousands of keys have their own places, and places stand for the keys."""
    known = Identities(Hasher(b"s"), Names())
    places = known.places(range(3000))
    assert places == list(range(3000))
    assert known.places(places) is places
    assert known.hashes(places)[2999] == Hasher(b"s")(b"k", b"2999")


def test_an_anchor_joins_both_clocks() -> None:
    """A date is put on the monotonic clock within the anchor's width and a float's precision."""
    anchor = moment.anchor()
    before, wall, after = moment.monotonic_ns(), time.time(), moment.monotonic_ns()
    assert before - 100_000 - anchor.width_ns <= anchor.monotonic(wall) <= after + 100_000
    assert 0 <= anchor.width_ns < 10**9
    assert anchor.document()["mono_ns"] == anchor.mono_ns
    assert moment.boot_id() == moment.boot_id()


def test_a_guard_counts_and_never_raises(capsys: pytest.CaptureFixture[str]) -> None:
    """Results pass, faults are counted exactly over threads and told once without their text."""
    guard = Guard()

    def faulty(secret: str) -> None:
        raise ValueError(secret)

    assert guard(max, 1, 2) == 2
    threads = [
        threading.Thread(target=lambda: [guard(faulty, "prompt") for _ in range(500)])
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert guard.hook(faulty)("prompt") is None
    assert guard.hook(faulty).__name__ == "faulty"
    assert guard.errors == {"faulty": 2001}
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "faulty" in told
    assert "ValueError at test_identity.py:" in told
    assert "prompt" not in told


def test_a_closed_stderr_is_no_trouble(monkeypatch: pytest.MonkeyPatch) -> None:
    """A service without stderr is served as well."""
    monkeypatch.setattr("sys.stderr", None)
    guard = Guard()
    guard.tell("disk", "trouble")
    guard.count("hook", ValueError("x"))
    assert guard.errors == {"hook": 1}
