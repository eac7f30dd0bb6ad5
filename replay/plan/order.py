"""Pass 2: rows in, a ring of ops and what each waits for out; the rules are in order.c."""

from __future__ import annotations

import ctypes

import numpy as np

from kvtrace.native.library import INT, POINTER
from kvtrace.native.structures import Structure, fields
from kvtrace.placement.places import PLACE
from replay.native import function

SLOTS_PER_ROW = 6
"""Ops that one row may become at most: itself, a gate, joins."""
ORDER = np.dtype(
    [("exclusive", "i8"), ("reads", "i8"), ("evict_write", "i8"), ("evict_row", "i8")], align=True
)
"""Per (key, tier): ref of the last write or delete; list of the reads since; ref and row of the
last write of phase evict."""
DONE, MORE_ROOM, UNALIGNED, RING_FULL, MORE_BIRTHS, DEAD_READ, MORE_NODES = range(7)
_plan_rows = function("kv_plan_rows", POINTER, returns=ctypes.c_int)
_FLAG = ctypes.c_bool


class Plan(Structure):
    """A plan as compiled code has it: `struct kv_plan` of plan.h.

    What doesn't change, what is known between slices, and the slice at hand.
    """

    ARRAYS, _fields_ = fields(
        ring=POINTER,
        lists=POINTER,
        ground=POINTER,
        lane_of_tier=np.int8,
        align=np.int64,
        threads=np.int64,
        first_thread=np.int64,
        per_object=np.bool_,
        deletes=np.bool_,
        next_thread=np.int64,
        lanes=INT,
        arena_bytes=INT,
        io_bytes=INT,
        speed=ctypes.c_double,
        closed=_FLAG,
        sync_stores=_FLAG,
        fresh=_FLAG,
        generation_mask=ctypes.c_uint32,
        order=ORDER,
        place=PLACE,
        transfer_read=np.int64,
        touched=np.int64,
        arena=INT,
        born_length=np.int64,
        born_count=INT,
        born=INT,
        rows=POINTER,
        key_index=np.int32,
        qos=np.uint8,
        groups=POINTER,
        row=INT,
    )

    def plan_rows(self) -> int:
        """Plan the rows at hand from `row` on; return a status.

        `MORE_ROOM`, `MORE_NODES`, `RING_FULL`, `MORE_BIRTHS`: make room and call again.
        `UNALIGNED`: that row is a partial write that the target can't do; `DEAD_READ`: it reads
        what was deleted.
        """
        return int(_plan_rows(self))
