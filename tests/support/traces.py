"""Traces by hand, and targets for them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kvtrace.trace.header import RESIDENT_DTYPE, Header
from kvtrace.trace.schema import Op, Phase, Tier
from kvtrace.trace.writer import TraceWriter
from replay import TargetSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray

Row = tuple[int, Op, Tier, int, Phase, int]
"""(timestamp, op, tier, key, phase, size)"""
MIB = 1 << 20


Resident = Sequence[tuple[Tier, int, int]]
"""(tier, key, size)"""


def make_columns(rows: Sequence[Row], offsets: Sequence[int] | None) -> dict[str, Any]:
    """Return rows as columns."""
    columns = list(zip(*rows, strict=True)) or [()] * 6
    types = ("i8", "u1", "u1", "u8", "u1", "u8")
    names = ("timestamp", "op", "tier", "key", "phase", "size")
    batch = {
        name: np.array([int(value) for value in values], kind)
        for name, kind, values in zip(names, types, columns, strict=True)
    }
    if offsets is not None:
        batch["offset"] = np.array(offsets, "u8")
    return batch


def make_resident(resident: Resident) -> NDArray[np.void]:
    """Return objects present at the start as the header's array."""
    return np.array([tuple(map(int, item)) for item in resident], RESIDENT_DTYPE)


class MemoryTrace:
    """Rows in memory that read like an open trace."""

    def __init__(
        self,
        rows: Sequence[Row],
        *,
        resident: Resident = (),
        offsets: Sequence[int] | None = None,
        batch_rows: int = 7,
        **optional: Any,
    ) -> None:
        self.path = Path("memory.parquet")
        self.rows = len(rows)
        self._columns = make_columns(rows, offsets) | optional
        self.columns = tuple(self._columns)
        self._resident = make_resident(resident)
        self._batch_rows = batch_rows

    def resident(self) -> NDArray[np.void]:
        """Return the objects present at the start."""
        return self._resident

    def batches(self, names: Sequence[str], *, nulls: bool = False) -> Iterator[dict[str, Any]]:
        """Yield the rows, a few at a time."""
        del nulls  # masked columns come as they were given
        for begin in range(0, self.rows, self._batch_rows):
            end = begin + self._batch_rows
            yield {name: self._columns[name][begin:end] for name in names}


def write_trace(
    path: Path,
    rows: Sequence[Row],
    *,
    resident: Resident = (),
    offsets: Sequence[int] | None = None,
    header: Header | None = None,
) -> Path:
    """Write a trace of `rows` and return its path."""
    batch = make_columns(rows, offsets)
    there = make_resident(resident)
    extra = ["offset"] if offsets is not None else []
    with TraceWriter(path, header or Header(), extra, force=True) as writer:
        writer.resident = there
        writer.append(batch)
    return path


def simple_rows(objects: int = 8, size: int = 64 << 10, gap_ns: int = 200_000) -> list[Row]:
    """Each object is written, read twice and deleted; another takes its place."""
    rows: list[Row] = []
    for key in range(objects):
        for op, phase in (
            (Op.WRITE, Phase.EVICT),
            (Op.READ, Phase.DECODE),
            (Op.READ, Phase.DECODE),
            (Op.DELETE, Phase.EVICT),
        ):
            rows.append((len(rows) * gap_ns, op, Tier.NVME, key, phase, size))
    return rows


def file_target(path: Path, **fields: object) -> TargetSpec:
    """Return the spec of a file target for tier nvme."""
    return TargetSpec("file", (Tier.NVME,), path, **fields)  # type: ignore[arg-type]


def null_target() -> TargetSpec:
    """Return the spec of a null target for all tiers."""
    return TargetSpec("null", tuple(Tier))
