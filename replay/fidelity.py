"""How faithfully a run did what the trace says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from kvtrace.schema import Op, Phase, Tier
from replay.histogram import Histogram, Summary
from replay.loop import NO_TIME_NS, Mode
from replay.violations import count_violations

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from replay.plan import Plan
    from replay.recorder import Recorder
    from replay.survey import Survey


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
    in_flight_planned_max: int | None
    in_flight_actual_max: int
    stretch_ratio: float | None
    """First to last submit ÷ first to last due."""
    order_violations: int
    phases: tuple[PhaseCount, ...]


def in_flight_max(begin: NDArray[np.int64], end: NDArray[np.int64]) -> int:
    """Return how many of the spans [begin, end) overlap at most."""
    if not len(begin):
        return 0
    edges = np.concatenate((begin, end))
    steps = np.concatenate((np.ones(len(begin), np.int64), -np.ones(len(end), np.int64)))
    order = np.lexsort((steps, edges))
    return int(np.cumsum(steps[order]).max())


def _distance(due: NDArray[np.int64], submit: NDArray[np.int64]) -> float:
    if len(due) < 2:
        return 0.0
    planned, actual = np.sort(np.diff(np.sort(due))), np.sort(np.diff(np.sort(submit)))
    return float(np.abs(actual - planned).mean())


def _phases(survey: Survey, plan: Plan, good: NDArray[np.bool_]) -> tuple[PhaseCount, ...]:
    tiers = sorted({int(tier) for tier in np.unique(plan.tier)})
    moves = [Op.READ, Op.WRITE]
    moving = np.isin(plan.op, moves)
    found = []
    for phase in Phase:
        trace_ops = int(survey.cell_ops[tiers, phase].sum()) if tiers else 0
        if not trace_ops:
            continue
        mine = good & (plan.phase == phase)
        cells = survey.cell_bytes[tiers, phase]
        found.append(
            PhaseCount(
                phase,
                trace_ops,
                int(mine.sum()),
                int(cells[:, moves].sum()),
                int(plan.size_bytes[mine & moving].sum(dtype=np.uint64)),
            )
        )
    return tuple(found)


def measure(recorder: Recorder, survey: Survey) -> Fidelity:
    """Return how faithful a run was."""
    plan, outcome, mode = recorder.plan, recorder.outcome, recorder.mode
    did = recorder.moves & recorder.good
    times, due = outcome.times, recorder.waits.due_ns
    actual = in_flight_max(times.submit_ns[did], times.complete_ns[did])
    phases = _phases(survey, plan, recorder.good)
    violations = count_violations(plan, outcome)
    if mode == Mode.MAX or not did.any():
        return Fidelity(None, None, None, actual, None, violations, phases)
    assert (times.submit_ns[did] != NO_TIME_NS).all()
    planned_ns = int(due[did].max() - due[did].min())
    actual_ns = int(times.submit_ns[did].max() - times.submit_ns[did].min())
    return Fidelity(
        Histogram.of(np.abs(times.submit_ns[did] - due[did])).summary(),
        _distance(due[did], times.submit_ns[did]),
        in_flight_max(due[did], due[did] + recorder.service_ns[did]),
        actual,
        actual_ns / planned_ns if planned_ns else None,
        violations,
        phases,
    )


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
