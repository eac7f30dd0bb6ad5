"""Lateness of submits by cause: predecessors, a queue slot, a burst, or kvtrace itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from replay.measure.histogram import Histogram
from replay.ops.columns import NO_TIME_NS
from replay.ops.contract import Mode
from replay.ops.done import Done

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

KEPT = 1 << 16
"""Ops kept back for others that could have started earlier."""
SUBMIT_NS = 10_000
SUBMIT_BYTES_PER_NS = 25
"""What an ideal submitter needs for one I/O of a burst: the longer of 10 µs and its bytes at
25 GB/s. It keeps ahead of any device, whose queue then is what the burst waits in."""


@dataclass(frozen=True, slots=True)
class Waits:
    """Per op, ns: how its lateness divides; the parts add up to submit − due."""

    dependency_ns: NDArray[np.int64]
    slot_ns: NDArray[np.int64]
    burst_ns: NDArray[np.int64]
    host_ns: NDArray[np.int64]


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


class Division:
    """Divides the lateness of a lane's ops in the order in which they could start.

    They come in another: ops are kept back until `KEPT` more are there, and all until `finish`, so
    that it makes no difference in which batches they come.
    """

    def __init__(self, mode: Mode, *, copies: bool) -> None:
        self._mode = mode
        self._submitter = Submitter() if mode != Mode.MAX else None
        self._copier = Copier() if copies else None
        self._kept = KEPT if mode != Mode.MAX or copies else 0
        self._pending: list[tuple[Done, NDArray[np.bool_]]] = []
        self._count = 0
        self.histograms = tuple(Histogram() for _ in range(4))
        """Of the parts, in the order of `Waits`."""

    def add(self, done: Done, inside: NDArray[np.bool_]) -> Iterator[tuple[Done, Waits]]:
        """Take submitted ops, `inside`: those within the window; yield what is divided now."""
        self._pending.append((done, inside))
        self._count += len(done)
        if self._count > 2 * self._kept:
            yield from self._take(self._count - self._kept)

    def finish(self) -> Iterator[tuple[Done, Waits]]:
        """Yield the rest: no more ops come."""
        yield from self._take(self._count)

    def _take(self, count: int) -> Iterator[tuple[Done, Waits]]:
        """Divide the `count` ops that could start first."""
        if not count:
            return
        done = Done.join([part for part, _ in self._pending])
        inside = np.concatenate([part for _, part in self._pending])
        if count < len(done):
            order = np.argsort(self._start_ns(done), kind="stable")
            first, later = np.sort(order[:count]), np.sort(order[count:])
            self._pending = [(done.select(later), inside[later])]
            done, inside = done.select(first), inside[first]
        else:
            self._pending = []
        self._count -= count
        waits = divide(done, self._mode, self._submitter, self._copier)
        parts = (waits.dependency_ns, waits.slot_ns, waits.burst_ns, waits.host_ns)
        for histogram, part in zip(self.histograms, parts, strict=True):
            histogram.add(part[inside])
        yield done, waits

    def _start_ns(self, done: Done) -> NDArray[np.int64]:
        """Return what orders ops as their slots will: a copier takes them as it copied them."""
        if self._copier is not None:
            return done.submit_ns
        return np.maximum(np.maximum(done.due_ns, done.ready_ns), done.slot_ns)


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
