"""Names of objects in other tools' files, and the keys that they get here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from kvtrace.compiled.jit import constant, kernel
from kvtrace.compiled.xxh3 import LANES, hash_of
from kvtrace.files.outfile import TableFile
from kvtrace.formats.common.importing import names_path
from kvtrace.trace.schema import Tier

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

_DIGITS = 16
_UNTOLD = constant(255)
_SLASH = ord("/")
_TABLE = 1 << 22
_SCHEMA = pa.schema([("key", pa.uint64()), ("name", pa.string())])
_WORDS = np.zeros((len(Tier), max(len(tier.label) for tier in Tier)), np.uint8)
for _tier in Tier:
    _WORDS[_tier, : len(_tier.label)] = np.frombuffer(_tier.label.encode(), np.uint8)
_WORD_BYTES = np.array([len(tier.label) for tier in Tier])


class NamesFile(TableFile):
    """Writes a row per key: the key, and its name in the other tool's file."""

    def _open(self) -> pq.ParquetWriter:
        return pq.ParquetWriter(self.draft.file, _SCHEMA, compression="zstd")

    def append(self, keys: NDArray[np.uint64], names: pa.Array) -> None:
        """Add some keys with their names."""
        columns = [pa.array(keys), names.cast(pa.string())]
        self.write(pa.Table.from_arrays(columns, schema=_SCHEMA))


@kernel
def _digits(data: Any, begin: int, end: int) -> tuple[Any, bool]:
    """Return what the last 16 bytes of a name say as hex digits, and whether they are any."""
    value = np.uint64(0)
    if end - begin < _DIGITS:
        return value, False
    for at in range(end - _DIGITS, end):
        byte = data[at]
        if 48 <= byte <= 57:
            digit = byte - 48
        elif 97 <= byte <= 102:
            digit = byte - 87
        else:
            return value, False
        value = (value << np.uint64(4)) | np.uint64(digit)
    return value, True


@kernel
def _tier_before(data: Any, begin: int, end: int) -> tuple[int, int]:
    """Return the tier whose word and a slash end a part of a name, and where these begin."""
    if end > begin and data[end - 1] == _SLASH:
        for tier in range(_WORD_BYTES.size):
            at = end - 1 - _WORD_BYTES[tier]
            if at >= begin:
                same = True
                for byte in range(_WORD_BYTES[tier]):
                    same &= data[at + byte] == _WORDS[tier, byte]
                if same:
                    return tier, at
    return _UNTOLD, end


@kernel
def _first_prefix(data: Any, begin: Any, end: Any) -> tuple[int, int]:
    """Return where the prefix of the first name is that ends in 16 hex digits; −1 for none."""
    for row in range(begin.size):
        if _digits(data, begin[row], end[row])[1]:
            return begin[row], _tier_before(data, begin[row], end[row] - _DIGITS)[1]
    return -1, -1


@kernel
def _is_ours(data: Any, begin: int, end: int, prefix: Any) -> bool:
    if end - begin != prefix.size:
        return False
    same = True
    for at in range(prefix.size):
        same &= data[begin + at] == prefix[at]
    return same


@kernel
def _name_keys(
    data: Any, begin: Any, end: Any, prefix: Any, has_prefix: bool, met: Any, lanes: Any,
    keys: Any, tiers: Any, new: Any,
) -> int:  # fmt: skip
    """Fill in keys, and the tiers of own names that tell them; return how many rows are `new`."""
    count = 0
    for row in range(begin.size):
        key, fits = _digits(data, begin[row], end[row])
        if fits and has_prefix:
            tier, at = _tier_before(data, begin[row], end[row] - _DIGITS)
            if _is_ours(data, begin[row], at, prefix):
                keys[row] = key
                if tier != _UNTOLD:
                    tiers[row] = tier
                continue
        key = hash_of(data, begin[row], end[row], lanes)
        keys[row] = key
        place = np.int64(key & np.uint64(met.size - 1))
        if met[place] != key:
            met[place] = key
            new[count] = row
            count += 1
    return count


@kernel
def _copy(data: Any, begin: Any, end: Any, offsets: Any, copied: Any) -> None:
    for row in range(begin.size):
        for at in range(end[row] - begin[row]):
            copied[offsets[row] + at] = data[begin[row] + at]


def texts(data: NDArray[np.uint8], begin: NDArray[Any], end: NDArray[Any]) -> pa.Array:
    """Return parts of a byte array, which are UTF-8, as strings."""
    offsets = np.zeros(len(begin) + 1, np.int64)
    np.cumsum(end - begin, out=offsets[1:])
    copied = np.empty(int(offsets[-1]), np.uint8)
    _copy(data, begin, end, offsets, copied)
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(copied)]
    return pa.Array.from_buffers(pa.large_string(), len(begin), buffers)


@dataclass(frozen=True, slots=True)
class Parts:
    """Strings as parts of a byte array, from `begin` up to `end` each."""

    data: NDArray[np.uint8]
    begin: NDArray[Any]
    end: NDArray[Any]

    def __len__(self) -> int:
        return len(self.begin)


def parts_of(names: pa.Array) -> Parts:
    """Return strings, of which none is null, as parts of the array that they are in."""
    names = names.cast(pa.large_string())
    _, offsets, data = names.buffers()
    ends = np.frombuffer(offsets, np.int64)[names.offset : names.offset + len(names) + 1]
    empty = data is None or not data.size
    raw = np.zeros(0, np.uint8) if empty else np.frombuffer(data, np.uint8)
    return Parts(raw, ends[:-1], ends[1:])


class Names:
    """Turns names into keys: xxh3-64 of a name; of one that an export here made, the key in it.

    Own names are a prefix, a tier and 16 hex digits; one prefix is taken for our own, the first one
    that is met, so that no two names become one key. Hashed names are kept in `names_path(out)`;
    of very many one may stand there more than once: which were met is remembered in a table of
    fixed size.
    """

    def __init__(self, out: Path, *, force: bool) -> None:
        self._file = NamesFile(names_path(out), force=force)
        self._met = np.zeros(_TABLE, np.uint64)
        self._lanes = np.zeros(LANES, np.uint64)
        self._prefix: NDArray[np.uint8] | None = None
        self.kept = 0

    def of(self, names: Parts, tier: Tier) -> tuple[NDArray[np.uint64], NDArray[np.uint8]]:
        """Return each name's key and tier, which is `tier` unless an own name tells it."""
        begin, end = names.begin.astype(np.int64), names.end.astype(np.int64)
        if self._prefix is None:
            at, prefix_end = _first_prefix(names.data, begin, end)
            self._prefix = None if at < 0 else names.data[at:prefix_end].copy()
        keys, tiers = np.empty(len(names), np.uint64), np.full(len(names), tier, np.uint8)
        new = np.empty(len(names), np.int64)
        prefix = np.zeros(0, np.uint8) if self._prefix is None else self._prefix
        count = _name_keys(
            names.data, begin, end, prefix, self._prefix is not None, self._met, self._lanes,
            keys, tiers, new,
        )  # fmt: skip
        if count:
            new = new[:count]
            self._file.append(keys[new], texts(names.data, begin[new], end[new]))
            self.kept += count
        return keys, tiers

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: Any) -> None:
        """Finish the file if it has any names."""
        if raised[0] is None and self.kept:
            self._file.close()
        else:
            self._file.abort()
