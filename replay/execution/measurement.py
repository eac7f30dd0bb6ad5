"""The measured run: the plan ahead of the loop, and everything that looks at what it has done."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from kvtrace.units import S_NS, US_NS
from replay import clock
from replay import engine as engines
from replay.engine.drive import FIRST_LOOK_S, LOOK_S, drive, thread_lanes
from replay.engine.feed import BATCH_OPS, Drain, Feed
from replay.execution.deadline import Deadline
from replay.host import bpftrace
from replay.host.sampler import Sampler
from replay.measure.live import LiveView
from replay.measure.recorder import Recorder
from replay.measure.requests.measure import Requests, RequestSink
from replay.measure.tally import Tally
from replay.measure.violations import OrderChecker
from replay.ops.columns import INTERRUPTED, Times
from replay.ops.contract import Control, LaneKind, LoopOptions, Outcome, Verify
from replay.ops.counters import LaneCounters
from replay.ops.done import Done, Taker
from replay.options import ReplayOptions, Spin, Timing
from replay.plan.planner import RING_OPS
from replay.state import sample
from replay.targets.support.simulated import SimulatedTarget

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from kvtrace.placement.rows import RowSource
    from kvtrace.trace.reader import Trace
    from kvtrace.trace.schema import Tier
    from replay.engine.feed import Sink
    from replay.host.bpf import BlockLatency
    from replay.host.bpftrace import Tracer
    from replay.host.series import DeviceSeries, HostSeries
    from replay.ops.contract import Engine, Lane
    from replay.payload.fresh import FreshPayload
    from replay.plan.prepare import Prepared
    from replay.result.finished import Result
    from replay.watch import Stop, Watcher

SPIN_NS = 50 * US_NS
_FLUSH_NS = 5 * S_NS


class Journal(Protocol):
    """Keeps a run's intermediate results, so that a crash loses little."""

    def begin(self, rows: RowSource, tiers: Sequence[Tier], *, timed: bool) -> None:
        """Take the rows that are replayed and the tiers that are executed; the run begins.

        `timed`: it ends when its time is over, and leaves out what it then hasn't begun.
        """
        ...

    def add(self, done: Done, start_ns: int) -> None:
        """Take finished ops, in the trace's order."""
        ...

    def checkpoint(self, result_so_far: Callable[[], Result]) -> None:
        """Ask for the result as if the run had been interrupted now, if that is to be kept."""
        ...


class Assess(Protocol):
    """Makes a result of the ops measured up to now."""

    def __call__(self, outcome: Outcome, priority: str, *, final: bool) -> Result:
        """Return it; `final`: the run has ended."""
        ...


class Kept:
    """All finished ops of a run that isn't too long to keep them."""

    def __init__(self) -> None:
        self._parts: list[Done] = []
        self._count = 0

    def add(self, done: Done) -> None:
        """Take finished ops."""
        self._count += len(done)
        if self._count <= RING_OPS:
            self._parts.append(done)
        else:
            self._parts = []

    def all(self) -> Done | None:
        """Return them; None if there were too many."""
        return Done.join(self._parts) if self._parts and self._count <= RING_OPS else None


class _Reached:
    """Hands over finished ops without those that a run had no time for."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink

    def add(self, done: Done) -> None:
        self._sink.add(done.select(done.error != INTERRUPTED))


class _Journalled:
    """Hands finished ops to a journal."""

    def __init__(self, journal: Journal, start_ns: int) -> None:
        self._journal, self._start_ns = journal, start_ns

    def add(self, done: Done) -> None:
        self._journal.add(done, self._start_ns)


@dataclass(frozen=True, slots=True)
class Sinks:
    """Everything that looks at finished ops."""

    recorder: Recorder
    tally: Tally
    checker: OrderChecker
    kept: Kept
    sampler: sample.WriteSampler
    requests: RequestSink | None
    """None where the trace names no requests."""


class Measurement:
    """One measured run: `plan_ahead` while nothing is open yet, then `run`."""

    def __init__(
        self,
        trace: Trace,
        prepared: Prepared,
        options: ReplayOptions,
        engine: Engine,
        watcher: Watcher,
        stop: Stop,
        journal: Journal | None,
    ) -> None:
        self._trace = trace
        self._prepared, self._options, self._engine = prepared, options, engine
        self._watcher, self._stop, self._journal = watcher, stop, journal
        self._control = Control(len(prepared.tiers) * options.threads)
        self._control.stop = stop.flag
        self._times = Times.empty(prepared.ring.capacity)
        self.feed = Feed(prepared.planner, self._times, self._control)
        self.lanes: tuple[Lane, ...] = ()
        self.verify = Verify.NONE
        self._sinks: Sinks | None = None
        self._drain: Drain | None = None
        self._live: LiveView | None = None
        self._flushed_ns = 0
        self._looked_ns = 0
        self._slept_before_ns = 0
        run_ns = options.run_time_ns
        end_ns = None if run_ns is None else options.warmup_ns + run_ns
        self.deadline = Deadline(self._control, stop, end_ns)
        self._devices = tuple(target.device for target in prepared.targets)
        self._sampler = Sampler(self._devices)
        self.bpf: BlockLatency | str | None = None
        """What the block layer took, or why that couldn't be had; None if it wasn't asked for."""

    def plan_ahead(self) -> None:
        """Plan as far as the ring reaches: what is wrong there is found before anything is written.

        Raises UsageError, TraceError, RunInterruptedError.
        """

        def progress(rows: int) -> None:
            self._stop.check()
            self._watcher.advance(rows)

        self._watcher.stage("planning", self._prepared.survey.rows)
        self.feed.fill(progress)

    @property
    def spin_ns(self) -> int:
        """How long to poll; by itself only where a CPU is spare."""
        if self._options.spin != Spin.AUTO:
            return SPIN_NS if self._options.spin == Spin.ON else 0
        return SPIN_NS if engines.spare_cpus() >= len(self._control.completed_ops) else 0

    @property
    def _in_virtual_time(self) -> bool:
        targets = self._prepared.targets
        return all(
            isinstance(target, SimulatedTarget) and target.virtual_time for target in targets
        )

    @property
    def sinks(self) -> Sinks:
        """What looks at finished ops; made when the clock has started."""
        if self._sinks is None:
            self._sinks = self._make_sinks()
        return self._sinks

    @property
    def drain_cpu_ns(self) -> int:
        """CPU time of taking results out while the loop ran, and after it."""
        return self._drain.cpu_ns if self._drain is not None else 0

    @property
    def suspended_ns(self) -> int:
        """How long the machine has slept since the clock was started."""
        return clock.suspended_ns() - self._slept_before_ns

    def run(
        self,
        arena: NDArray[np.uint8],
        fresh: FreshPayload | None,
        verify: Verify,
        assess: Assess,
    ) -> tuple[Outcome, str]:
        """Return what the engine says of itself, and its priority. Results are in `sinks`."""
        self.verify = verify
        self.lanes = thread_lanes(self._prepared, self._options, self._options.depth)
        options = LoopOptions(
            self._options.mode.loop_mode,
            arena,
            self._prepared.run_id,
            verify,
            self.spin_ns,
            spin_adapts=self._options.spin == Spin.AUTO and self._options.mode == Timing.MAX,
            stamp=self._options.stamped,
            filled_bytes=None if fresh is None else fresh.filled_bytes,
            clocks=self._prepared.planner.clocks,
            virtual_time=self._in_virtual_time,
        )
        if self._journal is not None:
            timed = self._options.run_time_ns is not None
            self._journal.begin(self._prepared.rows, self._prepared.tiers, timed=timed)
        tracer = self._trace_block_layer()
        expected = None if self._options.loop else self._prepared.survey.executed_ops
        self._watcher.stage("replaying", expected)
        self._flushed_ns = self._looked_ns = clock.now_ns()
        self._slept_before_ns = clock.suspended_ns()
        self._sampler.start()
        self.feed.start()
        try:
            with self.deadline:
                outcome, priority = drive(
                    self._engine,
                    self.lanes,
                    self._prepared.ring,
                    self._times,
                    options,
                    self._control,
                    lambda: self._look(fresh, assess),
                    self._options.priority,
                )
        finally:
            self.feed.stop()
            self._sampler.stop()
            if tracer is not None:
                self.bpf = tracer.finish(int(self._control.start_ns[0]))
        if self.feed.failure is not None:
            raise self.feed.failure
        self._control.start_ns[0] = outcome.start_ns
        self._draining(fresh).finish()
        self.sinks.recorder.finish()
        self._look_live(last=True)
        return outcome, priority

    def _trace_block_layer(self) -> Tracer | None:
        """Return what counts the block layer's latencies, in place, if that was asked for."""
        if not self._options.bpf:
            return None
        self._watcher.stage("attaching bpftrace", None)
        tracer = bpftrace.attach(self._devices, self._stop)
        if isinstance(tracer, str):
            self.bpf = tracer
            self._watcher.say(f"--bpf: the block layer's latencies won't be there: {tracer}")
            return None
        return tracer

    def device_series(self) -> tuple[DeviceSeries | None, ...]:
        """Return the activity of the lanes' devices."""
        start_ns = int(self._control.start_ns[0])
        return tuple(
            None if path is None else self._sampler.device(lane, start_ns)
            for lane, path in enumerate(self._devices)
        )

    def host_series(self) -> HostSeries | None:
        """Return the machine's activity; meaningless in virtual time."""
        if self._in_virtual_time:
            return None
        return self._sampler.host(int(self._control.start_ns[0]))

    def _look(self, fresh: FreshPayload | None, assess: Assess) -> float:
        """Take out what is finished; return in how many seconds to do so again."""
        self._watcher.advance(int(self._control.completed_ops.sum()))
        if fresh is not None:
            fresh.check()
        if not self._control.start_ns[0]:
            return FIRST_LOOK_S
        taken = self._draining(fresh).take()
        now_ns = clock.now_ns()
        wait_s = self._until_next_look(taken, now_ns)
        self._look_live()
        if self._journal is not None and now_ns - self._flushed_ns > _FLUSH_NS:
            self._flushed_ns = now_ns
            counters = tuple(LaneCounters() for _ in self.lanes)
            so_far = Outcome(int(self._control.start_ns[0]), counters, 0, 0)
            self._journal.checkpoint(lambda: assess(so_far, "", final=False))
        return wait_s

    def _until_next_look(self, taken: int, now_ns: int) -> float:
        """Return how long to leave the loop alone: seldom enough that a look is worth its CPU.

        Each look costs some tenths of a millisecond of the CPU that the kernel completes I/Os on.
        """
        since_ns, self._looked_ns = now_ns - self._looked_ns, now_ns
        if taken == BATCH_OPS:
            return 0.0
        if self._control.final[0]:
            return LOOK_S
        # No more than an eighth of the ring may fill meanwhile: a full one stops the planner.
        ops = self._prepared.ring.capacity // 8
        return min(LOOK_S, ops * since_ns / S_NS / max(1, taken))

    def _look_live(self, *, last: bool = False) -> None:
        """Tell the watcher what the run does now, if it is time; `last`: in any case."""
        if self._live is None:
            self._live = LiveView(self._prepared.tiers, self.sinks.recorder, self._control)
        live = self._live.look(clock.now_ns(), last=last)
        if live is not None:
            self._watcher.look(live)

    def _draining(self, fresh: FreshPayload | None) -> Drain:
        if self._drain is None:
            open_sinks = self.sinks
            sinks: list[Sink] = [
                open_sinks.recorder,
                open_sinks.kept,
                open_sinks.sampler,
                open_sinks.checker,
            ]
            if self._options.run_time_ns is not None:
                sinks = [_Reached(sink) for sink in sinks]
            sinks.append(open_sinks.tally)
            if open_sinks.requests is not None:
                sinks.append(open_sinks.requests)
            if self._journal is not None:
                sinks.append(_Journalled(self._journal, int(self._control.start_ns[0])))
            mode, threads = self._options.mode.loop_mode, self._options.threads
            taker = Taker(self._prepared.ring, self._times, mode, threads)
            consumed = None if fresh is None else fresh.consumed
            self._drain = Drain(taker, self._times, self._control, tuple(sinks), consumed)
        return self._drain

    @property
    def inline_lanes(self) -> tuple[int, ...]:
        """Tiers' lanes whose work is done by the loop's own thread."""
        return self._lanes_of(*(kind for kind in LaneKind if kind.inline))

    def _lanes_of(self, *kinds: LaneKind) -> tuple[int, ...]:
        """Return tiers' lanes of those kinds; a lane has the same on each of its threads."""
        lanes = self.lanes[:: self._options.threads]
        return tuple(number for number, lane in enumerate(lanes) if lane.kind in kinds)

    def _make_sinks(self) -> Sinks:
        prepared, options = self._prepared, self._options
        names = [target.spec.name for target in prepared.targets]
        recorder = Recorder(
            len(names),
            options.mode.loop_mode,
            int(self._control.start_ns[0]),
            warmup_ns=options.warmup_ns,
            copiers=self._lanes_of(LaneKind.MEMORY),
        )
        unplaced = tuple(
            lane
            for lane, space in enumerate(prepared.spaces)
            if space.unbounded or space.per_object
        )
        reduced = options.dedup_ratio > 1 or options.compress_ratio > 1
        return Sinks(
            recorder,
            Tally(tuple(lane for lane, name in enumerate(names) if name != "null")),
            OrderChecker(2 * prepared.ring.capacity, unplaced, prepared.mixed_lanes),
            Kept(),
            sample.WriteSampler(sample.SAMPLE_BYTES if reduced else 0),
            self._request_sink(),
        )

    def _request_sink(self) -> RequestSink | None:
        if "request" not in self._trace.columns:
            return None
        options, start_ns = self._options, int(self._control.start_ns[0])
        requests = Requests(options.mode.loop_mode, start_ns, options.warmup_ns)
        return RequestSink(self._prepared.rows, self._prepared.tiers, requests)
