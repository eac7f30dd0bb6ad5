"""Rows per CPU-second and memory of a recording, for every source × layout.

    python benchmarks/matrix.py --rows 10000000

Each recording is of a process of its own, of a node of 8 GPUs whose tiers are all too small, and
is as long as so many rows need: a first one of a few requests tells how many each makes. Files are
made here (`sources.py`). Bar: 3 M rows per CPU-second for the block layouts.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.common import print_table
from benchmarks.record import BAR_ROWS_PER_CPU_S, measured
from benchmarks.sources import REQUESTS, make
from kvtrace import plugins

TIERS = {
    "model": "llama3.1-70b",
    "tensor_parallel": 8,
    "tiers.gpu.capacity": "10GiB",
    "tiers.cpu.capacity": "200GiB",
    "tiers.nvme.capacity": "1TiB",
}
PILOT_REQUESTS = 500


def options(source: str, layout: str, path: Path, requests: int) -> dict[str, Any]:
    """Return the configuration of a recording of so many requests."""
    chosen: dict[str, Any] = {"layout": layout, "requests": requests, "source.name": source}
    if source == "synthetic":
        return TIERS | chosen | {"source.users": 100}
    cycles = math.ceil(requests / (REQUESTS[source] * 0.8))
    return TIERS | chosen | {"source.input": [str(path)], "source.cycles": cycles}


def in_child(recorded: dict[str, Any]) -> dict[str, float]:
    """Return `measured` of a fresh process."""
    command = [sys.executable, __file__, "--child", json.dumps(recorded)]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    return dict(json.loads(ended.stdout))


def row(source: str, layout: str, path: Path, rows: int) -> list[str]:
    """Return the table's line of a source under a layout."""
    pilot = in_child(options(source, layout, path, PILOT_REQUESTS))
    requests = max(PILOT_REQUESTS, round(rows * PILOT_REQUESTS / pilot["rows"]))
    run = in_child(options(source, layout, path, requests))
    rate = run["rows"] / run["cpu_s"]
    word = "" if layout == "request" else "ok" if rate >= BAR_ROWS_PER_CPU_S else "MISSED"
    return [
        f"{source}, {layout}", f"{requests:,}", f"{run['rows']:,.0f}", f"{rate:,.0f}",
        f"{run['rss_mib']:.0f}", word,
    ]  # fmt: skip


def main() -> None:
    """Print the table, a line as soon as it is known."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--sources", default=",".join(["synthetic", *REQUESTS]))
    parser.add_argument("--layouts", default=",".join(plugins.names(plugins.LAYOUT)))
    parser.add_argument("--child", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.child:
        print(json.dumps(measured(json.loads(chosen.child))))
        return
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for source in chosen.sources.split(","):
            path = Path(folder) / {"azure": "f.csv", "burstgpt": "f.csv", "lmcache": "f.lct"}.get(
                source, "f.jsonl" if source != "sharegpt" else "f.json"
            )
            if source != "synthetic":
                make(path, source)
            for layout in chosen.layouts.split(","):
                found.append(row(source, layout, path, chosen.rows))
                print("  ".join(found[-1]), file=sys.stderr, flush=True)
    head = ["source, layout", "requests", "rows", "rows per CPU-s", "RSS MiB", "bar 3 M"]
    print_table(head, found)


if __name__ == "__main__":
    main()
