"""Changes files at random: bytes, lines of text, JSON, records of a fixed size, what is packed."""

from __future__ import annotations

import gzip
import json
import zlib
from typing import TYPE_CHECKING, Any

import numpy
import zstandard

from kvtrace.capture import spool
from tests.fuzz.values import INTEGERS, TEXTS, Raw, dumps, raw_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy as np

    Mutate = Callable[[bytes, np.random.Generator], bytes]

_MOST_BYTES = 1 << 22


def of_bytes(data: bytes, rng: np.random.Generator) -> bytes:
    """Change some bytes: flipped, replaced by numbers, cut, repeated, put in, left out."""
    changed = bytearray(data)
    for _ in range(int(rng.geometric(0.4))):
        size = len(changed)
        at, kind = int(rng.integers(size + 1)), int(rng.integers(9))
        length = int(min(rng.geometric(0.05), size - at))
        if kind <= 1 and at < size:
            changed[at] ^= 1 << int(rng.integers(8))
        elif kind == 2 and at < size:
            changed[at] = int(rng.integers(256))
        elif kind <= 4:
            width = int(rng.choice([1, 2, 4, 8]))
            number = INTEGERS[rng.integers(len(INTEGERS))] & ((1 << 8 * width) - 1)
            order = "little" if rng.integers(2) else "big"
            changed[at : at + width] = number.to_bytes(width, order)  # type: ignore[arg-type]
        elif kind == 5:
            del changed[at : at + length]
        elif kind == 6 and size * 2 < _MOST_BYTES:
            changed[at:at] = changed[at : at + length] * int(rng.choice([1, 2, 50]))
        elif kind == 7:
            changed[at:at] = rng.bytes(length)
        elif rng.integers(3) == 0:
            del changed[at:]
    return bytes(changed)


_RECORD_FIELDS = (
    (0, 8), (8, 8), (16, 8), (24, 8), (32, 8), (40, 8), (48, 4), (52, 4), (56, 2), (58, 2), (60, 1),
    (61, 1), (62, 1),
)  # fmt: skip


def frames(data: bytes, rng: np.random.Generator) -> bytes:
    """Change what is in frames of a recording, each sealed again; repeat and leave out some."""
    whole = list(_whole_frames(data))
    for _ in range(int(rng.geometric(0.5))):
        at = int(rng.integers(len(whole)))
        kind, rows, payload = whole[at]
        action = int(rng.integers(6))
        if action == 0:
            del whole[at]
        elif action == 1:
            whole.insert(int(rng.integers(len(whole) + 1)), whole[at])
        elif kind == spool.Kind.ROWS:
            whole[at] = (kind, *_changed_rows(rows, payload, rng))
        elif kind == spool.Kind.EVENTS:
            whole[at] = (kind, rows, _changed_events(payload, rng))
        else:
            whole[at] = (kind, rows, _json_or_bytes(payload, rng))
        if not whole:
            break
    packed: Any = [spool.pack(kind, payload, rows) for kind, rows, payload in whole]
    return spool.MAGIC + b"".join(packed)


def _changed_rows(rows: int, payload: bytes, rng: np.random.Generator) -> tuple[int, bytes]:
    """Return a count and records, one of them changed."""
    if rng.integers(5) == 0:
        return INTEGERS[rng.integers(len(INTEGERS))] & 0xFFFFFFFF, payload
    size = spool.RECORD.itemsize
    try:
        before = spool.records(spool.Frame(spool.Kind.ROWS, rows, payload, 0)).tobytes()
    except spool.SpoolError:  # its count was changed before
        return rows, payload
    changed = records(size, _RECORD_FIELDS)(before, rng)
    count = len(changed) // size
    packed = spool.pack_rows(numpy.frombuffer(changed[: count * size], spool.RECORD))
    return count, packed[spool.HEAD.size :]


def _changed_events(payload: bytes, rng: np.random.Generator) -> bytes:
    """Return lines of events, one of them changed."""
    try:
        return zlib.compress(json_lines(zlib.decompress(payload), rng), 1)
    except (ValueError, RecursionError, zlib.error):  # changed once before
        return of_bytes(payload, rng)


def _json_or_bytes(payload: bytes, rng: np.random.Generator) -> bytes:
    try:
        return of_json(payload, rng)
    except (ValueError, RecursionError):  # changed once before
        return of_bytes(payload, rng)


def _whole_frames(data: bytes) -> Iterator[tuple[Any, int, bytes]]:
    offset = len(spool.MAGIC)
    while offset < len(data):
        _, kind, length, rows, _ = spool.HEAD.unpack_from(data, offset)
        offset += spool.HEAD.size
        yield kind, rows, data[offset : offset + length]
        offset += length


def records(itemsize: int, offsets: tuple[tuple[int, int], ...]) -> Mutate:
    """Return a mutator of records: a field (offset, width) of one, records repeated or left out."""

    def mutate(data: bytes, rng: np.random.Generator) -> bytes:
        changed = bytearray(data)
        for _ in range(int(rng.geometric(0.5))):
            count = max(1, len(changed) // itemsize)
            at = int(rng.integers(count)) * itemsize
            kind = int(rng.integers(6))
            if kind < 4:
                offset, width = offsets[rng.integers(len(offsets))]
                number = INTEGERS[rng.integers(len(INTEGERS))] & ((1 << 8 * width) - 1)
                changed[at + offset : at + offset + width] = number.to_bytes(width, "little")
            elif kind == 4:
                changed[at:at] = changed[at : at + itemsize] * int(rng.integers(1, 4))
            else:
                del changed[at : at + itemsize]
        return bytes(changed)

    return mutate


def text(separator: str) -> Mutate:
    """Return a mutator of lines of fields: a field, a line, a column, how the file ends."""

    def mutate(data: bytes, rng: np.random.Generator) -> bytes:
        lines = data.decode("utf-8", "surrogateescape").split("\n")
        for _ in range(int(rng.geometric(0.5))):
            at, kind = int(rng.integers(len(lines))), int(rng.integers(12))
            fields = lines[at].split(separator)
            which = int(rng.integers(len(fields)))
            if kind < 6:
                number = str(INTEGERS[rng.integers(len(INTEGERS))])
                word = TEXTS[rng.integers(len(TEXTS))]
                fields[which] = number if rng.integers(2) else word
                lines[at] = separator.join(fields)
            elif kind == 6:
                del fields[which]
                lines[at] = separator.join(fields)
            elif kind == 7:
                lines[at:at] = [lines[at]] * int(rng.choice([1, 2, 20]))
            elif kind == 8 and len(lines) > 1:
                del lines[at]
            elif kind == 9:
                other = int(rng.integers(len(lines)))
                lines[at], lines[other] = lines[other], lines[at]
            elif kind == 10:
                end = "\r" if rng.integers(2) else separator * int(rng.choice([1, 3, 2000]))
                lines[at] += end
            elif lines and lines[-1] == "":
                lines.pop()
        return "\n".join(lines).encode("utf-8", "surrogateescape" if b"\xff" in data else "replace")

    return mutate


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the paths of all values."""
    found = [path]
    if isinstance(value, dict):
        for key, item in value.items():
            found += _places(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value[:50]):
            found += _places(item, (*path, index))
    return found


def changed_json(value: Any, rng: np.random.Generator) -> Any:
    """Return the value with some parts changed: replaced, left out, renamed, repeated."""
    for _ in range(int(rng.geometric(0.55))):
        places = _places(value)
        path = places[rng.integers(len(places))]
        if not path:
            if rng.integers(20) == 0:
                return Raw(raw_json(rng))
            continue
        holder = value
        for step in path[:-1]:
            holder = holder[step]
        if isinstance(holder, Raw):
            continue
        last, kind = path[-1], int(rng.integers(8))
        if kind == 0:
            del holder[last]
        elif kind == 1 and isinstance(holder, dict):
            holder[TEXTS[rng.integers(len(TEXTS))][:50]] = holder.pop(last)
        elif kind == 2 and isinstance(holder, list):
            holder[last:last] = [holder[last]] * int(rng.choice([1, 3, 300]))
        elif kind == 3:
            source = places[rng.integers(len(places))]
            found = value
            for step in source:
                found = found[step] if not isinstance(found, Raw) else found
            holder[last] = json.loads(dumps(found)) if _is_plain(found) else Raw(raw_json(rng))
        else:
            holder[last] = Raw(raw_json(rng))
    return value


def _is_plain(value: Any) -> bool:
    try:
        json.loads(dumps(value))
    except (ValueError, RecursionError):
        return False
    return True


def of_json(data: bytes, rng: np.random.Generator) -> bytes:
    """Change values of a JSON document, seldom its bytes."""
    if rng.integers(8) == 0:
        return of_bytes(data, rng)
    return dumps(changed_json(json.loads(data), rng)).encode("utf-8", "surrogatepass")


def json_lines(data: bytes, rng: np.random.Generator) -> bytes:
    """Change lines of JSON: values of one, or the lines themselves."""
    if rng.integers(5) == 0:
        return text(",")(data, rng)
    lines = data.split(b"\n")
    at = int(rng.integers(max(1, len(lines) - 1)))
    lines[at] = of_json(lines[at], rng) if lines[at].strip() else b"{}"
    return b"\n".join(lines)


def any_of(*mutators: Mutate) -> Mutate:
    """Return a mutator that takes one of several."""

    def mutate(data: bytes, rng: np.random.Generator) -> bytes:
        return mutators[rng.integers(len(mutators))](data, rng)

    return mutate


def packed(suffix: str, inner: Mutate) -> Mutate:
    """Return a mutator of what is in a compressed file, or of the file; seldom a bomb."""

    def mutate(data: bytes, rng: np.random.Generator) -> bytes:
        if rng.integers(6) == 0:
            return of_bytes(data, rng)
        plain = inner(unpack(data, suffix), rng)
        if rng.integers(400) == 0:
            plain += bytes(1 << 26) if rng.integers(2) else b"a,1\n" * (1 << 22)
        return pack(plain, suffix)

    return mutate


def pack(data: bytes, suffix: str) -> bytes:
    """Return data compressed as a file's suffix says."""
    if suffix == ".gz":
        return gzip.compress(data, 1)
    return zstandard.ZstdCompressor(level=1).compress(data) if suffix == ".zst" else data


def unpack(data: bytes, suffix: str) -> bytes:
    """Return what is in a good compressed file."""
    if suffix == ".gz":
        return gzip.decompress(data)
    if suffix == ".zst":
        return zstandard.ZstdDecompressor().decompressobj().decompress(data)
    return data
