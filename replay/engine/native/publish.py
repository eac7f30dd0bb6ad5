"""Counters that two threads share: stored after everything that was stored before."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from replay.engine.native import library

if TYPE_CHECKING:
    from numpy.typing import NDArray


def publish(counter: NDArray[np.uint64] | NDArray[np.int32], value: int) -> None:
    """Store `value` in the one element of `counter`, after everything that was stored before.

    For `planned` and `drained` (u64) and for `final` (i32) of a `Control`. Without the library only
    Python reads them, whose own lock keeps the order.
    """
    if library.unavailable() is not None:
        counter[0] = value
    elif counter.dtype == np.uint64:
        library.load().kv_publish(counter.ctypes.data, value)
    else:
        assert counter.dtype == np.int32
        library.load().kv_publish_flag(counter.ctypes.data, value)
