"""Pass 1, compiled: the lives of objects, row by row."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from kvtrace.compiled.jit import helper, kernel
from kvtrace.placement.keys import find_or_add
from kvtrace.trace.schema import Op

if TYPE_CHECKING:
    from numpy.typing import NDArray

ORIGINAL_BYTES = 1 << 62
"""`written` of an object that was there before the run: all of it."""
_READ, _WRITE, _DELETE, _LOOKUP = (int(op) for op in Op)
UNKNOWN, LIVE, DEAD = range(3)

OBJECT = np.dtype(
    [
        ("length", "i8"),
        ("written", "i8"),
        ("life", "i8"),
        ("slot", "i4"),
        ("state", "u1"),
        ("original", "u1"),
        ("grown", "u1"),
    ],
    align=True,
)
"""One (key, lane). `written`: end of what was written; `original`: holds bytes that this run didn't
write; `life`: index of the life, or −1 − index among the originals; `grown`: longer than noted;
`slot`: a number that no other life has meanwhile."""

ORIGINAL = np.dtype(
    [
        ("key", "u8"),
        ("length", "i8"),
        ("row", "i8"),
        ("ended", "i8"),
        ("lane", "u1"),
        ("initial", "u1"),
        ("resident", "u1"),
        ("touched", "u1"),
        ("deleted", "u1"),
    ],
    align=True,
)
"""An object that is there before the first row: declared `resident`, or `initial`: first touched
(in that row) by a read, or by a delete (`deleted`). `ended`: index in `changes` of its death."""

(
    ORIGINAL_READS,
    BEYOND_READS,
    EXECUTED,
    BAD_ROW,
    KEYS,
    LIVES,
    ORIGINALS,
    GROWN,
    CHANGES,
    SLOTS,
    SPARE_SLOTS,
) = range(11)
NO_CHANGE = -1
"""Among changes: nothing. 2 · slot: a life begins there; 2 · slot + 1: it ends; −2 − index: an
original's does."""
LANE_BITS = 8
"""A length with its lane: length << 8 | lane."""


@helper
def _new_original(
    item: Any, originals: NDArray[np.void], tally: NDArray[np.int64], key: int, lane: int
) -> Any:
    at = tally[ORIGINALS]
    tally[ORIGINALS] = at + 1
    original = originals[at]
    original.key = key
    original.lane = lane
    item.life = -1 - at
    item.state = LIVE
    item.original = 1
    item.written = ORIGINAL_BYTES
    item.length = 0
    return original


@kernel
def add_resident(
    slots: NDArray[np.int32],
    keys: NDArray[np.uint64],
    new_keys: NDArray[np.uint64],
    lane: NDArray[np.int64],
    size: NDArray[np.int64],
    objects: NDArray[np.void],
    originals: NDArray[np.void],
    tally: NDArray[np.int64],
) -> None:
    """Make objects live that are declared to be there at the start."""
    for row in range(new_keys.size):
        index = find_or_add(slots, keys, tally[KEYS], new_keys[row])
        tally[KEYS] = max(tally[KEYS], index + 1)
        item: Any = objects[index, lane[row]]
        if item.state == UNKNOWN:
            original = _new_original(item, originals, tally, new_keys[row], lane[row])
            original.resident = 1
        item.length = max(item.length, size[row])


@helper
def _note_change(changes: NDArray[np.int64], change: int, tally: NDArray[np.int64]) -> None:
    changes[tally[CHANGES]] = change
    tally[CHANGES] += 1


@helper
def _begin_life(
    item: Any, end: int, spare_slots: NDArray[np.int32], tally: NDArray[np.int64]
) -> None:
    if tally[SPARE_SLOTS] > 0:
        tally[SPARE_SLOTS] -= 1
        item.slot = spare_slots[tally[SPARE_SLOTS]]
    else:
        item.slot = tally[SLOTS]
        tally[SLOTS] += 1
    item.state = LIVE
    item.life = tally[LIVES]
    item.length = end
    item.written = 0
    item.original = 0
    item.grown = 0


@helper
def _note_write(item: Any, begin: int, end: int) -> None:
    if begin == 0 and end == item.length:
        item.original = 0
    item.written = max(item.written, end)


@helper
def _end_life(
    item: Any,
    lane: int,
    originals: NDArray[np.void],
    grown: NDArray[np.int64],
    changes: NDArray[np.int64],
    first_change: int,
    spare_slots: NDArray[np.int32],
    tally: NDArray[np.int64],
) -> None:
    item.state = DEAD
    if item.life < 0:
        originals[-1 - item.life].length = item.length
        originals[-1 - item.life].ended = first_change + tally[CHANGES]
        _note_change(changes, item.life - 1, tally)
        return
    if item.grown > 0:
        at = tally[GROWN]
        grown[at, 0], grown[at, 1] = item.life, item.length << LANE_BITS | lane
        tally[GROWN] = at + 1
    spare_slots[tally[SPARE_SLOTS]] = item.slot
    tally[SPARE_SLOTS] += 1
    _note_change(changes, 2 * item.slot + 1, tally)


@kernel
def survey_rows(
    first_row: int,
    op: NDArray[np.uint8],
    size: NDArray[np.uint64],
    tier: NDArray[np.uint8],
    key: NDArray[np.uint64],
    phase: NDArray[np.uint8],
    offset: NDArray[np.uint64],
    lane_of_tier: NDArray[np.int8],
    slots: NDArray[np.int32],
    keys: NDArray[np.uint64],
    objects: NDArray[np.void],
    originals: NDArray[np.void],
    cell_ops: NDArray[np.int64],
    cell_bytes: NDArray[np.int64],
    lives: NDArray[np.int64],
    changes: NDArray[np.int64],
    grown: NDArray[np.int64],
    spare_slots: NDArray[np.int32],
    first_change: int,
    tally: NDArray[np.int64],
) -> None:
    """Take a slice of rows; `lives`, `changes` and `grown` are filled from their start.

    Ends early at a read of a deleted object, with its row in `tally[BAD_ROW]`.
    """
    first_life = tally[LIVES]
    for row in range(op.size):
        what = op[row]
        cell_ops[tier[row], phase[row], what] += 1
        cell_bytes[tier[row], phase[row], what] += int(size[row])
        lane = int(lane_of_tier[tier[row]])
        if lane < 0:
            continue
        tally[EXECUTED] += 1
        if what == _LOOKUP:
            continue
        index = find_or_add(slots, keys, tally[KEYS], key[row])
        tally[KEYS] = max(tally[KEYS], index + 1)
        item: Any = objects[index, lane]
        begin = int(offset[row])
        end = begin + int(size[row])
        if what == _WRITE and item.state != LIVE:
            _begin_life(item, end, spare_slots, tally)
            lives[tally[LIVES] - first_life] = end << LANE_BITS | lane
            tally[LIVES] += 1
            _note_change(changes, 2 * item.slot, tally)
        elif what != _WRITE and item.state == UNKNOWN:
            original: Any = _new_original(item, originals, tally, key[row], lane)
            original.initial = 1
            original.row = first_row + row
            original.deleted = what == _DELETE
        elif item.state == DEAD:
            if what == _READ:
                tally[BAD_ROW] = row
                return
            continue
        if end > item.length:
            item.length = end
            item.grown = 1
        if item.life < 0:
            originals[-1 - item.life].touched = 1
        if what == _WRITE:
            _note_write(item, begin, end)
        elif what == _READ:
            tally[ORIGINAL_READS] += item.original
            tally[BEYOND_READS] += item.written < end
        else:
            _end_life(item, lane, originals, grown, changes, first_change, spare_slots, tally)
