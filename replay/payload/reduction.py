"""Measured reduction of given bytes by deduplication and compression."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow
import xxhash
import zstandard

from kvtrace.units import KIB

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import numpy as np
    from numpy.typing import NDArray

PIECE_BYTES = 64 * KIB
"""Compressed at a time, as storage does that has to read it back in parts."""


@dataclass(frozen=True, slots=True)
class Reduction:
    """Bytes ÷ what is left of them: 1.0 is nothing gained. `lz4_ratio` is None without an lz4."""

    sampled_bytes: int
    dedup_4k_ratio: float
    dedup_512_ratio: float
    zstd1_ratio: float
    lz4_ratio: float | None


class Measure:
    """Takes bytes piece by piece; `result` is what all of them together give."""

    def __init__(self) -> None:
        self._blocks: dict[int, set[bytes]] = {4096: set(), 512: set()}
        self._counts = {4096: 0, 512: 0}
        self._bytes = 0
        zstd = zstandard.ZstdCompressor(level=1)
        self._codecs: dict[str, Callable[[memoryview], int]] = {
            "zstd": lambda piece: len(zstd.compress(piece))
        }
        if pyarrow.Codec.is_available("lz4_raw"):
            lz4 = pyarrow.Codec("lz4_raw")
            self._codecs["lz4"] = lambda piece: lz4.compress(piece).size
        self._left = dict.fromkeys(self._codecs, 0)

    def add(self, data: NDArray[np.uint8]) -> None:
        """Take the bytes of one extent: whole sectors; a last part of 4 KiB isn't a 4 KiB block."""
        view = data.data
        self._bytes += len(view)
        for size, seen in self._blocks.items():
            whole = len(view) // size * size
            self._counts[size] += whole // size
            seen.update(
                xxhash.xxh3_128_digest(view[begin : begin + size])
                for begin in range(0, whole, size)
            )
        for begin in range(0, len(view), PIECE_BYTES):
            piece = view[begin : begin + PIECE_BYTES]
            for name, compressed in self._codecs.items():
                # What doesn't get smaller is stored as it is.
                self._left[name] += min(len(piece), compressed(piece))

    def _dedup(self, size: int) -> float:
        return self._counts[size] / max(1, len(self._blocks[size]))

    def _compression(self, name: str) -> float | None:
        left = self._left.get(name)
        return None if left is None else self._bytes / max(1, left)

    def result(self) -> Reduction:
        """Return the ratios of everything that was added."""
        zstd = self._compression("zstd")
        assert zstd is not None
        return Reduction(
            self._bytes, self._dedup(4096), self._dedup(512), zstd, self._compression("lz4")
        )


def measure_sample(extents: Iterable[NDArray[np.uint8]]) -> Reduction:
    """Return what really is in the given extents.

    Copies are found among the given bytes only: for a dedup ratio to show, they must be whole runs
    of what was written one after the other, each several times ratio · 4 MiB (`producer.Stream`).
    """
    measure = Measure()
    for extent in extents:
        measure.add(extent)
    return measure.result()
