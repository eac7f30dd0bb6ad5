"""Running fio beside our loop: a cell both understand, and fio's own account of it."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from benchmarks.common import size_name

if TYPE_CHECKING:
    from pathlib import Path

PERCENTILES = (50.0, 99.0, 99.9)


@dataclass(frozen=True, slots=True)
class Cell:
    """One combination that both tools run: `read_share` of the ops are reads."""

    read_share: float
    io_bytes: int
    depth: int
    ops: int

    @property
    def name(self) -> str:
        """How tables call it."""
        kind = {1.0: "read", 0.0: "write"}.get(self.read_share, f"{self.read_share:.0%} read")
        return f"{kind} {size_name(self.io_bytes)} depth {self.depth}"


@dataclass(frozen=True, slots=True)
class Figures:
    """What one run gave.

    `latency_ns`: `PERCENTILES` of submit to completion, of the reads where there are any, else of
    the writes. `cpu_us`: CPU per op of the process (fio) or the loop's thread (ours).
    """

    gb_per_s: float
    latency_ns: tuple[float, ...]
    cpu_us: float


def run(arguments: list[str]) -> Any:
    """Run one fio job; return its part of the JSON report."""
    command = [
        "fio", "--name=job", "--allow_file_create=0", "--ioengine=io_uring", "--direct=1",
        "--fallocate=none", "--end_fsync=0", "--output-format=json", "--clat_percentiles=0",
        "--lat_percentiles=1", "--percentile_list=" + ":".join(map(str, PERCENTILES)),
        *arguments,
    ]  # fmt: skip
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout[done.stdout.index("{") :])["jobs"][0]


def random_cell(
    path: Path, span_bytes: int, cell: Cell, seed: int, memory: str, *, begin_bytes: int = 0
) -> Figures:
    """Return fio's figures for random offsets without repeats, buffers allocated by `mem`."""
    kind = {1.0: "randread", 0.0: "randwrite"}.get(cell.read_share, "randrw")
    job = run(
        [
            f"--filename={path}", f"--offset={begin_bytes}", f"--size={span_bytes}",
            f"--rw={kind}", f"--mem={memory}",
            f"--io_size={cell.ops * cell.io_bytes}", f"--bs={cell.io_bytes}",
            f"--rwmixread={cell.read_share * 100:.0f}", f"--iodepth={cell.depth}",
            "--randrepeat=0", f"--randseed={seed}",
        ]
    )  # fmt: skip
    return figures(job)


def sequence(path: Path, log: Path, depth: int, memory: str) -> Figures:
    """Return fio's figures for the ops of an iolog."""
    return figures(
        run([f"--filename={path}", f"--read_iolog={log}", f"--iodepth={depth}", f"--mem={memory}"])
    )


def figures(job: Any) -> Figures:
    """Return what a job of fio reports, in our units."""
    sides = [job[side] for side in ("read", "write") if job[side]["total_ios"]]
    ops = sum(side["total_ios"] for side in sides)
    cpu_share = (job["usr_cpu"] + job["sys_cpu"]) / 100
    percentiles = sides[0]["lat_ns"]["percentile"]
    return Figures(
        gb_per_s=sum(side["bw_bytes"] for side in sides) / 1e9,
        latency_ns=tuple(float(percentiles[f"{p:.6f}"]) for p in PERCENTILES),
        cpu_us=cpu_share * job["job_runtime"] * 1000 / ops,
    )
