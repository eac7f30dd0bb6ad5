"""XXH3 as compiled here against the library's."""

from __future__ import annotations

import numpy as np
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from kvtrace.compiled.xxh3 import LANES, hash_of


def ours(data: bytes, begin: int, end: int) -> int:
    """Return the hash of a part of `data`."""
    return int(hash_of(np.frombuffer(data, np.uint8), begin, end, np.zeros(LANES, np.uint64)))


def test_hashes_of_every_length_are_the_librarys() -> None:
    """All branches, and the block's end within the long one, give what xxhash gives."""
    data = np.random.default_rng(1).bytes(6000)
    lengths = [*range(530), *range(1000, 1300), 2048, 2049, 5000, 5999]
    found = [ours(data, 1, 1 + length) for length in lengths]
    assert found == [xxhash.xxh3_64_intdigest(data[1 : 1 + length]) for length in lengths]


@given(st.binary(max_size=400), st.data())
def test_hashes_of_parts(data: bytes, draw: st.DataObject) -> None:
    """What stands before and behind the part doesn't matter."""
    begin = draw.draw(st.integers(0, len(data)))
    end = draw.draw(st.integers(begin, len(data)))
    assert ours(data + b"x", begin, end) == xxhash.xxh3_64_intdigest(data[begin:end])
