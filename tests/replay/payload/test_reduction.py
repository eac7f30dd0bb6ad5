"""Dedup and compression, measured on bytes whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from replay.payload.reduction import measure_sample

MIB = 1 << 20


def random_bytes(count: int) -> np.ndarray:
    return np.frombuffer(np.random.default_rng(1).bytes(count), np.uint8)


def test_random_bytes_give_nothing() -> None:
    """Unique bytes can't be reduced: every ratio is 1, none is below it."""
    found = measure_sample([random_bytes(4 * MIB)])
    assert found.sampled_bytes == 4 * MIB
    ratios = (found.dedup_4k_ratio, found.dedup_512_ratio, found.zstd1_ratio, found.lz4_ratio)
    assert ratios == (1, 1, 1, 1)


def test_copies_are_found_across_extents() -> None:
    """The same bytes in three extents are a dedup ratio of 3, and don't compress."""
    found = measure_sample([random_bytes(MIB)] * 3)
    assert found.dedup_4k_ratio == found.dedup_512_ratio == 3
    assert found.zstd1_ratio == 1


def test_a_stamp_per_4k_hides_copies_from_large_blocks_only() -> None:
    """Dedup at 512 bytes still finds the 7 of 8 sectors without a stamp."""
    extents = []
    for key in range(3):
        data = random_bytes(MIB).copy()
        data.view("<u8")[::512] = key
        data.view("<u8")[1::512] = np.arange(256)
        extents.append(data)
    found = measure_sample(extents)
    assert found.dedup_4k_ratio == 1
    assert found.dedup_512_ratio == pytest.approx(24 / (3 + 7))


def test_zeros_are_all_gain() -> None:
    """Equal blocks dedup and compress; parts of blocks and no bytes at all are no error."""
    found = measure_sample([np.zeros(MIB, np.uint8), np.zeros(512, np.uint8)])
    assert found.dedup_4k_ratio == 256
    assert found.dedup_512_ratio == 2049
    assert found.zstd1_ratio > 100
    assert measure_sample([]).sampled_bytes == 0
