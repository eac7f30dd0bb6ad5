"""What verification costs: CPU-seconds per GB read, and GB/s, by --verify.

    python benchmarks/verify.py --folder DIR [--size 128K] [--repeats 5]

Runs of all kinds take turns on one file of DIR; medians. Bar: sample costs less than 2 % of the
throughput that stamps have, or of the CPU time where that is the limit.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import replay
from benchmarks.common import GIB, parse_size, print_table
from kvtrace.trace.header import Header
from kvtrace.trace.schema import Op, Phase, Tier
from kvtrace.trace.writer import TraceWriter
from replay import ReplayOptions, TargetSpec

KINDS = ("none", "stamps", "sample", "full")
LIVE_BYTES = GIB
READS_BYTES = 4 * GIB


def write_trace(path: Path, size_bytes: int) -> None:
    """Write a trace that reads LIVE_BYTES of objects again and again."""
    count = READS_BYTES // size_bytes
    objects = LIVE_BYTES // size_bytes
    rng = np.random.default_rng(1)
    with TraceWriter(path, Header(), force=True) as writer:
        writer.append(
            {
                "timestamp": np.arange(count, dtype=np.int64),
                "op": np.full(count, Op.READ, np.uint8),
                "size": np.full(count, size_bytes, np.uint64),
                "tier": np.full(count, Tier.NVME, np.uint8),
                "key": rng.integers(0, objects, count).astype(np.uint64),
                "phase": np.full(count, Phase.DECODE, np.uint8),
            }
        )


def run(trace: Path, target: Path, verify: str) -> tuple[float, float, float]:
    """Return CPU-seconds of the loop per GB, CPU-seconds of verifying per GB, and GB/s."""
    options = ReplayOptions(
        mode="max", verify=verify, arena_bytes=GIB // 2, settle_ns=0, min_window_ns=0, run_id=1
    )
    result = replay.run(trace, [TargetSpec("file", (Tier.NVME,), target)], options)
    assert not result.errors
    lane = result.headline
    gb = lane.bytes / 1e9
    rate = (lane.throughput_bytes_per_s or 0.0) / 1e9
    return result.tool.cpu_s / gb, result.tool.verify_cpu_s / gb, rate


def main() -> None:
    """Measure all kinds in turns and print medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--size", default="128K")
    parser.add_argument("--repeats", type=int, default=5)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
        trace, target = Path(folder) / "t.parquet", Path(folder) / "kv"
        write_trace(trace, parse_size(asked.size))
        run(trace, target, "none")
        found = {kind: [] for kind in KINDS}
        for _ in range(asked.repeats):
            for kind in KINDS:
                found[kind].append(run(trace, target, kind))
    medians = {
        k: [statistics.median(column) for column in zip(*v, strict=True)] for k, v in found.items()
    }
    base = medians["stamps"]
    rows = [
        (kind, f"{cpu:.4f}", f"{check:.4f}", f"{rate:.3f}", f"{cpu / base[0]:.3f}",
         f"{rate / base[2]:.3f}")
        for kind, (cpu, check, rate) in medians.items()
    ]  # fmt: skip
    print_table(
        ("verify", "CPU s/GB", "of it verifying", "GB/s", "CPU ÷ stamps", "GB/s ÷ stamps"), rows
    )


if __name__ == "__main__":
    main()
