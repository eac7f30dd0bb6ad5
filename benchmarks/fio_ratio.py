"""The compiled loop, or the whole command, ÷ fio, interleaved on one file or scratch device.

    python benchmarks/fio_ratio.py --folder /var/tmp
    python benchmarks/fio_ratio.py --device /dev/loop0 --bar 1.0
    python benchmarks/fio_ratio.py --folder /var/tmp --as command

Both use io_uring, O_DIRECT, huge pages, the same sizes and depths, and random offsets without
repeats, new ones for each run. Each repeat runs fio twice: where fio against fio leaves 0.97-1.03,
a cell is not measurable here. Writes carry stamps and are run with an arena twice as large as the
buffers that fio writes again and again (the ratio that counts) and with the whole one (printed
beside it). A cell fails only where the upper 95 % bound of its ratio is below 0.93. CPU per op is
compared without polling; fio's includes filling its buffers once. `--as command`: all reads are
verified ("unverified" beside it, of which CPU is compared); see `as_command.py`.
"""

from __future__ import annotations

import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from typing import TYPE_CHECKING

from benchmarks import fio
from benchmarks.as_command import HEADER_BYTES, Command
from benchmarks.common import GIB, KIB, parse_size, payload, print_table, size_name
from benchmarks.fio import Cell, Figures
from benchmarks.scratch import Scratch, cell_ops, reserved_pages, run_ops, scratch
from benchmarks.scratch import parser as scratch_parser
from replay import engine as engines
from replay.engine import native
from replay.execution.measurement import SPIN_NS
from replay.ops.contract import Verify

if TYPE_CHECKING:
    import argparse

CELL_BAR = 0.93
SMALL_BAR = 0.97
LATENCY_BAR = 1.03
FIO_BOUNDS = (0.97, 1.03)
TAIL_OPS = 100_000
"""P99.9 is compared where a run has as many ops."""
READ_SHARES = {"read": 1.0, "write": 0.0, "mix": 0.9}

Contender = Callable[[int], Figures]


def contenders(
    place: Scratch, cell: Cell, memory: str, spin_ns: int, adapts: bool
) -> dict[str, Contender]:
    """Return what is measured in this cell, by name; each takes a seed."""
    # Writes in flight never share arena bytes and take them in turn: with room for the depth alone,
    # one that is slow would hold up those behind it. And the longest piece has to fit.
    small = place.arena[: max(2 * cell.depth * cell.io_bytes, 4 << 20)]

    def anchor(seed: int, mem: str = memory) -> Figures:
        return fio.random_cell(place.path, place.span_bytes, cell, seed, mem)

    def loop(arena: np.ndarray, spin: int, verify: Verify = Verify.NONE) -> Contender:
        return lambda seed: run_ops(
            place, cell_ops(place, cell, seed), cell.ops, cell.depth, arena,
            spin_ns=spin, spin_adapts=adapts, verify=verify,
        )  # fmt: skip

    found = {"fio": anchor, "fio again": anchor, "loop": loop(small, spin_ns)}
    found["no spin"] = loop(small, 0)
    if cell.read_share < 1:
        found["full arena"] = loop(place.arena, spin_ns)
    if cell.read_share == 1:
        found["verified"] = loop(place.arena, spin_ns, Verify.STAMPS)
    if cell.read_share == 1 and cell.io_bytes == 1024 * KIB:
        found["fio 4K pages"] = lambda seed: anchor(seed, "malloc")
    return found


def command_contenders(
    place: Scratch, cell: Cell, memory: str, folder: Path, spin: str
) -> dict[str, Contender]:
    """Return what is measured of the command; `folder` is for its traces and its file.

    fio has the very places that the command's objects have, so that no cache below tells them
    apart; where it writes, the command populates anew.
    """
    target = place.path if place.path.is_block_device() else folder / "kv"
    command = Command(target, place.span_bytes // (8 << 20) * (4 << 20), folder, spin)
    reuses = ("--reuse-populated",) if cell.read_share == 1 else ()
    command.run(cell, 0)  # makes the file, and populates it

    def anchor(seed: int) -> Figures:
        return fio.random_cell(
            target, command.span_bytes, cell, seed, memory, begin_bytes=HEADER_BYTES
        )

    def ours(*words: str) -> Contender:
        return lambda seed: command.run(cell, seed, *reuses, *words)

    found = {"fio": anchor, "fio again": anchor, "loop": ours()}
    if cell.read_share:
        found["unverified"] = ours("--verify", "none")
    return found


def run_interleaved(runs: dict[str, Contender], repeats: int) -> dict[str, list[Figures]]:
    """Return each contender's figures; who comes first changes from repeat to repeat."""
    names = list(runs)
    figures: dict[str, list[Figures]] = {name: [] for name in names}
    for repeat in range(repeats):
        for position in range(len(names)):
            name = names[(repeat + position) % len(names)]
            figures[name].append(runs[name](1 + repeat * len(names) + position))
    return figures


class Compared:
    """The figures of one cell: ratios of medians, and the bound of the throughput's."""

    def __init__(self, cell: Cell, found: dict[str, list[Figures]]) -> None:
        self.cell = cell
        self._found = found
        self._fio = found["fio"] + found["fio again"]
        self.noise = self._rate(found["fio again"]) / self._rate(found["fio"])
        self.ratio = self.throughput("loop") or 0.0

    @staticmethod
    def _rate(runs: list[Figures]) -> float:
        return statistics.median(run.gb_per_s for run in runs)

    @property
    def fio_gb_per_s(self) -> float:
        """Return fio's median."""
        return self._rate(self._fio)

    def throughput(self, name: str) -> float | None:
        """Return a contender's median ÷ fio's; None if it doesn't run in this cell."""
        runs = self._found.get(name)
        return self._rate(runs) / self.fio_gb_per_s if runs else None

    @property
    def measurable(self) -> bool:
        """Whether fio agrees with itself."""
        return FIO_BOUNDS[0] <= self.noise <= FIO_BOUNDS[1]

    @property
    def upper_bound(self) -> float:
        """Return the upper end of the 95 % interval of the ratio, by pairs within a repeat."""
        first, second = self._found["fio"], self._found["fio again"]
        logs = [
            float(np.log(ours.gb_per_s / ((one.gb_per_s + other.gb_per_s) / 2)))
            for ours, one, other in zip(self._found["loop"], first, second, strict=True)
        ]
        spread = statistics.stdev(logs) / len(logs) ** 0.5
        return float(np.exp(statistics.fmean(logs) + _t95(len(logs) - 1) * spread))

    def latency(self, index: int) -> float:
        """Return the loop's median of a percentile ÷ fio's."""
        ours = statistics.median(run.latency_ns[index] for run in self._found["loop"])
        return ours / statistics.median(run.latency_ns[index] for run in self._fio)

    @property
    def cpu(self) -> float:
        """Return our CPU per op, without polling or verifying where that was run, ÷ fio's."""
        runs = self._found.get("no spin") or self._found.get("unverified") or self._found["loop"]
        ours = statistics.median(run.cpu_us for run in runs)
        return ours / statistics.median(run.cpu_us for run in self._fio)

    def row(self) -> list[str]:
        """Return the line of the table."""
        tail = self.cell.ops >= TAIL_OPS
        failed = self.upper_bound < CELL_BAR
        word = "FAILED" if failed else "ok"
        return [
            self.cell.name,
            f"{self.fio_gb_per_s:.2f}",
            f"{self.noise:.3f}",
            f"{self.ratio:.3f}",
            f"{self.upper_bound:.3f}",
            *(
                _figure(self.throughput(name))
                for name in ("no spin", "full arena", "verified", "unverified")
            ),
            f"{self.latency(0):.3f}",
            f"{self.latency(1):.3f}",
            _figure(self.latency(2) if tail else None),
            f"{self.cpu:.2f}",
            word if self.measurable else f"not measurable ({word})",
        ]


BESIDE = ("no spin", "full arena", "verified", "unverified")
HEAD = [
    "cell", "fio GB/s", "fio÷fio", "ratio", "upper", *BESIDE, "P50", "P99", "P99.9", "CPU", "",
]  # fmt: skip


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _t95(freedom: int) -> float:
    """Return Student's t for a two-sided 95 % interval."""
    table = (12.71, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
    return table[min(freedom, len(table)) - 1]


def summary(compared: list[Compared], bar: float) -> list[list[str]]:
    """Return the geometric means with their bars, over the measurable cells and over all."""
    rows = []
    for scope, chosen in (
        ("measurable", [cell for cell in compared if cell.measurable]),
        ("all", compared),
    ):
        big = [cell for cell in chosen if cell.cell.io_bytes > 4 * KIB]
        small = [cell for cell in chosen if cell.cell.io_bytes == 4 * KIB]
        tails = [cell for cell in chosen if cell.cell.ops >= TAIL_OPS]
        for name, figures, bound, at_least in (
            ("throughput, 64K and up", [cell.ratio for cell in big], bar, True),
            ("throughput, 4K", [cell.ratio for cell in small], SMALL_BAR, True),
            ("P50", [cell.latency(0) for cell in chosen], LATENCY_BAR, False),
            ("P99", [cell.latency(1) for cell in chosen], LATENCY_BAR, False),
            ("P99.9", [cell.latency(2) for cell in tails], LATENCY_BAR, False),
            ("CPU per op", [cell.cpu for cell in chosen], 1.0, False),
        ):
            if figures:
                mean = statistics.geometric_mean(figures)
                met = mean >= bound if at_least else mean <= bound
                sign = "≥" if at_least else "≤"
                word = "ok" if met else "MISSED"
                where = f"{name}, {len(figures)} cells ({scope})"
                rows.append([where, f"{mean:.3f}", f"{sign} {bound}", word])
    return rows


def cells(chosen: argparse.Namespace, span_bytes: int) -> list[Cell]:
    """Return all combinations asked for; 4 KiB only at the largest depth."""
    made = []
    depths = [int(depth) for depth in chosen.depths.split(",")]
    run_bytes = min(int(chosen.run_gib * GIB), span_bytes)
    for kind in chosen.kinds.split(","):
        for size in map(parse_size, chosen.sizes.split(",")):
            for depth in [max(depths)] if size == 4 * KIB else depths:
                ops = min(run_bytes // size, chosen.ops_max)
                made.append(Cell(READ_SHARES[kind], size, depth, ops))
    return made


def parse_arguments() -> argparse.Namespace:
    """Return the options."""
    parser = scratch_parser(__doc__)
    parser.add_argument("--run-gib", type=float, default=1, help="bytes of one run, at most")
    parser.add_argument("--ops-max", type=int, default=150_000, help="ops of one run, at most")
    parser.add_argument("--arena-gib", type=float, default=1)
    parser.add_argument("--sizes", default="4K,64K,256K,1M,4M")
    parser.add_argument("--depths", default="1,8,32")
    parser.add_argument("--kinds", default="read,write,mix", help=", ".join(READ_SHARES))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--spin", choices=["auto", "on", "off"], default="auto")
    parser.add_argument("--bar", type=float, default=0.98, help="of the geometric mean")
    parser.add_argument("--as", dest="form", choices=["loop", "command"], default="loop")
    parser.add_argument("--engine", choices=["uring", "threads"], default="uring")
    return parser.parse_args()


def main() -> None:
    """Measure all cells and print the ratios."""
    chosen = parse_arguments()
    if shutil.which("fio") is None:
        sys.exit("no fio found: install it (apt-get install fio) to compare with it")
    arena, pages = payload(int(chosen.arena_gib * GIB))
    engine = native.uring if chosen.engine == "uring" else native.threads
    polls = chosen.spin == "on" or (chosen.spin == "auto" and engines.spare_cpus() >= 1)
    spin_ns, adapts = SPIN_NS if polls else 0, chosen.spin == "auto"
    size_bytes = chosen.file_gib * GIB
    with (
        reserved_pages() as memory,
        scratch(
            chosen.folder, chosen.device, size_bytes, engine, arena, keep_open=chosen.form == "loop"
        ) as place,
        tempfile.TemporaryDirectory(dir=chosen.folder) as folder,
    ):
        print(
            f"engine {engine.name}, spin {spin_ns // 1000} µs, arena {size_name(arena.size)} on "
            f"{pages}, fio mem={memory}, medians of {chosen.repeats}, ratios to fio's\n",
            flush=True,
        )
        compared = []
        for cell in cells(chosen, place.span_bytes):
            if chosen.form == "command":
                runs = command_contenders(place, cell, memory, Path(folder), chosen.spin)
            else:
                runs = contenders(place, cell, memory, spin_ns, adapts)
            found = run_interleaved(runs, chosen.repeats)
            compared.append(Compared(cell, found))
            print("  ".join(compared[-1].row()), file=sys.stderr, flush=True)
            if "fio 4K pages" in found:
                ratio = 1 / (compared[-1].throughput("fio 4K pages") or 1) * compared[-1].ratio
                print(f"{cell.name}: {ratio:.2f} times fio's default 4 KiB-page buffers")
    print_table(HEAD, [cell.row() for cell in compared])
    print()
    print_table(["geometric mean", "ratio", "bar", ""], summary(compared, chosen.bar))


if __name__ == "__main__":
    main()
