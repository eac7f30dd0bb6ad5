"""A shuffled order without a table."""

from __future__ import annotations

import numpy as np
import pytest

from replay.state.shuffle import Shuffle


def shuffled(count: int, seed: int) -> np.ndarray:
    return Shuffle(count, np.random.default_rng(seed)).at(np.arange(count, dtype=np.uint64))


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 16, 17, 1000, 4096, 4097, 99_991])
def test_every_number_is_there_once(count: int) -> None:
    """It is a permutation, for counts of any kind."""
    assert (np.sort(shuffled(count, 1)) == np.arange(count)).all()


def test_the_seed_gives_the_order() -> None:
    """The same seed the same order, in whatever pieces; another seed another."""
    whole = shuffled(10_000, 1)
    part = Shuffle(10_000, np.random.default_rng(1)).at(np.array([7, 4000], np.uint64))
    assert (part == whole[[7, 4000]]).all()
    assert (shuffled(10_000, 2) != whole).mean() > 0.99


def test_neighbours_are_far_apart() -> None:
    """Steps are as long as in a random order: a third of the range on average."""
    order = shuffled(100_000, 3).astype(np.int64)
    assert np.abs(np.diff(order)).mean() == pytest.approx(100_000 / 3, rel=0.02)
    assert abs(np.corrcoef(order, np.arange(len(order)))[0, 1]) < 0.02


def test_large_counts_take_no_memory() -> None:
    """A petabyte of 4 KiB blocks is as good as a few."""
    count = 1 << 38
    found = Shuffle(count - 5, np.random.default_rng(4)).at(np.arange(1000, dtype=np.uint64))
    assert len(np.unique(found)) == 1000
    assert found.max() < count - 5
