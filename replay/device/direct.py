"""Direct reads (O_DIRECT) into a buffer that is aligned for every device."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_ALIGN_BYTES = 4096


def read_block(descriptor: int, offset: int, length: int) -> NDArray[np.uint8]:
    """Return bytes read directly; what lies behind the end is missing. Raises OSError."""
    space = np.empty(length + _ALIGN_BYTES, np.uint8)
    start = -space.ctypes.data % _ALIGN_BYTES
    buffer = space[start : start + length]
    return buffer[: os.preadv(descriptor, [buffer.data], offset)]
