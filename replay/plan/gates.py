"""Closed loops, compiled: which op opens a group of a request, and what that waits for.

A *stream* is a session, or a request without one. Its rows form groups, by (request, step); each
group begins with a gate, an op of the plan's own. A gate opens when the reads and lookups of the
group before have completed and the recorded gap has passed; the group's ops are due then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from kvtrace.compiled.jit import helper
from kvtrace.trace.schema import Op, Phase
from replay.ops.columns import GATING, NO_CLOCK, NO_TIME_NS
from replay.ops.contract import Action
from replay.ops.lists import (
    EDGES,
    OPS,
    Lists,
    Ring,
    begin_extra,
    cons,
    finish_op,
    joined,
    merge,
    wait,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

_READ, _LOOKUP = int(Op.READ), int(Op.LOOKUP)
_EVICT, _PROMOTE = int(Phase.EVICT), int(Phase.PROMOTE)
_GATE, _GATING, _NO_CLOCK, _NO_TIME = int(Action.GATE), int(GATING), int(NO_CLOCK), int(NO_TIME_NS)
NO_STREAM = -1

STREAM = np.dtype(
    [
        ("request", "u8"),
        ("begin", "i8"),
        ("complete", "i8"),
        ("gate", "i8"),
        ("gating", "i8"),
        ("step", "i4"),
        ("known", "i4"),
    ],
    align=True,
)
"""The current group of a stream: when it began and (if recorded) completed in the trace, the ref of
its gate, and the list of the ops that the next gate waits for."""


class GroupRows(NamedTuple):
    """What of a slice of rows tells their groups; of no use unless the loop is closed."""

    stream: NDArray[np.int32]
    request: NDArray[np.uint64]
    step: NDArray[np.int32]
    complete: NDArray[np.int64]
    """As recorded; negative where it wasn't."""
    streams: NDArray[np.void]


@helper
def gating_of(group: GroupRows, row: int) -> int:
    """Return the list of what the row's next gate would wait for."""
    stream = group.stream[row]
    return int(group.streams[stream].gating) if stream >= 0 else 0


@helper
def _serves(phase: int) -> bool:
    """Whether rows of a phase belong to a request's own steps: they may begin a group, and gate."""
    return phase not in (_EVICT, _PROMOTE)


@helper
def open_group(rows: Any, row: int, thread: int, speed: float, lists: Lists, ring: Ring) -> None:
    """Plan the gate of the group that this row begins, if it begins one."""
    group = rows.group
    stream = group.stream[row]
    if stream < 0:
        return
    item: Any = group.streams[stream]
    newer = group.request[row] != item.request or group.step[row] > item.step
    if item.known > 0 and not (_serves(rows.phase[row]) and newer):
        return
    now = int(rows.timestamp[row])
    before = 0
    if item.known > 0:
        before = max(int(item.complete), int(item.begin))
    gap_ns = int(max(0, now - before) / speed)
    waited = joined(lists, ring, -item.gating, gap_ns, thread)
    first = int(ring.cursor[EDGES])
    begin_extra(ring, _GATE, gap_ns, thread, stream | _GATING)
    wait(lists, ring, waited, first)
    wait(lists, ring, int(item.gate), first)
    finish_op(ring)
    item.gate = ring.cursor[OPS]
    item.gating = 0
    item.request, item.step = group.request[row], group.step[row]
    item.begin, item.complete, item.known = now, -1, 1


@helper
def attach(
    group: GroupRows,
    row: int,
    what: int,
    phase: int,
    lane: int,
    ref: int,
    sync_stores: bool,
    lists: Lists,
    ring: Ring,
) -> None:
    """Put a row's op (the newest one, unfinished) behind its group's gate, and before the next.

    A row that isn't executed has no op (`lane` below 0): what it waits for stands for it.
    """
    stream = group.stream[row]
    number = int(ring.cursor[OPS])
    at = number & ring.mask
    if stream < 0:
        if lane >= 0:
            ring.ops.clock[at] = _NO_CLOCK
        return
    item: Any = group.streams[stream]
    serves = _serves(phase)
    gating = (serves and what in (_READ, _LOOKUP)) or sync_stores
    if gating and group.complete[row] >= 0:
        item.complete = max(item.complete, group.complete[row])
    if lane < 0:
        if gating:
            merged = merge(lists, -item.gating, ref)
            item.gating = cons(lists, merged - 1, 0) if merged > 0 else -merged
        return
    ring.ops.due_ns[at] = _NO_TIME
    ring.ops.clock[at] = stream | (_GATING if gating else 0)
    last = int(ring.cursor[EDGES])
    ring.ops.edges[last & ring.edge_mask] = item.gate - 1
    ring.cursor[EDGES] = last + 1
    if gating:
        item.gating = cons(lists, number, item.gating)
