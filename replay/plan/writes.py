"""Plans of whole objects that are written before the clock starts, and wait for nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from replay.ops.columns import SECTOR_BYTES, Ops
from replay.ops.contract import Action, power_of_two

if TYPE_CHECKING:
    from numpy.typing import NDArray


def writes(
    key: NDArray[np.uint64],
    lane: NDArray[np.uint8],
    offset: NDArray[np.uint64],
    length: NDArray[np.uint64],
    arena: NDArray[np.uint64],
) -> Ops:
    """Return writes of whole objects of generation 0 that wait for nothing."""
    count = len(key)
    ops = Ops.empty(power_of_two(count), 1)
    ops.lane[:count], ops.action[:count] = lane, Action.WRITE
    ops.offset_bytes[:count], ops.length_sectors[:count] = offset, length // SECTOR_BYTES
    ops.key[:count], ops.arena_bytes[:count] = key, arena
    return ops


def fill_ops(
    lane: int, begin_bytes: int, end_bytes: int, io_bytes: int, arena_bytes: int
) -> tuple[Ops, int]:
    """Return the writes that cover [begin, end) of a lane's target once, front to back."""
    offset = np.arange(begin_bytes, end_bytes, io_bytes, dtype=np.uint64)
    length = np.minimum(np.uint64(end_bytes) - offset, np.uint64(io_bytes))
    arena = np.arange(len(offset), dtype=np.uint64) * np.uint64(io_bytes)
    key = np.full(len(offset), np.iinfo(np.uint64).max, np.uint64)
    return writes(key, np.full(len(offset), lane, np.uint8), offset, length, arena), len(offset)
