"""What benchmarks write to: a preallocated file or a scratch device, filled once, and our loop."""

from __future__ import annotations

import argparse
import os
import tempfile
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.common import MIB
from benchmarks.fio import PERCENTILES, Cell, Figures
from replay.engine.native.testing import make_ops
from replay.ops.contract import Action, Lane, LaneKind, LoopOptions, Mode, Verify, run_whole

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from replay.engine import native
    from replay.ops.columns import Ops

NR_HUGEPAGES = Path("/proc/sys/vm/nr_hugepages")
FIO_HUGE_BYTES = 384 * MIB
FILE_GIB_MAX = 16


@dataclass(frozen=True, slots=True)
class Scratch:
    """An open target with O_DIRECT, all of it written once, with stamps."""

    path: Path
    fd: int
    span_bytes: int
    engine: native.NativeEngine
    arena: NDArray[np.uint8]


def parser(text: str | None, *, file_gib: int = 8) -> argparse.ArgumentParser:
    """Return a parser of the options that say where the scratch file or device is."""
    made = argparse.ArgumentParser(description=text)
    made.add_argument("--folder", type=Path, default=Path.cwd())
    made.add_argument("--device", type=Path, help="a scratch block device: ALL OF IT IS LOST")
    made.add_argument("--file-gib", type=int, default=file_gib, choices=range(1, FILE_GIB_MAX + 1))
    return made


@contextmanager
def reserved_pages() -> Iterator[str]:
    """Reserve huge pages for fio while inside; yield the `mem` that fio can have."""
    before = NR_HUGEPAGES.read_text().strip()
    wanted = int(before) + FIO_HUGE_BYTES // (2 * MIB)
    try:
        NR_HUGEPAGES.write_text(str(wanted))
    except OSError as error:
        print(f"no huge pages reserved ({error}): fio uses mem=mmap, 4 KiB pages, a weaker anchor")
        yield "mmap"
        return
    try:
        obtained = int(NR_HUGEPAGES.read_text())
        if obtained < wanted:
            print(f"{obtained} of {wanted} huge pages reserved: fio uses mem=mmap")
        yield "mmaphuge" if obtained >= wanted else "mmap"
    finally:
        NR_HUGEPAGES.write_text(before)


@contextmanager
def scratch(
    folder: Path,
    device: Path | None,
    size_bytes: int,
    engine: native.NativeEngine,
    arena: NDArray[np.uint8],
    *,
    keep_open: bool = True,
) -> Iterator[Scratch]:
    """Yield the device, or a file in the folder that is gone afterwards, filled.

    Without `keep_open` it is closed, so that others may write to it, and its `fd` is of no use.
    """
    with _file(folder, size_bytes) if device is None else _given(device) as path:
        fd = os.open(path, os.O_RDWR | os.O_DIRECT)
        with ExitStack() as opened:
            opened.callback(os.close, fd)
            span_bytes = min(size_bytes, os.lseek(fd, 0, os.SEEK_END))
            made = Scratch(path, fd, span_bytes, engine, arena)
            fill = Cell(0.0, 4 * MIB, 16, span_bytes // (4 * MIB))
            run_ops(made, cell_ops(made, fill, 0), fill.ops, fill.depth, arena)
            if not keep_open:
                opened.close()
            yield made


@contextmanager
def _given(device: Path) -> Iterator[Path]:
    yield device


@contextmanager
def _file(folder: Path, size_bytes: int) -> Iterator[Path]:
    handle, name = tempfile.mkstemp(prefix="kvtrace-bench-", dir=folder)
    try:
        os.posix_fallocate(handle, 0, size_bytes)
        os.close(handle)
        yield Path(name)
    finally:
        Path(name).unlink()


def cell_ops(scratch: Scratch, cell: Cell, seed: int) -> Ops:
    """Return the cell's ops at random offsets without repeats."""
    rng = np.random.default_rng(seed)
    places = rng.permutation(scratch.span_bytes // cell.io_bytes)[: cell.ops]
    reads = rng.random(cell.ops) < cell.read_share
    return make_ops(
        cell.ops,
        action=np.where(reads, Action.READ, Action.WRITE),
        offset_bytes=places * cell.io_bytes,
        length_bytes=cell.io_bytes,
        key=0,
        sector=places * (cell.io_bytes // 512),
        arena_bytes=np.arange(cell.ops) * cell.io_bytes,
    )


def run_ops(
    scratch: Scratch,
    ops: Ops,
    count: int,
    depth: int,
    arena: NDArray[np.uint8],
    *,
    spin_ns: int = 0,
    spin_adapts: bool = False,
    verify: Verify = Verify.NONE,
) -> Figures:
    """Run the ops as deep as asked; throughput is from the first submit to the last completion."""
    lane = Lane(LaneKind.FILE, queue_depth=depth, io_bytes=4 * MIB, fd=scratch.fd)
    options = LoopOptions(
        Mode.MAX, arena, run_id=1, verify=verify, spin_ns=spin_ns, spin_adapts=spin_adapts
    )
    outcome, times = run_whole(scratch.engine, (lane,), ops, count, options)
    assert not times.error.any(), np.unique(times.error)
    reads = ops.action[:count] == Action.READ
    chosen = reads if reads.any() else ~reads
    moved_bytes = int(ops.length_sectors[:count].sum(dtype=np.int64)) * 512
    service_ns = (times.complete_ns - times.submit_ns)[chosen]
    return Figures(
        gb_per_s=moved_bytes / float(times.complete_ns.max() - times.submit_ns.min()),
        latency_ns=tuple(map(float, np.percentile(service_ns, PERCENTILES))),
        cpu_us=outcome.cpu_ns / count / 1000,
    )
