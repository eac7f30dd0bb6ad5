"""The ceiling: hits of a cache that knows the future.

Whenever there is no room, what is asked for latest (or never) isn't kept; a block needn't be stored
at all. Blocks count by themselves, and all are of one size. The blocks of a group (a prompt) are
looked up together before any of them is stored, as the hierarchy does it. Source: Belady, A study
of replacement algorithms for a virtual-storage computer, IBM Systems Journal 5(2), 1966; with the
choice not to store, it is what fills C places with the most intervals between two uses.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from kvtrace.native.core import function
from kvtrace.native.library import BOOL, I64, INT, contiguous

if TYPE_CHECKING:
    from numpy.typing import NDArray

_NEVER = (1 << 62) - 1
_next_uses = function("kv_next_uses", I64, BOOL, I64, INT, I64, I64)
_hits = function("kv_optimal_hits", I64, BOOL, I64, I64, INT, INT, I64, I64, returns=INT)


def optimal_hits(
    key: NDArray[np.int64], asked: NDArray[np.bool_], group: NDArray[np.int64], room: int
) -> int:
    """Return the most hits that a cache of `room` blocks can have. Keys are small numbers.

    A group that asks for one key several times gets as many hits, but counts once in what is kept.
    """
    if room <= 0:
        return 0
    distinct = int(key.max(initial=-1)) + 1
    next_use = np.empty(len(key), np.int64)
    key, group = contiguous(key, np.int64), contiguous(group, np.int64)
    asked = contiguous(asked, np.bool_)
    _next_uses(key, asked, group, len(key), np.full(distinct, _NEVER), next_use)
    held, heap = np.full(distinct, -1, np.int64), np.empty((len(key), 2), np.int64)
    return int(_hits(key, asked, group, next_use, len(key), room, held, heap))
