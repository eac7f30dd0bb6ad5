"""The ceiling: hits of a cache that knows the future.

Whenever there is no room, what is asked for latest (or never) isn't kept; a block needn't be stored
at all. Blocks count by themselves, and all are of one size. The blocks of a group (a prompt) are
looked up together before any of them is stored, as the hierarchy does it. Source: Belady, A study
of replacement algorithms for a virtual-storage computer, IBM Systems Journal 5(2), 1966; with the
choice not to store, it is what fills C places with the most intervals between two uses.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from kvtrace.compiled.jit import kernel

if TYPE_CHECKING:
    from numpy.typing import NDArray

_NEVER = (1 << 62) - 1
_NEXT, _KEY = range(2)


@kernel
def _next_uses(key: Any, asked: Any, group: Any, following: Any, out: Any) -> None:
    """Set `out` to the later group that asks for each key next.

    _NEVER if none does, or if one stores it anew before that.
    """
    end = key.shape[0]
    while end > 0:
        begin = end - 1
        while begin > 0 and group[begin - 1] == group[end - 1]:
            begin -= 1
        for i in range(begin, end):
            out[i] = following[key[i]]
        for i in range(begin, end):
            following[key[i]] = _NEVER  # stored anew anyway, unless it is also requested
        for i in range(begin, end):
            if asked[i]:
                following[key[i]] = group[i]
        end = begin


@kernel
def _push(heap: Any, size: int, next_use: int, key: int) -> None:
    at = size
    while at > 0 and heap[(at - 1) >> 1, _NEXT] < next_use:
        parent = (at - 1) >> 1
        heap[at, _NEXT], heap[at, _KEY] = heap[parent, _NEXT], heap[parent, _KEY]
        at = parent
    heap[at, _NEXT], heap[at, _KEY] = next_use, key


@kernel
def _pop(heap: Any, size: int) -> None:
    """Take out the latest of `size` entries."""
    last = size - 1
    next_use, key = heap[last, _NEXT], heap[last, _KEY]
    at = 0
    while True:
        child = 2 * at + 1
        if child + 1 < last and heap[child + 1, _NEXT] > heap[child, _NEXT]:
            child += 1
        if child >= last or heap[child, _NEXT] <= next_use:
            break
        heap[at, _NEXT], heap[at, _KEY] = heap[child, _NEXT], heap[child, _KEY]
        at = child
    heap[at, _NEXT], heap[at, _KEY] = next_use, key


@kernel
def _hits(key: Any, asked: Any, group: Any, next_use: Any, room: int, held: Any, heap: Any) -> int:
    """Return the hits. `held`: next use of each key that is kept, -1 of others."""
    hits = kept = size = begin = 0
    while begin < key.shape[0]:
        end = begin
        while end < key.shape[0] and group[end] == group[begin]:
            hits += asked[end] and held[key[end]] >= 0
            end += 1
        for i in range(begin, end):
            before, after = held[key[i]], next_use[i]
            if after == _NEVER:
                kept -= before >= 0
                held[key[i]] = -1
            elif before != after:
                kept += before < 0
                held[key[i]] = after
                _push(heap, size, after, key[i])
                size += 1
        while kept > room:
            latest, other = heap[0, _NEXT], heap[0, _KEY]
            _pop(heap, size)
            size -= 1
            if held[other] == latest:
                held[other] = -1
                kept -= 1
        begin = end
    return hits


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
    _next_uses(key, asked, group, np.full(distinct, _NEVER), next_use)
    held, heap = np.full(distinct, -1, np.int64), np.empty((len(key) + 1, 2), np.int64)
    return int(_hits(key, asked, group, next_use, room, held, heap))
