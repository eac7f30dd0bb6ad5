"""fio's latency logs (write_lat_log: *_lat.log, *_clat.log) as a result, one file or several."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from kvtrace.errors import TraceError
from kvtrace.formats.common.blockio import COLUMNS, FILES_MAX, PLACE_MAX
from kvtrace.formats.common.ioimport import LAST_NS, never_back, write_trace
from kvtrace.formats.common.order import LEAD_NS_MAX, zero_ns
from kvtrace.formats.common.words import read_lines
from kvtrace.trace.interleave import interleaved
from kvtrace.trace.schema import MAX_SIZE_BYTES, Op
from kvtrace.units import MS_NS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from kvtrace.formats.common.blockio import Columns
    from kvtrace.formats.common.importing import Imported, ImportOptions
    from kvtrace.formats.common.words import Lines, Picked

OPTIONS = ()
MANY = True
EXTRA = ("submit", "complete", "error")
_NAME = re.compile(r"_c?lat(\.\d+)?\.log(\.gz|\.zst)?$")
_OTHER_NAME = re.compile(r"_(slat|bw|iops|hist)(\.\d+)?\.log(\.gz|\.zst)?$")
_OPS = np.array([Op.READ, Op.WRITE, Op.DELETE], np.uint8)
_WITHOUT_OFFSET, _WITH_OFFSET, _WITH_ISSUE = 5, 6, 7
_WITH_MOST = 8
_ACCEPTED = "ms, ns, 0|1|2, bytes[, offset], priority[, issue time in ns]"


def recognises(path: Path, start: bytes) -> bool:
    """Return whether a file is named and begins as such a log; bandwidth logs look the same."""
    return bool(_NAME.search(path.name)) and bool(re.match(rb"\d+, -?\d+, \d+, \d+", start))


def convert(paths: Sequence[Path], out: Path, options: ImportOptions) -> Imported:
    """Make a trace with outcomes from logs: those of several jobs side by side.

    Rows keep the order of the log, which is that of completion. A log's times are whole ms at
    completion; `submit` is the latency before it, `timestamp` is `submit`, raised where the row
    before began later. They count from the job's start, or from the first op if the log has another
    clock (`log_unix_epoch`, `log_alternate_epoch`). Without `log_offset=1` each op is of an object
    of its own.
    """
    for path in paths:
        _check_name(path)
    clocks = [_clock(path) for path in paths]
    first_ns = min(clock.first_ns for clock in clocks)
    zero = zero_ns(first_ns, 0)
    epoch_ns = zero + max(clock.epoch_ns for clock in clocks)
    state = _Found()
    streams = [
        _rows(path, number, zero, clock, state)
        for number, (path, clock) in enumerate(zip(paths, clocks, strict=True))
    ]
    columns = (*COLUMNS, *EXTRA)
    batches = interleaved(streams, columns) if len(streams) > 1 else streams[0]
    return write_trace(
        batches,
        paths,
        out,
        name="fio-lat",
        force=options.force,
        epoch_ns=epoch_ns or None,
        extra=EXTRA,
        notes=state.notes,
    )


@dataclass(slots=True)
class _Found:
    """State over all logs."""

    nowhere: int = 0
    unissued: int = 0

    def notes(self) -> list[str]:
        """Return notes on changed rows."""
        notes = ["times are of whole milliseconds, rows in order of completion"]
        if self.nowhere:
            notes.append(
                f"{self.nowhere:,} ops without an offset (log_offset=1 adds it): each is of an "
                "object of its own"
            )
        if self.unissued:
            notes.append(
                f"{self.unissued:,} issue times are 0, unknown: ends less latencies are taken"
            )
        return notes


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


@dataclass(slots=True)
class _Clock:
    """What a first pass over a log finds of its times.

    `issued`: each op's time of issue is known. fio writes 0 where it isn't, as in logs of whole
    latencies. `epoch_ns`: what the log's clock shows at the job's start, which issue times count
    from, if it is another clock.
    """

    issued: bool = True
    first_ns: int = LAST_NS
    epoch_ns: int = 0


def _times(rows: Picked, *, issued: bool) -> _Times:
    complete = rows.numbers(0, "the time", LAST_NS // MS_NS) * MS_NS
    latency = rows.numbers(1, "the latency", LAST_NS)
    if not issued:
        return _Times(complete - latency, complete)
    submit = _issue_ns(rows)
    return _Times(submit, submit + np.minimum(latency, LAST_NS // 2))


def _issue_ns(rows: Picked) -> NDArray[np.int64]:
    return rows.numbers(6, "the issue time", LAST_NS // 2)


def _clock(path: Path) -> _Clock:
    first_ns, first_issue = _Clock(), LAST_NS
    for lines in read_lines(path, commas=True):
        rows, width = _width(lines)
        if not len(rows):
            continue
        first_ns.first_ns = min(first_ns.first_ns, int(_times(rows, issued=False).submit.min()))
        first_ns.issued &= width == _WITH_ISSUE and bool((_issue_ns(rows) > 0).all())
        if first_ns.issued:
            first_issue = min(first_issue, int(_issue_ns(rows).min()))
    if first_ns.issued and first_issue < LAST_NS:
        begin_ns = first_ns.first_ns - first_issue
        first_ns.epoch_ns = begin_ns if begin_ns > LEAD_NS_MAX else 0
        first_ns.first_ns = first_issue
    return first_ns


def _width(lines: Lines) -> tuple[Picked, int]:
    """Return the lines that have words, and how many words each has."""
    rows = lines.only(lines.count > 0)
    counts = lines.count[rows.rows]
    width = int(counts[0]) if len(rows) else _WITHOUT_OFFSET
    good = _WITHOUT_OFFSET <= width <= _WITH_MOST
    rows.check((counts != width) | (not good), "not a line of such a log", _ACCEPTED)
    rows.check(
        _has_both(rows, width), "an average and a maximum over time (log_window_value=both)",
        "a log of each op (no log_avg_msec, no log_window_value)",
    )  # fmt: skip
    return rows, width


def _has_both(rows: Picked, width: int) -> NDArray[np.bool_]:
    """Return which lines have a second value, so that the direction stands where a size would.

    Source: axboe/fio, iolog.c (`flush_samples`): ms, value, value1, direction, size and so on.
    """
    if not len(rows) or width in (_WITHOUT_OFFSET, _WITH_MOST):
        return np.full(len(rows), width == _WITH_MOST)
    third, fourth = (rows.numbers(word, "the number") for word in (2, 3))
    fifth = rows.bytes_at(4) != ord("0")
    # What is all 0 behind the direction is a single average.
    both: NDArray[np.bool_] = (fourth < len(_OPS)) & ((third >= len(_OPS)) | (fourth > 0) | fifth)
    return both


def _rows(path: Path, number: int, zero: int, clock: _Clock, state: _Found) -> Iterator[Columns]:
    last_ns, seen = 0, 0
    for lines in read_lines(path, commas=True):
        rows, width = _width(lines)
        if not len(rows):
            continue
        times = _times(rows, issued=clock.issued)
        state.unissued += len(rows) * (width == _WITH_ISSUE and not clock.issued)
        direction = rows.numbers(2, "the direction", len(_OPS) - 1)
        size = rows.numbers(3, "the block size", MAX_SIZE_BYTES)
        rows.check(size == 0, "an average over time", "a log of each op (log_avg_msec=0)")
        if width == _WITHOUT_OFFSET:
            place = np.arange(seen, seen + len(rows))
            state.nowhere += len(rows)
        else:
            place = rows.numbers(4, "the offset", PLACE_MAX)
        submit, complete = times.submit - zero, times.complete - zero
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
