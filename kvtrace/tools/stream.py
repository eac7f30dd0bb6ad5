"""Rows on their way from one trace to another: read in batches, changed, written."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from kvtrace.errors import UsageError
from kvtrace.formats.mlperf_csv.csvfile import CsvWriter, is_csv
from kvtrace.trace.header import Header, Producer, Resident, Totals
from kvtrace.trace.reader import Trace, open_trace
from kvtrace.trace.writer import TraceWriter
from kvtrace.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy as np
    from numpy.typing import NDArray

    from kvtrace.trace.reader import Columns

IDS = ("key", "request", "session", "block")
"""Columns that name things."""
MEASURED = ("due", "submit", "complete", "error")
"""Columns that only a measurement has."""


@dataclass(frozen=True, slots=True)
class Stream:
    """Rows in order of time, with what is to be known of them.

    `columns`: all that the batches have, nulls as a mask. `resident`: the objects present at the
    start; it may be asked for only when the batches are over.
    """

    header: Header
    columns: tuple[str, ...]
    batches: Iterator[Columns]
    resident: Callable[[], NDArray[np.void]]


@dataclass(frozen=True, slots=True)
class Written:
    """A finished trace: its header, and how many rows had no word in a CSV."""

    path: Path
    header: Header
    residents: int


@contextmanager
def opened(path: Path) -> Iterator[Trace]:
    """Give the trace at `path`; a CSV is imported first, beside nothing of the user's."""
    if not is_csv(path):
        with open_trace(path) as trace:
            yield trace
        return
    from kvtrace.formats.common import importing as importers  # needed for other tools' files only

    with TemporaryDirectory(prefix="kvtrace-") as folder:
        made = Path(folder) / "imported.parquet"
        importers.convert([path], made)
        with open_trace(made) as trace:
            yield trace


def described(trace: Trace) -> dict[str, Any]:
    """Return what a history says of an input."""
    return {"rows": trace.rows, "content_sha256": trace.header.content_sha256}


def derived_header(header: Header, entry: dict[str, Any], **changes: Any) -> Header:
    """Return the header of a trace made of another one, `entry` being the last of its history.

    Counts of the simulation don't hold for it; that half of a demotion may be missing does.
    """
    return header.model_copy(
        update={
            "producer": Producer(version=VERSION),
            "statistics": {},
            "half_demotions": header.half_demotions or "replay" in header.statistics,
            "resident": Resident(derived=header.resident.derived),
            "totals": Totals(),
            "content_sha256": None,
            "history": [*header.history, entry],
            **changes,
        }
    )


def write(stream: Stream, out: Path, *, force: bool = False) -> Written:
    """Write a stream to `out`, whole or not at all. Raises UsageError if it has no rows."""
    writer = _writer(stream, out, force=force)
    with writer:
        rows = 0
        for columns in stream.batches:
            if len(columns["timestamp"]):
                writer.append(columns)
                rows += len(columns["timestamp"])
        if rows == 0 or (isinstance(writer, CsvWriter) and writer.rows == 0):
            raise UsageError(
                "came out empty", where=out, got="0 rows", accepted="a choice that keeps some row"
            )
        resident = stream.resident()
        if isinstance(writer, TraceWriter):
            writer.resident = resident
        header = writer.close()
    return Written(out, header, len(resident))


def _writer(stream: Stream, out: Path, *, force: bool) -> TraceWriter | CsvWriter:
    if is_csv(out):
        return CsvWriter(out, epoch_ns=stream.header.epoch_ns or 0, force=force)
    if out.suffix != ".parquet":
        raise UsageError("unknown kind of output", where=out, accepted=".parquet, .csv, .csv.zst")
    return TraceWriter(out, stream.header, stream.columns, force=force)
