"""Fidelity of a run to its trace."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from kvtrace.fields import Section
from kvtrace.trace.schema import Op, Phase, Tier
from replay.measure.summaries import Distribution, Percentiles
from replay.ops.contract import Mode

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kvtrace.placement.survey import Survey
    from replay.measure.recorder import Recorder
    from replay.measure.slices import Level


class PhaseFidelity(Section):
    """Ops and bytes of one phase: in the trace's executed tiers, and of those what was done."""

    phase: str
    trace_ops: int
    executed_ops: int
    trace_bytes: int
    executed_bytes: int


class FidelityDocument(Section):
    """How faithfully the run did what the trace says; None where the mode has no schedule."""

    submit_error_ns: Percentiles | None
    interarrival_distance_ns: float | None = Field(
        description="mean distance between the sorted gaps of due times and of submit times "
        "(Wasserstein-1)"
    )
    interarrival_due_ns: Distribution | None
    interarrival_submit_ns: Distribution | None
    in_flight_planned_max: float | None = Field(
        description="if each op had begun when it was due: the mean of the fullest slice of time, "
        "all lanes"
    )
    in_flight_actual_max: float
    stretch_ratio: float | None = Field(description="first to last submit ÷ first to last due")
    order_violations: int | None = Field(description="None where it wasn't checked")
    phases: list[PhaseFidelity]


def phases_of(survey: Survey, tiers: tuple[Tier, ...], recorder: Recorder) -> list[PhaseFidelity]:
    """Return what of each phase was done."""
    moves = [Op.READ, Op.WRITE]
    phases = []
    for phase in Phase:
        cells = survey.cell_ops[list(tiers), phase]
        if cells.sum():
            phases.append(
                PhaseFidelity(
                    phase=phase.label,
                    trace_ops=int(cells.sum()),
                    executed_ops=int(recorder.phase_ops[phase]),
                    trace_bytes=int(survey.cell_bytes[list(tiers), phase][:, moves].sum()),
                    executed_bytes=int(recorder.phase_bytes[phase]),
                )
            )
    return phases


def measure(
    recorder: Recorder, phases: Iterable[PhaseFidelity], order_violations: int | None
) -> FidelityDocument:
    """Return how faithful a run was."""
    slices = [lane.slices for lane in recorder.lanes]
    scheduled = recorder.mode != Mode.MAX and recorder.submit_error.count > 0
    due, submit = recorder.due_gaps.histogram, recorder.submit_gaps.histogram
    planned = sum(_fullest(each.planned, each.width_ns) for each in slices)
    return FidelityDocument(
        submit_error_ns=recorder.submit_error.summary() if scheduled else None,
        interarrival_distance_ns=submit.distance(due) if scheduled else None,
        interarrival_due_ns=due.distribution() if scheduled else None,
        interarrival_submit_ns=submit.distribution() if scheduled else None,
        in_flight_planned_max=planned if scheduled else None,
        in_flight_actual_max=sum(_fullest(each.in_flight, each.width_ns) for each in slices),
        stretch_ratio=recorder.stretch_ratio if scheduled else None,
        order_violations=order_violations,
        phases=list(phases),
    )


def _fullest(level: Level, width_ns: int) -> float:
    return float(level.mean(width_ns).max(initial=0.0))


class NotExecuted(Section):
    """Ops and bytes of a tier that wasn't executed."""

    tier: str
    ops: int
    bytes: int


def skipped(survey: Survey, executed: tuple[Tier, ...]) -> list[NotExecuted]:
    """Return what of the trace wasn't executed."""
    moves = [Op.READ, Op.WRITE]
    return [
        NotExecuted(
            tier=tier.label,
            ops=int(survey.cell_ops[tier].sum()),
            bytes=int(survey.cell_bytes[tier][:, moves].sum()),
        )
        for tier in Tier
        if tier not in executed and survey.cell_ops[tier].any()
    ]
