"""The files that a recorder writes: framed, checked and compressed records, readable at any time.

A file is 8 bytes of magic, then frames: a head of five little-endian uint32 (sync word, kind,
payload bytes, rows, CRC-32 of the head's first four and the payload), then the payload. A damaged
frame loses itself only: the reader goes on at the next whole one.
"""

from __future__ import annotations

import json
import struct
import zlib
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

MAGIC = b"KVCAP03\n"
SUFFIX = ".kvcap"
SYNC = 0x9E5AC3B7
HEAD = struct.Struct("<IIIII")
_CHECKED = struct.Struct("<IIII")
_SYNC_BYTES = struct.pack("<I", SYNC)
MAX_PAYLOAD_BYTES = 64 << 20
"""Largest payload; more in a head is taken for damage."""
MAX_FRAME_ROWS = 1 << 16
"""Most rows that a writer puts in a frame: 4 MiB of records."""

RECORD = np.dtype(
    [
        ("key", "<u8"), ("submit", "<i8"), ("complete", "<i8"), ("size", "<u8"),
        ("request", "<u8"), ("block", "<u8"), ("batch", "<u4"), ("error", "<i4"),
        ("position", "<u2"), ("rank", "<u2"),
        ("op", "u1"), ("tier", "u1"), ("phase", "u1"), ("flags", "u1"),
    ]
)  # fmt: skip
"""One op: times in ns on CLOCK_MONOTONIC, sizes in bytes, words as in `kvtrace.trace.schema`."""
UNKNOWN = (1 << 64) - 1
"""A request or block that the engine doesn't tell."""
UNKNOWN_RANK = 0xFFFF


class Kind(IntEnum):
    """What a frame holds."""

    HEADER = 1
    ROWS = 2
    GAP = 3
    ANCHOR = 4
    END = 5
    EVENTS = 6


class SpoolError(ValueError):
    """A whole frame whose payload isn't what its kind promises."""


@dataclass(frozen=True, slots=True)
class Frame:
    """A whole frame; `offset` is where its head begins, `end` where the next one does."""

    kind: int
    rows: int
    payload: bytes
    offset: int

    @property
    def end(self) -> int:
        """Offset of the byte behind the frame."""
        return self.offset + HEAD.size + len(self.payload)


@dataclass(frozen=True, slots=True)
class Damage:
    """Bytes that are no whole frame; `torn` if they are the file's end, cut off while written."""

    offset: int
    length: int
    reason: str
    torn: bool = False


def pack(kind: Kind, payload: bytes, rows: int = 0) -> bytes:
    """Return a frame's bytes."""
    checked = _CHECKED.pack(SYNC, kind, len(payload), rows)
    return checked + struct.pack("<I", zlib.crc32(payload, zlib.crc32(checked))) + payload


def pack_rows(records: np.ndarray) -> bytes:
    """Return a frame of records: their columns one after the other, compressed.

    By columns it is a third smaller and quicker to compress than by rows.
    """
    columns = b"".join(records[name].tobytes() for name in RECORD.names or ())
    return pack(Kind.ROWS, zlib.compress(columns, 1), len(records))


def pack_json(kind: Kind, document: dict[str, Any]) -> bytes:
    """Return a frame of a JSON document."""
    return pack(kind, json.dumps(document, separators=(",", ":")).encode())


def parts(folder: Path | str) -> list[Path]:
    """Return the files of a capture by process and part, as their names have them."""
    return sorted(Path(folder).glob(f"*{SUFFIX}"), key=_place_of)


def _place_of(path: Path) -> tuple[str, int, str]:
    process, _, part = path.stem.rpartition("-")
    # From the ten-thousandth on, a part has more digits.
    return process, len(part), part


def frames(path: Path | str, start: int = 0, end: int = -1) -> Iterator[Frame | Damage]:
    """Yield a file's frames and damages in order, from an offset that a frame ended at on.

    `end`: offset behind which nothing is read, of a file that may be growing; -1: all there is.

    Raises OSError: the file can't be read.
    """
    with Path(path).open("rb") as file:
        file.seek(start)
        data = file.read(end - start if end >= 0 else -1)
    offset = 0
    if start == 0 and data:
        offset = min(len(MAGIC), len(data))
        if data[:offset] != MAGIC:
            torn = MAGIC.startswith(data) and len(data) < len(MAGIC)
            yield Damage(0, offset, "the magic is damaged", torn)
    while offset < len(data):
        frame, reason = _frame_at(data, offset)
        if frame is not None:
            yield Frame(frame.kind, frame.rows, frame.payload, start + offset)
            offset = frame.end
            continue
        after = _next_whole(data, offset + 1)
        torn = after == len(data) and reason == "cut off"
        yield Damage(start + offset, after - offset, reason, torn)
        offset = after


def _frame_at(data: bytes, offset: int) -> tuple[Frame | None, str]:
    """Return the whole frame at an offset, or why it isn't one."""
    if len(data) - offset < HEAD.size:
        head_begins_well = _SYNC_BYTES.startswith(data[offset : offset + 4])
        return None, "cut off" if head_begins_well else "no frame begins here"
    sync, kind, length, rows, crc = HEAD.unpack_from(data, offset)
    if sync != SYNC or length > MAX_PAYLOAD_BYTES:
        return None, "no frame begins here"
    payload = data[offset + HEAD.size : offset + HEAD.size + length]
    if len(payload) < length:
        return None, "cut off"
    if zlib.crc32(payload, zlib.crc32(data[offset : offset + _CHECKED.size])) != crc:
        return None, "its checksum is wrong"
    return Frame(kind, rows, payload, offset), ""


def _next_whole(data: bytes, offset: int) -> int:
    """Return where the next whole frame begins, the data's end if none does."""
    while (offset := data.find(_SYNC_BYTES, offset)) >= 0:
        if _frame_at(data, offset)[0] is not None:
            return offset
        offset += 1
    return len(data)


def records(frame: Frame) -> np.ndarray:
    """Return the records of a ROWS frame.

    Raises SpoolError: its payload isn't as many records as its head says.
    """
    data = _inflated(frame.payload, frame.rows * RECORD.itemsize)
    if len(data) != frame.rows * RECORD.itemsize:
        raise SpoolError(f"a frame of {frame.rows} rows holds {len(data)} bytes of them")
    rows, offset = np.empty(frame.rows, RECORD), 0
    for name in RECORD.names or ():
        column = RECORD[name]
        rows[name] = np.frombuffer(data, column, frame.rows, offset)
        offset += frame.rows * column.itemsize
    return rows


def _inflated(payload: bytes, most_bytes: int) -> bytes:
    inflate = zlib.decompressobj()
    try:
        data = inflate.decompress(payload, most_bytes + 1)
    except zlib.error as error:
        raise SpoolError(f"a frame can't be decompressed: {error}") from error
    return data


def document(frame: Frame) -> dict[str, Any]:
    """Return the JSON document of a HEADER, GAP, ANCHOR or END frame.

    Raises SpoolError: its payload isn't a JSON object.
    """
    try:
        value = json.loads(frame.payload)
    except (ValueError, RecursionError) as error:
        raise SpoolError(f"a frame isn't JSON: {error}") from error
    if not isinstance(value, dict):
        raise SpoolError("a frame isn't a JSON object")
    return value
