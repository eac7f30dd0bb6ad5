"""Objects that are written in parts, one behind the other: where in its object each part begins."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from kvtrace.trace.schema import Op

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from kvtrace.trace.reader import Columns

PART = "part"
"""A column: whether a write goes on where the object ends, rather than replacing it."""


def placed(batches: Iterable[Columns]) -> Iterator[Columns]:
    """Yield rows, in order of time, with the `offset` of each write instead of `PART`.

    What failed adds nothing. Memory grows with the objects that are written.
    """
    length: dict[tuple[int, int], int] = {}
    for batch in batches:
        offset = np.zeros(len(batch["op"]), np.uint64)
        changes = (batch["op"] == Op.WRITE) | (batch["op"] == Op.DELETE)
        changes &= batch["error"] == 0
        parts = (batch["op"] == Op.WRITE) & (batch[PART] != 0)
        for row in np.flatnonzero(changes | parts).tolist():
            name = int(batch["tier"][row]), int(batch["key"][row])
            begin = length.get(name, 0) if parts[row] else 0
            offset[row] = begin
            if changes[row]:
                written = batch["op"][row] == Op.WRITE
                length[name] = begin + int(batch["size"][row]) if written else 0
        yield {n: values for n, values in batch.items() if n != PART} | {"offset": offset}


def whole(batches: Iterable[Columns]) -> Iterator[Columns]:
    """Yield rows without the column `PART`, of a log in which no object is written in parts."""
    for batch in batches:
        yield {name: values for name, values in batch.items() if name != PART}
