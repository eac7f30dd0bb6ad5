"""What recording a live engine costs: its threads, the writer's CPU, bytes, LMCache's CPU.

    python benchmarks/capture.py [--folder DIR] [--repeats 5] [--requests 400]

Bars, on a quiet machine: 5 us per task and 0.15 us per key in the engine's threads, 20 bytes per
row, 5 % of LMCache's CPU. What LMCache costs with and without is measured in turns, in
build/engines/lmcache (`make engines`); without it that part is left out.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.common import print_table
from kvtrace.capture import spool
from kvtrace.capture.recorder import Recorder
from kvtrace.capture.settings import Settings
from kvtrace.trace.schema import Op, Phase, Tier
from tests.support.lmcache_runs import conversations

ROOT = Path(__file__).resolve().parent.parent
PYTHON = ROOT / "build" / "engines" / "lmcache" / "bin" / "python"
TASKS = 2000


def import_ms() -> float:
    """Return what importing the recorder takes once numpy is there, the least of five."""
    program = (
        "import numpy, time; began = time.perf_counter()\n"
        "import kvtrace.capture.recorder, kvtrace.capture.settings\n"
        "print((time.perf_counter() - began) * 1e3)"
    )
    return min(
        float(subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True,
                             text=True, check=True).stdout)
        for _ in range(5)
    )  # fmt: skip


def own_time(folder: Path) -> list[list[str]]:
    """Return the recorder's own us per task, by the number of its keys."""
    rows = []
    for count in (1, 10, 100):
        recorder = Recorder(Settings(folder / f"own{count}"), "bench", "1")
        keys = [bytes([n] * 32) for n in range(count)]
        times = []
        for _ in range(20):
            began = time.perf_counter()
            for _ in range(TASKS):
                recorder.task(Op.READ, Tier.NVME, Phase.DECODE, 1, 2, keys, 4096)
            times.append((time.perf_counter() - began) / TASKS * 1e6)
            while recorder._queue:
                time.sleep(0.05)
        recorder.close()
        rows.append([f"Recorder.task, {count} keys", f"{statistics.median(times):.2f}"])
    return rows


def writer_time(folder: Path, keys_each: int, share_new: float) -> list[str]:
    """Return the writer's CPU per row and the bytes per row, of tasks of a size."""
    rng = np.random.default_rng(1)
    recorder = Recorder(Settings(folder / f"w{keys_each}-{share_new}"), "bench", "1")
    total, known = 200_000, [rng.bytes(32) for _ in range(20_000)]
    for number in range(total // keys_each):
        fresh = int(keys_each * share_new + rng.random())
        at = int(rng.integers(len(known) - keys_each))
        keys = [rng.bytes(32) for _ in range(fresh)] + known[at : at + keys_each - fresh]
        now = time.monotonic_ns()
        recorder.task(
            Op.READ, Tier.NVME, Phase.DECODE, now, now + 80_000, keys, 32768, request=number // 3
        )
        if number % 1000 == 0:
            time.sleep(0.02)
    recorder.close()
    size = sum(path.stat().st_size for path in spool.parts(recorder.path))
    assert recorder.dropped == 0
    cpu_us = recorder._writer.cpu_ns / recorder.rows / 1e3
    return [
        f"{keys_each} keys a task, {share_new:.0%} new",
        f"{cpu_us:.2f}",
        f"{size / recorder.rows:.1f}",
    ]


def run_lmcache(folder: Path, kind: str, requests: Path) -> dict[str, float]:
    """Return the CPU-seconds and seconds of LMCache's storage manager with some requests."""
    inner = {"type": "fs", "base_path": str(folder / "l2")}
    recorded = {
        "type": "plugin",
        "module_path": "kvtrace.capture.lmcache",
        "class_name": "RecordingL2",
        "adapter_params": {"inner": inner, "out": str(folder / "cap"), "bus": kind == "both"},
    }
    adapter = inner if kind == "bare" else recorded
    command = [PYTHON, ROOT / "tests" / "engines" / "lmcache_driver.py", "--requests", requests,
               "--l1-size-gb", 0.06, "--eviction-policy", "LRU",
               "--l2-adapter", json.dumps(adapter)]  # fmt: skip
    ended = subprocess.run(
        list(map(str, command)), env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    counts: dict[str, float] = json.loads(ended.stdout.splitlines()[-1])
    counts["writer"] = counts["rows"] = 0
    for path in spool.parts(folder / "cap"):
        for frame in spool.frames(path):
            if isinstance(frame, spool.Frame) and frame.kind == spool.Kind.END:
                end = spool.document(frame)
                counts["writer"], counts["rows"] = end["writer_cpu_ns"] / 1e9, end["rows"]
    return counts


def lmcache_cost(folder: Path, repeats: int, requests: int) -> list[list[str]]:
    """Return LMCache's CPU and wall-clock time: bare, its L2 recorded, the cpu tier as well."""
    lines = [json.dumps(blocks) for blocks in conversations(requests, seed=1)]
    (folder / "requests").write_text("\n".join(lines))
    kinds = ("bare", "L2", "both")
    runs: dict[str, list[dict[str, float]]] = {kind: [] for kind in kinds}
    for turn in range(repeats):
        for kind in kinds if turn % 2 else reversed(kinds):
            own = folder / f"{kind}{turn}"
            own.mkdir()
            runs[kind].append(run_lmcache(own, kind, folder / "requests"))
    bare = [run["cpu"] for run in runs["bare"]]
    table = []
    for kind in kinds:
        cpu = [run["cpu"] for run in runs[kind]]
        more = statistics.median(cpu) / statistics.median(bare) - 1, min(cpu) / min(bare) - 1
        rows, writer, wall = (
            statistics.median(run[name] for run in runs[kind])
            for name in ("rows", "writer", "seconds")
        )
        table.append(
            [kind, f"{statistics.median(cpu):.2f}", f"{more[0]:+.1%}", f"{min(cpu):.2f}",
             f"{more[1]:+.1%}", f"{writer:.2f}", f"{rows:,.0f}", f"{wall:.2f}"]
        )  # fmt: skip
    return table


def proxy_time(folder: Path) -> list[list[str]]:
    """Return the LMCache adapter's own us per task, and per key."""
    program = [PYTHON, ROOT / "benchmarks" / "engines" / "lmcache_hooks.py", folder / "proxy"]
    ended = subprocess.run(
        list(map(str, program)), env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    figures = json.loads(ended.stdout.splitlines()[-1])
    return [
        [f"LMCache {kind}, submitted and queried", f"{figures[f'{kind} 1']:.2f}",
         f"{(figures[f'{kind} 100'] - figures[f'{kind} 1']) / 99:.3f}"]
        for kind in ("load", "lookup_and_lock")
    ]  # fmt: skip


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--requests", type=int, default=400)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=asked.folder) as name:
        folder = Path(name)
        print(f"import beyond numpy: {import_ms():.0f} ms")
        print_table(["in the engine's threads", "us per task"], own_time(folder))
        kinds = [(1, 0.1), (10, 0.1), (100, 0.1), (10, 1.0)]
        rows = [writer_time(folder, *kind) for kind in kinds]
        print_table(["writer", "CPU us/row", "B/row"], rows)
        if not PYTHON.exists():
            print("no build/engines/lmcache: run `make engines`")
            return
        print_table(["in LMCache's threads", "us per task", "us per key"], proxy_time(folder))
        costs = lmcache_cost(folder, asked.repeats, asked.requests)
        head = ["LMCache", "CPU s", "more", "least", "more", "of it the writer", "rows", "wall s"]
        print_table(head, costs)


if __name__ == "__main__":
    main()
