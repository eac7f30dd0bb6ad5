"""The place of an object: its extents on the target, and its bytes of the arena."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from kvtrace.native.core import function
from kvtrace.native.library import I64, INT, POINTER
from kvtrace.native.structures import records

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kvtrace.placement.ground import Ground

PLACE = np.dtype(
    [
        ("extent", "i8"),
        ("arena", "i8"),
        ("written", "i8"),
        ("length", "i8"),
        ("generation", "i4"),
        ("node", "i4"),
        ("live", "i4"),
    ],
    align=True,
)
"""Per (key, lane): where the object is, and which bytes it holds. `length` is aligned. `node`: its
first extent in a mixed lane."""
_PLACES = records(PLACE)
_take_originals = function(
    "kv_take_originals", _PLACES, INT, POINTER, I64, I64, I64, INT, I64, INT, returns=INT
)
_give_arena = function("kv_give_arena", _PLACES, INT, I64, I64, INT, INT, INT, INT, returns=INT)


def place_originals(
    place: NDArray[np.void],
    ground: Ground,
    index: NDArray[np.int64],
    lane: NDArray[np.int64],
    length: NDArray[np.int64],
    align_bytes: NDArray[np.int64],
) -> None:
    """Give extents to objects that are there before the first row."""
    count, done = len(index), 0
    while True:
        done = _take_originals(
            place, place.shape[1], ground, index, lane, length, count, align_bytes, done
        )
        if done == count:
            return
        ground.enlarge()


def give_arena(
    place: NDArray[np.void],
    index: NDArray[np.int64],
    lane: NDArray[np.int64],
    end: int,
    arena_bytes: int,
    io_bytes: int,
) -> int:
    """Give objects their places in the arena from `end` on, one after the other.

    Return where the last one ends.
    """
    return int(
        _give_arena(place, place.shape[1], index, lane, len(index), end, arena_bytes, io_bytes)
    )
