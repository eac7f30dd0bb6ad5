"""The tool's own cost: ops per CPU-second through the loop, and lateness of an open schedule.

    python benchmarks/null_target.py

Bar: at least 500,000 ops per CPU-second.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from typing import TYPE_CHECKING

from benchmarks.common import NS_PER_S, print_table
from replay.engine import native
from replay.engine.native.testing import make_ops
from replay.ops.contract import Lane, LaneKind, LoopOptions, Mode, run_whole

if TYPE_CHECKING:
    from replay.ops.columns import Times

BAR_OPS_PER_CPU_S = 500_000
LANE = Lane(LaneKind.NULL, queue_depth=32, io_bytes=4 << 20)


def options(mode: Mode, spin_ns: int = 0) -> LoopOptions:
    """Return options of a run without payload."""
    return LoopOptions(mode=mode, arena=np.zeros(0, np.uint8), run_id=1, spin_ns=spin_ns)


def ops_per_cpu_s(count: int, edges_per_op: int, lanes: int) -> float:
    """Return how many ops pass through the loop in a second of its CPU time."""
    rows = np.arange(count)
    edges = np.concatenate(
        [
            np.stack([rows[: -1 - back], rows[1 + back :]], axis=1)
            for back in range(100, 100 + edges_per_op)
        ]
        or [np.zeros((0, 2), np.int64)]
    )
    ops = make_ops(count, edges=edges, lane=rows % lanes, action=1 + rows % 2)
    outcome, times = run_whole(native.uring, (LANE,) * lanes, ops, count, options(Mode.MAX))
    assert not times.error.any()
    return count * NS_PER_S / outcome.cpu_ns


def open_run(rate_per_s: int, seconds: float, spin_ns: int) -> tuple[Times, int]:
    """Run evenly spaced ops in open mode; return their times and the CPU time."""
    due_ns = np.arange(int(rate_per_s * seconds)) * (NS_PER_S // rate_per_s)
    ops = make_ops(len(due_ns), due_ns=due_ns)
    chosen = options(Mode.OPEN, spin_ns)
    outcome, times = run_whole(native.uring, (LANE,), ops, len(due_ns), chosen)
    return times, outcome.cpu_ns


def lateness_us(times: Times) -> list[str]:
    """Return P50, P99 and maximum of submit − due."""
    late_ns = times.submit_ns - times.slot_ns
    return [f"{np.percentile(late_ns, p) / 1e3:.2f}" for p in (50, 99, 100)]


def main() -> None:
    """Print both figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ops", type=int, default=2_000_000)
    parser.add_argument("--rate", type=int, default=10_000, help="ops per second, open mode")
    parser.add_argument("--seconds", type=float, default=5.0)
    chosen = parser.parse_args()
    rows = []
    for edges, lanes in ((0, 1), (2, 1), (2, 2)):
        best = [ops_per_cpu_s(chosen.ops, edges, lanes) for _ in range(5)]
        ratio = np.median(best) / BAR_OPS_PER_CPU_S
        name = f"{lanes} lane(s), {edges} predecessors per op"
        rows.append([name, f"{np.median(best):,.0f}", f"{ratio:.1f}"])
    print_table(["null target, max mode", "ops per CPU-second", "÷ bar"], rows)
    print()
    rows = []
    for spin_ns in (0, 50_000):
        times, cpu_ns = open_run(chosen.rate, chosen.seconds, spin_ns)
        cpu = cpu_ns / (chosen.seconds * NS_PER_S)
        rows.append([f"spin {spin_ns // 1000} µs", *lateness_us(times), f"{cpu:.3f}"])
    head = f"open mode, {chosen.rate:,} ops/s, lateness in µs"
    print_table([head, "P50", "P99", "max", "CPUs"], rows)


if __name__ == "__main__":
    main()
