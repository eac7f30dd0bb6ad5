"""blkparse's text (its default format): the requests that were queued."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from kvtrace.foreign.order import TimeOrder
from kvtrace.inputs.blockio import FILES_MAX, PLACE_MAX
from kvtrace.inputs.ioimport import write_trace
from kvtrace.inputs.words import Names, read_lines, word_hashes
from kvtrace.schema import MAX_SIZE_BYTES, Op

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from kvtrace.importers import Imported, ImportOptions
    from kvtrace.inputs.blockio import Columns
    from kvtrace.inputs.words import Lines, Picked

OPTIONS = ()
SECTOR_BYTES = 512
_ACCEPTED = "MAJOR,MINOR CPU SEQUENCE SECONDS PID ACTION RWBS SECTOR + COUNT [PROCESS]"
_DEVICE, _TIME, _ACTION, _KIND, _SECTOR, _PLUS, _COUNT = 0, 3, 5, 6, 7, 8, 9
_QUEUED, _PLUS_SIGN = word_hashes(["Q"]), word_hashes(["+"])
_TOTAL = word_hashes(["Total"])
_READ, _WRITE, _DISCARD = (ord(letter) for letter in "RWD")
_FLUSH = ord("F")


def recognises(path: Path, start: bytes) -> bool:
    """Return whether a file begins with an event: `8,0 3 11 0.009507758 697 Q W 223490 + 8`."""
    words = start.split(b"\n")[0].split()
    head = len(words) > _KIND and words[_DEVICE].replace(b",", b"", 1).isdigit()
    return head and b"," in words[_DEVICE] and words[_TIME].replace(b".", b"", 1).isdigit()


def convert(paths: Sequence[Path], out: Path, options: ImportOptions) -> Imported:
    """Make a trace of the queue events (`Q`) of reads, writes and discards.

    What begins at one sector of a device is one object; keys number them. Reads are taken for
    `decode`, writes for `prefill`, discards for deletions. The summary at the end is left out.
    """
    (path,) = paths
    order, found = TimeOrder(), _Found()
    for batch in _rows(path, found):
        order.note(batch["timestamp"])
    found = _Found()
    return write_trace(
        order.sorted("timestamp", _rows(path, found), since=("timestamp",)),
        paths,
        out,
        name="blkparse",
        force=options.force,
        epoch_ns=order.first,
        notes=lambda: found.notes(order.disorder),
    )


@dataclass(slots=True)
class _Found:
    """What is known of the file so far."""

    devices: Names = field(default_factory=Names)
    others: int = 0
    empty: int = 0

    def notes(self, late: int) -> list[str]:
        """Return what was left out or changed."""
        said = [f"{self.others:,} events of other kinds left out"]
        if self.empty:
            said.append(f"{self.empty:,} queue events without data left out")
        if late:
            said.append(f"{late:,} rows were out of order and have been sorted")
        return said


def _rows(path: Path, found: _Found) -> Iterator[Columns]:
    for lines in read_lines(path):
        some, ended = _events(lines)
        queued = some.hashes(_ACTION) == _QUEUED[0]
        found.others += int((~queued).sum())
        columns = _columns(lines.only(some.rows[queued]), found)
        if len(columns["op"]):
            yield columns
        if ended:
            return


def _events(lines: Lines) -> tuple[Picked, bool]:
    """Return the lines before the summary, and whether that begins in these lines."""
    some = lines.only(lines.count > 0)
    summary = some.hashes(0) == _TOTAL[0]
    cpu = [some.bytes_at(0, at) == byte for at, byte in enumerate(b"CPU")]
    summary |= cpu[0] & cpu[1] & cpu[2]
    ended = bool(summary.any())
    if ended:
        some = lines.only(some.rows[: int(summary.argmax())])
    short = lines.count[some.rows] <= _KIND
    some.check(short, "not an event", _ACCEPTED)
    return some, ended


def _columns(queued: Picked, found: _Found) -> Columns:
    """Return the I/O among queue events: those that move sectors."""
    counts = queued.lines.count[queued.rows]
    moves = counts > _COUNT
    first, second = queued.bytes_at(_KIND), queued.bytes_at(_KIND, 1)
    letter = np.where(first == _FLUSH, second, first)
    op = np.full(len(queued), -1, np.int64)
    for byte, kind in ((_READ, Op.READ), (_WRITE, Op.WRITE), (_DISCARD, Op.DELETE)):
        op[letter == byte] = kind
    moves &= op >= 0
    io = queued.lines.only(queued.rows[moves])
    io.check(io.hashes(_PLUS) != _PLUS_SIGN[0], "not an event", _ACCEPTED)
    sector = io.numbers(_SECTOR, "the sector", PLACE_MAX // SECTOR_BYTES)
    size = io.numbers(_COUNT, "the count of sectors", MAX_SIZE_BYTES // SECTOR_BYTES)
    time = io.seconds_ns(_TIME, "the time")
    file = found.devices.of(io, _DEVICE)
    io.check(file >= FILES_MAX, "too many devices", f"up to {FILES_MAX:,}")
    some = size > 0
    found.empty += int((~moves).sum() + (~some).sum())
    return {
        "timestamp": time[some],
        "op": op[moves][some].astype(np.uint8),
        "size": size[some] * SECTOR_BYTES,
        "file": file[some],
        "place": sector[some] * SECTOR_BYTES,
    }
