"""Checks from the times of ops that no I/O began before what must be over where its bytes are.

For lanes whose objects differ in length: bytes of one object were parts of several others before.
Shares no code with the planner's rules.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from kvtrace.compiled.jit import kernel
from kvtrace.trace.schema import Op

if TYPE_CHECKING:
    from numpy.typing import NDArray

_WRITE = int(Op.WRITE)
SEGMENTS = 1 << 12
"""Segments that are remembered; at more, all are forgotten: what is far behind is over."""
BEGIN, END, ALL_DONE, WRITE_DONE = range(4)


class Overlaps:
    """Counts the ops of one lane that were submitted before what they overlap had completed.

    A write waits for all earlier I/O on its bytes, a read for writes.
    """

    def __init__(self) -> None:
        self._segments = np.zeros((SEGMENTS, 4), np.int64)
        self._count = np.zeros(1, np.int64)

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
        columns = (number, begin, length, op, submit_ns, complete_ns)
        return int(_check(*columns, self._segments, self._count))


@kernel
def _check(
    number: NDArray[np.int64],
    begin: NDArray[np.int64],
    length: NDArray[np.int64],
    op: NDArray[np.uint8],
    submit: NDArray[np.int64],
    complete: NDArray[np.int64],
    segments: NDArray[np.int64],
    count: NDArray[np.int64],
) -> int:
    overlaps, last = 0, -1
    for row in range(number.size):
        first, end = begin[row], begin[row] + length[row]
        if count[0] + 2 > segments.shape[0]:
            count[0] = 0
        low, high = 0, int(count[0])
        while low < high:  # the first segment that ends behind the row's begin
            middle = (low + high) // 2
            if segments[middle, END] > first:
                high = middle
            else:
                low = middle + 1
        after = low
        all_done, write_done = 0, 0
        while after < count[0] and segments[after, BEGIN] < end:
            all_done = max(all_done, segments[after, ALL_DONE])
            write_done = max(write_done, segments[after, WRITE_DONE])
            after += 1
        write = op[row] == _WRITE
        if submit[row] < (all_done if write else write_done) and number[row] != last:
            overlaps += 1
            last = number[row]
        all_done = max(all_done, complete[row])
        if write:
            write_done = max(write_done, complete[row])
        _replace(segments, count, low, after, first, end, all_done, write_done)
    return overlaps


@kernel
def _replace(
    segments: NDArray[np.int64],
    count: NDArray[np.int64],
    low: int,
    after: int,
    first: int,
    end: int,
    all_done: int,
    write_done: int,
) -> None:
    """Put one segment where those from `low` to `after` were; what of them is outside stays."""
    left = after > low and segments[low, BEGIN] < first
    right = after > low and segments[after - 1, END] > end
    rest_end, rest_all, rest_write = 0, 0, 0
    if right:
        rest_end = segments[after - 1, END]
        rest_all, rest_write = segments[after - 1, ALL_DONE], segments[after - 1, WRITE_DONE]
    at = low + 1 if left else low
    shift = at + 1 + right - after
    if shift > 0:
        for place in range(count[0] - 1, after - 1, -1):
            for column in range(4):
                segments[place + shift, column] = segments[place, column]
    elif shift < 0:
        for place in range(after, count[0]):
            for column in range(4):
                segments[place + shift, column] = segments[place, column]
    count[0] += shift
    if left:
        segments[low, END] = first
    segments[at, BEGIN], segments[at, END] = first, end
    segments[at, ALL_DONE], segments[at, WRITE_DONE] = all_done, write_done
    if right:
        segments[at + 1, BEGIN], segments[at + 1, END] = end, rest_end
        segments[at + 1, ALL_DONE], segments[at + 1, WRITE_DONE] = rest_all, rest_write
