"""Outcome of every row of a trace: rows = ops + errors + not executed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from replay.ops.columns import DEPENDENCY_FAILED, INTERRUPTED, VERIFY_FAILED

if TYPE_CHECKING:
    from kvtrace.placement.survey import Survey
    from kvtrace.trace.schema import Tier
    from replay.measure.tally import Tally


@dataclass(frozen=True, slots=True)
class Counts:
    """Rows within the limits, each in one of the other counts."""

    rows: int
    ops: int
    """Done without error."""
    errors: int
    """Ended with an errno, or read other bytes than were written."""
    not_executed: int
    """Of tiers without a target, behind a failed op, or not reached before the run was stopped."""

    @property
    def add_up(self) -> bool:
        """Whether every row is accounted for, once."""
        return self.rows == self.ops + self.errors + self.not_executed

    def __str__(self) -> str:
        return (
            f"{self.rows:,} rows, {self.ops:,} ops, {self.errors:,} errors, "
            f"{self.not_executed:,} not executed"
        )


def counts_of(survey: Survey, tiers: tuple[Tier, ...], tally: Tally, *, stopped: bool) -> Counts:
    """Return the counts of a run. What was never planned counts only if the run was stopped."""
    executed = int(survey.cell_ops[list(tiers)].sum())
    skipped = int(survey.cell_ops.sum()) - executed
    waiting = tally.count(DEPENDENCY_FAILED)
    waiting += max(0, executed - tally.reached) if stopped else tally.count(INTERRUPTED)
    errors = tally.failed + tally.count(VERIFY_FAILED)
    return Counts(survey.rows, tally.completed, errors, waiting + skipped)
