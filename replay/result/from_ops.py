"""From finished ops to a document: a result trace of any tool, ours or imported.

What only a run of ours knows (payload, the tool's own lateness, environment) is None, and the
verdict is UNJUDGED unless ops failed.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kvtrace.errors import TraceError
from kvtrace.trace.cell import URGENCY_BITS, pack
from kvtrace.trace.schema import Op, Phase, Tier
from kvtrace.units import format_count
from replay import clock
from replay.measure import fidelity
from replay.measure.fidelity import PhaseFidelity
from replay.measure.recorder import Recorder
from replay.measure.requests.measure import Requests
from replay.measure.tally import Tally
from replay.ops.columns import NO_TIME_NS
from replay.ops.contract import Action, Mode
from replay.ops.done import Done
from replay.result import signs
from replay.result.reason import Reason
from replay.result.trace_info import describe
from replay.result.whole import lane_of, result_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from kvtrace.trace.reader import Columns, Trace
    from replay.measure.figures import LaneDocument
    from replay.measure.requests.figures import RequestsDocument
    from replay.result.document import ResultDocument

_NEEDED = ("submit", "complete")
_READ = ("op", "size", "tier", "key", "phase")
_OPTIONAL = ("request", "qos", "due", "error")
_MOVES = np.array([op in (Op.READ, Op.WRITE) for op in Op])
_ACTIONS = np.array(
    [{Op.READ: Action.READ, Op.WRITE: Action.WRITE}.get(op, Action.NONE) for op in Op], np.uint8
)


@dataclass(frozen=True, slots=True)
class _Found:
    """What was measured of all ops."""

    recorder: Recorder
    requests: RequestsDocument | None
    tally: Tally
    lanes: tuple[LaneDocument, ...]
    phases: tuple[PhaseFidelity, ...]


def document_of(trace: Trace) -> ResultDocument:
    """Return the document of a trace whose ops have been done.

    Raises TraceError for a trace without outcomes, or in which nothing was done.
    """
    missing = [name for name in _NEEDED if name not in trace.columns]
    if missing:
        raise TraceError(
            f"not a result: it has no column {' and no column '.join(missing)}",
            where=trace.path,
            accepted="a result trace (kvtrace replay --out), or an imported one with outcomes",
        )
    measured = _measure(trace)
    if not measured.lanes:
        raise TraceError("no op was done in it", where=trace.path, hint="there is nothing to show")
    return _document(trace, measured)


def _measure(trace: Trace) -> _Found:
    mode = Mode.OPEN if "due" in trace.columns else Mode.MAX
    tally, requests = Tally(tuple(range(len(Tier)))), Requests(mode, 0)
    with ThreadPoolExecutor(1) as beside:
        recorder = Recorder(len(Tier), mode, 0, beside=beside, divided=False)
        for done, request in _batches(trace):
            recorder.add(done)
            tally.add(done)
            if request is not None:
                requests.add(done, request)
        recorder.finish()
    measures = [recorder.measure(int(tier), tier, ()) for tier in Tier]
    lanes = tuple(lane for lane in measures if lane.ops or lane.errors)
    return _Found(recorder, requests.measure(), tally, lanes, tuple(_phases(trace, recorder)))


def _phases(trace: Trace, recorder: Recorder) -> Iterator[PhaseFidelity]:
    """Yield what of each phase was done of what the trace's header counts."""
    moves = [op.label for op in (Op.READ, Op.WRITE)]
    for phase in Phase:
        cells = [cell for cell in trace.header.totals.cells if cell.phase == phase.label]
        did, did_bytes = int(recorder.phase_ops[phase]), int(recorder.phase_bytes[phase])
        ops = sum(cell.ops for cell in cells)
        if ops or did:
            moved = sum(cell.bytes for cell in cells if cell.op in moves)
            yield PhaseFidelity(
                phase=phase.label,
                trace_ops=ops or did,
                executed_ops=did,
                trace_bytes=moved or did_bytes,
                executed_bytes=did_bytes,
            )


def _batches(trace: Trace) -> Iterator[tuple[Done, NDArray[Any] | None]]:
    """Yield all ops and, if known, their requests; the next are read while some are measured."""
    wanted = [*_READ, *_NEEDED, *(name for name in _OPTIONAL if name in trace.columns)]
    rows = trace.batches(wanted, nulls=True)
    number = 0
    with ThreadPoolExecutor(1) as reading:
        coming = reading.submit(next, rows, None)
        while (batch := coming.result()) is not None:
            coming = reading.submit(next, rows, None)
            yield _done(batch, number), batch.get("request")
            number += len(batch["op"])


def _time(rows: Columns, name: str) -> NDArray[np.int64]:
    values = rows[name]
    return np.ma.filled(np.ma.asarray(values, np.int64), NO_TIME_NS)


def _done(rows: Columns, first: int) -> Done:
    count = len(rows["op"])
    op = np.asarray(rows["op"], np.uint8)
    submit, complete = _time(rows, "submit"), _time(rows, "complete")
    due = _time(rows, "due") if "due" in rows else submit
    size = np.where(_MOVES[op], rows["size"], 0).astype(np.int64)
    nothing = np.zeros(count, np.int64)
    qos = rows.get("qos")
    urgency = nothing.astype(np.uint8)
    if qos is not None:
        urgency = np.where(np.ma.getmaskarray(qos), 0, np.ma.getdata(qos) + 1).astype(np.uint8)
    tier, phase = (np.asarray(rows[name], np.uint8) for name in ("tier", "phase"))
    error = nothing if "error" not in rows else np.ma.filled(np.ma.asarray(rows["error"]), 0)
    return Done(
        number=np.arange(first, first + count),
        cell=np.asarray(pack(tier, phase, op) << URGENCY_BITS | urgency, np.uint8),
        lane=tier,
        thread=tier,
        action=_ACTIONS[op],
        offset_bytes=nothing.astype(np.uint64),
        run_bytes=nothing,
        bad_offset_bytes=nothing.astype(np.uint64),
        length_bytes=size,
        size_bytes=size,
        key=rows["key"],
        sector=nothing.astype(np.uint32),
        generation=nothing.astype(np.uint32),
        due_ns=due,
        ready_ns=due,
        slot_ns=due,
        submit_ns=submit,
        complete_ns=complete,
        error=error.astype(np.int32),
        bad_sector=nothing,
    )


def _document(trace: Trace, state: _Found) -> ResultDocument:
    info = describe(
        trace,
        sha256=trace.sha256(),
        rows_replayed=trace.rows,
        duration_ns=trace.header.totals.duration_ns,
    )
    title = f"as recorded in {Path(info.path).name}"
    lanes = [lane_of(lane, info, title=title) for lane in state.lanes]
    reasons = _reasons(state)
    return result_of(
        lanes,
        state.recorder.groups(),
        info,
        kind="ops",
        verdict="INVALID" if reasons else "UNJUDGED",
        acceptable=not reasons,
        reasons=reasons,
        marks=[],
        warnings=[*signs.warnings(lanes), *_unknown(trace)],
        requests=state.requests,
        created_at_s=clock.unix_s(),
        errors=sum(state.tally.errors().values()),
        errors_by_name=state.tally.errors(),
        not_executed=[],
        fidelity=fidelity.measure(state.recorder, state.phases, None),
        populate=None,
        payload=None,
        tool=None,
        environment=None,
        config=None,
    )


def _reasons(state: _Found) -> list[Reason]:
    failed = sum(state.tally.errors().values())
    if not failed:
        return []
    return [
        Reason(
            "failed_ops",
            f"{format_count(failed)} ops failed, the first with {state.tally.first_error}",
            "failed ops are in no percentile; find out why they failed, and run again",
        )
    ]


def _unknown(trace: Trace) -> list[Reason]:
    """Return what can't be known of ops that were done elsewhere."""
    warnings = [
        Reason(
            "unjudged",
            "made from finished ops: what their tool did to the numbers isn't known",
            "replay the trace with kvtrace for a verdict",
        )
    ]
    if "due" not in trace.columns:
        warnings.append(
            Reason(
                "no_schedule",
                "the ops have no due times, so that waiting is in none of these latencies",
                "don't compare them with response times (coordinated omission)",
            )
        )
    return warnings
