"""Throughput of the compiled loop ÷ fio's, interleaved in one run on one file or loop device.

    python benchmarks/fio_ratio.py --folder /var/tmp

Both use io_uring, O_DIRECT, huge pages, the same sizes and depths, random offsets without
repeats, new ones for each run. Reads are measured with and without verification of stamps;
writes, which carry stamps, with the whole arena and with one as small as the buffers that fio
writes again and again. Each figure is the median of the runs; the bar is 0.95.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.common import GIB, MIB, parse_size, payload, print_table, size_name
from replay import native
from replay.loop import Action, Lane, LaneKind, LoopOptions, Mode, Verify, run_whole
from replay.native.testing import make_ops

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

BAR_RATIO = 0.95
FIO = "fio"
NR_HUGEPAGES = Path("/proc/sys/vm/nr_hugepages")
FIO_HUGE_BYTES = 384 * MIB
FILE_GIB_MAX = 8


@dataclass(frozen=True, slots=True)
class Cell:
    """One combination that both tools run."""

    action: Action
    io_bytes: int
    depth: int
    run_bytes: int


@dataclass(frozen=True, slots=True)
class Bench:
    """What all runs share."""

    path: Path
    fd: int
    span_bytes: int
    engine: native.NativeEngine
    arena: NDArray[np.uint8]
    spin_ns: int
    fio_memory: str


def fio_gb_per_s(bench: Bench, cell: Cell, seed: int) -> float:
    """Return fio's throughput by its own account."""
    command = [
        "fio", "--name=cell", f"--filename={bench.path}", f"--size={bench.span_bytes}",
        "--allow_file_create=0", f"--io_size={cell.run_bytes}", f"--bs={cell.io_bytes}",
        f"--iodepth={cell.depth}", f"--rw=rand{cell.action.name.lower()}",
        "--ioengine=io_uring", "--direct=1", f"--mem={bench.fio_memory}", "--randrepeat=0",
        f"--randseed={seed}", "--fallocate=none", "--output-format=json", "--end_fsync=0",
    ]  # fmt: skip
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    job = json.loads(done.stdout[done.stdout.index("{") :])["jobs"][0]
    return float(job[cell.action.name.lower()]["bw_bytes"]) / 1e9


def engine_gb_per_s(
    bench: Bench, cell: Cell, seed: int, arena: NDArray[np.uint8], verify: Verify
) -> float:
    """Return the loop's throughput from the first submit to the last completion."""
    rng = np.random.default_rng(seed)
    count = cell.run_bytes // cell.io_bytes
    places = rng.permutation(bench.span_bytes // cell.io_bytes)[:count]
    ops = make_ops(
        count,
        action=cell.action,
        offset_bytes=places * cell.io_bytes,
        length_bytes=cell.io_bytes,
        key=0,
        sector=places * (cell.io_bytes // 512),
        arena_bytes=np.arange(count) * cell.io_bytes,
    )
    lane = Lane(LaneKind.FILE, queue_depth=cell.depth, io_bytes=cell.io_bytes, fd=bench.fd)
    options = LoopOptions(Mode.MAX, arena, run_id=1, verify=verify, spin_ns=bench.spin_ns)
    _, times = run_whole(bench.engine, (lane,), ops, count, options)
    assert not times.error.any(), np.unique(times.error)
    elapsed_ns = times.complete_ns.max() - times.submit_ns.min()
    return float(cell.run_bytes / elapsed_ns)


def contenders(bench: Bench, cell: Cell) -> dict[str, Callable[[int], float]]:
    """Return what is measured in this cell, by name; each takes a seed and returns GB/s."""

    def loop(arena: NDArray[np.uint8], verify: Verify) -> Callable[[int], float]:
        return lambda seed: engine_gb_per_s(bench, cell, seed, arena, verify)

    fio = {FIO: lambda seed: fio_gb_per_s(bench, cell, seed)}
    if cell.action == Action.READ:
        return fio | {
            "verify none": loop(bench.arena, Verify.NONE),
            "verify stamps": loop(bench.arena, Verify.STAMPS),
        }
    small = bench.arena[: cell.depth * cell.io_bytes]
    return fio | {
        f"arena {size_name(bench.arena.size)}": loop(bench.arena, Verify.NONE),
        f"arena {size_name(small.size)}": loop(small, Verify.NONE),
    }


def run_interleaved(
    runs: dict[str, Callable[[int], float]], repeats: int
) -> dict[str, list[float]]:
    """Return each contender's figures; who comes first changes from repeat to repeat."""
    names = list(runs)
    figures: dict[str, list[float]] = {name: [] for name in names}
    for repeat in range(repeats):
        for position in range(len(names)):
            name = names[(repeat + position) % len(names)]
            figures[name].append(runs[name](1 + repeat * len(names) + position))
    return figures


def measure(bench: Bench, cell: Cell, repeats: int) -> list[list[str]]:
    """Return one row per contender: medians, their ratio, and whether it meets the bar."""
    figures = run_interleaved(contenders(bench, cell), repeats)
    fio = figures.pop(FIO)
    cell_name = f"{cell.action.name.lower()} {size_name(cell.io_bytes)} depth {cell.depth}"
    rows = []
    for name, ours in figures.items():
        ratio = float(np.median(ours) / np.median(fio))
        pairs = np.divide(ours, fio)
        rows.append(
            [
                f"{cell_name}, {name}",
                f"{np.median(fio):.2f}",
                f"{np.median(ours):.2f}",
                f"{ratio:.3f}",
                f"{pairs.min():.2f}-{pairs.max():.2f}",
                "ok" if ratio >= BAR_RATIO else "BELOW",
            ]
        )
    return rows


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
def target(folder: Path, device: Path | None, size_bytes: int) -> Iterator[Path]:
    """Yield the device, or a file in the folder that is gone afterwards."""
    if device is not None:
        yield device
        return
    handle, name = tempfile.mkstemp(prefix="fio-ratio-", dir=folder)
    try:
        os.posix_fallocate(handle, 0, size_bytes)
        os.close(handle)
        yield Path(name)
    finally:
        Path(name).unlink()


def fill(bench: Bench) -> None:
    """Write the whole span once, with the stamps that later reads verify."""
    cell = Cell(Action.WRITE, 4 * MIB, 16, bench.span_bytes)
    engine_gb_per_s(bench, cell, 0, bench.arena, Verify.NONE)


def parse_arguments() -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path.cwd())
    parser.add_argument("--device", type=Path, help="a scratch block device: ALL OF IT IS LOST")
    parser.add_argument("--file-gib", type=int, default=8, choices=range(1, FILE_GIB_MAX + 1))
    parser.add_argument("--run-gib", type=float, default=1)
    parser.add_argument("--arena-gib", type=float, default=1)
    parser.add_argument("--sizes", default="1M,4M")
    parser.add_argument("--depths", default="8,32")
    parser.add_argument("--actions", default="read,write")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--spin-us", type=int, default=0)
    parser.add_argument("--engine", choices=["uring", "threads"], default="uring")
    return parser.parse_args()


def cells(chosen: argparse.Namespace, span_bytes: int) -> list[Cell]:
    """Return all combinations asked for."""
    run_bytes = min(int(chosen.run_gib * GIB), span_bytes)
    return [
        Cell(Action[action.upper()], parse_size(size), int(depth), run_bytes)
        for action in chosen.actions.split(",")
        for size in chosen.sizes.split(",")
        for depth in chosen.depths.split(",")
    ]


def main() -> None:
    """Measure all cells and print the ratios."""
    chosen = parse_arguments()
    if shutil.which("fio") is None:
        sys.exit("no fio found: install it (apt-get install fio) to compare with it")
    arena, pages = payload(int(chosen.arena_gib * GIB))
    engine = native.uring if chosen.engine == "uring" else native.threads
    span_bytes = chosen.file_gib * GIB
    with reserved_pages() as fio_memory, target(chosen.folder, chosen.device, span_bytes) as path:
        fd = os.open(path, os.O_RDWR | os.O_DIRECT)
        span_bytes = min(span_bytes, os.lseek(fd, 0, os.SEEK_END))
        spin_ns = chosen.spin_us * 1000
        bench = Bench(path, fd, span_bytes, engine, arena, spin_ns, fio_memory)
        fill(bench)
        print(
            f"engine {engine.name}, spin {chosen.spin_us} µs, arena on {pages}, "
            f"fio mem={fio_memory}, median of {chosen.repeats}, obtained {engine.features[0].name}"
        )
        rows = []
        for cell in cells(chosen, span_bytes):
            rows += measure(bench, cell, chosen.repeats)
        os.close(fd)
    print_table(["cell", "fio GB/s", "loop GB/s", "ratio", "pairs", f"bar {BAR_RATIO}"], rows)


if __name__ == "__main__":
    main()
