"""fio's logs of I/O (iolog version 2 and 3, also by write_iolog), one file or several."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

from kvtrace.errors import TraceError, UsageError
from kvtrace.files.outputs import check_writable
from kvtrace.files.textfile import open_binary
from kvtrace.formats.common import incoming
from kvtrace.formats.common.blockio import COLUMNS, FILES_MAX, PLACE_MAX
from kvtrace.formats.common.importing import Imported
from kvtrace.formats.common.ioimport import LAST_NS, never_back, write_trace
from kvtrace.formats.common.order import zero_ns
from kvtrace.formats.common.sidecar import NAMES, MapReader
from kvtrace.formats.common.words import Names, one_of, read_lines, word_hashes
from kvtrace.formats.fio.iolog import FIRST_LINES
from kvtrace.trace.interleave import interleaved
from kvtrace.trace.schema import MAX_SIZE_BYTES, Op
from kvtrace.units import MS_NS, US_NS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from kvtrace.formats.common.blockio import Columns
    from kvtrace.formats.common.importing import ImportOptions
    from kvtrace.formats.common.words import Lines, Picked

OPTIONS = ("map",)
MANY = True
_IO = word_hashes(
    ["read", "write", "trim", "wait", "sync", "datasync", "sync_file_range", "syncfs"]
)
"""Source: axboe/fio, io_ddir.h (`io_ddir_name`), what write_iolog logs; the last four are syncs."""
_WAIT = 3
_FILES = word_hashes(["add", "open", "close"])
_OPS = np.array([Op.READ, Op.WRITE, Op.DELETE], np.uint8)
_LAST_US = LAST_NS // US_NS
_LAST_MS = LAST_NS // MS_NS
_OF_IO = "read|write|trim|sync|datasync|sync_file_range|syncfs OFFSET BYTES"
_ACCEPTED = {
    2: f"FILE add|open|close, FILE {_OF_IO}, FILE wait ms 0",
    3: f"µs FILE add|open|close, µs FILE {_OF_IO}",
}


def recognises(path: Path, start: bytes) -> bool:
    """Return whether a file starts as a log of any version does."""
    return start.startswith(b"fio version ")


def convert(paths: Sequence[Path], out: Path, options: ImportOptions) -> Imported:
    """Make a trace from logs: those of several jobs run side by side, from one start.

    What begins at one offset of a file is one object; keys number them. Reads are taken for
    `decode`, writes for `prefill`, trims for deletions. fio runs a log in the order of its lines,
    so time that runs backwards in it is raised to what came before. With a map, rows get the key,
    tier, phase and request that they had before the export.
    """
    state = _Found()
    if options.map is not None:
        return _mapped(paths, out, options.map, state, force=options.force)
    streams, epoch_ns = _begun([_Log(path, state) for path in paths])
    batches = interleaved(streams, COLUMNS) if len(streams) > 1 else streams[0]
    return write_trace(
        batches, paths, out, name="fio", force=options.force, epoch_ns=epoch_ns, notes=state.notes
    )


def _begun(logs: Sequence[_Log]) -> tuple[list[Iterator[Columns]], int]:
    """Return each log's rows, from one start, and what the clock of the first log shows there."""
    streams = [log.rows() for log in logs]
    firsts = [next(stream, None) for stream in streams]
    begins = [int(first["timestamp"][0]) for first in firsts if first is not None]
    zero = zero_ns(min(begins), 0) if begins else 0
    rows = [
        _moved(chain([] if first is None else [first], stream), zero)
        for first, stream in zip(firsts, streams, strict=True)
    ]
    return rows, min(log.start_ns for log in logs) + zero


def _moved(batches: Iterable[Columns], zero: int) -> Iterator[Columns]:
    for columns in batches:
        yield columns | {"timestamp": columns["timestamp"] - zero}


def _mapped(
    paths: Sequence[Path], out: Path, beside: Path, state: _Found, *, force: bool
) -> Imported:
    if len(paths) > 1:
        raise UsageError("a map is of one log", where="--map", got=f"{len(paths)} logs")
    check_writable(out, force=force)
    with MapReader(beside) as records:
        columns = ("request",) if records.knows_requests else ()
        (stream,), epoch_ns = _begun([_Log(paths[0], state)])
        log = incoming.Log("fio", paths, columns, epoch_ns=epoch_ns)
        rows = _with_identity(stream, records, beside)
        header, notes = incoming.write(log, rows, out, force=force)
    return Imported(header, (*state.notes(), *notes))


def _with_identity(
    batches: Iterable[Columns], records: MapReader, beside: Path
) -> Iterator[Columns]:
    """Yield rows as they were before the export. Raises TraceError if the map says otherwise."""
    for io in batches:
        known = records.take(len(io["op"]))
        for name, ours in (("offset", "place"), ("bytes", "size")):
            if name not in known or (known[name] != io[ours]).any():
                raise TraceError(
                    f"the map is of another file: its {name} aren't the log's",
                    where=beside,
                    accepted="the .map.parquet that the export left beside the log",
                )
        kept = {name: io[name] for name in ("timestamp", "op", "size")}
        yield kept | {name: known[name] for name in NAMES}
    records.end()


@dataclass(slots=True)
class _Found:
    """State over all logs."""

    files: Names = field(default_factory=Names)
    late: int = 0
    syncs: int = 0

    def notes(self) -> list[str]:
        """Return notes on changed rows."""
        count = len(self.files.names)
        notes = [f"{count:,} file{'' if count == 1 else 's'}"]
        if self.late:
            notes.append(f"{self.late:,} rows were earlier than the one before: they follow it")
        if self.syncs:
            notes.append(f"{self.syncs:,} syncs left out")
        return notes


def _version(path: Path) -> int:
    with open_binary(path) as stream:
        line = stream.read(64).split(b"\n")[0].rstrip()
    for version, first in FIRST_LINES.items():
        if line == first:
            return version
    raise TraceError(
        "not a log of fio's",
        where=f"{path}: line 1",
        got=repr(line.decode("utf-8", "replace")),
        accepted=" or ".join(first.decode() for first in FIRST_LINES.values()),
    )


class _Log:
    """One log; its `start_ns` is known once its first rows are."""

    def __init__(self, path: Path, state: _Found) -> None:
        self._path, self._found = path, state
        self._clock = _Clock(_version(path))

    @property
    def start_ns(self) -> int:
        """The time of its first line on its own clock."""
        return self._clock.start_us * US_NS

    def rows(self) -> Iterator[Columns]:
        """Yield its reads, writes and trims, in ns since its start."""
        clock, state = self._clock, self._found
        for lines in read_lines(self._path):
            some = lines.count > 0
            if lines.first == 1:
                some[0] = False
            io = _io_lines(lines, some, clock.version)
            clock.start(lines.only(some))
            if len(io) and len((columns := _columns(io, clock, state))["op"]):
                yield columns
        state.late += clock.late


def _io_lines(lines: Lines, some: NDArray[np.bool_], version: int) -> Picked:
    """Return the lines of I/O; those that add, open and close files are checked and left out."""
    shift = version - 2
    management = some & (lines.count == 2 + shift)
    io = some & (lines.count == 4 + shift)
    lines.only(some).check(~(management | io)[some], "not a line of such a log", _ACCEPTED[version])
    files = lines.only(management)
    files.check(one_of(files.hashes(1 + shift), _FILES) < 0, "no such action", "add, open, close")
    return lines.only(io)


def _columns(io: Picked, clock: _Clock, state: _Found) -> Columns:
    """Return the I/O of some lines."""
    version = clock.version
    shift = version - 2
    action = one_of(io.hashes(1 + shift), _IO)
    io.check(action < 0, "no such action", _ACCEPTED[version])
    io.check((action == _WAIT) & (version == 3), "a wait", "none in version 3, as fio has it")
    place = io.numbers(2 + shift, "the offset", PLACE_MAX)
    size = io.numbers(3 + shift, "the length", MAX_SIZE_BYTES)
    io.check((action < _WAIT) & (size == 0), "a length of 0", f"1 to {MAX_SIZE_BYTES}")
    times = clock.at(io, np.where(action == _WAIT, place, 0))
    file = state.files.of(io, shift)
    io.check(file >= FILES_MAX, "too many files", f"up to {FILES_MAX:,}")
    moves = action < _WAIT
    state.syncs += int((action > _WAIT).sum())
    return {
        "timestamp": times[moves],
        "op": _OPS[action[moves]],
        "size": size[moves],
        "file": file[moves],
        "place": place[moves],
    }


class _Clock:
    """Turns a log's times into ns since its start.

    A `wait` of version 2 gives milliseconds since the job's start, not after the line
    before; one that is over already doesn't wait. Source: axboe/fio, iolog.c (`read_iolog_get`).
    """

    def __init__(self, version: int) -> None:
        self.version = version
        self.start_us = 0
        self.late = 0
        self._started = False
        self._now_ms = 0
        self._last_ns = 0

    def start(self, lines: Picked) -> None:
        """Take the time of a log's first line, of whatever kind, as its start."""
        if self.version == 3 and not self._started and len(lines):
            self.start_us = int(lines.numbers(0, "the time", _LAST_US)[0])
            self._started = True

    def at(self, io: Picked, waits_ms: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the time of each line of I/O; `waits_ms` count in version 2 only."""
        if self.version == 2:
            io.check(waits_ms > _LAST_MS, "too long a wait", f"up to {_LAST_MS} ms")
            times_ms = np.maximum.accumulate(np.maximum(waits_ms, self._now_ms))
            self._now_ms = int(times_ms[-1])
            return times_ms * MS_NS
        times_us = np.maximum(io.numbers(0, "the time", _LAST_US) - self.start_us, 0)
        times, late = never_back(times_us * US_NS, self._last_ns)
        self.late += late
        self._last_ns = int(times[-1])
        return times
