"""Objects as a foreign log shows them: which were there before, and how long deleted ones were."""

from __future__ import annotations

import ctypes
from tempfile import TemporaryFile
from typing import IO, TYPE_CHECKING, Self

import numpy as np

from kvtrace.native.core import function
from kvtrace.native.hashmap import MISSING, Pool
from kvtrace.native.library import BOOLEAN, INT, POINTER, contiguous
from kvtrace.trace.header import RESIDENT_DTYPE
from kvtrace.trace.outcomes import idle
from kvtrace.trace.schema import Op, Tier

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from kvtrace.trace.reader import Columns

_OBJECT = np.dtype([("key", "i8"), ("size", "i8"), ("state", "i8"), ("at_start", "i8")])
_FREE, _DEAD = 0, 3
_DEAD_AT_ONCE = 1 << 16
_MERGED_AT_ONCE = 1 << 18


class OpsStruct(ctypes.Structure):
    """`struct kv_log_ops` of `objects.c`."""

    _fields_ = tuple((name, POINTER) for name in ("op", "key", "size", "end", "kept"))


_settle = function("kv_log_settle", POINTER, POINTER, INT, returns=BOOLEAN)


class _Dead:
    """Keys of objects that are gone, in sorted runs, each in a file without a name.

    A run that isn't longer than the two behind it would make is merged with the one behind it, so
    that runs are few however often objects go.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._files: list[IO[bytes]] = []
        self._runs: list[NDArray[np.int64]] = []

    def add(self, keys: NDArray[np.int64]) -> None:
        """Take keys of objects that were deleted."""
        self._write([np.unique(keys)])
        while len(self._runs) > 1 and len(self._runs[-2]) <= 2 * len(self._runs[-1]):
            self._write(_union(*self._runs[-2:]))
            for _ in range(2):
                del self._runs[-2]
                self._files.pop(-2).close()

    def _write(self, parts: Iterable[NDArray[np.int64]]) -> None:
        file = TemporaryFile(dir=self._folder)  # noqa: SIM115 - closed by close()
        for part in parts:
            part.tofile(file)
        file.flush()
        self._files.append(file)
        self._runs.append(np.memmap(file, np.int64, "r"))

    def among(self, keys: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return those of `keys` that were deleted."""
        deleted = np.zeros(len(keys), np.bool_)
        for run in self._runs if len(keys) else ():
            at = np.minimum(np.searchsorted(run, keys), len(run) - 1)
            deleted |= run[at] == keys
        return keys[deleted]

    def close(self) -> None:
        """Let the files go."""
        self._runs.clear()
        while self._files:
            self._files.pop().close()


def _union(one: NDArray[np.int64], other: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """Yield what is in either of two sorted arrays, sorted, a part at a time."""
    begin = 0
    for at in range(0, len(one), _MERGED_AT_ONCE):
        part = one[at : at + _MERGED_AT_ONCE]
        last = at + len(part) == len(one)
        end = len(other) if last else int(np.searchsorted(other, part[-1], side="right"))
        yield np.union1d(part, other[begin:end])
        begin = end


class _OfTier:
    """The objects of one tier: those that are there, and the keys of those that are gone."""

    def __init__(self, folder: Path | None) -> None:
        self._pool = Pool(_OBJECT)
        self.dead = _Dead(folder)
        self._gone = [np.zeros(0, _OBJECT)]

    def settle(
        self,
        op: NDArray[np.uint8],
        key: NDArray[np.uint64],
        size: NDArray[np.int64],
        end: NDArray[np.int64],
    ) -> NDArray[np.bool_]:
        """Follow rows, giving deletes their `size`; return which rows can be."""
        keys = contiguous(key).view(np.int64)
        self._enter_dead(self.dead.among(self._unknown(keys[op == Op.READ])))
        self._pool.make_room(len(op))
        kept, op = np.ones(len(op), np.bool_), contiguous(op, np.uint8)
        assert len(keys) == len(size) == len(end) == len(op)
        assert size.dtype == end.dtype == np.int64
        assert size.flags.c_contiguous
        assert end.flags.c_contiguous
        rows = OpsStruct(*(each.ctypes.data for each in (op, keys, size, end, kept)))
        settled = _settle(self._pool.address, ctypes.byref(rows), len(op))
        assert settled
        gone = np.flatnonzero(self._pool.rows["state"] == _DEAD)
        if len(gone) >= _DEAD_AT_ONCE:
            self._bury(gone)
        return kept

    def _enter_dead(self, keys: NDArray[np.int64]) -> None:
        slots = self._pool.take(keys)
        self._pool.rows["state"][slots] = _DEAD
        self._pool.rows["size"][slots] = self._pool.rows["at_start"][slots] = 0

    def _unknown(self, keys: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the different ones among `keys` that aren't in the table."""
        return np.unique(keys[self._pool.find(keys) == MISSING])

    def _bury(self, slots: NDArray[np.int64]) -> None:
        existing = self._pool.rows[slots]
        self.dead.add(existing["key"])
        self._gone.append(existing[existing["at_start"] > 0])
        self._pool.rows["state"][slots] = _FREE
        self._pool.give_back(slots)

    def resident(self) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
        """Return key and size of each object that was there at the start."""
        rows = self._pool.rows
        residents = rows[(rows["at_start"] > 0) & (rows["state"] != _FREE)]
        joined = np.concatenate([*self._gone, residents])
        return joined["key"].view(np.uint64), joined["at_start"]

    def close(self) -> None:
        """Let the file and the tables go."""
        self.dead.close()
        self._pool = Pool(_OBJECT, 8)
        self._gone = [np.zeros(0, _OBJECT)]


class Objects:
    """Completes rows of a log that says neither what was there before nor what deletes free.

    What is read before it is written was there before. Reads and deletes of what the log itself
    had deleted, and deletes of what nothing else tells of, are left out and counted. Some
    errors mean that an op did nothing (`outcomes.idle`); another one that failed may have done
    something. Memory grows with the objects that are there; the keys of deleted ones are in files
    in `folder`, 8 bytes each.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._tiers = [_OfTier(folder) for _ in Tier]
        self.dropped = {Op.READ: 0, Op.DELETE: 0}

    def settled(self, columns: Columns) -> Columns:
        """Return the rows that can be, deletes with the size of their object."""
        size = columns["size"].astype(np.int64)
        end = size + columns["offset"].astype(np.int64) if "offset" in columns else size.copy()
        op, key, kept = columns["op"], columns["key"], np.ones(len(size), np.bool_)
        done = kept if "error" not in columns else ~idle(columns["error"])
        for number, objects in enumerate(self._tiers):
            on_tier = (columns["tier"] == number) & done
            if on_tier.all():
                kept = objects.settle(op, key, size, end)
            elif on_tier.any():
                sizes = size[on_tier]
                kept[on_tier] = objects.settle(op[on_tier], key[on_tier], sizes, end[on_tier])
                size[on_tier] = sizes
        settled = columns | {"size": size.astype(np.uint64)}
        if kept.all():
            return settled
        for word in self.dropped:
            self.dropped[word] += int((op[~kept] == word).sum())
        return {name: values[kept] for name, values in settled.items()}

    def taken(self) -> NDArray[np.void]:
        """Return the objects that were there before, in order of tier and key; forget all."""
        parts = []
        for number, objects in enumerate(self._tiers):
            keys, sizes = objects.resident()
            objects.close()
            order = np.argsort(keys)
            part = np.empty(len(keys), RESIDENT_DTYPE)
            part["tier"], part["key"], part["size"] = number, keys[order], sizes[order]
            parts.append(part)
        filled = [part for part in parts if len(part)]
        return filled[0] if len(filled) == 1 else np.concatenate(parts)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        """Let files go."""
        for objects in self._tiers:
            objects.close()
