"""Unique bytes, and stamps that say whose they are."""

from __future__ import annotations

import numpy as np
import pytest

from kvtrace.errors import TargetError, UsageError
from replay.engine import native
from replay.payload import stamps as payload
from replay.payload.memory import allocate
from replay.payload.producer import Stream
from replay.payload.reduction import measure_sample

MIB = 1 << 20


def test_an_arena_depends_on_the_run_id_only() -> None:
    """The same run id gives the same bytes, another one others."""
    one, same, other = (np.zeros(16 * MIB, np.uint8) for _ in range(3))
    payload.fill(one, 5)
    payload.fill(same, 5)
    payload.fill(other, 6)
    assert (one == same).all()
    assert (one[:4096] != other[:4096]).any()


def test_an_arena_has_no_repeated_sector() -> None:
    """No two sectors are equal: nothing to dedup."""
    arena = np.zeros(16 * MIB, np.uint8)
    payload.fill(arena, 1)
    sectors = {bytes(sector) for sector in arena.reshape(-1, payload.SECTOR_BYTES)}
    assert len(sectors) == len(arena) // payload.SECTOR_BYTES


@pytest.mark.slow
@pytest.mark.parametrize(("dedup", "compress"), [(1, 1), (2, 1), (3, 1), (1, 2), (1, 4), (2, 2)])
def test_ratios_are_in_the_bytes(dedup: int, compress: int) -> None:
    """What dgen-py is asked for is what is measured in the arena, within 5 %."""
    arena = np.zeros(dedup * 16 * MIB, np.uint8)
    payload.fill(arena, 3, dedup, compress)
    found = measure_sample([arena])
    assert found.zstd1_ratio == pytest.approx(compress, rel=0.05)
    assert found.lz4_ratio == pytest.approx(compress, rel=0.05)
    # Its runs of zeros are equal blocks, too.
    assert found.dedup_4k_ratio == pytest.approx(dedup * compress, rel=0.05)


@pytest.mark.parametrize("ratio", [1.5, 0, 0.5, -1, 1001, float("nan"), float("inf")])
def test_ratios_that_dgen_would_change_are_refused(ratio: float) -> None:
    """A fraction would be cut off without a word: it is an error that names the option."""
    arena = np.zeros(MIB, np.uint8)
    with pytest.raises(UsageError, match=r"--dedup-ratio.*whole ratio.*accepted: 1"):
        payload.fill(arena, 1, dedup_ratio=ratio)
    with pytest.raises(UsageError, match=r"--compress-ratio.*whole ratio"):
        payload.fill(arena, 1, compress_ratio=ratio)
    assert not arena.any()


def test_a_stream_is_the_same_whatever_the_pieces() -> None:
    """Byte v depends on run id and ratios, not on how it was asked for; epochs differ."""
    whole, parts = np.zeros(24 * MIB, np.uint8), np.zeros(24 * MIB, np.uint8)
    Stream(9, 2).fill(whole.data)
    stream = Stream(9, 2, threads=1)
    for begin in range(0, len(parts), 3 * MIB):
        stream.fill(parts[begin : begin + 3 * MIB].data)
    assert (whole == parts).all()
    assert (whole[: 4 * MIB] == whole[4 * MIB : 8 * MIB]).all()
    assert (whole[8 * MIB : 9 * MIB] != whole[:MIB]).any()


@pytest.mark.skipif(native.threads.available() is not None, reason="no compiled loop here")
def test_stamps_are_those_of_the_compiled_loop() -> None:
    """The Python engine and the compiled ones write the same bytes."""
    ours, theirs = np.zeros(4096, np.uint8), np.zeros(4096, np.uint8)
    key, sector, generation, run_id = 2**64 - 3, 2**31 - 9, 2**17 - 1, 65_535
    payload.sectors(ours)[:] = payload.stamps(key, sector, generation, run_id, 4096)
    native.stamp(theirs, native.Stamp(key, sector, generation, run_id))
    assert (ours == theirs).all()
    found = payload.Stamp.of(ours[512:1024])
    assert found == payload.Stamp(key, sector + 1, generation, run_id)


def test_a_bad_sector_is_described() -> None:
    """Zeros, another object's stamp, a foreign content and a damaged body are told apart."""
    expected = payload.Stamp(5, 0, 1, 7)
    sector = np.zeros(512, np.uint8)
    assert payload.describe(sector, expected) == "only zeros"
    payload.sectors(sector)[:] = payload.stamps(5, 0, 0, 7, 512)
    assert "key 5, sector 0, generation 0, run 7" in payload.describe(sector, expected)
    payload.sectors(sector)[:] = payload.stamps(9, 0, 0, 8, 512)
    assert "key 9, sector 0, generation 0, run 8" in payload.describe(sector, expected)
    payload.sectors(sector)[:] = payload.stamps(5, 0, 1, 7, 512)
    assert "wrong body" in payload.describe(sector, expected)
    sector[:] = 0xAB
    assert "no stamp of this run" in payload.describe(sector, expected)


def test_an_arena_below_one_io_or_above_memory_is_refused() -> None:
    """The message says what is accepted."""
    with pytest.raises(UsageError, match="at least --io-size"):
        payload.arena_size(1 << 20, 1 << 22)
    with pytest.raises(UsageError, match="larger than the free memory"):
        payload.arena_size(1 << 50, 1 << 22)
    assert payload.arena_size(9 << 20, 1 << 22) == 8 << 20


@pytest.mark.parametrize("size_bytes", [1 << 60, 1 << 70])
def test_memory_that_the_system_refuses_is_one_line(size_bytes: int) -> None:
    """Whoever asks for it, a target's pool or an arena."""
    with pytest.raises(TargetError, match="not enough memory"):
        allocate(size_bytes)
