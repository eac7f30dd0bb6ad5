"""libCacheSim's oracleGeneral: the trace's accesses as 24-byte records, with the next access."""

from __future__ import annotations

from tempfile import TemporaryFile
from typing import IO, TYPE_CHECKING

import numpy as np

from kvtrace.errors import UsageError, write_failure
from kvtrace.files.outfile import OutFile
from kvtrace.files.outputs import check_writable
from kvtrace.formats.common.accesses import PENDING, NextAccess, OfRequests, of_tiers
from kvtrace.formats.common.exporting import Exported, ExportOptions
from kvtrace.formats.common.rows import chosen_tiers
from kvtrace.formats.common.sidecar import MapWriter, map_path
from kvtrace.formats.oracle.record import MAX_SIZE_BYTES, MAX_TIME_S, RECORD
from kvtrace.native.library import contiguous
from kvtrace.trace.outcomes import done_batches
from kvtrace.units import S_NS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from kvtrace.trace.reader import Columns, Trace

OPTIONS = ("tiers",)
LOSES = (
    "rows that aren't accesses (docs/interop.md says which are): demotions, deletions, look-ups",
    "whether an access reads or writes; offset",
    "tier, phase and request (the map has them), session, step, rank, block and qos",
    "time below a second; due, submit, complete and error",
    "objects present at the start: their first access is a miss",
    "the header",
)
_COLUMNS = ("timestamp", "op", "size", "tier", "key", "phase")
_BLOCK_RECORDS = 1 << 18
_OBJECTS_AT_ONCE = 1 << 21


def beside(out: Path) -> tuple[Path, ...]:
    """Return the file that an export makes beside `out`."""
    return (map_path(out),)


def export(trace: Trace, out: Path, options: ExportOptions) -> Exported:
    """Write the accesses. Raises UsageError for none, or an object of 4 GiB or more."""
    if options.tiers:
        chosen_tiers(trace, options.tiers, ())
    check_writable(out, force=options.force)
    rows = _Accesses(trace, options)
    with MapWriter(out, force=options.force) as beside, _scratch(out) as scratch:
        for columns, records in rows:
            records.tofile(scratch)
            beside.append(columns)
        scratch.flush()
        if rows.count == 0:
            raise UsageError("no access in this trace", where=trace.path)
        _link(scratch, rows.count)
        with OutFile(out, force=options.force) as file:
            for first in range(0, rows.count, _BLOCK_RECORDS):
                file.write(_block(scratch, first, rows.count).tobytes())
    return Exported(rows.count, trace.rows - rows.count, LOSES, (map_path(out),))


def _scratch(out: Path) -> IO[bytes]:
    """Return a file without a name beside `out`, for as many bytes."""
    try:
        return TemporaryFile(dir=out.parent)
    except OSError as error:
        raise write_failure(out, error) from error


class _Accesses:
    """The accesses of a trace as records; `count`: records returned."""

    def __init__(self, trace: Trace, options: ExportOptions) -> None:
        self._trace, self._tiers = trace, options.tiers
        self.count = 0

    def __iter__(self) -> Iterator[tuple[Columns, NDArray[np.void]]]:
        names = [*_COLUMNS, *(name for name in ("request",) if name in self._trace.columns)]
        row, of_requests = 0, OfRequests()
        for columns in done_batches(self._trace, names, nulls=True):
            tiers = self._tiers
            taken = of_tiers(columns, tiers) if tiers else of_requests.accesses(columns)
            self._check(columns, taken, row)
            row += len(taken)
            if taken.any():
                kept = {name: values[taken] for name, values in columns.items()}
                self.count += len(kept["key"])
                yield kept, _records(kept)

    def _check(self, columns: Columns, taken: NDArray[np.bool_], row: int) -> None:
        limits = (("size", MAX_SIZE_BYTES), ("timestamp", MAX_TIME_S * S_NS + S_NS - 1))
        for name, most in limits:
            bad = taken & (columns[name] > most)
            if bad.any():
                at = int(np.argmax(bad))
                raise UsageError(
                    "too large for the format",
                    where=f"{self._trace.path}: row {row + at}, column {name}",
                    got=int(columns[name][at]),
                    accepted=f"up to {most}",
                )


def _records(columns: Columns) -> NDArray[np.void]:
    records = np.zeros(len(columns["key"]), RECORD)
    records["time"] = columns["timestamp"] // S_NS
    records["id"], records["size"] = columns["key"], columns["size"]
    records["next"] = PENDING
    return records


def _block(scratch: IO[bytes], first: int, count: int) -> NDArray[np.void]:
    """Return the records `first` and on, a block of them."""
    scratch.seek(first * RECORD.itemsize)
    return np.fromfile(scratch, RECORD, min(_BLOCK_RECORDS, count - first))


def _link(scratch: IO[bytes], count: int) -> None:
    """Give each record in the file its object's next access, block by block from the end.

    Of more objects than fit into the table at once, the file is gone through several times.
    """
    left = True
    while left:
        links = NextAccess(_OBJECTS_AT_ONCE)
        for first in reversed(range(0, count, _BLOCK_RECORDS)):
            records = _block(scratch, first, count)
            following = contiguous(records["next"])
            if links.before(records["id"], first, following):
                records["next"] = following
                scratch.seek(first * RECORD.itemsize)
                records.tofile(scratch)
                scratch.flush()
        left = links.left > 0
