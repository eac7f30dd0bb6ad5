"""Files that a result goes to: reports, and the result trace, which is itself a trace."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import numpy as np

from kvtrace.errors import TargetError, UsageError
from kvtrace.writer import TraceWriter, check_writable, partial_path
from replay import report
from replay.loop import DEPENDENCY_FAILED, INTERRUPTED, NO_TIME_NS, VERIFY_FAILED

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from kvtrace.reader import Trace
    from replay.result import Result

_ERRNO = {
    DEPENDENCY_FAILED: errno.ECANCELED,
    VERIFY_FAILED: errno.EBADMSG,
    INTERRUPTED: errno.EINTR,
}
TRACE_SUFFIX = ".parquet"
_MEASURED = ("due", "submit", "complete", "error")


def write_result_trace(trace: Trace, result: Result, path: Path, *, force: bool = False) -> None:
    """Write the executed rows of `trace` with due, submit, complete and error to `path`.

    Times are ns since the run's clock zero; null where it never happened. Beside errnos `error`
    has ECANCELED for ops whose predecessor failed, EBADMSG for reads of wrong bytes, EINTR for
    ops that were stopped.
    """
    kept = [name for name in trace.columns if name not in _MEASURED]
    header = trace.header.model_copy(update={"statistics": _statistics(trace, result)})
    executed = {int(tier) for tier in np.unique(result.plan.tier)}
    resident = trace.resident()
    resident = resident[np.isin(resident["tier"], list(executed))]
    measured = _measured(result)
    row = result.plan.row
    with TraceWriter(path, header, [*kept, *_MEASURED], force=force) as writer:
        writer.resident = resident
        first_row = 0
        for batch in trace.batches(kept):
            rows = len(batch["timestamp"])
            begin, end = np.searchsorted(row, (first_row, first_row + rows))
            if end > begin:
                inside = row[begin:end] - first_row
                columns = {name: values[inside] for name, values in batch.items()}
                columns |= {name: values[begin:end] for name, values in measured.items()}
                writer.append(columns)
            first_row += rows


def _statistics(trace: Trace, result: Result) -> dict[str, object]:
    return {
        **trace.header.statistics,
        "replay": {
            "trace_sha256": result.trace.sha256,
            "verdict": result.verdict.word,
            "run_id": result.payload.run_id,
            "tiers": [lane.measure.tier.label for lane in result.lanes],
            "mode": result.options.mode.value,
            "speed": result.options.speed,
        },
    }


def _measured(result: Result) -> dict[str, NDArray[np.generic]]:
    times, start = result.outcome.times, result.outcome.start_ns
    error = times.error.copy()
    for code, number in _ERRNO.items():
        error[error == code] = number

    def since_start(values: NDArray[np.int64]) -> NDArray[np.generic]:
        never = values == NO_TIME_NS
        return np.ma.masked_array(np.where(never, 0, values - start), mask=never)

    due = result.plan.ops.due_ns
    if result.options.mode == "max":
        due_column = since_start(times.ready_ns)
    else:
        due_column = np.ma.masked_array(due, mask=np.zeros(len(due), bool))
    return {
        "due": due_column,
        "submit": since_start(times.submit_ns),
        "complete": since_start(times.complete_ns),
        "error": error,
    }


class Outputs:
    """Where a result goes; checked before anything runs."""

    def __init__(
        self,
        inputs: tuple[Path, ...],
        out: Path | None,
        reports: tuple[Path, ...],
        *,
        force: bool = False,
    ) -> None:
        self.inputs, self.out, self.reports, self.force = inputs, out, reports, force

    def check(self) -> None:
        """Return if all can be written; nothing is left. Raises UsageError or TargetError."""
        if self.out is not None and self.out.suffix != TRACE_SUFFIX:
            raise UsageError(
                "unknown form of result trace",
                where=self.out,
                got=repr(self.out.suffix),
                accepted=TRACE_SUFFIX,
            )
        for path in self.reports:
            report.check_suffix(path)
        taken = [path.resolve() for path in self.inputs]
        for path in (*self.reports, *(() if self.out is None else (self.out,))):
            if path.resolve() in taken:
                raise UsageError("named twice", where=path, hint="name another output")
            taken.append(path.resolve())
            check_writable(path, force=self.force)
            _try(path)

    def write(self, trace: Trace, result: Result) -> None:
        """Write all files, each whole or not at all. Raises TargetError."""
        for path in self.reports:
            report.write(result, path)
        if self.out is not None:
            write_result_trace(trace, result, self.out, force=self.force)


def _try(path: Path) -> None:
    """Return if a file can be made beside `path`: permissions alone don't tell (root, /proc)."""
    probe = partial_path(path)
    try:
        probe.open("wb").close()
        probe.unlink()
    except OSError as error:
        raise TargetError(
            f"can't write: {error.strerror}", where=path, hint="name another place"
        ) from error
