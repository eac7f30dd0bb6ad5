"""What a recording costs: rows per CPU-second, an hour of a node, memory against length.

Each figure is of a process of its own, so that CPU time and peak memory are its own.
Medians of `--repeats` runs, with the range.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from kvtrace.recording.config import load_config
from kvtrace.recording.pipeline import record

PRESSURE = {
    "model": "llama3.1-70b",
    "layout": "lmcache",
    "tensor_parallel": 8,
    "ranks": "all",
    "tiers.gpu.capacity": "10GiB",
    "tiers.cpu.capacity": "200GiB",
    "tiers.nvme.capacity": "1TiB",
    "source.users": 100,
}
"""A node of 8 GPUs with 100 users whose three tiers are all too small."""

CASES: dict[str, tuple[dict[str, Any], int]] = {
    "8 ranks, 10 min": ({"duration": "10min"}, 5_000_000),
    "one rank of 8, 30 min": ({"duration": "30min", "ranks": "one"}, 3_000_000),
    "vllm, 2 min": ({"duration": "2min", "layout": "vllm"}, 3_000_000),
}
"""What is recorded under pressure, and its bar in rows per CPU-second."""
BAR_MEMORY_GROWTH = 0.20
TINY: dict[str, Any] = {"model": "tiny-1b", "source.users": 1, "requests": 5}


def measured(options: dict[str, Any]) -> dict[str, float]:
    """Record once in this process; return rows, CPU seconds, wall seconds and peak memory.

    A tiny recording before it imports what a recording needs.
    """
    with tempfile.TemporaryDirectory() as folder:
        record(load_config(None, TINY), Path(folder) / "tiny.parquet")
        cpu, wall = time.process_time(), time.monotonic()
        made = record(load_config(None, options), Path(folder) / "t.parquet")
        return {
            "rows": made.header.totals.rows,
            "cpu_s": time.process_time() - cpu,
            "wall_s": time.monotonic() - wall,
            "rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            "file_mb": made.path.stat().st_size / 1e6,
        }


def in_child(options: dict[str, Any]) -> dict[str, float]:
    """Return `measured` of a fresh process."""
    command = [sys.executable, __file__, "--child", json.dumps(options)]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    return dict(json.loads(ended.stdout))


def spread(values: list[float], form: str) -> str:
    """Return median and range."""
    low, high = format(min(values), form), format(max(values), form)
    return f"{statistics.median(values):{form}} ({low} … {high})"


def speed(repeats: int) -> None:
    """Print rows per CPU-second under pressure, the cases in turns, and what an hour takes."""
    rates: dict[str, list[float]] = {name: [] for name in CASES}
    for _ in range(repeats):
        for name, (options, _bar) in CASES.items():
            run = in_child(PRESSURE | options)
            rates[name].append(run["rows"] / run["cpu_s"])
    print("rows per CPU-second, 100 users")
    for name, (_options, bar) in CASES.items():
        reached = "reached" if statistics.median(rates[name]) >= bar else "MISSED"
        print(f"  {name:<22}{spread(rates[name], ',.0f')}; bar {bar:,}: {reached}")
    hour = in_child(PRESSURE | {"duration": "1h"})
    print(
        f"1 h, 100 users, 8 ranks: {hour['rows']:,.0f} rows in {hour['cpu_s']:.1f} CPU s, "
        f"{hour['wall_s']:.1f} s"
    )


def memory() -> None:
    """Print peak memory of a recording and of one ten times longer."""
    short, long = (
        in_child(PRESSURE | {"duration": length, "ranks": "one"}) for length in ("20min", "200min")
    )
    growth = long["rss_mib"] / short["rss_mib"] - 1
    reached = "reached" if growth <= BAR_MEMORY_GROWTH else "MISSED"
    print(f"peak memory: {short['rows']:,.0f} rows {short['rss_mib']:.0f} MiB, ", end="")
    print(f"{long['rows']:,.0f} rows {long['rss_mib']:.0f} MiB: {growth:+.1%}; ", end="")
    print(f"bar +{BAR_MEMORY_GROWTH:.0%}: {reached}")


def main() -> None:
    """Print all figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(measured(json.loads(arguments.child))))
        return
    speed(arguments.repeats)
    memory()


if __name__ == "__main__":
    main()
