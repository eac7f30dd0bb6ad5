"""Files that a result goes to: reports, and the result trace, which is itself a trace."""

from __future__ import annotations

import errno
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np

from kvtrace.errors import TargetError, UsageError
from kvtrace.reader import open_trace
from kvtrace.schema import ROW_GROUP_ROWS
from kvtrace.units import S_NS
from kvtrace.writer import TraceWriter, check_writable, partial_path
from replay import clock, report
from replay.executed import ExecutedRows
from replay.from_run import document_of
from replay.loop import DEPENDENCY_FAILED, INTERRUPTED, NO_TIME_NS, VERIFY_FAILED
from replay.trace_info import REPLAY, WHOLE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from kvtrace.header import Header
    from kvtrace.reader import Trace
    from kvtrace.schema import Tier
    from replay.document import ResultDocument
    from replay.done import Done
    from replay.result import Result

_ERRNO = {
    DEPENDENCY_FAILED: errno.ECANCELED,
    VERIFY_FAILED: errno.EBADMSG,
    INTERRUPTED: errno.EINTR,
}
TRACE_SUFFIX = ".parquet"
PARTS_SUFFIX = ".parts"
RESULT_KEY = b"kvtrace.result"
"""Of a result trace's metadata: the result's document, as JSON."""
_MEASURED = ("due", "submit", "complete", "error")
_CRASHED = {"verdict": "INVALID", "reasons": ["interrupted"]}
_FLUSH_NS = 5 * S_NS


def parts_path(path: Path) -> Path:
    """Return the folder that holds the parts of a result trace until it is whole."""
    return path.with_name(path.name + PARTS_SUFFIX)


class ResultTrace:
    """Writes the executed rows of a trace and their times while a run goes on.

    `due`, `submit`, `complete` are ns since the run's clock zero, null where it never happened.
    Beside errnos `error` has ECANCELED for ops whose predecessor failed, EBADMSG for reads of wrong
    bytes, EINTR for ops that were stopped. Every few seconds what there is becomes a part of its
    own, itself a trace, in a folder beside `path`: a crash loses no more than that. `finish` makes
    one file.
    """

    def __init__(self, trace: Trace, path: Path, tiers: Sequence[Tier], *, force: bool) -> None:
        self._trace, self._path, self._force = trace, path, force
        self._tiers = np.array(tiers, np.uint8)
        self._kept = [name for name in trace.columns if name not in _MEASURED]
        self._rows = ExecutedRows(trace, self._kept, tiers)
        self._pending: list[dict[str, NDArray[Any]]] = []
        self._pending_rows = 0
        self._parts: list[Path] = []
        self._flushed_ns = clock.now_ns()

    def add(self, done: Done, start_ns: int) -> None:
        """Take finished ops, in the trace's order."""
        measured = _measured(done, start_ns)
        begin = 0
        for rows in self._rows.take(len(done)):
            end = begin + len(rows["timestamp"])
            part = {name: values[begin:end] for name, values in measured.items()}
            self._pending.append(rows | part)
            begin = end
        self._pending_rows += len(done)
        late = clock.now_ns() - self._flushed_ns > _FLUSH_NS
        if self._pending_rows >= ROW_GROUP_ROWS or (late and self._pending_rows):
            self._flush()

    def _flush(self) -> None:
        folder = parts_path(self._path)
        folder.mkdir(exist_ok=True)
        path = folder / f"part-{len(self._parts):06d}{TRACE_SUFFIX}"
        with TraceWriter(path, self._header(_CRASHED), self._columns, force=True) as writer:
            writer.resident = self._resident()
            for rows in self._pending:
                writer.append(rows)
        self._parts.append(path)
        self._pending, self._pending_rows = [], 0
        self._flushed_ns = clock.now_ns()

    @property
    def _columns(self) -> list[str]:
        return [*self._kept, *_MEASURED]

    def _resident(self) -> NDArray[np.void]:
        resident = self._trace.resident()
        return resident[np.isin(resident["tier"], self._tiers)]

    def _header(self, replay: Mapping[str, object]) -> Header:
        old = self._trace.header
        return old.model_copy(update={"statistics": {**old.statistics, REPLAY: dict(replay)}})

    def finish(self, result: Result, document: ResultDocument) -> None:
        """Write the whole trace under its name, `document` in it; the parts are gone then."""
        about = {
            "trace_sha256": result.trace.sha256,
            "verdict": result.verdict.word,
            "run_id": result.payload.run_id,
            "tiers": [lane.measure.tier.label for lane in result.lanes],
            "mode": result.options.mode.value,
            "speed": result.options.speed,
            WHOLE: result.trace.rows_replayed == result.trace.rows,
        }
        with TraceWriter(
            self._path, self._header(about), self._columns, force=self._force
        ) as writer:
            writer.resident = self._resident()
            writer.beside[RESULT_KEY] = document.model_dump_json().encode()
            for path in self._parts:
                _append_part(writer, path, self._columns)
            for rows in self._pending:
                writer.append(rows)
        if self._parts:
            shutil.rmtree(parts_path(self._path))


def _append_part(writer: TraceWriter, path: Path, columns: Sequence[str]) -> int:
    """Append the rows of one part; return how many."""
    with open_trace(path) as part:
        for batch in part.batches(list(columns), nulls=True):
            writer.append(batch)
        return part.rows


def recover(folder: Path, path: Path, *, force: bool = False) -> int:
    """Make one result trace of the parts that a killed run has left; return its rows.

    The folder stays. Raises UsageError if there are no whole parts.
    """
    parts = sorted(folder.glob(f"part-*{TRACE_SUFFIX}")) if folder.is_dir() else []
    if not parts:
        raise UsageError(
            "no parts of a result trace",
            where=folder,
            accepted=f"a folder NAME{TRACE_SUFFIX}{PARTS_SUFFIX} left by a run that was killed",
        )
    with open_trace(parts[0]) as first:
        header, columns, resident = first.header, list(first.columns), first.resident()
    with TraceWriter(path, header, columns, force=force) as writer:
        writer.resident = resident
        return sum(_append_part(writer, part, columns) for part in parts)


def _measured(done: Done, start_ns: int) -> dict[str, NDArray[Any]]:
    error = done.error.copy()
    for code, number in _ERRNO.items():
        error[error == code] = number

    def since_start(values: NDArray[np.int64]) -> NDArray[Any]:
        never = values == NO_TIME_NS
        return np.ma.masked_array(np.where(never, 0, values - start_ns), mask=never)

    return {
        "due": since_start(done.due_ns),
        "submit": since_start(done.submit_ns),
        "complete": since_start(done.complete_ns),
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
        self._trace: Trace | None = None
        self._result_trace: ResultTrace | None = None

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
        if self.out is not None and parts_path(self.out).exists():
            raise UsageError(
                "parts of an earlier result are there: its run was killed",
                where=parts_path(self.out),
                hint="`kvtrace recover` makes a trace of them; then delete the folder",
            )

    def open(self, trace: Trace) -> None:
        """Take the trace that will be replayed."""
        self._trace = trace

    def begin(self, tiers: Sequence[Tier]) -> None:
        """Take the tiers that are executed; the run is about to begin."""
        if self.out is not None:
            assert self._trace is not None
            self._result_trace = ResultTrace(self._trace, self.out, tiers, force=self.force)

    def add(self, done: Done, start_ns: int) -> None:
        """Take finished ops, in the trace's order."""
        if self._result_trace is not None:
            self._result_trace.add(done, start_ns)

    def checkpoint(self, result_so_far: Callable[[], Result]) -> None:
        """Keep what the reports would say if the run ended now, beside each of them."""
        if not self.reports:
            return
        document = document_of(result_so_far())
        for path in self.reports:
            report.write_json(document, partial_path(path))

    def write(self, result: Result) -> None:
        """Write all files, each whole or not at all. Raises TargetError."""
        document = document_of(result)
        for path in self.reports:
            report.write(document, path)
            partial_path(path).unlink(missing_ok=True)
        if self._result_trace is not None:
            self._result_trace.finish(result, document)


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
