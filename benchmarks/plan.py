"""The passes over a trace: rows and ops per CPU-second, bytes per op, and memory against length.

    python benchmarks/plan.py --ops 10000000

Bars: pass 1 ≥ 5 M rows per CPU-second, pass 2 ≥ 1 M ops per CPU-second, ≤ 64 bytes per op within
the look-ahead, memory that doesn't grow with the trace. Each length runs in a process of its own,
on the null target in max mode, through `replay.run`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.common import MIB, print_table
from kvtrace.trace.header import Header
from kvtrace.trace.schema import Op, Phase, Tier
from kvtrace.trace.writer import TraceWriter

LIVE_OBJECTS = 50_000
_ROWS_PER_OBJECT = 4
_BATCH_OBJECTS = 100_000


def write_trace(path: Path, ops: int) -> None:
    """Write a trace of objects that are written, read twice and deleted, so many live at once."""
    objects = ops // _ROWS_PER_OBJECT
    with TraceWriter(path, Header(), []) as writer:
        for first in range(0, objects, _BATCH_OBJECTS):
            count = min(_BATCH_OBJECTS, objects - first)
            writer.append(columns(first, count))


def columns(first: int, count: int) -> dict[str, np.ndarray]:
    """Return the rows of `count` objects: each deletes the one that is `LIVE_OBJECTS` older."""
    number = np.arange(first, first + count)
    rows = count * _ROWS_PER_OBJECT
    key = np.repeat(number, _ROWS_PER_OBJECT)
    old = number >= LIVE_OBJECTS
    op = np.tile([Op.WRITE, Op.READ, Op.READ, Op.LOOKUP], count)
    op[3::_ROWS_PER_OBJECT][old] = Op.DELETE
    key[3::_ROWS_PER_OBJECT][old] -= LIVE_OBJECTS
    size = np.full(rows, 128 << 10)
    size[op == Op.LOOKUP] = 0
    start = first * _ROWS_PER_OBJECT
    return {
        "timestamp": np.arange(start, start + rows) * 1000,
        "op": op.astype(np.uint8),
        "size": size.astype(np.uint64),
        "tier": np.full(rows, Tier.NVME, np.uint8),
        "key": key.astype(np.uint64),
        "phase": np.full(rows, Phase.DECODE, np.uint8),
    }


def measure(path: Path) -> dict[str, float]:
    """Replay in this process; return what the tool says of itself."""
    from replay import ReplayOptions, TargetSpec, run

    options = ReplayOptions(mode="max", min_window_ns=0, settle_ns=0, arena_bytes=4 * MIB)
    result = run(path, [TargetSpec("null", (Tier.NVME,))], options)
    tool = result.tool
    return {
        "survey": tool.survey_rows_per_cpu_s,
        "plan": tool.plan_ops_per_cpu_s,
        "bytes": tool.plan_bytes_per_op,
        "memory": tool.memory_bytes_max,
        "stalls": tool.plan_stalls,
        "drain": result.ops / max(1e-9, tool.drain_cpu_s),
        "loop": result.ops / max(1e-9, tool.cpu_s),
        "violations": result.fidelity.order_violations,
    }


def main() -> None:
    """Print one row per length."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ops", type=int, default=10_000_000)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.measure is not None:
        print(json.dumps(measure(chosen.measure)))
        return
    rows = []
    with tempfile.TemporaryDirectory(dir=chosen.folder) as folder:
        for ops in (chosen.ops // 5, chosen.ops // 2, chosen.ops):
            path = Path(folder) / f"{ops}.parquet"
            write_trace(path, ops)
            command = [sys.executable, __file__, "--measure", str(path)]
            answers = [
                json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
                for _ in range(3)
            ]
            found = {name: float(np.median([a[name] for a in answers])) for name in answers[0]}
            millions = [f"{found[name] / 1e6:.2f}" for name in ("survey", "plan", "drain", "loop")]
            rows.append(
                [
                    f"{ops:,}",
                    *millions,
                    f"{found['bytes']:.1f}",
                    f"{found['memory'] / MIB:,.0f}",
                    f"{found['stalls']:.0f}",
                    f"{found['violations']:.0f}",
                ]
            )
    head = ["ops", "pass 1 M/s", "pass 2 M/s", "drain M/s", "loop M/s", "B/op", "MiB", "stalls"]
    print_table([*head, "violations"], rows)


if __name__ == "__main__":
    main()
