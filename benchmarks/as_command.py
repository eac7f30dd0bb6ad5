"""`kvtrace replay`, the whole command, as a contender of fio_ratio.py.

The command makes its file, or takes the device, and fio runs at the same places behind the header;
cells that only read are populated once. Each run replays a trace of random reads and writes of
these objects, none twice, in `--mode max`. Throughput and latencies are those of the command's own
report; CPU is of the threads of the loop and of the drain beside it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import MIB
from benchmarks.fio import Cell, Figures
from kvtrace.trace.header import RESIDENT_DTYPE, Header
from kvtrace.trace.schema import Op, Phase, Tier
from kvtrace.trace.writer import TraceWriter

RUN_ID = "1"
ARENA = "512MiB"
HEADER_BYTES = 4 * MIB
"""Of a target, left alone by fio: the header lies in it."""


def write_trace(path: Path, cell: Cell, span_bytes: int, seed: int) -> None:
    """Write a trace of the cell's ops on random objects of `span_bytes` that are all there."""
    rng = np.random.default_rng(seed)
    objects = span_bytes // cell.io_bytes
    resident = np.zeros(objects if cell.read_share else 0, RESIDENT_DTYPE)
    resident["tier"], resident["size"] = Tier.NVME, cell.io_bytes
    resident["key"] = np.arange(len(resident))
    ops = min(cell.ops, objects)
    reads = rng.random(ops) < cell.read_share
    with TraceWriter(path, Header(), resident=resident, force=True) as writer:
        writer.append(
            {
                "timestamp": np.arange(ops),
                "op": np.where(reads, Op.READ, Op.WRITE).astype(np.uint8),
                "size": np.full(ops, cell.io_bytes, np.uint64),
                "tier": np.full(ops, Tier.NVME, np.uint8),
                "key": rng.permutation(objects)[:ops].astype(np.uint64),
                "phase": np.full(ops, Phase.DECODE, np.uint8),
            }
        )


@dataclass(frozen=True, slots=True)
class Command:
    """The command on a file or device: `span_bytes` of it hold the objects."""

    target: Path
    span_bytes: int
    folder: Path
    spin: str

    def run(self, cell: Cell, seed: int, *words: str) -> Figures:
        """Replay the cell's ops in an order of `seed`; return the report's figures."""
        trace = self.folder / "cell.parquet"
        write_trace(trace, cell, self.span_bytes, seed)
        report = self._replay(trace, cell, *words)
        op, tool = "read" if cell.read_share else "write", report["tool"]
        service = next(group for group in report["groups"] if group["op"] == op)["service_ns"]
        return Figures(
            gb_per_s=report["throughput_bytes_per_s"] / 1e9,
            latency_ns=tuple(float(service[name]) for name in ("p50", "p99", "p999")),
            cpu_us=(tool["cpu_s"] + tool["drain_cpu_s"]) / report["ops"] * 1e6,
        )

    def _replay(self, trace: Path, cell: Cell, *words: str) -> Any:
        """Run the command, which populates what isn't there; return its JSON report."""
        kvtrace = Path(sys.executable).with_name("kvtrace")
        command = [
            str(kvtrace), "replay", str(trace), "--device", str(self.target),
            "--size", str(self.span_bytes + self.span_bytes // 16 + 64 * MIB), "--run-id", RUN_ID,
            "--populate", "all", "--mode", "max", "--queue-depth", str(cell.depth),
            "--spin", self.spin, "--arena", ARENA, "--settle", "0s", "--min-window", "0s", "--json",
            *words,
        ]  # fmt: skip
        if self.target.is_block_device():
            command += ["--allow-destroy", str(self.target), "--allow-signature", "unknown"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode not in (0, 5):
            raise SystemExit(done.stderr)
        return json.loads(done.stdout)
