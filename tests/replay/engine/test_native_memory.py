"""Huge-page memory and the loop's own stamping and checking of a buffer."""

from __future__ import annotations

import numpy as np
import pytest

from replay.engine import native

if native.threads.available() is not None:
    pytest.skip(str(native.threads.available()), allow_module_level=True)

STAMP = native.Stamp(key=2**64 - 1, sector=2**31 - 2, generation=2**17 - 1, run_id=65535)


@pytest.mark.parametrize("size_bytes", [1, 4096, 3 << 20])
def test_allocated_memory(size_bytes: int) -> None:
    """Memory is zeros of the size asked for, on a 2 MiB boundary, writable."""
    memory, kind = native.allocate(size_bytes)
    assert memory.shape == (size_bytes,)
    assert not memory.any()
    assert memory.ctypes.data % (2 << 20) == 0
    assert kind in set(native.PageKind)
    memory[:] = 1


def test_stamp_and_check_agree() -> None:
    """A stamped buffer checks out, its stamps can be read, and the rest of it is untouched."""
    data = np.full(1024, 7, np.uint8)
    native.stamp(data, STAMP)
    assert native.check(data, STAMP) == native.Checked(-1, 0)
    assert native.found(data)[0] == STAMP
    assert (data.reshape(2, 512)[:, 16:] == 7).all()


def test_check_counts_and_finds_the_first() -> None:
    """The check counts all bad sectors and names the first."""
    data = np.zeros(10 * 512, np.uint8)
    native.stamp(data, STAMP)
    data[[4 * 512 + 1, 6 * 512 + 9]] ^= 1
    assert native.check(data, STAMP) == native.Checked(4, 2)


def test_body_wraps_around_the_arena() -> None:
    """Body bytes are compared with the arena at the virtual offset modulo its size."""
    arena = np.random.default_rng(1).integers(0, 256, 4 * 512, dtype=np.uint8)
    data = np.roll(arena, -3 * 512)
    native.stamp(data, STAMP)
    assert native.check(data, STAMP, arena, (4 * 5 + 3) * 512).bad_sectors == 0
    assert native.check(data, STAMP, arena, 0).bad_sectors == 4


def test_part_of_a_sector_is_refused() -> None:
    """Only whole sectors can be stamped or checked."""
    with pytest.raises(TypeError, match="whole 512-byte sectors"):
        native.stamp(np.zeros(513, np.uint8), STAMP)
