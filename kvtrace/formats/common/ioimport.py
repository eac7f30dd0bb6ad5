"""Shared code of importers of I/O at offsets: from batches to a trace."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from kvtrace.errors import TraceError
from kvtrace.files.outputs import check_writable
from kvtrace.formats.common.blockio import Objects
from kvtrace.formats.common.importing import Imported, header_of
from kvtrace.trace.writer import TraceWriter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from kvtrace.formats.common.blockio import Columns

LAST_NS = (1 << 62) - 1


def write_trace(
    batches: Iterable[Columns],
    paths: Sequence[Path],
    out: Path,
    *,
    name: str,
    force: bool,
    epoch_ns: int | None = None,
    extra: tuple[str, ...] = (),
    notes: Callable[[], list[str]] = list,
) -> Imported:
    """Write I/O (`blockio.COLUMNS` and `extra`) as a trace of format `name`'s files.

    `epoch_ns`: what the files' clock shows at 0, if they tell. `notes` is asked at the end for what
    the format has to say. Raises TraceError if there is none.
    """
    check_writable(out, force=force)
    header = header_of(name, paths, epoch_ns=epoch_ns)
    objects = Objects()
    rows = 0
    with TraceWriter(out, header, extra, force=force) as writer:
        for columns in batches:
            made = objects.rows(columns)
            rows += len(made["op"])
            writer.append(made)
        if rows == 0:
            raise TraceError("no reads or writes", where=paths[0], got="0 rows")
        writer.resident = objects.residents()
        header = writer.close()
    noted = notes()
    if objects.dropped:
        noted.append(f"{objects.dropped:,} trims matched no object and were left out")
    if len(writer.resident):
        noted.append(
            f"{len(writer.resident):,} objects are read before any write: declared resident"
        )
    return Imported(header, tuple(noted))


def never_back(times_ns: NDArray[np.int64], last_ns: int) -> tuple[NDArray[np.int64], int]:
    """Return times that never run backwards, from `last_ns` on, and how many had to be raised."""
    running = np.maximum.accumulate(np.concatenate(([last_ns], times_ns)))[1:]
    return running, int((running != times_ns).sum())
