"""A report made from the finished ops of a long run: seconds, memory, bytes of the HTML file.

    python benchmarks/report.py --ops 50000000

Bars, at 50 million ops: ≤ 30 s, ≤ 2 GB, HTML ≤ 5 MB. The ops are of two tiers and four phases, on a
schedule that is kept, four requests of 100 ops each at any time. The report is made by the command,
in a process of its own.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.common import print_table
from kvtrace.trace.header import Header
from kvtrace.trace.schema import Op, Phase, Tier
from kvtrace.trace.writer import TraceWriter

BATCH = 1 << 20
GAP_NS = 20_000
SIZE_BYTES = 128 << 10
LIMIT_S, LIMIT_BYTES, LIMIT_HTML_BYTES = 30.0, 2 * 10**9, 5 * 10**6
MEASURED = ("due", "submit", "complete", "error", "qos", "request")


def write_result(path: Path, ops: int) -> None:
    """Write a result trace of so many ops."""
    rng = np.random.default_rng(7)
    with TraceWriter(path, Header(), MEASURED) as writer:
        for first in range(0, ops, BATCH):
            writer.append(columns(first, min(BATCH, ops - first), rng))


def columns(first: int, count: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Return rows of reads and writes, with latencies that have a long tail."""
    number = np.arange(first, first + count)
    due = number * GAP_NS
    submit = due + rng.integers(1_000, 20_000, count)
    complete = submit + (50_000 * rng.pareto(3.0, count) + 80_000).astype(np.int64)
    return {
        "timestamp": due,
        "op": np.where(number % 3 == 0, Op.WRITE, Op.READ).astype(np.uint8),
        "size": np.full(count, SIZE_BYTES, np.uint64),
        "tier": np.where(number % 5 == 0, Tier.CPU, Tier.NVME).astype(np.uint8),
        "key": (number % 100_000).astype(np.uint64),
        "phase": (number % 4 % len(Phase)).astype(np.uint8),
        "due": due,
        "submit": submit,
        "complete": complete,
        "error": np.zeros(count, np.int32),
        "qos": (number // 3 % 3).astype(np.uint8),
        "request": (number // 400 * 4 + number % 4).astype(np.uint64),
    }


def report(path: Path, out: Path) -> tuple[float, float, int]:
    """Make a report; return seconds, CPU seconds and bytes of memory."""
    code = "from kvtrace.cli.main import main; main()"
    words = ["report", str(path), "--from-ops", "--report", str(out), "--force"]
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-c", code, *words], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0, f"kvtrace {' '.join(words)} ended with {status}"
    return time.perf_counter() - began, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024


def main() -> None:
    """Print a table, and which bars were met."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ops", type=int, default=5_000_000)
    parser.add_argument("--form", default="html")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path, out = Path(folder) / "result.parquet", Path(folder) / f"report.{asked.form}"
        write_result(path, asked.ops)
        report(path, out)  # imports
        seconds, cpu_s, memory = report(path, out)
        size = out.stat().st_size
    head = ["ops", "s", "CPU s", "ops per CPU s", "memory MB", "file MB"]
    rate = f"{asked.ops / cpu_s:,.0f}"
    row = [f"{asked.ops:,}", f"{seconds:.1f}", f"{cpu_s:.1f}", rate, f"{memory / 1e6:.0f}"]
    print_table(head, [[*row, f"{size / 1e6:.2f}"]])
    met = seconds <= LIMIT_S and memory <= LIMIT_BYTES and size <= LIMIT_HTML_BYTES
    print("met" if met else "missed", "at this length")


if __name__ == "__main__":
    main()
