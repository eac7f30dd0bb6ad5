"""Checks from the times of a finished run that order was kept. Shares no code with the planner."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from kvtrace.jit import compiled
from kvtrace.schema import Op, Phase, Tier
from replay.loop import NO_TIME_NS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from replay.loop import Outcome
    from replay.plan import Plan

_READ, _WRITE, _DELETE, _LOOKUP = (int(op) for op in Op)
_EVICT, _PROMOTE = int(Phase.EVICT), int(Phase.PROMOTE)
_TIERS = len(Tier)


def count_violations(plan: Plan, outcome: Outcome) -> int:
    """Return how often an op was submitted before something it had to wait for had completed.

    An op that breaks several rules counts once for each. Ops that weren't executed don't count.
    """
    ran = np.flatnonzero((plan.op != _LOOKUP) & (outcome.times.submit_ns != NO_TIME_NS))
    by_key = ran[np.argsort(plan.ops.key[ran], kind="stable")]
    moved = ran[plan.ops.length_bytes[ran] > 0]
    place = plan.ops.offset_bytes | plan.ops.lane.astype(np.uint64) << np.uint64(56)
    by_place = moved[np.argsort(place[moved], kind="stable")]
    submit, complete = outcome.times.submit_ns, outcome.times.complete_ns
    return int(
        _count_by_key(by_key, plan.ops.key, plan.tier, plan.op, plan.phase, submit, complete)
        + _count_by_place(by_place, place, plan.op, submit, complete)
    )


@compiled
def _count_by_key(
    rows: NDArray[np.int64],
    key: NDArray[np.uint64],
    tier: NDArray[np.uint8],
    op: NDArray[np.uint8],
    phase: NDArray[np.uint8],
    submit: NDArray[np.int64],
    complete: NDArray[np.int64],
) -> int:
    """Count what breaks a rule between the ops of one key: on a tier, and across tiers."""
    found = 0
    all_done = np.zeros(_TIERS, np.int64)  # when all so far, and all writes and deletes, are done
    alone_done = np.zeros(_TIERS, np.int64)
    evict_row = np.zeros(_TIERS, np.int64)  # the last evict write of each tier, and when it is
    evict_done = np.zeros(_TIERS, np.int64)
    transfer_done = 0
    for at in range(rows.size):
        row = rows[at]
        if at == 0 or key[row] != key[rows[at - 1]]:
            all_done[:] = 0
            alone_done[:] = 0
            evict_row[:] = -1
            transfer_done = 0
        where, what = tier[row], op[row]
        needed = alone_done[where] if what == _READ else all_done[where]
        found += submit[row] < needed
        if what == _WRITE:
            found += submit[row] < transfer_done
            if phase[row] == _EVICT:
                evict_row[where] = row
                evict_done[where] = complete[row]
        elif what == _DELETE:
            below = where + 1 + np.argmax(evict_row[where + 1 :]) if where + 1 < _TIERS else where
            if below != where and evict_row[below] >= 0:
                found += submit[row] < evict_done[below]
        elif phase[row] in (_EVICT, _PROMOTE):
            transfer_done = complete[row]
        all_done[where] = max(all_done[where], complete[row])
        if what != _READ:
            alone_done[where] = max(alone_done[where], complete[row])
    return found


@compiled
def _count_by_place(
    rows: NDArray[np.int64],
    place: NDArray[np.uint64],
    op: NDArray[np.uint8],
    submit: NDArray[np.int64],
    complete: NDArray[np.int64],
) -> int:
    """Count I/O that begins before what must be over at its place: all for a write."""
    found, all_done, write_done = 0, 0, 0
    for at in range(rows.size):
        row = rows[at]
        if at == 0 or place[row] != place[rows[at - 1]]:
            all_done, write_done = 0, 0
        if op[row] == _WRITE:
            found += submit[row] < all_done
            write_done = max(write_done, complete[row])
        else:
            found += submit[row] < write_done
        all_done = max(all_done, complete[row])
    return found
