"""XXH3's 64-bit hash of parts of a byte array, as `xxh3.h` has it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from kvtrace.native.core import function
from kvtrace.native.library import BOOLEAN, I64, INT, U8, U64

if TYPE_CHECKING:
    from numpy.typing import NDArray

_parts = function("kv_xxh3_parts", U8, INT, I64, I64, INT, U64, returns=BOOLEAN)


def hashes_of(
    data: NDArray[np.uint8], begin: NDArray[np.int64], end: NDArray[np.int64]
) -> NDArray[np.uint64]:
    """Return the hash of each part from `begin` up to `end`. Raises IndexError beyond `data`."""
    out = np.empty(len(begin), np.uint64)
    if not _parts(data, len(data), begin, end, len(begin), out):
        raise IndexError("a part isn't within the bytes")
    return out
