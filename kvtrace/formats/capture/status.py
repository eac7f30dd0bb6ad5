"""A recording while it is made: rates, depth and losses of its processes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kvtrace.capture import moment, spool
from kvtrace.capture.spool import Damage, Frame, Kind
from kvtrace.errors import TraceError
from kvtrace.formats.capture.recording import EVENTS, End, Gap, Head, document_of, records_of
from kvtrace.trace.outcomes import idle
from kvtrace.trace.schema import Op, Tier
from kvtrace.units import S_NS

if TYPE_CHECKING:
    from numpy.typing import NDArray

WINDOW_NS = 10 * S_NS
"""Rates are those of the rows that completed within this time before the newest one."""
_PROCESSES = Path("/proc")
_TAIL_BYTES = 1 << 16
"""Of a file that was closed, what holds its last frame."""


@dataclass(frozen=True, slots=True)
class TierRates:
    """A tier in the window: ops and bytes per second, mean number of reads and writes in flight."""

    ops_per_s: float
    read_bytes_per_s: float
    write_bytes_per_s: float
    in_flight: float


@dataclass(frozen=True, slots=True)
class Status:
    """All processes of a folder.

    `ended`: with an end; `killed`: without one and not running any more, as far as this host knows.
    `silent_ns`: since the newest row completed; None without one.
    """

    engine: str
    processes: int
    ended: int
    killed: int
    rows: int
    events: int
    rows_per_s: float
    dropped_rows: int
    gaps: int
    damaged_bytes: int
    bus_events_dropped: int
    write_errors: int
    guarded_errors: int
    file_bytes: int
    silent_ns: int | None
    tiers: dict[Tier, TierRates]


class _Process:
    """One process's files, read on from where they were read to."""

    def __init__(self) -> None:
        self.head: Head | None = None
        self.end: End | None = None
        self.rows = self.events = self.gaps = self.gap_rows = self.damaged_bytes = 0
        self.recent: NDArray[np.void] = np.zeros(0, spool.RECORD)
        self._path: Path | None = None
        self._offset = 0

    @property
    def ended(self) -> bool:
        return self.end is not None and self.end.final

    @property
    def dropped_rows(self) -> int:
        stated = 0 if self.end is None else self.end.dropped_rows
        return max(stated, self.gap_rows)

    def read(self, paths: list[Path]) -> None:
        """Read what is new. Raises TraceError for frames that no recorder writes."""
        at = paths.index(self._path) if self._path in paths else None
        if at is None and len(paths) > 1:  # nothing was read yet, or that file was removed
            self._begin_behind(paths[-2])
        for path in paths[-1 if at is None else at :]:
            if path != self._path:
                self._path, self._offset = path, 0
            self._read_on(path)

    def _begin_behind(self, path: Path) -> None:
        """Take the counts with which the file before the newest one ends."""
        start = max(0, path.stat().st_size - _TAIL_BYTES)
        for frame in spool.frames(path, start):
            if isinstance(frame, Frame) and frame.kind == Kind.END:
                self._take(path, frame)
        if self.end is not None:
            self.rows = self.end.rows

    def _read_on(self, path: Path) -> None:
        for frame in spool.frames(path, self._offset):
            if isinstance(frame, Damage):
                if frame.torn:  # it is being written
                    return
                self.damaged_bytes += frame.length
                self._offset = frame.offset + frame.length
            else:
                self._take(path, frame)
                self._offset = frame.end

    def _take(self, path: Path, frame: Frame) -> None:
        if frame.kind == Kind.HEADER:
            self.head = document_of(Head, path, frame)
        elif frame.kind == Kind.GAP:
            gap = document_of(Gap, path, frame)
            self.gaps += 1
            self.gap_rows += gap.dropped_rows
        elif frame.kind == Kind.END:
            self.end = document_of(End, path, frame)
        elif frame.kind == Kind.EVENTS:
            self.events += frame.rows
        elif frame.kind == Kind.ROWS:
            self.rows += frame.rows
            self._remember(records_of(path, frame))

    def _remember(self, records: NDArray[np.void]) -> None:
        joined = np.concatenate((self.recent, records))
        newest = int(joined["complete"].max(initial=0))
        self.recent = joined[joined["complete"] > newest - WINDOW_NS]


@dataclass(slots=True)
class Follower:
    """Follows a folder. `read` goes on where it was the last time."""

    folder: Path
    _processes: dict[str, _Process] = field(default_factory=dict)

    @property
    def started(self) -> bool:
        """Whether a process has begun to record."""
        return any(process.head is not None for process in self._processes.values())

    def read(self, now_ns: int) -> Status:
        """Return the folder's status at a moment on CLOCK_MONOTONIC. Raises TraceError if empty."""
        paths = spool.parts(self.folder)
        by_process: dict[str, list[Path]] = {}
        for path in paths:
            by_process.setdefault(path.stem.rpartition("-")[0], []).append(path)
        for name, files in by_process.items():
            self._processes.setdefault(name, _Process()).read(files)
        started = [process for process in self._processes.values() if process.head is not None]
        if not started:
            raise TraceError(
                "no recording in this folder yet", where=self.folder, accepted="files *.kvcap",
                hint="an engine makes the first file when it starts with the printed string",
            )  # fmt: skip
        return _status(started, sum(path.stat().st_size for path in paths), now_ns)


def _status(processes: list[_Process], file_bytes: int, now_ns: int) -> Status:
    heads = [process.head for process in processes if process.head is not None]
    engine = next((head for head in heads if head.engine != EVENTS), heads[0])
    ends = [process.end for process in processes if process.end is not None]
    recent = np.concatenate([process.recent for process in processes])
    newest = int(recent["complete"].max(initial=0))
    recent = recent[recent["complete"] > newest - WINDOW_NS]
    length_ns = _length_ns(recent, newest)
    return Status(
        engine=f"{engine.engine} {engine.engine_version}".strip(),
        processes=len(processes),
        ended=sum(process.ended for process in processes),
        killed=sum(_is_gone(process) for process in processes),
        rows=sum(process.rows for process in processes),
        events=sum(process.events for process in processes),
        rows_per_s=len(recent) * S_NS / length_ns,
        dropped_rows=sum(process.dropped_rows for process in processes),
        gaps=sum(process.gaps for process in processes),
        damaged_bytes=sum(process.damaged_bytes for process in processes),
        bus_events_dropped=sum(end.bus_dropped or 0 for end in ends),
        write_errors=sum(end.write_errors for end in ends),
        guarded_errors=sum(sum(end.guarded_errors.values()) for end in ends),
        file_bytes=file_bytes,
        silent_ns=max(0, now_ns - newest) if len(recent) else None,
        tiers={
            tier: _rates(recent[recent["tier"] == tier], newest, length_ns)
            for tier in Tier
            if (recent["tier"] == tier).any()
        },
    )


def _is_gone(process: _Process) -> bool:
    """Whether a process without an end isn't there; a container's may have another number here."""
    assert process.head is not None
    number = process.head.process.partition("-")[0]
    here = process.head.boot_id is not None and process.head.boot_id == moment.boot_id()
    return not process.ended and here and not (_PROCESSES / number).exists()


def _length_ns(recent: NDArray[np.void], newest: int) -> int:
    """Return the window's length: shorter where the recording is."""
    if not len(recent):
        return WINDOW_NS
    return int(min(WINDOW_NS, max(1, newest - recent["submit"].min())))


def _rates(rows: NDArray[np.void], newest: int, length_ns: int) -> TierRates:
    size = np.where(idle(rows["error"]), 0, rows["size"]).astype(np.int64)
    moves = rows["op"] <= Op.WRITE
    begin = np.maximum(rows["submit"], newest - length_ns)
    busy = np.clip(rows["complete"] - begin, 0, None)[moves]
    return TierRates(
        ops_per_s=len(rows) * S_NS / length_ns,
        read_bytes_per_s=int(size[rows["op"] == Op.READ].sum()) * S_NS / length_ns,
        write_bytes_per_s=int(size[rows["op"] == Op.WRITE].sum()) * S_NS / length_ns,
        in_flight=float(busy.sum()) / length_ns,
    )
