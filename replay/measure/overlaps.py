"""Checks from the times of ops that no I/O began before what must be over where its bytes are.

For lanes whose objects differ in length: bytes of one object were parts of several others before.
Shares no code with the planner's rules.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from kvtrace.native.library import INT, POINTER
from kvtrace.native.structures import Structure, fields
from replay.native import function

if TYPE_CHECKING:
    from numpy.typing import NDArray

SEGMENTS = 1 << 12
"""Segments that are remembered; at more, all are forgotten: what is far behind is over."""
_SEGMENT = np.dtype(
    [("begin", "i8"), ("end", "i8"), ("all_done", "i8"), ("write_done", "i8")], align=True
)
"""Bytes that have one history: when all I/O on them is over, and all writes."""
_check = function("kv_check_overlaps", POINTER, POINTER, returns=INT)


class _Segments(Structure):
    """Segments in order of address: `struct kv_segments` of overlaps.c."""

    ARRAYS, _fields_ = fields(segments=_SEGMENT, room=INT, count=INT)


class _Moved(Structure):
    """Columns of I/O: `struct kv_moved` of overlaps.c."""

    ARRAYS, _fields_ = fields(
        number=np.int64, begin=np.int64, length=np.int64, op=np.uint8, submit=np.int64,
        complete=np.int64, count=INT,
    )  # fmt: skip


class Overlaps:
    """Counts the ops of one lane that were submitted before what they overlap had completed.

    A write waits for all earlier I/O on its bytes, a read for writes.
    """

    def __init__(self) -> None:
        self._segments = _Segments(segments=np.zeros(SEGMENTS, _SEGMENT), room=SEGMENTS)

    def add(
        self,
        number: NDArray[np.int64],
        begin: NDArray[np.int64],
        length: NDArray[np.int64],
        op: NDArray[np.uint8],
        submit_ns: NDArray[np.int64],
        complete_ns: NDArray[np.int64],
    ) -> int:
        """Return how many ops of these break the rule: one row per extent of an op."""
        moved = _Moved(
            number=number, begin=begin, length=length, op=op, submit=submit_ns,
            complete=complete_ns, count=len(number),
        )  # fmt: skip
        return int(_check(self._segments, moved))
