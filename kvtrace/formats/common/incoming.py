"""Rows on their way in from another tool's log: settled, counted, written as a trace."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from kvtrace.errors import TraceError
from kvtrace.formats.common.importing import Imported, header_of, names_path
from kvtrace.formats.common.objects import Objects
from kvtrace.show.printable import printable
from kvtrace.trace.schema import Op, Phase
from kvtrace.trace.writer import TraceWriter

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    import pyarrow as pa
    from numpy.typing import NDArray

    from kvtrace.formats.common.names import Names
    from kvtrace.trace.header import Header
    from kvtrace.trace.reader import Columns

PHASES = {
    Op.READ: Phase.DECODE,
    Op.WRITE: Phase.PREFILL,
    Op.DELETE: Phase.EVICT,
    Op.LOOKUP: Phase.DECODE,
}
"""Phase of an op, as far as its kind determines it."""
EIO = 5


@dataclass(frozen=True, slots=True)
class Log:
    """A log to import: its name as a format, its files, and what its rows know beyond the usual.

    `fields`: of the header, beside those that every import has.
    """

    name: str
    paths: Sequence[Path]
    columns: tuple[str, ...] = ()
    parameters: dict[str, Any] | None = None
    epoch_ns: int | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Lost:
    """Ops that have bytes and are left out, by name."""

    _counts: dict[str, list[int]] = field(default_factory=dict)

    def note(self, name: str, reason: str, size_bytes: int, count: int = 1) -> None:
        """Take some of one name, of that many bytes each."""
        total = self._counts.setdefault(f"{printable(name)} ({reason})", [0, 0])
        total[0] += count
        total[1] += count * size_bytes

    def note_rows(
        self,
        names: pa.Array,
        rows: NDArray[np.int64],
        reason: str,
        size: NDArray[np.int64],
        count: NDArray[np.int64] | None = None,
    ) -> None:
        """Take the ops at `rows`: `names`, `size` and `count` (1) are of all rows."""
        if not len(rows):
            return
        for row, name in zip(rows.tolist(), names.take(rows).to_pylist(), strict=True):
            self.note(name, reason, int(size[row]), 1 if count is None else int(count[row]))

    def notes(self) -> list[str]:
        """Return notes on rows left out."""
        return [
            f"{count:,} ops {name} left out: {size_bytes:,} bytes"
            for name, (count, size_bytes) in sorted(self._counts.items())
        ]


NOT_UNDERSTOOD, NO_OBJECT = "not understood", "names no object"


def phases(op: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the phase that each op stands for."""
    return np.array([PHASES[word] for word in Op], np.uint8)[op]


def write(
    log: Log, batches: Iterable[Columns], out: Path, *, force: bool
) -> tuple[Header, list[str]]:
    """Write a log's rows, in order of time, as a trace; return its header and what was left out.

    Deletes get their object's size, and rows that can't be are left out. Raises TraceError if there
    are no rows.
    """
    header = header_of(log.name, log.paths, parameters=log.parameters, epoch_ns=log.epoch_ns)
    header = header.model_copy(update=dict(log.fields))
    with (
        Objects(out.parent) as objects,
        TraceWriter(out, header, log.columns, force=force) as writer,
    ):
        rows = 0
        for columns in _settled(batches, objects):
            writer.append(columns)
            rows += len(columns["timestamp"])
        if rows == 0:
            raise TraceError("no rows", where=log.paths[0], accepted="at least one op on an object")
        writer.resident = objects.taken()
        header = writer.close()
    return header, _notes(objects, len(writer.resident))


def _settled(batches: Iterable[Columns], objects: Objects) -> Iterator[Columns]:
    for columns in batches:
        settled = objects.settled(columns)
        if len(settled["timestamp"]):
            yield settled


def _notes(objects: Objects, residents: int) -> list[str]:
    counts = {
        "reads of objects that the log itself had deleted left out": objects.dropped[Op.READ],
        "deletes of objects that nothing else tells of left out": objects.dropped[Op.DELETE],
        "objects are read before any write: declared resident": residents,
    }
    return counted(counts)


def counted(counts: dict[str, int]) -> list[str]:
    """Return a note for each count that isn't 0."""
    return [f"{count:,} {what}" for what, count in counts.items() if count]


def imported(header: Header, notes: Sequence[str], names: Names, out: Path) -> Imported:
    """Return a finished import, with a note of where names are kept."""
    kept = [f"{names.kept:,} names kept in {names_path(out).name}"] if names.kept else []
    return Imported(header, (*notes, *kept))
