"""Runs a trace: prepares, populates, measures. Prints nothing, ends nothing."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from kvtrace import arguments
from kvtrace.errors import TargetError
from kvtrace.trace.reader import Trace, open_trace
from kvtrace.units import S_NS, format_bytes
from replay import engine as engines
from replay import targets as target_folder
from replay.device import nvme_cli
from replay.device import sysfs as device
from replay.engine.drive import peak_memory_bytes
from replay.engine.native import allocate
from replay.execution.diagnose import describe_mismatches
from replay.execution.measurement import Measurement
from replay.options import Payload, ReplayOptions
from replay.payload import stamps as payload
from replay.payload.fresh import FreshPayload
from replay.payload.reduction import measure_sample
from replay.plan.prepare import Prepared, prepare, schedule_text
from replay.result.assess import Measured, assess
from replay.result.document import ToolDocument
from replay.safety.consent import ChangedError
from replay.state.initial_state import InitialState
from replay.targets import RunMark
from replay.watch import Silent, Stop, Watcher

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from replay.device.sysfs import DeviceState, DiskStat
    from replay.execution.measurement import Journal
    from replay.ops.contract import Engine, Lane, Outcome
    from replay.payload.reduction import Reduction
    from replay.result.document import Populated
    from replay.result.finished import Result
    from replay.state import sample
    from replay.targets import Target, TargetSpec

_ENGINE_NOTES = {
    "python": "threads of the interpreter: 50 to 200 µs per op, objects' pieces one by one",
}


def run(
    trace: Trace | str | os.PathLike[str],
    targets: Iterable[TargetSpec | Target],
    options: ReplayOptions | None = None,
    *,
    watcher: Watcher | None = None,
    stop: Stop | None = None,
    journal: Journal | None = None,
) -> Result:
    """Replay `trace` on `targets` and return the result. Prints nothing, never exits.

    `targets`: specs, or ready-made targets of your own, one tier each.
    `stop` ends it from elsewhere (a signal handler): the result then is partial and INVALID.
    `journal` is given finished ops while it runs, and every few seconds the intermediate result.
    Raises UsageError, TraceError or TargetError before anything was written where that can be
    known, and RunInterruptedError if stopped before the clock started.
    """
    watcher, stop = watcher or Silent(), stop or Stop()
    options = ReplayOptions() if options is None else options
    _check(options, watcher, stop, journal)
    asked = target_folder.given(targets)
    engine = engines.choose(options.engine)
    opened = trace if isinstance(trace, Trace) else open_trace(trace)
    with ExitStack() as closing:
        prepared = prepare(opened, asked, options, watcher, stop, closing)
        session = _Session(opened, prepared, options, engine, watcher, stop, closing, journal)
        return session.run()


def _check(options: object, watcher: object, stop: object, journal: object) -> None:
    """Raise UsageError for an argument of another kind."""
    arguments.instance(options, "options", ReplayOptions, "replay.ReplayOptions(...)")
    arguments.instance(stop, "stop", Stop, "replay.Stop()")
    for name, given, verbs in (
        ("watcher", watcher, ("say", "stage", "advance", "look")),
        ("journal", journal, ("begin", "add", "checkpoint")),
    ):
        missing = [verb for verb in verbs if not callable(getattr(given, verb, None))]
        if given is not None and missing:
            raise arguments.wrong(name, given, f"an object that has {', '.join(verbs)}")


def _engine_note(engine: Engine, asked: str) -> str:
    """Return what the engine costs, and why it isn't a faster one."""
    notes = (_ENGINE_NOTES.get(engine.name, ""), engines.passed_over(asked, engine))
    return "; ".join(note for note in notes if note)


@dataclass(slots=True)
class _Session:
    """One run. Its steps in order; each leaves what the next needs."""

    trace: Trace
    prepared: Prepared
    options: ReplayOptions
    engine: Engine
    watcher: Watcher
    stop: Stop
    closing: ExitStack
    journal: Journal | None
    changed: tuple[str, ...] = ()

    def run(self) -> Result:
        measurement = Measurement(
            self.trace, self.prepared, self.options, self.engine, self.watcher, self.stop,
            self.journal,
        )  # fmt: skip
        measurement.plan_ahead()
        if (schedule := schedule_text(self.prepared.survey, self.options)) is not None:
            self.watcher.say(schedule)
        for lane, tier in enumerate(self.prepared.tiers):
            if self.prepared.targets[lane].spec.name != "null":
                self.watcher.say(f"{tier.label}: {self.prepared.needs[lane].text}")
        arena, page_kind = self._make_arena()
        mark = RunMark(self.prepared.run_id, self.trace.sha256())
        initial = InitialState(
            self.prepared, self.options, self.engine, self.watcher, self.stop, arena
        )
        populated = initial.run(mark)
        fresh = self._start_fresh()
        if fresh is not None:
            arena, page_kind = fresh.arena, str(fresh.page_kind)
        verify = initial.verify()
        states, stats = self._states(), self._stats()

        def result_of(outcome: Outcome, priority: str, *, final: bool) -> Result:
            return self._assess(
                measurement,
                outcome,
                populated,
                page_kind,
                final=final,
                states=states,
                stats=stats,
                cost=self._cost(measurement, outcome, priority, fresh, page_kind),
                sha256=mark.trace_sha256,
            )

        outcome, priority = measurement.run(arena, fresh, verify, result_of)
        self.changed = self._changed()
        return result_of(outcome, priority, final=True)

    def _changed(self) -> tuple[str, ...]:
        """Return what became of targets that are no longer what this run has opened."""
        changes = []
        for target in self.prepared.targets:
            try:
                target.recheck()
            except ChangedError as error:
                changes.append(str(error))
            except TargetError:
                continue  # it has gone: the ops that failed tell
        return tuple(changes)

    def _make_arena(self) -> tuple[NDArray[np.uint8], str]:
        size = self.prepared.arena_bytes
        arena, page_kind = allocate(size)
        if self.prepared.moves_bytes:
            self.watcher.say(f"payload: {format_bytes(size)} of unique bytes on {page_kind} pages")
            options = self.options
            run_id = self.prepared.run_id
            payload.fill(arena, run_id, options.dedup_ratio, options.compress_ratio)
        self.stop.check()
        return arena, str(page_kind)

    def _start_fresh(self) -> FreshPayload | None:
        """Start the process that generates payload while the loop runs, if that was asked for."""
        options = self.options
        if options.payload != Payload.FRESH or not self.prepared.moves_bytes:
            return None
        size = self.prepared.arena_bytes
        fresh = FreshPayload(
            size, self.prepared.run_id, options.dedup_ratio, options.compress_ratio
        )
        self.closing.callback(fresh.close)
        fresh.start()
        fresh.wait_filled(size)
        return fresh

    def _stats(self) -> tuple[DiskStat | None, ...]:
        return tuple(device.stat(target.device) for target in self.prepared.targets)

    def _states(self, *, final: bool = True) -> tuple[DeviceState | None, ...]:
        """Return what can be read of the devices; no program is started while a run goes on."""
        ask = nvme_cli.ask if final else nvme_cli.ask_nobody
        return tuple(
            None if target.device is None else device.state(target.device, ask=ask)
            for target in self.prepared.targets
        )

    def _assess(
        self,
        measurement: Measurement,
        outcome: Outcome,
        populated: Populated,
        page_kind: str,
        *,
        final: bool,
        states: tuple[DeviceState | None, ...],
        stats: tuple[DiskStat | None, ...],
        cost: ToolDocument,
        sha256: str,
    ) -> Result:
        sinks = measurement.sinks
        lanes = measurement.lanes
        interrupted = not final or (self.stop.requested and not measurement.deadline.passed)
        measured = Measured(
            counters=outcome.counters,
            inline_lanes=measurement.inline_lanes,
            recorder=sinks.recorder,
            requests=None if sinks.requests is None else sinks.requests.requests,
            tally=sinks.tally,
            order_violations=sinks.checker.count,
            kept=sinks.kept.all() if final else None,
            populated=populated,
            verify=measurement.verify,
            page_kind=page_kind,
            mismatches=describe_mismatches(sinks.tally.mismatches(), lanes, self.prepared.run_id),
            stats=tuple(
                None if first is None or last is None else last.since(first)
                for first, last in zip(stats, self._stats(), strict=True)
            ),
            states=tuple(zip(states, self._states(final=final), strict=True)),
            interrupted=interrupted,
            time_is_over=measurement.deadline.passed,
            changed=self.changed,
            suspended_ns=measurement.suspended_ns,
            trace_sha256=sha256,
            cost=cost,
            reduction=None if interrupted else self._reduction(sinks.sampler, lanes),
            device_series=measurement.device_series(),
            host_series=measurement.host_series(),
            bpf=measurement.bpf,
        )
        return assess(self.trace, self.prepared, self.options, measured)

    def _reduction(self, sampler: sample.WriteSampler, lanes: tuple[Lane, ...]) -> Reduction | None:
        """Return what a sample of what landed can be reduced by, if reduction was asked for."""
        pieces = list(sampler.read(lanes))
        return measure_sample([np.concatenate(pieces)]) if pieces else None

    def _cost(
        self,
        measurement: Measurement,
        outcome: Outcome,
        priority: str,
        fresh: FreshPayload | None,
        page_kind: str,
    ) -> ToolDocument:
        prepared, feed = self.prepared, measurement.feed
        planned = prepared.planner.planned
        ring = prepared.ring
        columns = ring.bytes_per_op() - ring.edges.nbytes / ring.capacity
        return ToolDocument(
            engine=self.engine.name,
            engine_note=_engine_note(self.engine, self.options.engine),
            spin=measurement.spin_ns > 0,
            page_size=page_kind,
            cpu_s=outcome.cpu_ns / S_NS,
            cpu_s_per_gb=None,
            verify_cpu_s=outcome.verify_cpu_ns / S_NS,
            survey_s=prepared.survey_ns / S_NS,
            survey_rows_per_cpu_s=prepared.survey.rows * S_NS / max(1, prepared.survey_cpu_ns),
            plan_cpu_s=feed.cpu_ns / S_NS,
            plan_ops_per_cpu_s=planned * S_NS / max(1, feed.cpu_ns),
            plan_bytes_per_op=columns + 4 * prepared.planner.edges / max(1, planned),
            plan_stalls=sum(counter.planner_stalls for counter in outcome.counters),
            payload_cpu_s=0.0 if fresh is None else fresh.producer_cpu_ns / S_NS,
            payload_stalls=sum(counter.payload_stalls for counter in outcome.counters),
            drain_cpu_s=measurement.drain_cpu_ns / S_NS,
            priority=priority,
            threads=self.options.threads,
            memory_bytes_max=peak_memory_bytes(),
        )
