"""Counts errors and verified reads while a run goes on, and keeps the first of each kind."""

from __future__ import annotations

import errno
from collections import Counter

import numpy as np

from replay.ops.columns import DEPENDENCY_FAILED, INTERRUPTED, VERIFY_FAILED
from replay.ops.contract import Action
from replay.ops.done import Done

_NAMES = {
    DEPENDENCY_FAILED: "dependency_failed",
    VERIFY_FAILED: "verify_failed",
    INTERRUPTED: "interrupted",
}
SHOWN = 5
"""So many mismatches are kept to be looked at."""


def error_name(code: int) -> str:
    """Return the name of an op's error, e.g. `EIO` or `dependency_failed`."""
    return _NAMES.get(code) or errno.errorcode.get(code, str(code))


class Tally:
    """Errors of all ops. `moving`: lanes whose reads can be verified."""

    def __init__(self, moving: tuple[int, ...]) -> None:
        self._moving = np.array(moving, np.uint8)
        self._errors: Counter[int] = Counter()
        self._mismatched: list[Done] = []
        self.first_error = ""
        """The first failed op's, in the trace's order; not one that waited for a failed one."""
        self.verified = self.moved_reads = 0
        self.total = 0
        """Ops that were taken, whatever came of them."""
        self.completed = 0
        """Ops without error."""

    def add(self, done: Done) -> None:
        """Count finished ops."""
        reads = (done.action == Action.READ) & np.isin(done.lane, self._moving)
        self.moved_reads += int((reads & (done.error == 0)).sum())
        self.verified += int((reads & np.isin(done.error, (0, VERIFY_FAILED))).sum())
        bad = np.flatnonzero(done.error != 0)
        self.total += len(done)
        self.completed += len(done) - len(bad)
        if not len(bad):
            return
        self._errors.update(done.error[bad].tolist())
        failed = bad[done.error[bad] > 0]
        if len(failed) and not self.first_error:
            self.first_error = error_name(int(done.error[failed[0]]))
        wrong = bad[done.error[bad] == VERIFY_FAILED]
        if len(wrong) and len(self._mismatched) < SHOWN:
            self._mismatched.append(done.select(wrong[:SHOWN]))

    @property
    def reached(self) -> int:
        """Ops that were begun, or would have been but for one that failed before them."""
        return self.total - self._errors[INTERRUPTED]

    def errors(self, *, unreached: bool = True) -> dict[str, int]:
        """Return the ops that didn't succeed, by error; not `unreached`: of those begun."""
        return {
            error_name(code): count
            for code, count in sorted(self._errors.items())
            if unreached or code != INTERRUPTED
        }

    @property
    def failed(self) -> int:
        """Ops that ended with an errno."""
        return sum(count for code, count in self._errors.items() if code > 0)

    def count(self, code: int) -> int:
        """Return how many ops ended with one error."""
        return self._errors[code]

    def mismatches(self) -> Done | None:
        """Return the first reads that found the wrong bytes."""
        return Done.join(self._mismatched) if self._mismatched else None
