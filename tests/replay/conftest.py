"""Traces by hand, a place with direct I/O, and loop devices that always go away again."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from kvtrace.trace.header import RESIDENT_DTYPE, Header
from kvtrace.trace.schema import Op, Phase, Tier
from kvtrace.trace.writer import TraceWriter
from replay import ReplayOptions, TargetSpec

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


@pytest.fixture
def direct_path(tmp_path: Path) -> Path:
    """A folder in which files take O_DIRECT; skips where there is none."""
    probe = tmp_path / "probe"
    probe.write_bytes(b"")
    try:
        os.close(os.open(probe, os.O_RDWR | os.O_DIRECT))
    except OSError:
        pytest.skip("no direct I/O where pytest keeps its files; set --basetemp")
    probe.unlink()
    return tmp_path


@pytest.fixture
def quick() -> Callable[..., ReplayOptions]:
    """Options for a short run with a small arena."""

    def make(**fields: object) -> ReplayOptions:
        base = {
            "arena_bytes": 16 * MIB,
            "io_size_bytes": MIB,
            "settle_ns": 0,
            "min_window_ns": 0,
            "run_id": 7,
        }
        return ReplayOptions(**(base | fields))  # type: ignore[arg-type]

    return make


def file_target(path: Path, **fields: object) -> TargetSpec:
    """Return the spec of a file target for tier nvme."""
    return TargetSpec("file", (Tier.NVME,), path, **fields)  # type: ignore[arg-type]


def null_target() -> TargetSpec:
    """Return the spec of a null target for all tiers."""
    return TargetSpec("null", tuple(Tier))


@pytest.fixture
def loop_device(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Makes loop devices around the page cache; detaches them all at the end."""
    if os.geteuid() != 0:
        pytest.skip("loop devices need root")
    if shutil.which("losetup") is None:
        pytest.skip("no losetup here")
    attached: list[str] = []

    def attach(
        size: int = 64 * MIB,
        prepare: Callable[[Path], None] | None = None,
        *,
        read_only: bool = False,
    ) -> Path:
        backing = tmp_path / f"disk{len(attached)}"
        with backing.open("wb") as file:
            file.truncate(size)
        if prepare is not None:
            prepare(backing)
        answer = subprocess.run(
            [
                "losetup",
                "--show",
                "--find",
                "--direct-io=on",
                *["--read-only"] * read_only,
                str(backing),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        if answer.returncode:
            pytest.skip(f"no loop device: {answer.stderr.strip()}")
        attached.append(answer.stdout.strip())
        return Path(attached[-1])

    yield attach
    for device in attached:
        subprocess.run(["losetup", "--detach", device], check=False)
