"""XXH3 as compiled here against the library's."""

from __future__ import annotations

import numpy as np
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from kvtrace.native.xxh3 import hashes_of


def ours(data: bytes, begin: int, end: int) -> int:
    """Return the hash of a part of `data`."""
    parts = (np.array([begin]), np.array([end]))
    return int(hashes_of(np.frombuffer(data, np.uint8), *parts)[0])


def test_hashes_of_every_length_are_the_librarys() -> None:
    """All branches, and the block's end within the long one, give what xxhash gives."""
    data = np.random.default_rng(1).bytes(6000)
    lengths = [*range(530), *range(1000, 1300), 2048, 2049, 5000, 5999]
    hashes = [ours(data, 1, 1 + length) for length in lengths]
    assert hashes == [xxhash.xxh3_64_intdigest(data[1 : 1 + length]) for length in lengths]


@given(st.binary(max_size=400), st.data())
def test_hashes_of_parts(data: bytes, draw: st.DataObject) -> None:
    """What stands before and behind the part doesn't matter."""
    begin = draw.draw(st.integers(0, len(data)))
    end = draw.draw(st.integers(begin, len(data)))
    assert ours(data + b"x", begin, end) == xxhash.xxh3_64_intdigest(data[begin:end])


@pytest.mark.parametrize(("begin", "end"), [(-1, 2), (3, 2), (0, 5)])
def test_a_part_beyond_the_bytes_is_refused(begin: int, end: int) -> None:
    """No byte is read that isn't in the array."""
    with pytest.raises(IndexError):
        ours(b"abcd", begin, end)
