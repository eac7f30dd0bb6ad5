"""How late an op was submitted, and why: predecessors, a slot, others due at once, or the tool."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from replay.loop import NO_TIME_NS, Mode

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from replay.done import Done

SUBMIT_NS = 10_000
SUBMIT_BYTES_PER_NS = 25
"""What an ideal submitter needs for one I/O of a burst: the longer of 10 µs and its bytes at
25 GB/s. It keeps ahead of any device, whose queue then is what the burst waits in."""


@dataclass(frozen=True, slots=True)
class Waits:
    """Per op, ns: how its lateness divides."""

    dependency_ns: NDArray[np.int64]
    slot_ns: NDArray[np.int64]
    burst_ns: NDArray[np.int64]
    host_ns: NDArray[np.int64]

    @property
    def total_ns(self) -> NDArray[np.int64]:
        """Submit − due."""
        return self.dependency_ns + self.slot_ns + self.burst_ns + self.host_ns


class Submitter:
    """An ideal submitter per loop thread: takes ops in order of when they could start."""

    def __init__(self) -> None:
        self._free_ns: dict[int, int] = {}

    def reaches(self, done: Done, slot_ns: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return when it would come to each op; ops of later calls start no earlier."""
        ideal = slot_ns.copy()
        each = np.maximum(SUBMIT_NS, done.length_bytes // SUBMIT_BYTES_PER_NS)
        for thread in np.unique(done.thread).tolist():
            rows = np.flatnonzero(done.thread == thread)
            rows = rows[np.argsort(slot_ns[rows], kind="stable")]
            cost = each[rows]
            before = np.cumsum(cost) - cost
            reach = np.maximum.accumulate(slot_ns[rows] - before)
            ideal[rows] = before + np.maximum(reach, self._free_ns.get(thread, 0))
            self._free_ns[thread] = int(ideal[rows[-1]] + cost[-1])
        return ideal


class Copier:
    """The one copier of a memory lane, whose slot is when its last copy was done."""

    def __init__(self) -> None:
        self._free_ns: dict[int, int] = {}

    def free(self, done: Done) -> NDArray[np.int64]:
        """Return when the thread's copy before each op was over."""
        free = np.full(len(done), NO_TIME_NS, np.int64)
        for thread in np.unique(done.thread).tolist():
            rows = np.flatnonzero(done.thread == thread)
            rows = rows[np.argsort(done.submit_ns[rows], kind="stable")]
            before = np.concatenate(
                ([self._free_ns.get(thread, NO_TIME_NS)], done.complete_ns[rows[:-1]])
            )
            free[rows] = np.minimum(before, done.submit_ns[rows])
            self._free_ns[thread] = int(done.complete_ns[rows[-1]])
        return free


def divide(done: Done, mode: Mode, submitter: Submitter | None, copier: Copier | None) -> Waits:
    """Return the parts of lateness of submitted ops; they add up to submit − due.

    With a submitter, waiting for others that are due at the same time is a part of its own.
    """
    ready = np.maximum(done.due_ns, done.ready_ns)
    slot = np.maximum(ready, done.slot_ns)
    if copier is not None:
        slot = np.maximum(slot, copier.free(done))
    submit = np.maximum(slot, done.submit_ns)
    reached = slot
    if submitter is not None and mode != Mode.MAX:
        reached = np.minimum(submitter.reaches(done, slot), submit)
    return Waits(ready - done.due_ns, slot - ready, reached - slot, submit - reached)
