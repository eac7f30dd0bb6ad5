"""blkparse's text (its default format): the requests that were queued."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from kvtrace.formats.common.blockio import FILES_MAX, PLACE_MAX
from kvtrace.formats.common.devices import Devices, Unknown, nothing_queued, parse_device
from kvtrace.formats.common.ioimport import write_trace
from kvtrace.formats.common.order import TimeOrder
from kvtrace.formats.common.words import Names, read_lines, word_hashes
from kvtrace.trace.schema import MAX_SIZE_BYTES, Op

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from kvtrace.formats.common.blockio import Columns
    from kvtrace.formats.common.importing import Imported, ImportOptions
    from kvtrace.formats.common.words import Lines, Picked

OPTIONS = ("device_filter",)
SECTOR_BYTES = 512
_ACCEPTED = "MAJOR,MINOR CPU SEQUENCE SECONDS PID ACTION RWBS SECTOR + COUNT [PROCESS]"
_DEVICE, _TIME, _ACTION, _KIND, _SECTOR, _PLUS, _COUNT = 0, 3, 5, 6, 7, 8, 9
_ARROW = 10
_QUEUED, _REMAPPED, _PLUS_SIGN, _LEFT = (word_hashes([word]) for word in ("Q", "A", "+", "<-"))
_TOTAL = word_hashes(["Total"])
_READ, _WRITE, _DISCARD = (ord(letter) for letter in "RWD")
_FLUSH, _ZONE, _APPEND = (ord(letter) for letter in "FZA")


def recognises(path: Path, start: bytes) -> bool:
    """Return whether a file begins with an event: `8,0 3 11 0.009507758 697 Q W 223490 + 8`."""
    words = start.split(b"\n")[0].split()
    head = len(words) > _KIND and words[_DEVICE].replace(b",", b"", 1).isdigit()
    return head and b"," in words[_DEVICE] and words[_TIME].replace(b".", b"", 1).isdigit()


def convert(paths: Sequence[Path], out: Path, options: ImportOptions) -> Imported:
    """Make a trace of the queue events (`Q`) of reads, writes and discards.

    What begins at one sector of a device is one object; keys number them. Reads are taken for
    `decode`, writes and zone appends for `prefill`, discards for deletions. The summary at the end
    is left out. Of stacked devices those whose I/O counts must be named.
    """
    (path,) = paths
    order, devices = TimeOrder(), Devices(options.device_filter)
    state = _Found(devices)
    for batch in _io(path, state):
        devices.note(batch["device"], batch["op"], batch["place"], batch["size"])
    if not state.queued:
        raise nothing_queued(path, state.others)
    devices.check(path)
    for batch in _rows(path, _Found(devices)):
        order.note(batch["timestamp"])
    state = _Found(devices)
    return write_trace(
        order.sorted("timestamp", _rows(path, state), since=("timestamp",)),
        paths,
        out,
        name="blkparse",
        force=options.force,
        epoch_ns=order.first,
        notes=lambda: state.notes(order.disorder),
    )


@dataclass(slots=True)
class _Found:
    """State over the file."""

    chosen: Devices
    devices: Names = field(default_factory=Names)
    numbers: list[int] = field(default_factory=list)
    """Of each device, by its place in `devices`."""
    queued: int = 0
    others: int = 0
    empty: int = 0
    unknown: Unknown = field(default_factory=Unknown)

    def device(self, lines: Picked, word: int) -> NDArray[np.int64]:
        """Return the number of each line's device."""
        place = self.devices.of(lines, word)
        for name in self.devices.names[len(self.numbers) :]:
            self.numbers.append(parse_device(name.strip("()"), "an event"))
        return np.array([*self.numbers, 0], np.int64)[place]

    def notes(self, late: int) -> list[str]:
        """Return notes on rows left out or changed."""
        notes = [f"{self.others:,} events of other kinds left out"]
        if self.empty:
            notes.append(f"{self.empty:,} queue events without data left out")
        if late:
            notes.append(f"{late:,} rows were out of order and have been sorted")
        return [*notes, *self.unknown.notes(), *self.chosen.notes()]


def _rows(path: Path, state: _Found) -> Iterator[Columns]:
    """Yield the I/O of the devices that were asked for."""
    for columns in _io(path, state):
        kept = state.chosen.kept(columns.pop("device"))
        if kept.any():
            yield {name: values[kept] for name, values in columns.items()}


def _io(path: Path, state: _Found) -> Iterator[Columns]:
    """Yield all I/O that was queued, with its `device`."""
    for lines in read_lines(path):
        some, ended = _events(lines)
        action = some.hashes(_ACTION)
        queued = action == _QUEUED[0]
        state.queued += int(queued.sum())
        state.others += int((~queued).sum())
        _note_remaps(lines.only(some.rows[action == _REMAPPED[0]]), state)
        columns = _columns(lines.only(some.rows[queued]), state)
        if len(columns["op"]):
            yield columns
        if ended:
            return


def _note_remaps(remaps: Picked, state: _Found) -> None:
    """Note which devices lie on which: `8,16 … A W 2048 + 8 <- (253,0) 0`."""
    for arrow in (_ARROW, _ARROW + 1):
        some = remaps.lines.only(remaps.rows[remaps.lines.count[remaps.rows] > arrow + 1])
        some = some.lines.only(some.rows[some.hashes(arrow) == _LEFT[0]])
        pairs = np.stack((some.hashes(arrow + 1), some.hashes(_DEVICE)), axis=1)
        for at in np.unique(pairs, axis=0, return_index=True)[1].tolist():
            above, below = (some.word(at, word).strip("()") for word in (arrow + 1, _DEVICE))
            state.chosen.remap(parse_device(above, "an event"), parse_device(below, "an event"))


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


def _columns(queued: Picked, state: _Found) -> Columns:
    """Return the I/O among queue events: those that move sectors."""
    counts = queued.lines.count[queued.rows]
    moves = counts > _COUNT
    op = _ops(queued)
    io = queued.lines.only(queued.rows[moves])
    known = op[moves] >= 0
    sector, size = _places(io)
    time = io.seconds_ns(_TIME, "the time")
    device, file = state.device(io, _DEVICE), state.devices.of(io, _DEVICE)
    io.check(file >= FILES_MAX, "too many devices", f"up to {FILES_MAX:,}")
    some = size > 0
    state.empty += int((~moves).sum() + (~some).sum())
    for at in np.flatnonzero(some & ~known).tolist():
        state.unknown.note(io.word(at, _KIND), size[at : at + 1] * SECTOR_BYTES)
    some &= known
    return {
        "timestamp": time[some],
        "op": op[moves][some].astype(np.uint8),
        "size": size[some] * SECTOR_BYTES,
        "file": file[some],
        "place": sector[some] * SECTOR_BYTES,
        "device": device[some],
    }


def _places(io: Picked) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the sector and the count of sectors of each event.

    Newer versions of blkparse print one more word behind the letters for some: `Q ZAS R 2048 + 8`.
    """
    further = (io.hashes(_PLUS) != _PLUS_SIGN[0]) & (io.hashes(_COUNT) == _PLUS_SIGN[0])
    further &= io.lines.count[io.rows] > _COUNT + 1
    io.check((io.hashes(_PLUS) != _PLUS_SIGN[0]) & ~further, "not an event", _ACCEPTED)
    sector, size = np.zeros(len(io), np.int64), np.zeros(len(io), np.int64)
    for shift, which in ((0, ~further), (1, further)):
        some = io.lines.only(io.rows[which])
        most = PLACE_MAX // SECTOR_BYTES, MAX_SIZE_BYTES // SECTOR_BYTES
        sector[which] = some.numbers(_SECTOR + shift, "the sector", most[0])
        size[which] = some.numbers(_COUNT + shift, "the count of sectors", most[1])
    return sector, size


def _ops(queued: Picked) -> NDArray[np.int64]:
    """Return the op that each event's letters stand for, −1 for none.

    A flush comes before the op; ZA is a zone append. Source: blk_fill_rwbs, kernel/trace/blktrace.c
    of Linux.
    """
    first, second, third = (queued.bytes_at(_KIND, at) for at in range(3))
    flush = first == _FLUSH
    letter, behind = np.where(flush, second, first), np.where(flush, third, second)
    op = np.full(len(queued), -1, np.int64)
    for byte, kind in ((_READ, Op.READ), (_WRITE, Op.WRITE), (_DISCARD, Op.DELETE)):
        op[letter == byte] = kind
    op[(letter == _ZONE) & (behind == _APPEND)] = Op.WRITE
    return op
