"""Objects of several extents: where a plan's ops find their bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from replay.ops.columns import DIVIDED

if TYPE_CHECKING:
    from replay.ops.columns import Ops

EXTENT_ROOM = 1 << 21
"""Extents of divided objects that a plan's ring holds."""


def places(ops: Ops, at: int, begin: int, length: int) -> list[tuple[int, int]]:
    """Return (offset, length) of where bytes [begin, begin + length) of the op at an index are.

    Less than that where its extents end before, or one is empty: no plan has such an op.
    """
    offset = int(ops.offset_bytes[at])
    if not offset & DIVIDED:
        return [(offset + begin, length)]
    pieces, pair, first = [], offset ^ DIVIDED, 0
    for _ in range(len(ops.extents) // 2):
        word = 2 * pair & (len(ops.extents) - 1)
        start, size = int(ops.extents[word]), int(ops.extents[word + 1])
        low, high = max(begin, first), min(begin + length, first + size)
        if low < high:
            pieces.append((start + low - first, high - low))
        pair, first = pair + 1, first + size
        if size == 0 or first >= begin + length:
            break
    return pieces
