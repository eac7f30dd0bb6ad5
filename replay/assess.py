"""From a finished run to its result: measures, verdict, what it cost."""

from __future__ import annotations

import errno
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from kvtrace.units import S_NS
from replay import environment, fidelity
from replay.loop import (
    DEPENDENCY_FAILED,
    INTERRUPTED,
    VERIFY_FAILED,
    Action,
    Mode,
    Outcome,
    Verify,
)
from replay.options import ReplayOptions, Timing
from replay.recorder import Recorder
from replay.result import (
    DeviceView,
    LaneResult,
    PayloadInfo,
    Populated,
    Result,
    ToolCost,
    TraceInfo,
)
from replay.verdict import Findings, judge

if TYPE_CHECKING:
    from kvtrace.header import Header
    from kvtrace.reader import Trace
    from replay.device import DiskStat
    from replay.fidelity import Fidelity
    from replay.prepare import Prepared

_NAMES = {
    DEPENDENCY_FAILED: "dependency_failed",
    VERIFY_FAILED: "verify_failed",
    INTERRUPTED: "interrupted",
}
_NOT_FAILED = (DEPENDENCY_FAILED, VERIFY_FAILED, INTERRUPTED)
_ENGINE_NOTES = {
    "python": "threads of the interpreter: 50 to 200 µs per op, objects' pieces one by one",
}
_SMALL_PAGES = "4K"
_INLINE = ("null", "memory")


@dataclass(frozen=True, slots=True)
class Measured:
    """What came out of a run, beside what had been prepared."""

    outcome: Outcome
    populated: Populated
    verify: Verify
    spin: bool
    engine: str
    page_kind: str
    mismatches: tuple[str, ...]
    stats: tuple[DiskStat | None, ...]
    interrupted: bool
    trace_sha256: str


def error_name(code: int) -> str:
    """Return what an op's error is called, e.g. `EIO` or `dependency_failed`."""
    return _NAMES.get(code) or errno.errorcode.get(code, str(code))


def _lanes(prepared: Prepared, measured: Measured, recorder: Recorder) -> tuple[LaneResult, ...]:
    found = []
    for lane, tier in enumerate(prepared.tiers):
        measure = recorder.lane(lane, tier)
        stat = measured.stats[lane]
        target = prepared.targets[lane]
        found.append(
            LaneResult(
                measure,
                target.title,
                target.spec.name,
                measured.outcome.counters[lane],
                prepared.needs[lane].extent_bytes,
                prepared.needs[lane].live_objects_max,
                None if stat is None else DeviceView(stat, measure.device_bytes),
            )
        )
    return tuple(found)


def _copiers(prepared: Prepared, measured: Measured) -> tuple[int, ...]:
    """Return the lanes of memory targets that did one copy at a time."""
    return tuple(
        lane
        for lane, target in enumerate(prepared.targets)
        if target.spec.name == "memory" and measured.outcome.counters[lane].in_flight_max <= 1
    )


def _findings(
    prepared: Prepared,
    options: ReplayOptions,
    measured: Measured,
    lanes: tuple[LaneResult, ...],
    faithful: Fidelity,
) -> Findings:
    error = measured.outcome.times.error
    failed = np.flatnonzero((error != 0) & ~np.isin(error, _NOT_FAILED))
    views = [lane.device for lane in lanes if lane.device is not None]
    own = sum(view.asked_bytes for view in views)
    unpopulated = options.populate == "none"
    return Findings(
        lanes=tuple(lane.measure for lane in lanes),
        fidelity=faithful,
        named_not_executed=tuple(tier.label for tier in prepared.named_not_executed),
        failed_ops=len(failed),
        dependency_failed_ops=int((error == DEPENDENCY_FAILED).sum()),
        first_error=error_name(int(error[failed[0]])) if len(failed) else "",
        mismatches=measured.mismatches,
        mismatched_ops=int((error == VERIFY_FAILED).sum()),
        original_reads=prepared.survey.original_reads if unpopulated else 0,
        beyond_reads=prepared.survey.beyond_reads,
        min_window_ns=options.min_window_ns,
        window_ns=max(lane.measure.window_ns for lane in lanes),
        interrupted=measured.interrupted,
        foreign_bytes=sum(view.bytes for view in views) - own if views else None,
        own_bytes=own,
        writes=any(prepared.writes),
        engine=measured.engine,
        small_pages=measured.page_kind == _SMALL_PAGES and own > 0,
        inline_tiers=tuple(
            tier
            for tier, target in zip(prepared.tiers, prepared.targets, strict=True)
            if target.spec.name in _INLINE
        ),
        scheduled=options.mode == Timing.OPEN,
    )


def _payload(prepared: Prepared, measured: Measured) -> PayloadInfo:
    times, ops = measured.outcome.times, prepared.plan.ops
    moving = [lane for lane, t in enumerate(prepared.targets) if t.spec.name != "null"]
    reads = (ops.action == Action.READ) & np.isin(ops.lane, moving)
    checked = reads & np.isin(times.error, (0, VERIFY_FAILED))
    verifying = measured.verify != Verify.NONE
    return PayloadInfo(
        kind="arena" if moving else "none",
        arena_bytes=prepared.arena_bytes if moving else 0,
        page_kind=measured.page_kind,
        run_id=prepared.run_id,
        verify=measured.verify.name.lower(),
        verified_ops=int(checked.sum()) if verifying else 0,
        mismatched_ops=int((times.error == VERIFY_FAILED).sum()),
        mismatches=measured.mismatches,
    )


def _tool(prepared: Prepared, measured: Measured) -> ToolCost:
    ops = prepared.plan.ops
    columns = [getattr(ops, name) for name in type(ops).__dataclass_fields__]
    rows = prepared.survey.rows
    return ToolCost(
        engine=measured.engine,
        engine_note=_ENGINE_NOTES.get(measured.engine, ""),
        spin=measured.spin,
        cpu_ns=measured.outcome.cpu_ns,
        verify_cpu_ns=measured.outcome.verify_cpu_ns,
        survey_s=prepared.survey_ns / S_NS,
        plan_s=prepared.plan_ns / S_NS,
        rows_per_cpu_s=rows * S_NS / max(1, prepared.cpu_ns),
        plan_bytes_per_op=sum(column.nbytes for column in columns) / max(1, len(ops.key)),
    )


def _bytes_per_token(header: Header) -> float | None:
    """Return the bytes that the trace's rows move per token of KV."""
    layout = header.layout or {}
    for name in ("emitted_bytes_per_token", "stored_bytes_per_token"):
        if layout.get(name):
            return float(layout[name])
    return None


def _trace(trace: Trace, prepared: Prepared, sha256: str) -> TraceInfo:
    header = trace.header
    tokens = header.statistics.get("generated_tokens")
    return TraceInfo(
        path=str(trace.path),
        sha256=sha256,
        rows=trace.rows,
        rows_replayed=prepared.survey.rows,
        duration_ns=prepared.survey.last_ns,
        model=(header.model or {}).get("name"),
        bytes_per_token=_bytes_per_token(header),
        generated_tokens=None if tokens is None else int(tokens),
    )


def assess(trace: Trace, prepared: Prepared, options: ReplayOptions, measured: Measured) -> Result:
    """Return the result of a finished (or interrupted) run."""
    mode = Mode.MAX if options.mode == Timing.MAX else Mode.OPEN
    recorder = Recorder(prepared.plan, measured.outcome, mode, _copiers(prepared, measured))
    lanes = _lanes(prepared, measured, recorder)
    faithful = fidelity.measure(recorder, prepared.survey)
    error = measured.outcome.times.error
    return Result(
        verdict=judge(_findings(prepared, options, measured, lanes, faithful), options.accept),
        lanes=lanes,
        groups=recorder.groups(),
        fidelity=faithful,
        skipped=fidelity.skipped(prepared.survey, prepared.tiers),
        errors=dict(Counter(error_name(code) for code in error[error != 0].tolist())),
        populated=measured.populated,
        payload=_payload(prepared, measured),
        tool=_tool(prepared, measured),
        environment=environment.observe(prepared.targets),
        trace=_trace(trace, prepared, measured.trace_sha256),
        options=options,
        plan=prepared.plan,
        outcome=measured.outcome,
    )
