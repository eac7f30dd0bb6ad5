"""A mixed-size sequence through the compiled loop ÷ fio's `read_iolog` of the same sequence.

    python benchmarks/mixed_sizes.py --folder /var/tmp

64 KiB to 4 MiB, 70 % reads, depth 8, both on io_uring, O_DIRECT and huge pages; a new sequence for
each repeat, interleaved, medians. The bar is 0.98.
"""

from __future__ import annotations

import shutil
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from typing import TYPE_CHECKING

from benchmarks import fio
from benchmarks.common import GIB, KIB, MIB, payload, print_table
from benchmarks.scratch import Scratch, reserved_pages, run_ops, scratch
from benchmarks.scratch import parser as scratch_parser
from replay import engine as engines
from replay.engine import native
from replay.engine.native.testing import make_ops
from replay.execution.measurement import SPIN_NS
from replay.ops.contract import Action

if TYPE_CHECKING:
    from replay.ops.columns import Ops

BAR_RATIO = 0.98
DEPTH = 8
SIZES = tuple(64 * KIB << step for step in range(7))
READ_SHARE = 0.7
SMALL_ARENA_BYTES = 2 * DEPTH * 4 * MIB
"""Twice what fio's buffers take; the ratio with the whole arena is printed beside it."""


def sequence(place: Scratch, run_bytes: int, seed: int) -> tuple[Ops, int]:
    """Return ops of mixed sizes that never touch the same place twice, and their count."""
    rng = np.random.default_rng(seed)
    count = run_bytes // (sum(SIZES) // len(SIZES))
    lengths = rng.choice(SIZES, count)
    starts = rng.permutation(place.span_bytes // (4 * MIB))[:count] * (4 * MIB)
    reads = rng.random(count) < READ_SHARE
    ops = make_ops(
        count,
        action=np.where(reads, Action.READ, Action.WRITE),
        offset_bytes=starts,
        length_bytes=lengths,
        key=0,
        sector=starts // 512,
        arena_bytes=np.arange(count) * 4 * MIB,
    )
    return ops, count


def iolog(path: Path, target: Path, ops: Ops, count: int) -> None:
    """Write the ops as fio's iolog, version 2."""
    lines = ["fio version 2 iolog", f"{target} add", f"{target} open"]
    for row in range(count):
        word = Action(ops.action[row]).name.lower()
        length_bytes = int(ops.length_sectors[row]) * 512
        lines.append(f"{target} {word} {ops.offset_bytes[row]} {length_bytes}")
    lines.append(f"{target} close")
    path.write_text("\n".join(lines) + "\n")


def main() -> None:
    """Measure, and print both ratios."""
    parser = scratch_parser(__doc__)
    parser.add_argument("--run-gib", type=float, default=1)
    parser.add_argument("--repeats", type=int, default=7)
    chosen = parser.parse_args()
    if shutil.which("fio") is None:
        sys.exit("no fio found: install it (apt-get install fio) to compare with it")
    arena, _ = payload(GIB)
    spin_ns = SPIN_NS if engines.spare_cpus() >= 1 else 0
    names = ("fio", "loop", "loop, whole arena", "fio again")
    found: dict[str, list[float]] = {name: [] for name in names}
    with (
        reserved_pages() as memory,
        scratch(chosen.folder, chosen.device, chosen.file_gib * GIB, native.uring, arena) as place,
        tempfile.TemporaryDirectory() as folder,
    ):
        log = Path(folder) / "sequence.iolog"
        for repeat in range(chosen.repeats):
            for position in range(len(names)):
                name = names[(repeat + position) % len(names)]
                ops, count = sequence(
                    place, int(chosen.run_gib * GIB), repeat * len(names) + position
                )
                if name.startswith("fio"):
                    iolog(log, place.path, ops, count)
                    figures = fio.sequence(place.path, log, DEPTH, memory)
                else:
                    part = arena if "whole" in name else arena[:SMALL_ARENA_BYTES]
                    figures = run_ops(
                        place, ops, count, DEPTH, part, spin_ns=spin_ns, spin_adapts=True
                    )
                found[name].append(figures.gb_per_s)
    anchor = statistics.median(found["fio"] + found["fio again"])
    rows = []
    for name in names:
        ratio = statistics.median(found[name]) / anchor
        word = ("ok" if ratio >= BAR_RATIO else "MISSED") if name == "loop" else ""
        rows.append([name, f"{statistics.median(found[name]):.2f}", f"{ratio:.3f}", word])
    print_table([f"mixed sizes, depth {DEPTH}", "GB/s", "÷ fio", f"bar {BAR_RATIO}"], rows)


if __name__ == "__main__":
    main()
