"""Objects as a foreign log shows them: which were there before, and how long deleted ones were."""

from __future__ import annotations

from errno import ENOENT
from tempfile import TemporaryFile
from typing import IO, TYPE_CHECKING, Any, Self

import numpy as np

from kvtrace.compiled.hashmap import MISSING, find, find_all, give_back, new_table, take, with_room
from kvtrace.compiled.jit import constant, kernel
from kvtrace.trace.header import RESIDENT_DTYPE
from kvtrace.trace.schema import Op, Tier

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from kvtrace.trace.reader import Columns

# Columns of an object's row. FOUND: bytes that it had at the start of the log, 0 if it wasn't
# there. STATE: READ_ONLY as long as only reads tell how long it is; 0 of a free row.
_KEY, _SIZE, _STATE, _FOUND = range(4)
_READ_ONLY, _WRITTEN, _DEAD = (constant(state) for state in (1, 2, 3))
_READ, _WRITE, _DELETE = constant(Op.READ), constant(Op.WRITE), constant(Op.DELETE)
_USED = 0
_FIRST_ROWS = 1024
_DEAD_AT_ONCE = 1 << 16
_MERGED_AT_ONCE = 1 << 18


@kernel
def _enter(objects: Any, table: Any, count: Any, key: int, state: int, size: int) -> None:
    slot = take(table, objects, count, key)
    objects[slot, _STATE], objects[slot, _SIZE] = state, size
    objects[slot, _FOUND] = size if state == _READ_ONLY else 0


@kernel
def _settle(
    op: Any, key: Any, size: Any, end: Any, objects: Any, table: Any, count: Any, kept: Any
) -> None:
    """Follow the objects; give deletes their size, and take rows out of `kept` that can't be."""
    for i in range(op.shape[0]):
        if op[i] > _DELETE:
            continue
        slot = find(table, objects, key[i])
        if slot == MISSING:
            if op[i] == _DELETE:
                kept[i] = False
            else:
                state = _READ_ONLY if op[i] == _READ else _WRITTEN
                _enter(objects, table, count, key[i], state, end[i])
        elif op[i] == _WRITE:
            longest = 0 if objects[slot, _STATE] == _DEAD else objects[slot, _SIZE]
            objects[slot, _STATE], objects[slot, _SIZE] = _WRITTEN, max(longest, end[i])
        elif objects[slot, _STATE] == _DEAD:
            kept[i] = False
        elif op[i] == _DELETE:
            size[i] = objects[slot, _SIZE]
            objects[slot, _STATE] = _DEAD
        elif objects[slot, _STATE] == _READ_ONLY and end[i] > objects[slot, _SIZE]:
            objects[slot, _SIZE] = objects[slot, _FOUND] = end[i]


@kernel
def _enter_dead(keys: Any, objects: Any, table: Any, count: Any) -> None:
    for key in keys:
        _enter(objects, table, count, key, _DEAD, 0)


@kernel
def _forget(slots: Any, objects: Any, table: Any, count: Any) -> None:
    """Take objects out of the table; their rows are free."""
    for slot in slots:
        objects[slot, _STATE] = 0
        give_back(table, objects, count, slot)


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
        self._objects = np.zeros((_FIRST_ROWS, 4), np.int64)
        self._table = new_table(_FIRST_ROWS)
        self._count = np.array([0, MISSING], np.int64)
        self.dead = _Dead(folder)
        self._gone = [np.zeros((0, 2), np.int64)]

    def settle(
        self,
        op: NDArray[np.uint8],
        key: NDArray[np.uint64],
        size: NDArray[np.int64],
        end: NDArray[np.int64],
    ) -> NDArray[np.bool_]:
        """Follow rows, giving deletes their `size`; return which rows can be."""
        needed = int(self._count[_USED]) + 2 * len(op)
        self._table, self._objects = with_room(self._table, self._objects, needed)
        keys = key.view(np.int64)
        dead = self.dead.among(self._unknown(keys[op == Op.READ]))
        _enter_dead(dead, self._objects, self._table, self._count)
        kept = np.ones(len(op), np.bool_)
        _settle(op, keys, size, end, self._objects, self._table, self._count, kept)
        gone = np.flatnonzero(self._objects[: self._count[_USED], _STATE] == _DEAD)
        if len(gone) >= _DEAD_AT_ONCE:
            self._bury(gone)
        return kept

    def _unknown(self, keys: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the different ones among `keys` that aren't in the table."""
        slots = np.empty(len(keys), np.int64)
        find_all(self._table, self._objects, np.ascontiguousarray(keys), slots)
        return np.unique(keys[slots == MISSING])

    def _bury(self, slots: NDArray[np.int64]) -> None:
        existing = self._objects[slots]
        self.dead.add(existing[:, _KEY])
        self._gone.append(existing[existing[:, _FOUND] > 0][:, [_KEY, _FOUND]])
        _forget(slots, self._objects, self._table, self._count)

    def resident(self) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
        """Return key and size of each object that was there at the start."""
        objects = self._objects[: self._count[_USED]]
        residents = np.flatnonzero((objects[:, _FOUND] > 0) & (objects[:, _STATE] > 0))
        keys, sizes = (
            np.concatenate([*(gone[:, place] for gone in self._gone), objects[residents, column]])
            for place, column in enumerate((_KEY, _FOUND))
        )
        return keys.view(np.uint64), sizes

    def close(self) -> None:
        """Let the file and the tables go."""
        self.dead.close()
        self._objects, self._table = np.zeros((0, 4), np.int64), new_table(0)
        self._count[:] = 0, MISSING
        self._gone = [np.zeros((0, 2), np.int64)]


class Objects:
    """Completes rows of a log that says neither what was there before nor what deletes free.

    What is read before it is written was there before. Reads and deletes of what the log itself
    had deleted, and deletes of what nothing else tells of, are left out and counted. An
    op on what isn't there (ENOENT) does nothing; another one that failed may have done something.
    Memory grows
    with the objects that are there; the keys of deleted ones are in files in `folder`, 8 bytes
    each.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._tiers = [_OfTier(folder) for _ in Tier]
        self.dropped = {Op.READ: 0, Op.DELETE: 0}

    def settled(self, columns: Columns) -> Columns:
        """Return the rows that can be, deletes with the size of their object."""
        size = columns["size"].astype(np.int64)
        end = size + columns["offset"].astype(np.int64) if "offset" in columns else size.copy()
        op, key, kept = columns["op"], columns["key"], np.ones(len(size), np.bool_)
        done = columns["error"] != ENOENT if "error" in columns else kept
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
