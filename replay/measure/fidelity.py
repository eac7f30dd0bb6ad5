"""Fidelity of a run to its trace."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kvtrace.trace.schema import Op, Phase, Tier
from replay.ops.contract import Mode

if TYPE_CHECKING:
    from kvtrace.placement.survey import Survey
    from replay.measure.histogram import Summary
    from replay.measure.recorder import Recorder
    from replay.measure.slices import Level


@dataclass(frozen=True, slots=True)
class PhaseCount:
    """Ops and bytes of one phase: in the trace's executed tiers, and of those what was done."""

    phase: Phase
    trace_ops: int
    executed_ops: int
    trace_bytes: int
    executed_bytes: int


@dataclass(frozen=True, slots=True)
class Fidelity:
    """Distances between plan and run; None where the mode has no schedule."""

    submit_error: Summary | None
    interarrival_distance_ns: float | None
    """Mean distance between the sorted gaps of due times and of submit times (Wasserstein-1)."""
    due_gaps: Summary | None
    submit_gaps: Summary | None
    in_flight_planned_max: float | None
    """If each op had begun when it was due: the mean of the fullest slice of time, all lanes."""
    in_flight_actual_max: float
    stretch_ratio: float | None
    """First to last submit ÷ first to last due."""
    order_violations: int | None
    """None where it wasn't checked."""
    phases: tuple[PhaseCount, ...]


def phases_of(
    survey: Survey, tiers: tuple[Tier, ...], recorder: Recorder
) -> tuple[PhaseCount, ...]:
    """Return what of each phase was done."""
    moves = [Op.READ, Op.WRITE]
    skipped = []
    for phase in Phase:
        cells = survey.cell_ops[list(tiers), phase]
        if not cells.sum():
            continue
        skipped.append(
            PhaseCount(
                phase,
                int(cells.sum()),
                int(recorder.phase_ops[phase]),
                int(survey.cell_bytes[list(tiers), phase][:, moves].sum()),
                int(recorder.phase_bytes[phase]),
            )
        )
    return tuple(skipped)


def measure(
    recorder: Recorder, phases: tuple[PhaseCount, ...], order_violations: int | None
) -> Fidelity:
    """Return how faithful a run was."""
    slices = [lane.slices for lane in recorder.lanes]
    actual = sum(_fullest(each.in_flight, each.width_ns) for each in slices)
    if recorder.mode == Mode.MAX or not recorder.submit_error.count:
        return Fidelity(None, None, None, None, None, actual, None, order_violations, phases)
    return Fidelity(
        recorder.submit_error.summary(),
        recorder.submit_gaps.histogram.distance(recorder.due_gaps.histogram),
        recorder.due_gaps.histogram.summary(),
        recorder.submit_gaps.histogram.summary(),
        sum(_fullest(each.planned, each.width_ns) for each in slices),
        actual,
        recorder.stretch_ratio,
        order_violations,
        phases,
    )


def _fullest(level: Level, width_ns: int) -> float:
    return float(level.mean(width_ns).max(initial=0.0))


@dataclass(frozen=True, slots=True)
class Skipped:
    """Ops and bytes of a tier that wasn't executed."""

    tier: Tier
    ops: int
    bytes: int


def skipped(survey: Survey, executed: tuple[Tier, ...]) -> tuple[Skipped, ...]:
    """Return what of the trace wasn't executed."""
    moves = [Op.READ, Op.WRITE]
    return tuple(
        Skipped(
            tier,
            int(survey.cell_ops[tier].sum()),
            int(survey.cell_bytes[tier][:, moves].sum()),
        )
        for tier in Tier
        if tier not in executed and survey.cell_ops[tier].any()
    )
