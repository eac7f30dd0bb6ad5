"""From the times an engine took to what they mean: per lane, per phase and op."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from kvtrace.schema import Op, Phase, Tier
from kvtrace.units import S_NS
from replay.histogram import Histogram, Summary
from replay.loop import NO_TIME_NS, Action, Mode, Outcome

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from replay.plan import Plan

ON_SCHEDULE_NS = 1_000_000
"""An op submitted within this of its due time is on schedule."""
SUBMIT_NS = 10_000
SUBMIT_BYTES_PER_NS = 25
"""What an ideal submitter needs for one I/O of a burst: the longer of 10 µs and its bytes at
25 GB/s. It keeps ahead of any device, whose queue then is what the burst waits in."""
_BACKLOG_MIN = 32
_DRIFT_MIN = 100


@dataclass(frozen=True, slots=True)
class Lateness:
    """submit − due, and its parts: predecessors, queue slot, others due at once, the tool."""

    total: Summary
    dependency_wait: Summary
    slot_wait: Summary
    burst_wait: Summary
    host: Summary


@dataclass(frozen=True, slots=True)
class Group:
    """Ops of one tier × phase × op. Latencies are of ops that succeeded; None without I/O."""

    tier: Tier
    phase: Phase
    op: Op
    ops: int
    bytes: int
    errors: int
    service: Summary | None
    response: Summary | None


@dataclass(frozen=True, slots=True)
class LaneMeasure:
    """What one tier's target did. `ops`: completed without error; bytes as the trace counts."""

    tier: Tier
    ops: int
    bytes: int
    device_bytes: int
    errors: int
    window_ns: int
    drain_ns: int
    window_bytes: int
    window_ops: int
    service_ns_sum: int
    service: Summary
    response: Summary | None
    lateness: Lateness
    on_schedule_ratio: float | None
    in_flight_max: int
    in_flight_mean: float
    backlog_growing: bool
    drift_ratio: float | None

    @property
    def bytes_per_s(self) -> float | None:
        """Bytes completed in the window ÷ the window; None for a window of no length."""
        return self.window_bytes * S_NS / self.window_ns if self.window_ns else None

    @property
    def ops_per_s(self) -> float | None:
        """Reads and writes completed in the window ÷ the window."""
        return self.window_ops * S_NS / self.window_ns if self.window_ns else None


@dataclass(frozen=True, slots=True)
class Waits:
    """Per op, ns: when it should have started, and how its lateness divides."""

    due_ns: NDArray[np.int64]
    dependency_ns: NDArray[np.int64]
    slot_ns: NDArray[np.int64]
    burst_ns: NDArray[np.int64]
    host_ns: NDArray[np.int64]


def _copier_free_ns(plan: Plan, outcome: Outcome, copiers: tuple[int, ...]) -> NDArray[np.int64]:
    """Return when the lane's previous op was done, for lanes that do one op at a time."""
    times = outcome.times
    free = np.full(len(plan.row), NO_TIME_NS, np.int64)
    for lane in copiers:
        moves = (plan.ops.lane == lane) & (plan.ops.action != Action.NONE)
        rows = np.flatnonzero(moves & (times.submit_ns != NO_TIME_NS))
        rows = rows[np.argsort(times.submit_ns[rows], kind="stable")]
        free[rows[1:]] = np.minimum(times.complete_ns[rows[:-1]], times.submit_ns[rows[1:]])
    return free


def _submittable_ns(plan: Plan, outcome: Outcome, slot: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return when an ideal submitter, one per lane, would come to each op.

    Ops that are due at the same time can't all be submitted at it: it takes them in order.
    """
    ideal = slot.copy()
    ran = (plan.ops.action != Action.NONE) & (outcome.times.submit_ns != NO_TIME_NS)
    length = plan.ops.length_bytes.astype(np.int64)
    each = np.maximum(SUBMIT_NS, length // SUBMIT_BYTES_PER_NS)
    for lane in np.unique(plan.ops.lane[ran]):
        rows = np.flatnonzero(ran & (plan.ops.lane == lane))
        rows = rows[np.argsort(slot[rows], kind="stable")]
        cost = each[rows]
        before = np.cumsum(cost) - cost
        ideal[rows] = before + np.maximum.accumulate(slot[rows] - before)
    return ideal


def waits(plan: Plan, outcome: Outcome, mode: Mode, copiers: tuple[int, ...] = ()) -> Waits:
    """Return the parts of lateness; they add up to submit − due. Times are on the clock.

    In max mode an op is due when its predecessors have completed. `copiers`: lanes that do one op
    at a time (a memory target in the loop's thread); there an op's slot is the copier itself.
    """
    times = outcome.times
    due = times.ready_ns if mode == Mode.MAX else outcome.start_ns + plan.ops.due_ns
    ready = np.maximum(due, times.ready_ns)
    slot = np.maximum(ready, np.maximum(times.slot_ns, _copier_free_ns(plan, outcome, copiers)))
    submit = np.maximum(slot, times.submit_ns)
    reached = slot
    if mode == Mode.OPEN:
        reached = np.minimum(_submittable_ns(plan, outcome, slot), submit)
    return Waits(due, ready - due, slot - ready, reached - slot, submit - reached)


class Recorder:
    """Measures a finished run. Columns are made once and shared by all questions."""

    def __init__(
        self, plan: Plan, outcome: Outcome, mode: Mode, copiers: tuple[int, ...] = ()
    ) -> None:
        self.plan, self.outcome, self.mode = plan, outcome, mode
        times = outcome.times
        self.waits = waits(plan, outcome, mode, copiers)
        self.moves = plan.ops.action != Action.NONE
        self.ran = times.submit_ns != NO_TIME_NS
        self.good = self.ran & (times.complete_ns != NO_TIME_NS) & (times.error == 0)
        self.service_ns = times.complete_ns - times.submit_ns
        self.response_ns = times.complete_ns - self.waits.due_ns

    def _response(self, which: NDArray[np.bool_]) -> Summary | None:
        if self.mode == Mode.MAX:
            return None
        return Histogram.of(self.response_ns[which]).summary()

    def _bytes(self, which: NDArray[np.bool_]) -> int:
        return int(self.plan.size_bytes[which & self.moves].sum(dtype=np.uint64))

    def groups(self) -> tuple[Group, ...]:
        """Return what was done, per tier × phase × op."""
        plan = self.plan
        code = (plan.tier.astype(np.int64) * len(Phase) + plan.phase) * len(Op) + plan.op
        found = []
        for value in np.unique(code).tolist():
            which = code == value
            good = which & self.good
            moves = bool((which & self.moves).any())
            found.append(
                Group(
                    Tier(value // (len(Phase) * len(Op))),
                    Phase(value // len(Op) % len(Phase)),
                    Op(value % len(Op)),
                    int(good.sum()),
                    self._bytes(good),
                    int((which & (self.outcome.times.error != 0)).sum()),
                    Histogram.of(self.service_ns[good]).summary() if moves else None,
                    self._response(good) if moves else None,
                )
            )
        return tuple(found)

    def lane(self, lane: int, tier: Tier) -> LaneMeasure:
        """Return what one lane did."""
        mine = self.plan.ops.lane == lane
        good = mine & self.good
        moved = good & self.moves
        times, start = self.outcome.times, self.outcome.start_ns
        asked = mine & self.ran & self.moves
        if not asked.any():
            asked = mine & self.ran
        end = int(times.submit_ns[asked].max(initial=start))
        last = int(times.complete_ns[mine].max(initial=start))
        inside = moved & (times.complete_ns <= end)
        submitted = mine & self.ran & self.moves
        return LaneMeasure(
            tier=tier,
            ops=int(good.sum()),
            bytes=self._bytes(good),
            device_bytes=int(self.plan.ops.length_bytes[moved].sum(dtype=np.uint64)),
            errors=int((mine & (times.error != 0)).sum()),
            window_ns=end - start,
            drain_ns=max(0, last - end),
            window_bytes=self._bytes(inside),
            window_ops=int(inside.sum()),
            service_ns_sum=int(self.service_ns[moved].sum()),
            service=Histogram.of(self.service_ns[moved]).summary(),
            response=self._response(moved),
            lateness=self._lateness(submitted),
            on_schedule_ratio=self._on_schedule(submitted),
            in_flight_max=self.outcome.counters[lane].in_flight_max,
            in_flight_mean=float(self.service_ns[moved].sum()) / max(1, last - start),
            backlog_growing=self._backlog_growing(submitted & self.good, end),
            drift_ratio=self._drift(moved),
        )

    def _lateness(self, which: NDArray[np.bool_]) -> Lateness:
        found = self.waits
        waited = (found.dependency_ns, found.slot_ns, found.burst_ns, found.host_ns)
        parts = [part[which] for part in waited]
        total = parts[0] + parts[1] + parts[2] + parts[3]
        return Lateness(*(Histogram.of(part).summary() for part in (total, *parts)))

    def _on_schedule(self, which: NDArray[np.bool_]) -> float | None:
        if self.mode == Mode.MAX or not which.any():
            return None
        late = self.outcome.times.submit_ns[which] - self.waits.due_ns[which]
        return float((late <= ON_SCHEDULE_NS).mean())

    def _backlog_growing(self, which: NDArray[np.bool_], end: int) -> bool:
        """Whether more ops wait at the window's end than at three quarters of it."""
        if self.mode == Mode.MAX or not which.any():
            return False
        start = self.outcome.start_ns
        due, complete = self.waits.due_ns[which], self.outcome.times.complete_ns[which]

        def waiting(at: int) -> int:
            return int(((due <= at) & (complete > at)).sum())

        return waiting(end) > 1.1 * waiting(start + (end - start) * 3 // 4) + _BACKLOG_MIN

    def _drift(self, which: NDArray[np.bool_]) -> float | None:
        """How much the median service time of the last quarter differs from the first one's."""
        rows = np.flatnonzero(which)
        if len(rows) < 4 * _DRIFT_MIN:
            return None
        rows = rows[np.argsort(self.outcome.times.submit_ns[rows], kind="stable")]
        quarter = len(rows) // 4
        first = float(np.median(self.service_ns[rows[:quarter]]))
        last = float(np.median(self.service_ns[rows[-quarter:]]))
        return last / first - 1 if first else None
