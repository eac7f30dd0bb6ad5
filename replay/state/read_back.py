"""Reads of a target outside the loop: after populating, and after a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from replay.device.direct import read_block
from replay.ops.contract import LaneKind
from replay.targets.support import folder

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from replay.ops.contract import Lane


def read_back(lane: Lane, key: int, offset: int, length: int) -> NDArray[np.uint8]:
    """Return the bytes at an op's place; what isn't there, or can't be looked at, is missing.

    Offset and length are aligned for the lane. Raises OSError.
    """
    if lane.kind == LaneKind.FILE:
        return read_block(lane.fd, offset, length)
    if lane.kind == LaneKind.DIR:
        return folder.read_object(lane.fd, key, offset, length)
    if lane.pool is not None:
        return lane.pool[offset : offset + length]
    return np.zeros(0, np.uint8)
