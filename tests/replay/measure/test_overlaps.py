"""The check of order by place, against a model that looks at every byte."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from kvtrace.trace.schema import Op
from replay.measure import overlaps
from replay.measure.overlaps import Overlaps
from tests.support.examples import examples

if TYPE_CHECKING:
    import pytest

IO = tuple[int, int, Op, int, int]
"""(begin, length, op, submit, complete)"""


def naive(ios: list[IO]) -> int:
    """Return how many begin before what is over their bytes: all I/O for a write, else writes."""
    everything: dict[int, int] = {}
    written: dict[int, int] = {}
    count = 0
    for begin, length, op, submit, complete in ios:
        places = range(begin, begin + length)
        before = everything if op == Op.WRITE else written
        count += any(submit < before.get(place, 0) for place in places)
        for place in places:
            everything[place] = max(everything.get(place, 0), complete)
            if op == Op.WRITE:
                written[place] = max(written.get(place, 0), complete)
    return count


def checked(ios: list[IO]) -> int:
    """Return what the check counts, in two calls."""
    checker, count = Overlaps(), 0
    for first, last in ((0, len(ios) // 2), (len(ios) // 2, len(ios))):
        part = [np.array([io[at] for io in ios[first:last]], np.int64) for at in range(5)]
        begin, length, op, submit, complete = part
        number = np.arange(first, last)
        count += checker.add(number, begin, length, op.astype(np.uint8), submit, complete)
    return count


def extents(seed: int, *, hurry: bool) -> list[IO]:
    """Return I/O on objects that come and go; some of it begins too early if in a `hurry`."""
    rng = np.random.default_rng(seed)
    owners: list[tuple[int, int]] = []
    ios: list[IO] = []
    now = 1
    for _ in range(120):
        begin, length = int(rng.integers(0, 60)), int(rng.integers(1, 20))
        end = begin + length
        owners = [(a, b) for a, b in owners if b <= begin or a >= end]
        owners.append((begin, end))
        now += 10
        early = int(rng.integers(0, 30)) if hurry else 0
        ios.append((begin, length, Op.WRITE, max(1, now - early), now + 5))
        now += 10
        done = now
        for _ in range(int(rng.integers(0, 3))):
            low, high = owners[int(rng.integers(len(owners)))]
            done = max(done, now + int(rng.integers(1, 9)))
            ios.append((low, high - low, Op.READ, now, done))
        now = done
    return ios


@settings(max_examples=examples(60), deadline=None)
@given(seed=st.integers(0, 1 << 30))
def test_what_waits_is_never_blamed(seed: int) -> None:
    """Of objects that share bytes one after the other, in order, nothing is counted."""
    ios = extents(seed, hurry=False)
    assert naive(ios) == 0
    assert checked(ios) == 0


@settings(max_examples=examples(60), deadline=None)
@given(seed=st.integers(0, 1 << 30))
def test_whole_objects_are_blamed_as_byte_by_byte(seed: int) -> None:
    """I/O of whole objects counts if some of its bytes were still in use."""
    ios = [io for io in extents(seed, hurry=True) if io[2] == Op.WRITE]
    assert checked(ios) == naive(ios)


def test_a_write_into_a_part_of_what_is_still_read_is_found() -> None:
    """A part of a freed object is written before a read of the whole has completed."""
    ios: list[IO] = [
        (0, 10, Op.WRITE, 1, 2),
        (0, 10, Op.READ, 3, 20),
        (6, 2, Op.WRITE, 10, 30),
        (2, 2, Op.WRITE, 25, 40),
        (12, 4, Op.WRITE, 5, 6),
    ]
    assert checked(ios) == naive(ios) == 1


def test_one_op_on_several_extents_counts_once() -> None:
    """However many of its extents were in use."""
    checker = Overlaps()
    number = np.array([0, 0, 1, 1])
    begin, length = np.array([0, 50, 0, 50]), np.full(4, 8)
    op = np.full(4, int(Op.WRITE), np.uint8)
    submit, complete = np.array([1, 1, 5, 5]), np.array([9, 9, 20, 20])
    assert checker.add(number, begin, length, op, submit, complete) == 1


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of more segments than are remembered, those long ago are forgotten, not the latest."""
    monkeypatch.setattr(overlaps, "SEGMENTS", 64)
    ios: list[IO] = [(10 * at, 5, Op.WRITE, 10 * at, 10 * at + 8) for at in range(200)]
    assert checked(ios) == 0
    assert checked([*ios, (1990, 5, Op.READ, 1991, 2010)]) == 1
