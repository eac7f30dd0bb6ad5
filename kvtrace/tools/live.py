"""Objects live while rows are read, and those that a part of the rows finds resident."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from kvtrace.native.core import function
from kvtrace.native.hashmap import Pool
from kvtrace.native.library import BOOL, BOOLEAN, I64, INT, POINTER, U8, contiguous
from kvtrace.trace.header import RESIDENT_DTYPE
from kvtrace.trace.outcomes import only_done
from kvtrace.trace.schema import Op, Tier

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kvtrace.trace.reader import Columns

_OBJECT = np.dtype([("key", "i8"), ("size", "i8"), ("known", "i8")])
_live = function("kv_live", POINTER, U8, I64, I64, BOOL, INT, I64, returns=BOOLEAN)


class _OfTier:
    """The objects of one tier."""

    def __init__(self) -> None:
        self._pool = Pool(_OBJECT)

    def observe(
        self,
        op: NDArray[np.uint8],
        key: NDArray[np.uint64],
        end: NDArray[np.int64],
        kept: NDArray[np.bool_],
    ) -> NDArray[np.int64]:
        """Follow rows; return the size of what each kept row finds there first, else -1."""
        self._pool.make_room(len(op))
        sizes = np.full(len(op), -1, np.int64)
        followed = _live(self._pool.address, op, key.view(np.int64), end, kept, len(op), sizes)
        assert followed
        return sizes


class LiveObjects:
    """Follows the objects of a trace; memory grows with those that are there, not with rows."""

    def __init__(self, resident: NDArray[np.void]) -> None:
        self._tiers = [_OfTier() for _ in Tier]
        self._found = [np.zeros(0, RESIDENT_DTYPE)]
        self._rows(
            np.full(len(resident), Op.WRITE, np.uint8),
            resident["tier"],
            contiguous(resident["key"]),
            resident["size"].astype(np.int64),
            np.zeros(len(resident), np.bool_),
        )

    def observe(self, columns: Columns, kept: NDArray[np.bool_]) -> None:
        """Follow some more rows, of which those that are `kept` make the new trace."""
        columns = only_done(columns)
        end = columns["size"].astype(np.int64)
        if "offset" in columns:
            end += np.ma.filled(columns["offset"], 0).astype(np.int64)
        self._rows(columns["op"], columns["tier"], columns["key"], end, kept)

    def _rows(
        self,
        op: NDArray[np.uint8],
        tier: NDArray[np.uint8],
        key: NDArray[np.uint64],
        end: NDArray[np.int64],
        kept: NDArray[np.bool_],
    ) -> None:
        for number, objects in enumerate(self._tiers):
            rows = np.flatnonzero(tier == number)
            if not len(rows):
                continue
            sizes = objects.observe(op[rows], key[rows], end[rows], kept[rows])
            present = sizes >= 0
            part = np.zeros(int(present.sum()), RESIDENT_DTYPE)
            part["tier"], part["key"], part["size"] = number, key[rows][present], sizes[present]
            self._found.append(part)

    def found(self) -> NDArray[np.void]:
        """Return what the kept rows asked for before writing it, in order of (tier, key)."""
        residents = np.concatenate(self._found)
        return residents[np.lexsort((residents["key"], residents["tier"]))]
