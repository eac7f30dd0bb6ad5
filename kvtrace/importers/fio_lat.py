"""fio's latency logs (write_lat_log: *_lat.log, *_clat.log) as a result, one file or several."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from kvtrace.errors import TraceError
from kvtrace.inputs.blockio import COLUMNS, FILES_MAX, PLACE_MAX
from kvtrace.inputs.ioimport import LAST_NS, never_back, write_trace
from kvtrace.inputs.words import read_lines
from kvtrace.interleave import interleaved
from kvtrace.schema import MAX_SIZE_BYTES, Op
from kvtrace.units import MS_NS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from kvtrace.importers import Imported, ImportOptions
    from kvtrace.inputs.blockio import Columns
    from kvtrace.inputs.words import Lines, Picked

OPTIONS = ()
MANY = True
EXTRA = ("submit", "complete", "error")
_NAME = re.compile(r"_c?lat(\.\d+)?\.log(\.gz|\.zst)?$")
_OTHER_NAME = re.compile(r"_(slat|bw|iops|hist)(\.\d+)?\.log(\.gz|\.zst)?$")
_OPS = np.array([Op.READ, Op.WRITE, Op.DELETE], np.uint8)
_WITHOUT_OFFSET, _WITH_OFFSET, _WITH_ISSUE = 5, 6, 7
_ACCEPTED = "ms, ns, 0|1|2, bytes[, offset], priority[, issue time in ns]"


def recognises(path: Path, start: bytes) -> bool:
    """Return whether a file is named and begins as such a log; bandwidth logs look the same."""
    return bool(_NAME.search(path.name)) and bool(re.match(rb"\d+, -?\d+, [012], \d+", start))


def convert(paths: Sequence[Path], out: Path, options: ImportOptions) -> Imported:
    """Make a trace with outcomes from logs: those of several jobs side by side.

    Rows keep the order of the log, which is that of completion. A log's times are whole ms at
    completion; `submit` is the latency before it, `timestamp` is `submit`, raised where the row
    before began later. Without `log_offset=1` each op is of an object of its own.
    """
    for path in paths:
        _check_name(path)
    shifts = [_shift_ns(path) for path in paths]
    found = _Found()
    streams = [_rows(path, number, max(shifts), found) for number, path in enumerate(paths)]
    columns = (*COLUMNS, *EXTRA)
    batches = interleaved(streams, columns) if len(streams) > 1 else streams[0]
    return write_trace(
        batches,
        paths,
        out,
        name="fio-lat",
        force=options.force,
        extra=EXTRA,
        notes=found.notes,
    )


@dataclass(slots=True)
class _Found:
    """What is known of all logs so far."""

    nowhere: int = 0

    def notes(self) -> list[str]:
        """Return what had to be changed."""
        said = ["times are of whole milliseconds, rows in order of completion"]
        if self.nowhere:
            said.append(
                f"{self.nowhere:,} ops without an offset (log_offset=1 adds it): each is of an "
                "object of its own"
            )
        return said


def _check_name(path: Path) -> None:
    if _OTHER_NAME.search(path.name):
        raise TraceError(
            "isn't a log of whole latencies",
            where=path,
            got=path.name,
            accepted="*_lat.log (submit to completion) or *_clat.log (submitted to completion)",
        )


@dataclass(frozen=True, slots=True)
class _Times:
    """When ops began and ended, ns since the start of the run; the beginning may be before it."""

    submit: NDArray[np.int64]
    complete: NDArray[np.int64]


def _times(rows: Picked, width: int) -> _Times:
    complete = rows.numbers(0, "the time", LAST_NS // MS_NS) * MS_NS
    latency = rows.numbers(1, "the latency", LAST_NS)
    if width < _WITH_ISSUE:
        return _Times(complete - latency, complete)
    submit = rows.numbers(6, "the issue time", LAST_NS // 2)
    return _Times(submit, submit + np.minimum(latency, LAST_NS // 2))


def _shift_ns(path: Path) -> int:
    """Return by how much a log's times must be later so that none is negative."""
    least = 0
    for lines in read_lines(path, commas=True):
        rows, width = _width(lines)
        if len(rows):
            least = min(least, int(_times(rows, width).submit.min()))
    return -least


def _width(lines: Lines) -> tuple[Picked, int]:
    """Return the lines that have words, and how many words each has."""
    rows = lines.only(lines.count > 0)
    counts = lines.count[rows.rows]
    width = int(counts[0]) if len(rows) else _WITHOUT_OFFSET
    good = _WITHOUT_OFFSET <= width <= _WITH_ISSUE
    rows.check((counts != width) | (not good), "not a line of such a log", _ACCEPTED)
    return rows, width


def _rows(path: Path, number: int, shift_ns: int, found: _Found) -> Iterator[Columns]:
    last_ns, seen = 0, 0
    for lines in read_lines(path, commas=True):
        rows, width = _width(lines)
        if not len(rows):
            continue
        times = _times(rows, width)
        direction = rows.numbers(2, "the direction", len(_OPS) - 1)
        size = rows.numbers(3, "the block size", MAX_SIZE_BYTES)
        rows.check(size == 0, "an average over time", "a log of each op (log_avg_msec=0)")
        if width == _WITHOUT_OFFSET:
            place = np.arange(seen, seen + len(rows))
            found.nowhere += len(rows)
        else:
            place = rows.numbers(4, "the offset", PLACE_MAX)
        submit, complete = times.submit + shift_ns, times.complete + shift_ns
        timestamp, _ = never_back(submit, last_ns)
        last_ns, seen = int(timestamp[-1]), seen + len(rows)
        yield {
            "timestamp": timestamp,
            "op": _OPS[direction],
            "size": size,
            "file": np.full(len(rows), number % FILES_MAX),
            "place": place,
            "submit": submit,
            "complete": complete,
            "error": np.zeros(len(rows), np.int32),
        }
