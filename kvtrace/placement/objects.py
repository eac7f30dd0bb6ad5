"""Pass 1: the lives of objects, row by row."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from kvtrace.native.core import function
from kvtrace.native.library import I8, I64, INT, POINTER, U64
from kvtrace.native.structures import Structure, fields
from kvtrace.placement.rows import rows_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kvtrace.placement.rows import Batch

_residents = function("kv_survey_residents", POINTER, U64, I64, I64, INT)
_rows = function("kv_survey_rows", POINTER, POINTER, I8)
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

NO_CHANGE = -1
"""Among changes: nothing. 2 · slot: a life begins there; 2 · slot + 1: it ends; −2 − index: an
original's does."""
LANE_BITS = 8
"""A length with its lane: length << 8 | lane."""


class Tally(Structure):
    """What of a survey is in compiled code's hands: `struct kv_survey` of objects.c."""

    ARRAYS, _fields_ = fields(
        entries=np.uint64,
        mask=INT,
        keys=np.uint64,
        key_count=INT,
        objects=OBJECT,
        lanes=INT,
        originals=ORIGINAL,
        cell_ops=np.int64,
        cell_bytes=np.int64,
        lives=np.int64,
        changes=np.int64,
        grown=np.int64,
        spare_slots=np.int32,
        first_change=INT,
        change_count=INT,
        grown_count=INT,
        life_count=INT,
        original_count=INT,
        slot_count=INT,
        spare_count=INT,
        executed=INT,
        original_reads=INT,
        beyond_reads=INT,
        bad_row=INT,
    )

    def add_resident(
        self, keys: NDArray[np.uint64], lane: NDArray[np.int64], size: NDArray[np.int64]
    ) -> None:
        """Make objects live that are declared to be there at the start."""
        _residents(self, keys, lane, size, len(keys))

    def add(self, batch: Batch, lane_of_tier: NDArray[np.int8]) -> None:
        """Take a slice of rows; `lives`, `changes` and `grown` are filled from their start.

        Ends early at a read of a deleted object, with its row in `bad_row`.
        """
        _rows(self, rows_of(batch), lane_of_tier)
