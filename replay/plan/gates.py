"""Closed loops: which op opens a group of a request, and what that waits for.

A *stream* is a session, or a request without one. Its rows form groups, by (request, step); each
group begins with a gate, an op of the plan's own. A gate opens when the reads and lookups of the
group before have completed and the recorded gap has passed; the group's ops are due then. Of a
capture, a task that was submitted when the group's reads and look-ups had completed begins a group
as well: tasks that the engine had in flight together stay together, others stay apart.
"""

from __future__ import annotations

import numpy as np

from kvtrace.native.structures import Structure, fields

NO_STREAM = -1

STREAM = np.dtype(
    [
        ("request", "u8"),
        ("begin", "i8"),
        ("complete", "i8"),
        ("gate", "i8"),
        ("gating", "i8"),
        ("batch", "i8"),
        ("step", "i4"),
        ("known", "i4"),
    ],
    align=True,
)
"""The current group of a stream: when it began and (if recorded) completed in the trace, the ref of
its gate, the list of the ops that the next gate waits for, and the task of its first row."""


class GroupRows(Structure):
    """What of a slice of rows tells their groups: `struct kv_groups` of plan.h.

    `complete`: as recorded; `batch`: number of its task; negative where unknown. `streams`: of all
    slices.
    """

    ARRAYS, _fields_ = fields(
        stream=np.int32, request=np.uint64, step=np.int32, complete=np.int64, batch=np.int64,
        streams=STREAM,
    )  # fmt: skip
