"""blktrace: binary records (48 bytes, either endianness) of one CPU or several; what was queued."""

from __future__ import annotations

from dataclasses import dataclass, field
from glob import escape
from typing import TYPE_CHECKING, Literal

import numpy as np

from kvtrace.errors import TraceError
from kvtrace.files.textfile import open_binary
from kvtrace.formats.common.blockio import COLUMNS, FILES_MAX, PLACE_MAX
from kvtrace.formats.common.devices import Devices, Unknown, nothing_queued
from kvtrace.formats.common.ioimport import LAST_NS, write_trace
from kvtrace.formats.common.order import TimeOrder
from kvtrace.native.core import function
from kvtrace.native.library import I64, INT, U8
from kvtrace.placement.keys import KeyTable
from kvtrace.trace.interleave import interleaved
from kvtrace.trace.schema import MAX_SIZE_BYTES, Op

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from kvtrace.formats.common.blockio import Columns
    from kvtrace.formats.common.importing import Imported, ImportOptions

OPTIONS = ("device_filter",)
MANY = True
RECORD = np.dtype(
    [
        ("magic", "u4"),
        ("sequence", "u4"),
        ("time", "u8"),
        ("sector", "u8"),
        ("bytes", "u4"),
        ("action", "u4"),
        ("pid", "u4"),
        ("device", "u4"),
        ("cpu", "u4"),
        ("error", "u2"),
        ("pdu_len", "u2"),
    ]
)
"""Source: struct blk_io_trace, include/uapi/linux/blktrace_api.h of Linux 6.1."""
MAGIC, VERSION = 0x65617400, 0x07
Order = Literal["<", ">"]
ORDERS: tuple[Order, ...] = ("<", ">")
SECTOR_BYTES = 512
_QUEUED, _REMAPPED = 1, 15
_READ, _WRITE, _DISCARD, _NOTIFY = 1 << 16, 1 << 17, 1 << 29, 1 << 26
_OF_CGROUP = 1 << 8
_ACTION = 0xFFFF & ~_OF_CGROUP
_REMAP = np.dtype([("above", ">u4"), ("below", ">u4"), ("sector", ">u8")])
"""The record behind a remap event. Source: struct blk_io_trace_remap of the same file."""
_BLOCK_BYTES = 4 << 20
_LENGTH_AT = 46
_starts = function("kv_records", U8, INT, INT, INT, INT, INT, I64, I64, returns=INT)


def recognises(path: Path, start: bytes) -> bool:
    """Return whether a file begins with a record of any version."""
    return len(start) >= RECORD.itemsize and _order(start[:4]) is not None


def _order(first: bytes) -> Order | None:
    """Return the byte order of a record that begins so, as numpy writes it."""
    for order in ORDERS:
        if int(np.frombuffer(first, f"{order}u4")[0]) & 0xFFFFFF00 == MAGIC:
            return order
    return None


def convert(paths: Sequence[Path], out: Path, options: ImportOptions) -> Imported:
    """Make a trace of the queue events of reads, writes and discards of all files, by time.

    What begins at one sector of a device is one object; keys number them. Reads are taken for
    `decode`, writes and zone appends for `prefill`, discards for deletions. `blktrace` writes a
    file per CPU, an empty one where it did nothing. Events missing by their sequence numbers are
    counted. Of stacked devices those whose I/O counts must be named.
    """
    given, paths = paths, _filled(paths)
    devices = _devices(paths, options.device_filter)
    orders = [_time_order(path, devices) for path in paths]
    start_ns = min((order.first for order in orders if order.rows), default=0)
    state = _Found(devices)
    streams = [
        order.sorted("timestamp", _moved(path, start_ns, state))
        for path, order in zip(paths, orders, strict=True)
    ]
    batches = interleaved(streams, COLUMNS) if len(streams) > 1 else streams[0]
    return write_trace(
        batches,
        paths,
        out,
        name="blktrace",
        force=options.force,
        epoch_ns=start_ns,
        notes=lambda: [
            *state.notes(sum(order.disorder for order in orders)),
            *_about_files(given, paths),
        ],
    )


@dataclass(slots=True)
class Sequences:
    """Looks for gaps in the numbers that each CPU gives its events.

    Source: __blk_add_trace, kernel/trace/blktrace.c of Linux 6.1; notes have no number there.
    """

    missing: int = 0
    cpus: set[tuple[Path, int]] = field(default_factory=set)
    """Files and CPUs with gaps."""
    _last: dict[tuple[Path, int], int] = field(default_factory=dict)

    def note(self, path: Path, records: NDArray[np.void]) -> None:
        """Take the next records of a file."""
        for cpu in np.unique(records["cpu"]).tolist():
            some = records[records["cpu"] == cpu]
            numbers = some["sequence"].astype(np.int64)
            before = np.concatenate(([self._last.get((path, cpu), -1)], numbers[:-1]))
            unnumbered = ((some["action"] & _NOTIFY) != 0) & (numbers != before + 1)
            numbers = numbers[~unnumbered]
            if not len(numbers):
                continue
            last = self._last.get((path, cpu), int(numbers[0]) - 1)
            steps = np.diff(numbers, prepend=last)
            gaps = int((steps[steps > 1] - 1).sum())
            if gaps:
                self.missing += gaps
                self.cpus.add((path, cpu))
            self._last[path, cpu] = int(numbers[-1])


@dataclass(slots=True)
class _Found:
    """State over all files."""

    chosen: Devices
    devices: KeyTable = field(default_factory=KeyTable)
    queued: int = 0
    others: int = 0
    empty: int = 0
    unknown: Unknown = field(default_factory=Unknown)
    sequences: Sequences = field(default_factory=Sequences)

    def notes(self, late: int) -> list[str]:
        """Return notes on rows left out or changed."""
        notes = [f"{self.others:,} events of other kinds left out"]
        if self.empty:
            notes.append(f"{self.empty:,} queue events without data left out")
        if late:
            notes.append(f"{late:,} rows were out of order and have been sorted")
        if self.sequences.missing:
            notes.append(
                f"{self.sequences.missing:,} events are missing by their sequence numbers, on "
                f"{len(self.sequences.cpus)} CPUs: what they did isn't in the trace"
            )
        return [*notes, *self.unknown.notes(), *self.chosen.notes()]


def _filled(paths: Sequence[Path]) -> list[Path]:
    """Return the files that aren't empty; the only one in any case."""
    some = [path for path in paths if not path.is_file() or path.stat().st_size]
    return some or list(paths[:1])


def _about_files(given: Sequence[Path], read: Sequence[Path]) -> list[str]:
    """Return notes on empty files, and on those of other CPUs that weren't given."""
    notes = [f"{path.name} is empty" for path in given if path not in read]
    names = {path.resolve() for path in given}
    for stem in sorted({path.with_suffix("") for path in given if path.suffix[1:].isdigit()}):
        beside = sorted(stem.parent.glob(f"{escape(stem.name)}.*"))
        notes += [
            f"{path.name} is beside the files and wasn't named: its events aren't in the trace"
            for path in beside
            if path.suffix[1:].isdigit() and path.resolve() not in names and path.stat().st_size
        ]
    return notes


def _devices(paths: Sequence[Path], wanted: Sequence[str]) -> Devices:
    """Return the devices of all files, checked. Raises TraceError if nothing was queued."""
    devices = Devices(wanted)
    state = _Found(devices)
    for path in paths:
        for columns in _io(path, state):
            devices.note(columns["device"], columns["op"], columns["place"], columns["size"])
    if not state.queued:
        raise nothing_queued(paths[0], state.others)
    devices.check(paths[0])
    return devices


def _time_order(path: Path, devices: Devices) -> TimeOrder:
    order, state = TimeOrder(), _Found(devices)
    for columns in _rows(path, state):
        order.note(columns["timestamp"])
    return order


def _moved(path: Path, start_ns: int, state: _Found) -> Iterator[Columns]:
    for columns in _rows(path, state):
        yield columns | {"timestamp": columns["timestamp"] - start_ns}


def _rows(path: Path, state: _Found) -> Iterator[Columns]:
    """Yield the I/O of the devices that were asked for."""
    for columns in _io(path, state):
        kept = state.chosen.kept(columns.pop("device"))
        if kept.any():
            yield {name: values[kept] for name, values in columns.items()}


def _io(path: Path, state: _Found) -> Iterator[Columns]:
    """Yield all I/O that was queued, with its `device`."""
    for first, records, remaps in _records(path):
        for above, below in np.unique(remaps[["above", "below"]]).tolist():
            state.chosen.remap(above, below)
        queued = (records["action"] & _ACTION) == _QUEUED
        queued &= (records["action"] & _NOTIFY) == 0
        state.queued += int(queued.sum())
        state.others += int((~queued).sum())
        state.sequences.note(path, records)
        columns = _columns(path, first, records, queued, state)
        if len(columns["op"]):
            yield columns


def _columns(
    path: Path,
    first: int,
    records: NDArray[np.void],
    queued: NDArray[np.bool_],
    state: _Found,
) -> Columns:
    action = records["action"]
    op = np.full(len(records), -1, np.int64)
    for bit, kind in ((_READ, Op.READ), (_WRITE, Op.WRITE), (_DISCARD, Op.DELETE)):
        op[(action & bit) != 0] = kind
    state.empty += int((queued & (records["bytes"] == 0)).sum())
    moves = queued & (records["bytes"] > 0)
    unknown = records["action"][moves & (op < 0)]
    for kind in np.unique(unknown).tolist():
        sizes = records["bytes"][moves & (op < 0) & (action == kind)].astype(np.int64)
        state.unknown.note(f"0x{kind:08x}", sizes)
    moves &= op >= 0
    _refuse(path, first, moves & (records["time"] > LAST_NS), records["time"], f"0 to {LAST_NS} ns")
    most = PLACE_MAX // SECTOR_BYTES
    _refuse(path, first, moves & (records["sector"] > most), records["sector"], f"0 to {most}")
    kept = records[moves]
    assert MAX_SIZE_BYTES >= 1 << 32
    file = state.devices.add(kept["device"].astype(np.uint64)).astype(np.int64)
    _refuse(path, first, moves & (state.devices.count > FILES_MAX), records["device"], "16,384")
    return {
        "timestamp": kept["time"].astype(np.int64),
        "op": op[moves].astype(np.uint8),
        "size": kept["bytes"].astype(np.int64),
        "file": file,
        "place": kept["sector"].astype(np.int64) * SECTOR_BYTES,
        "device": kept["device"].astype(np.int64),
    }


def _refuse(
    path: Path, first: int, bad: NDArray[np.bool_], values: NDArray[np.generic], accepted: str
) -> None:
    if bad.any():
        at = int(bad.argmax())
        raise TraceError(
            "value not accepted",
            where=f"{path}: record {first + at}",
            got=int(values[at]),
            accepted=accepted,
        )


def _walk(raw: NDArray[np.uint8], order: Order) -> tuple[NDArray[np.int64], int]:
    """Return where records begin, and where the first one begins that isn't whole."""
    starts, end = np.empty(len(raw) // RECORD.itemsize + 1, np.int64), np.zeros(1, np.int64)
    low = 0 if order == "<" else 1
    count = _starts(
        raw, len(raw), RECORD.itemsize, _LENGTH_AT + low, _LENGTH_AT + 1 - low, len(starts),
        starts, end,
    )  # fmt: skip
    return starts[:count], int(end[0])


def _records(path: Path) -> Iterator[tuple[int, NDArray[np.void], NDArray[np.void]]]:
    """Yield the records of a file, some at a time, with the first one's number from 0."""
    first, left = 0, b""
    order: Order | None = None
    with open_binary(path) as stream:
        while data := stream.read(_BLOCK_BYTES):
            data = left + data
            if order is None:
                order = _checked_order(path, data)
            raw = np.frombuffer(data, np.uint8)
            starts, end = _walk(raw, order)
            heads = raw[starts[:, None] + np.arange(RECORD.itemsize)]
            records = heads.reshape(-1).view(RECORD.newbyteorder(order))
            _check_magic(path, first, records["magic"])
            if len(starts):
                yield first, records.astype(RECORD), _remaps(raw, starts, records)
            first += len(starts)
            left = data[end:]
    if left or not first:
        raise TraceError(
            "the last record is cut short",
            where=f"{path}: record {first}",
            got=f"{len(left)} bytes",
            accepted=f"{RECORD.itemsize} bytes and what they say follows",
            hint="copy the file again",
        )


def _remaps(
    raw: NDArray[np.uint8], starts: NDArray[np.int64], records: NDArray[np.void]
) -> NDArray[np.void]:
    """Return what follows the remap events among records."""
    remapped = (records["action"] & _ACTION) == _REMAPPED
    remapped &= ((records["action"] & _NOTIFY) == 0) & (records["pdu_len"] >= _REMAP.itemsize)
    begins = starts[remapped] + RECORD.itemsize
    remaps: NDArray[np.void] = raw[begins[:, None] + np.arange(_REMAP.itemsize)].reshape(-1)
    return remaps.view(_REMAP)


def _checked_order(path: Path, data: bytes) -> Order:
    order = _order(data[:4]) if len(data) >= RECORD.itemsize else None
    if order is None:
        raise TraceError(
            "not a file of blktrace's",
            where=f"{path}: record 0",
            got=data[:4].hex(),
            accepted=f"{MAGIC | VERSION:08x} in either byte order",
        )
    return order


def _check_magic(path: Path, first: int, magic: NDArray[np.uint32]) -> None:
    bad = magic != MAGIC | VERSION
    if bad.any():
        at = int(bad.argmax())
        raise TraceError(
            "not a record of blktrace's",
            where=f"{path}: record {first + at}",
            got=f"{int(magic[at]):08x}",
            accepted=f"{MAGIC | VERSION:08x}",
        )
