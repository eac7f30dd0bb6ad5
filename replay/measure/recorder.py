"""From times to what they mean, while a run goes on: per lane, per phase, op and QoS."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from kvtrace.trace.cell import URGENCY_BITS, URGENCY_MASK, tier_of, unpack
from kvtrace.trace.schema import Phase, Qos, Tier
from kvtrace.units import S_NS
from replay.measure.figures import (
    Flight,
    GroupDocument,
    InFlight,
    LaneDocument,
    LatenessSummary,
)
from replay.measure.gaps import Gaps
from replay.measure.groups import NO_SIZE, Cells, Key, Latencies
from replay.measure.histogram import Histogram
from replay.measure.in_flight import FlightCounter
from replay.measure.lateness import Division
from replay.measure.slices import Slices
from replay.measure.window import Window
from replay.ops.columns import NO_TIME_NS
from replay.ops.contract import Mode

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from concurrent.futures import Executor

    from numpy.typing import NDArray

    from replay.measure.lateness import Waits
    from replay.ops.counters import LaneCounters
    from replay.ops.done import Done

ON_SCHEDULE_NS = 1_000_000
"""An op submitted within this of its due time is on schedule."""
PARTS = ("dependency_wait_ns", "slot_wait_ns", "burst_wait_ns", "host_lateness_ns")
"""Of lateness, as `Division` counts them."""
_BACKLOG_MIN = 32
_DRIFT_MIN = 100


@dataclass(frozen=True, slots=True)
class Groups:
    """Ops per tier × phase × op; where known also per QoS; of moves also per size class."""

    whole: list[GroupDocument]
    by_qos: list[GroupDocument]
    by_size: list[GroupDocument]


class _Lane:
    """Measures one tier's lane."""

    def __init__(
        self, start_ns: int, warmup_ns: int, mode: Mode, division: Division | None
    ) -> None:
        self.start_ns, self.mode, self.division = start_ns, mode, division
        self.window = Window(start_ns + warmup_ns)
        self.in_flight = FlightCounter(start_ns)
        self.late = Histogram()
        self.slices = Slices()
        self.device_bytes = self.service_ns_sum = 0
        self.on_schedule = self.submitted = self.warmup_ops = self.warmup_errors = 0
        self.asked_end_ns = self.due_end_ns = 0

    def add(self, done: Done, measured: NDArray[np.bool_]) -> None:
        """Take finished ops; `measured`: those within the window."""
        self.warmup_errors += int((done.error[~measured] != 0).sum())
        self.warmup_ops += int((~measured).sum())
        asked = done.ran & done.moves
        moves, inside = done.select(asked), measured[asked]
        if done.ran.any():
            self.asked_end_ns = max(self.asked_end_ns, int(done.submit_ns[done.ran].max()))
        if len(moves):
            self.due_end_ns = max(self.due_end_ns, int(moves.due_ns.max()))
        late_ns = np.maximum(moves.submit_ns - moves.due_ns, 0)[inside]
        self.late.add(late_ns)
        self.submitted += len(late_ns)
        self.on_schedule += int((late_ns <= ON_SCHEDULE_NS).sum())
        good = moves.good
        self.window.add(moves, good)
        counted = good & inside
        self.device_bytes += int(moves.length_bytes[good].sum())
        self.service_ns_sum += int((moves.complete_ns - moves.submit_ns)[counted].sum())
        ended = moves.select(moves.complete_ns != NO_TIME_NS)
        self.in_flight.add(ended.submit_ns, ended.complete_ns)
        self.slices.add(ended, self.start_ns)
        if self.division is not None:
            self._place(self.division.add(moves, inside))

    def finish(self) -> None:
        """Take what was kept back: no more ops come."""
        if self.division is not None:
            self._place(self.division.finish())

    def _place(self, divided: Iterable[tuple[Done, Waits]]) -> None:
        """Note how late the tool was, and when."""
        for done, waits in divided:
            ended = done.complete_ns != NO_TIME_NS
            submit_ns = done.submit_ns[ended] - self.start_ns
            self.slices.add_host_lateness(submit_ns, waits.host_ns[ended])

    def _lateness(self) -> LatenessSummary | None:
        """Return submit − due; of its parts ops of which only times are known tell nothing."""
        total: dict[str, Any] = dict(self.late.summary())
        if self.division is not None:
            parts = [histogram.summary() for histogram in self.division.histograms]
            return LatenessSummary(**total | dict(zip(PARTS, parts, strict=True)))
        if self.mode == Mode.MAX:
            return None
        return LatenessSummary(**total | dict.fromkeys(PARTS))

    def measure(
        self, tier: Tier, counters: Sequence[LaneCounters], latencies: Latencies
    ) -> LaneDocument:
        """Return the lane's figures; `latencies`: its ops within the window."""
        window = self.window
        end_ns = window.end_ns if self.submitted else max(window.end_ns, self.asked_end_ns)
        completed = window.completed(end_ns - window.begin_ns)
        scheduled = self.mode != Mode.MAX
        ops, ios = self.in_flight.flight(), self._ios_in_flight(counters)
        service, response = latencies.service, latencies.response
        return LaneDocument(
            tier=tier.label,
            target="ops",
            title="",
            ops=latencies.ops,
            bytes=latencies.bytes,
            device_bytes=self.device_bytes,
            errors=latencies.errors + self.warmup_errors,
            window_s=completed.window_ns / S_NS,
            window_ops=completed.ops,
            window_bytes=completed.bytes,
            drain_s=max(0, window.last_ns - end_ns) / S_NS,
            throughput_bytes_per_s=completed.per_s(completed.bytes),
            read_bytes_per_s=completed.per_s(completed.read_bytes),
            write_bytes_per_s=completed.per_s(completed.write_bytes),
            ops_per_s=completed.per_s(completed.ops),
            reads_per_s=completed.per_s(completed.reads),
            writes_per_s=completed.per_s(completed.writes),
            kv_tokens_per_s=None,
            io_s=self.service_ns_sum / S_NS,
            service_ns=service.summary(),
            response_ns=response.summary() if scheduled else None,
            lateness_ns=self._lateness(),
            service_distribution_ns=service.distribution(),
            response_distribution_ns=response.distribution() if scheduled else None,
            on_schedule_ratio=(
                self.on_schedule / self.submitted if scheduled and self.submitted else None
            ),
            in_flight=InFlight(ops=ops, ios=ios, recorded=None),
            in_flight_max=None if ios is None else ios.max,
            in_flight_mean=ops.mean,
            drift_ratio=self._drift(),
            live_bytes_max=None,
            live_objects_max=None,
            warmup_ops=self.warmup_ops,
            counters=None,
            io_ns=[],
            time_slices=self.slices.series(scheduled=scheduled, divided=self.division is not None),
            heat_map=self.slices.heat(),
            device=None,
            device_state=None,
            device_change=None,
            preconditioned=None,
        )

    def _ios_in_flight(self, counters: Sequence[LaneCounters]) -> Flight | None:
        most = sum(counter.in_flight_max for counter in counters)
        length_ns = self.in_flight.last_ns - self.start_ns
        if not most or not length_ns:
            return None
        mean = sum(counter.in_flight_ns for counter in counters) / length_ns
        return Flight(mean=mean, max=most)

    @property
    def backlog_growing(self) -> bool:
        """Whether more ops wait in the last quarter of the schedule than in the one before.

        Beyond the schedule's end a backlog only shrinks, however long it takes.
        """
        if not self.submitted or self.mode == Mode.MAX:
            return False
        end_ns = self.due_end_ns - self.start_ns
        early = self.slices.waiting_min(end_ns // 2, end_ns * 3 // 4)
        late = self.slices.waiting_min(end_ns * 3 // 4, end_ns)
        return late > 1.1 * early + _BACKLOG_MIN

    def _drift(self) -> float | None:
        """How much the median service time of the last quarter differs from the first one's."""
        first, first_count = self.slices.median_service(0.0, 0.25)
        last, last_count = self.slices.median_service(0.75, 1.0)
        if min(first_count, last_count) < _DRIFT_MIN or not first:
            return None
        return last / first - 1


class Recorder:
    """Measures a run while it goes on. Memory doesn't depend on its length."""

    def __init__(
        self,
        lanes: int,
        mode: Mode,
        start_ns: int,
        *,
        warmup_ns: int = 0,
        copiers: tuple[int, ...] = (),
        beside: Executor | None = None,
        divided: bool = True,
    ) -> None:
        """`beside`: a thread that takes half of the work; without one it is all done by `add`.

        Not `divided`: nothing is known of ops but their times, so that lateness has no parts.
        """
        self.mode, self.start_ns, self.warmup_ns = mode, start_ns, warmup_ns
        self._beside = beside
        self.lanes = [
            _Lane(
                start_ns,
                warmup_ns,
                mode,
                Division(mode, copies=lane in copiers) if divided else None,
            )
            for lane in range(lanes)
        ]
        self.phase_ops = np.zeros(len(Phase), np.int64)
        self.phase_bytes = np.zeros(len(Phase), np.int64)
        """Of all ops that succeeded, warm-up included."""
        self._cells = Cells()
        self.submit_error = Histogram()
        self.due_gaps, self.submit_gaps = Gaps(), Gaps()

    def add(self, done: Done) -> None:
        """Take finished ops, in the trace's order.

        How their lateness divides is known some time later, at the latest with `finish`.
        """
        if not len(done):
            return
        by = done.due_ns if self.mode == Mode.OPEN else done.submit_ns
        measured = (by >= self.start_ns + self.warmup_ns) | (by == NO_TIME_NS)
        summing = None
        if self._beside is None:
            self._sum(done, measured)
        else:
            summing = self._beside.submit(self._sum, done, measured)
        for index, lane in enumerate(self.lanes):
            mine = done.lane == index
            if mine.any():
                lane.add(done.select(mine), measured[mine])
        if summing is not None:
            summing.result()

    def finish(self) -> None:
        """Take what was kept back: no more ops come."""
        for lane in self.lanes:
            lane.finish()
        self.due_gaps.finish()
        self.submit_gaps.finish()

    def _sum(self, done: Done, measured: NDArray[np.bool_]) -> None:
        """Count what isn't a lane's: per phase, per group, and against the schedule."""
        good = done.good
        self.phase_ops += np.bincount(done.phase[good], minlength=len(Phase))
        np.add.at(self.phase_bytes, done.phase[good], done.size_bytes[good])
        self._cells.add(done.select(measured))
        self._follow(done)

    def _follow(self, done: Done) -> None:
        """Compare the times of submits with those of the schedule."""
        did = done.moves & done.good
        if self.mode == Mode.MAX or not did.any():
            return
        submit_ns, due_ns = done.submit_ns[did], done.due_ns[did]
        self.submit_error.add(np.abs(submit_ns - due_ns))
        self.due_gaps.add(due_ns)
        self.submit_gaps.add(submit_ns)

    @property
    def stretch_ratio(self) -> float | None:
        """First to last submit ÷ first to last due."""
        planned_ns = self.due_gaps.last_ns - self.due_gaps.first_ns
        took_ns = self.submit_gaps.last_ns - self.submit_gaps.first_ns
        return took_ns / planned_ns if planned_ns > 0 else None

    def measure(self, lane: int, tier: Tier, counters: Sequence[LaneCounters]) -> LaneDocument:
        """Return the figures of one lane, whose ops are those of `tier`.

        What isn't known from ops' times (target, device, counters) is None or empty.
        """
        total = Latencies()
        for (code, _), latencies in self._cells.items():
            if tier_of(code >> URGENCY_BITS) == tier:
                total.merge(latencies)
        return self.lanes[lane].measure(tier, counters, total)

    def groups(self) -> Groups:
        """Return what was done, per tier × phase × op, and the same per QoS and per size class."""
        whole: dict[Key, Latencies] = {}
        by_qos: dict[Key, Latencies] = {}
        by_size: dict[Key, Latencies] = {}
        for (code, size), latencies in self._cells.items():
            of_any = code & ~URGENCY_MASK
            whole.setdefault((of_any, NO_SIZE), Latencies()).merge(latencies)
            if code != of_any:
                by_qos.setdefault((code, NO_SIZE), Latencies()).merge(latencies)
            if size != NO_SIZE:
                by_size.setdefault((of_any, size), Latencies()).merge(latencies)
        return Groups(
            [self._group(*each, distributions=True) for each in sorted(whole.items())],
            [self._group(*each) for each in sorted(by_qos.items())],
            [self._group(*each) for each in sorted(by_size.items())],
        )

    def _group(
        self, key: Key, latencies: Latencies, *, distributions: bool = False
    ) -> GroupDocument:
        (code, size), moves = key, latencies.moves
        tier, phase, op = unpack(code >> URGENCY_BITS)
        service, response = latencies.service, latencies.response
        responds = moves and self.mode != Mode.MAX
        return GroupDocument(
            tier=tier.label,
            phase=phase.label,
            op=op.label,
            qos=Qos(urgency - 1).label if (urgency := code & URGENCY_MASK) else None,
            size_class_bytes=None if size == NO_SIZE else 1 << size,
            ops=latencies.ops,
            bytes=latencies.bytes,
            errors=latencies.errors,
            service_ns=service.summary() if moves else None,
            response_ns=response.summary() if responds else None,
            service_distribution_ns=service.distribution() if moves and distributions else None,
            response_distribution_ns=(
                response.distribution() if responds and distributions else None
            ),
            service_per_mib_distribution_ns=(
                latencies.pace.distribution() if moves and distributions else None
            ),
        )
