"""Names of objects in other tools' files, and the keys that they get here."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from kvtrace.files.outfile import TableFile
from kvtrace.formats.common.importing import names_path
from kvtrace.native.core import function
from kvtrace.native.library import BOOLEAN, I64, INT, POINTER, U8, U64

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from kvtrace.trace.schema import Tier

_TABLE = 1 << 22
_SCHEMA = pa.schema([("key", pa.uint64()), ("name", pa.string())])


class PartsStruct(ctypes.Structure):
    """`struct kv_parts` of `names.h`."""

    _fields_ = (
        ("data", POINTER),
        ("size", INT),
        ("begin", POINTER),
        ("end", POINTER),
        ("count", INT),
    )


class NamingStruct(ctypes.Structure):
    """`struct kv_naming` of `names.c`."""

    _fields_ = (("prefix", POINTER), ("prefix_bytes", INT), ("met", POINTER), ("met_mask", INT))


_prefix = function("kv_names_prefix", POINTER, I64, returns=INT)
_keys = function("kv_names_keys", POINTER, POINTER, U64, U8, I64, returns=INT)
_copy = function("kv_names_copy", POINTER, U8, INT, returns=BOOLEAN)


class NamesFile(TableFile):
    """Writes a row per key: the key, and its name in the other tool's file."""

    def _open(self) -> pq.ParquetWriter:
        return pq.ParquetWriter(self.draft.file, _SCHEMA, compression="zstd")

    def append(self, keys: NDArray[np.uint64], names: pa.Array) -> None:
        """Add some keys with their names."""
        columns = [pa.array(keys), names.cast(pa.string())]
        self.write(pa.Table.from_arrays(columns, schema=_SCHEMA))


@dataclass(frozen=True, slots=True)
class Parts:
    """Strings as parts of a byte array, from `begin` up to `end` each."""

    data: NDArray[np.uint8]
    begin: NDArray[np.int64]
    end: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.begin)

    @property
    def struct(self) -> PartsStruct:
        """`struct kv_parts` of them, valid as long as they are."""
        arrays = (self.data, self.begin, self.end)
        assert all(each.flags.c_contiguous for each in arrays)
        assert self.data.dtype == np.uint8
        assert self.begin.dtype == self.end.dtype == np.int64
        assert len(self.begin) == len(self.end)
        data, begin, end = (each.ctypes.data for each in arrays)
        return PartsStruct(data, len(self.data), begin, end, len(self.begin))


def texts(names: Parts) -> pa.Array:
    """Return parts of a byte array, which are UTF-8, as strings."""
    offsets = np.zeros(len(names) + 1, np.int64)
    np.cumsum(names.end - names.begin, out=offsets[1:])
    copied = np.empty(int(offsets[-1]), np.uint8)
    whole = _copy(ctypes.byref(names.struct), copied, len(copied))
    assert whole
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(copied)]
    return pa.Array.from_buffers(pa.large_string(), len(names), buffers)


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
        self._naming = NamingStruct(met=self._met.ctypes.data, met_mask=_TABLE - 1)
        self._prefix: NDArray[np.uint8] | None = None
        self.kept = 0

    def of(self, names: Parts, tier: Tier) -> tuple[NDArray[np.uint64], NDArray[np.uint8]]:
        """Return each name's key and tier, which is `tier` unless an own name tells it."""
        names = Parts(names.data, names.begin.astype(np.int64), names.end.astype(np.int64))
        if self._prefix is None:
            self._look_for_prefix(names)
        keys, tiers = np.empty(len(names), np.uint64), np.full(len(names), tier, np.uint8)
        fresh = np.empty(len(names), np.int64)
        naming = ctypes.byref(self._naming)
        count = _keys(naming, ctypes.byref(names.struct), keys, tiers, fresh)
        assert count >= 0
        if count:
            fresh = fresh[:count]
            hashed = Parts(names.data, names.begin[fresh], names.end[fresh])
            self._file.append(keys[fresh], texts(hashed))
            self.kept += count
        return keys, tiers

    def _look_for_prefix(self, names: Parts) -> None:
        row = np.zeros(1, np.int64)
        end = _prefix(ctypes.byref(names.struct), row)
        assert end >= -1
        if end >= 0:
            # A byte more, so that a prefix of none has an address.
            self._prefix = np.append(names.data[names.begin[row[0]] : end], np.uint8(0))
            self._naming.prefix = self._prefix.ctypes.data
            self._naming.prefix_bytes = len(self._prefix) - 1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: Any) -> None:
        """Finish the file if it has any names."""
        if raised[0] is None and self.kept:
            self._file.close()
        else:
            self._file.abort()
