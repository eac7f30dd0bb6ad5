"""Space needed of each tier ÷ its live set, under every layout and for every preset.

    python benchmarks/space.py --seconds 60

The bar is 1.15. Nothing is written; the planner's speed on objects of one length and of many is
printed beside it (rows and ops per CPU-second).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import plan
from benchmarks.common import print_table
from kvtrace import plugins
from kvtrace.placement import extents
from kvtrace.placement.defaults import SLACK_RATIO
from kvtrace.placement.extents import SPACE_RATIO, Space, lane_of_tier
from kvtrace.placement.rows import TraceRows
from kvtrace.placement.survey import survey
from kvtrace.recording.config import preset_names, resolve
from kvtrace.recording.pipeline import record
from kvtrace.trace.header import Header
from kvtrace.trace.reader import open_trace
from kvtrace.trace.schema import Tier
from kvtrace.trace.writer import TraceWriter
from replay.plan.geometry import Geometry
from replay.plan.planner import Planner, make_ring

SMALL = {"tiers.gpu.capacity": "0", "tiers.cpu.capacity": "1GiB", "tiers.nvme.capacity": "3GiB"}


def needs(name: str, options: dict[str, Any], preset: str | None) -> list[list[str]]:
    """Return one row per tier of a recording."""
    config = resolve(None, options, (), preset).config
    made = record(config, Path(tempfile.gettempdir()) / "unwritten.parquet", dry_run=True)
    return [
        [
            name,
            tier.label,
            f"{need.live_objects_max:,}",
            f"{need.live_bytes / 2**30:,.2f}",
            f"{need.size_bytes / 2**30:,.2f}",
            f"{need.space_ratio:.3f}",
            "ok" if need.space_ratio <= SPACE_RATIO else "MISSED",
        ]
        for tier, need in (made.needs or {}).items()
    ]


def write_trace(path: Path, rows: int, *, mixed: bool) -> None:
    """Write the trace of `benchmarks/plan.py`, its objects of one length or of 256."""
    lengths = np.random.default_rng(0).integers(1, 257, 1 << 20).astype(np.uint64) * 4096
    with TraceWriter(path, Header(), []) as writer:
        for first in range(0, rows // 4, 100_000):
            columns = plan.columns(first, min(100_000, rows // 4 - first))
            if mixed:
                own = lengths[columns["key"].astype(np.int64) % len(lengths)]
                columns["size"] = np.where(columns["size"] > 0, own, 0).astype(np.uint64)
            writer.append(columns)


def speed(path: Path) -> tuple[float, float]:
    """Return rows surveyed, with needs, and ops planned per CPU-second, the best of three."""
    found = [(0.0, 0.0)]
    for _ in range(3):
        with open_trace(path) as trace:
            lanes, start = lane_of_tier((Tier.NVME,)), time.process_time()
            surveyed = survey(TraceRows(trace), lanes)
            wanted = extents.needs(surveyed, (Space(4096, 1 << 20),), SLACK_RATIO)
            passed = surveyed.rows / (time.process_time() - start)
            spaces = (Space(4096, 1 << 20, wanted[0].size_bytes),)
            made = extents.lanes(wanted, spaces, SLACK_RATIO)
            ring = make_ring(surveyed, closed=False, divided=True)
            geometry = Geometry(lanes, spaces, 1 << 30, 4 << 20)
            planner = Planner(TraceRows(trace), surveyed, made, geometry, ring)
            start = time.process_time()
            while not planner.final:
                planner.advance(planner.planned)
            found.append((passed, planner.planned / (time.process_time() - start)))
    return max(item[0] for item in found), max(item[1] for item in found)


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=60, help="virtual time of each recording")
    parser.add_argument("--rows", type=int, default=3_000_000)
    chosen = parser.parse_args()
    duration = {"duration": f"{chosen.seconds}s"}
    rows = []
    for layout in plugins.names(plugins.LAYOUT):
        rows += needs(layout, SMALL | duration | {"layout": layout}, None)
    for preset in preset_names():
        rows += needs(preset, duration, preset)
    head = ["trace", "tier", "objects", "live GiB", "space GiB", "÷", f"bar {SPACE_RATIO}"]
    print_table(head, rows)
    speeds = []
    with tempfile.TemporaryDirectory() as folder:
        for mixed in (False, True):
            path = Path(folder) / "t.parquet"
            write_trace(path, chosen.rows, mixed=mixed)
            surveyed, planned = speed(path)
            lengths = "256 lengths" if mixed else "one length"
            speeds.append([lengths, f"{surveyed / 1e6:.2f}", f"{planned / 1e6:.2f}"])
            path.unlink()
    print_table(["objects of", "pass 1 M/s", "pass 2 M/s"], speeds)


if __name__ == "__main__":
    main()
