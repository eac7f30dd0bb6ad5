"""Files that a result goes to: reports, and the result trace, which is itself a trace."""

from __future__ import annotations

import errno
from contextlib import ExitStack, suppress
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from kvtrace.errors import TargetError, UsageError, write_failure
from kvtrace.files.drafts import Draft, draft_path, drafts_of
from kvtrace.files.outfile import write_all
from kvtrace.files.outputs import Reservation, check_apart, check_writable
from kvtrace.trace.reader import open_trace
from kvtrace.trace.schema import ROW_GROUP_ROWS
from kvtrace.trace.writer import TraceWriter
from kvtrace.units import S_NS
from replay import clock, report
from replay.measure.executed import ExecutedRows
from replay.ops.columns import DEPENDENCY_FAILED, INTERRUPTED, NO_TIME_NS, VERIFY_FAILED
from replay.result.trace_info import REPLAY, RESULT_KEY, WHOLE
from replay.safety.storage import files_below

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from kvtrace.placement.rows import RowSource
    from kvtrace.trace.header import Header
    from kvtrace.trace.reader import Trace
    from kvtrace.trace.schema import Tier
    from replay.ops.done import Done
    from replay.result.document import ResultDocument
    from replay.result.finished import Result

_ERRNO = {
    DEPENDENCY_FAILED: errno.ECANCELED,
    VERIFY_FAILED: errno.EBADMSG,
    INTERRUPTED: errno.EINTR,
}
TRACE_SUFFIX = ".parquet"
PARTS_SUFFIX = ".parts"
_MEASURED = ("due", "submit", "complete", "error")
_CRASHED = {"verdict": "INVALID", "reasons": ["interrupted"]}
_FLUSH_NS = 5 * S_NS


class ResultTrace:
    """Writes the executed rows of a trace and their times while a run goes on.

    `due`, `submit`, `complete` are ns since the run's clock zero, null where it never happened.
    Beside errnos `error` has ECANCELED for ops whose predecessor failed, EBADMSG for reads of wrong
    bytes, EINTR for ops that were stopped; ops that a run with a run time hadn't the time for are
    no rows. Every few seconds what there is becomes a part of its
    own, itself a trace, in a folder beside `path`: a crash loses no more than that. `finish` makes
    one file.
    """

    def __init__(
        self,
        trace: Trace,
        rows: RowSource,
        path: Path,
        tiers: Sequence[Tier],
        *,
        timed: bool,
        force: bool,
    ) -> None:
        """Take nothing yet; `timed`: the run ends when its time is over."""
        self._trace, self._path, self._force = trace, path, force
        self._timed = timed
        self._tiers = np.array(tiers, np.uint8)
        self._kept = [name for name in trace.columns if name not in _MEASURED]
        self._rows = ExecutedRows(rows, self._kept, tiers)
        self._pending: list[dict[str, NDArray[Any]]] = []
        self._pending_rows = 0
        self._parts: list[Path] = []
        self._folder: Path | None = None
        self._failure: TargetError | None = None
        self._flushed_ns = clock.now_ns()

    def add(self, done: Done, start_ns: int) -> None:
        """Take finished ops, in the trace's order."""
        measured = _measured(done, start_ns)
        kept = done.error != INTERRUPTED if self._timed else np.ones(len(done), bool)
        begin = 0
        for rows in self._rows.take(len(done)):
            end = begin + len(rows["timestamp"])
            part = rows | {name: values[begin:end] for name, values in measured.items()}
            which = kept[begin:end]
            if not which.all():
                part = {name: values[which] for name, values in part.items()}
            self._pending.append(part)
            begin = end
        self._pending_rows += int(kept.sum())
        late = clock.now_ns() - self._flushed_ns > _FLUSH_NS
        if self._pending_rows >= ROW_GROUP_ROWS or (late and self._pending_rows):
            try:
                self._flush()
            except TargetError as error:  # the run goes on, and its reports are written
                self._failure = self._failure or error
            self._pending, self._pending_rows = [], 0
            self._flushed_ns = clock.now_ns()

    def _flush(self) -> None:
        path = self._parts_folder() / f"part-{len(self._parts):06d}{TRACE_SUFFIX}"
        with TraceWriter(path, self._header(_CRASHED), self._columns) as writer:
            writer.resident = self._resident()
            for rows in self._pending:
                writer.append(rows)
        self._parts.append(path)

    def _parts_folder(self) -> Path:
        """Return the folder that holds the parts until the trace is whole, a new one at first."""
        if self._folder is None:
            folder = draft_path(self._path, PARTS_SUFFIX)
            try:
                folder.mkdir()
            except OSError as error:
                raise write_failure(self._path, error) from error
            self._folder = folder
        return self._folder

    @property
    def _columns(self) -> list[str]:
        return [*self._kept, *_MEASURED]

    def _resident(self) -> NDArray[np.void]:
        resident = self._trace.resident()
        return resident[np.isin(resident["tier"], self._tiers)]

    def _header(self, replay: Mapping[str, object]) -> Header:
        old = self._trace.header
        # What a capture's header says is of other times than these.
        statistics = {**old.statistics, REPLAY: dict(replay)}
        return old.model_copy(update={"statistics": statistics, "capture": None})

    def finish(self, result: Result, document: ResultDocument) -> None:
        """Write the whole trace under its name, `document` in it; the parts are gone then.

        Raises TargetError if it can't be written, or a part couldn't.
        """
        if self._failure is not None:
            self._remove_parts()
            raise self._failure
        about = {
            "trace_sha256": result.trace.sha256,
            "verdict": result.verdict.word,
            "run_id": result.payload.run_id,
            "tiers": [lane.tier for lane in result.lanes],
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
        self._remove_parts()

    def _remove_parts(self) -> None:
        """Remove the parts that were written here, and their folder if nothing else is in it."""
        for path in self._parts:
            path.unlink(missing_ok=True)
        if self._folder is not None:
            with suppress(OSError):
                self._folder.rmdir()


def _append_part(writer: TraceWriter, path: Path, columns: Sequence[str]) -> int:
    """Append the rows of one part; return how many."""
    with open_trace(path) as part:
        for batch in part.batches(list(columns), nulls=True):
            writer.append(batch)
        return part.rows


def left_parts(path: Path) -> Path:
    """Return the folder of parts at `path`, or the one that a killed run left beside it.

    Raises UsageError if there is none, or several.
    """
    if path.is_dir() and any(path.glob(f"part-*{TRACE_SUFFIX}")):
        return path
    drafts = drafts_of(path, PARTS_SUFFIX) if path.parent.is_dir() else []
    if len(drafts) == 1:
        return drafts[0]
    raise UsageError(
        "several runs have left parts" if drafts else "no parts of a result trace",
        where=path,
        got=", ".join(map(str, drafts)) or None,
        accepted=f"the --out of a run that was killed, or its folder .NAME.*{PARTS_SUFFIX}",
    )


def recover(folder: Path, path: Path, *, force: bool = False) -> int:
    """Make one result trace of the parts that a killed run has left; return its rows.

    The folder stays. Raises UsageError if there are no whole parts.
    """
    parts = sorted(folder.glob(f"part-*{TRACE_SUFFIX}")) if folder.is_dir() else []
    if not parts:
        raise UsageError(
            "no parts of a result trace",
            where=folder,
            accepted=f"a folder .NAME.*{PARTS_SUFFIX} left by a run that was killed",
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
        self._drafts: list[Draft] = []
        self._undo = ExitStack()

    @property
    def files(self) -> list[Path]:
        """The reports, then the result trace."""
        return [*self.reports, *([] if self.out is None else [self.out])]

    @property
    def left(self) -> list[Path]:
        """Folders of parts that earlier runs with the same `out` have left."""
        return [] if self.out is None else drafts_of(self.out, PARTS_SUFFIX)

    def check(self) -> None:
        """Check that all can be written, and create the reports' drafts.

        Raises UsageError or TargetError; then nothing is left.
        """
        if self.out is not None and self.out.suffix != TRACE_SUFFIX:
            raise UsageError(
                "unknown form of result trace",
                where=self.out,
                got=repr(self.out.suffix),
                accepted=TRACE_SUFFIX,
            )
        for path in self.reports:
            report.check_suffix(path)
        check_apart(self.files, [*self.inputs, *chain(*map(files_below, self.inputs))])
        for path in self.files:
            check_writable(path, force=self.force)
        self._reserve()

    def _reserve(self) -> None:
        """Create the drafts of all reports, so that a run isn't lost to an unwritable report."""
        with ExitStack() as undo:
            for path in self.reports:
                draft = Draft(path, force=self.force)
                undo.callback(draft.discard)
                self._drafts.append(draft)
            if self.out is not None:
                undo.callback(Reservation(self.out).close)
                Draft(self.out, force=self.force).discard()
            self._undo = undo.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        """Remove what was made and has no name yet, except parts that `recover` can use."""
        self._undo.close()

    def open(self, trace: Trace) -> None:
        """Take the trace that will be replayed."""
        self._trace = trace

    def begin(self, rows: RowSource, tiers: Sequence[Tier], *, timed: bool) -> None:
        """Take the rows that are replayed and the tiers that are executed; the run begins."""
        if self.out is not None:
            assert self._trace is not None
            self._result_trace = ResultTrace(
                self._trace, rows, self.out, tiers, timed=timed, force=self.force
            )

    def add(self, done: Done, start_ns: int) -> None:
        """Take finished ops, in the trace's order."""
        if self._result_trace is not None:
            self._result_trace.add(done, start_ns)

    def checkpoint(self, result_so_far: Callable[[], Result]) -> None:
        """Keep what the reports would say if the run ended now, in the draft of each of them."""
        if not self._drafts:
            return
        document = result_so_far().document()
        for draft in self._drafts:
            with suppress(OSError):  # the last one stays; the end tells what can't be written
                draft.refill(lambda place: report.write_json(document, place))

    def write(self, result: Result) -> None:
        """Write all files, each whole or not at all: the result trace first, then the reports.

        One that fails costs none of the others. Raises TargetError that names those that failed.
        """
        document = result.document()
        writes: dict[Path, Callable[[], object]] = {}
        if self.out is not None and self._result_trace is not None:
            trace = self._result_trace
            writes[self.out] = lambda: trace.finish(result, document)
        for draft in self._drafts:
            writes[draft.path] = partial(report.write_draft, document, draft)
        write_all(writes, lambda path: writes[path]())
