"""Every number below n once, in an order that only a seed determines, without a table."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_ROUNDS = 4
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


class Shuffle:
    """A permutation of 0 … count − 1: `at(i)` is its i-th number. Takes no memory per number.

    A Feistel network permutes the numbers of the next even count of bits; what falls outside is
    permuted again until it is inside. Source: Black and Rogaway, "Ciphers with arbitrary finite
    domains", 2002 (cycle walking).
    """

    def __init__(self, count: int, rng: np.random.Generator) -> None:
        assert 0 < count < 1 << 62
        self._count = np.uint64(count)
        half = max(1, (max(1, (count - 1).bit_length()) + 1) // 2)
        self._half = np.uint64(half)
        self._mask = np.uint64((1 << half) - 1)
        self._keys = rng.integers(0, 1 << 64, _ROUNDS, np.uint64)

    def at(self, index: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """Return the numbers at these places."""
        places = self._permuted(index)
        outside = places >= self._count
        while outside.any():
            places[outside] = self._permuted(places[outside])
            outside = places >= self._count
        return places

    def _permuted(self, value: NDArray[np.uint64]) -> NDArray[np.uint64]:
        left, right = value >> self._half, value & self._mask
        for key in self._keys:
            mixed = (right ^ key) * _MULTIPLIER
            mixed = (mixed ^ mixed >> np.uint64(29)) * _MULTIPLIER
            left, right = right, left ^ (mixed >> np.uint64(32)) & self._mask
        return left << self._half | right
