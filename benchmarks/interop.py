"""What exporting to, and importing from, other tools costs: rows per CPU-second, and memory.

    python benchmarks/interop.py --folder /var/tmp --rows 5000000 50000000 --only "export fio"

Each figure is of a process of its own, so that CPU time and peak memory are its own; the time that
Python takes to load libraries counts. The trace is of one tier whose objects are written, read
twice and deleted, 50,000 of them there at a time, 200,000 in all or, with --fresh, ever new ones.
Bars: 500,000 rows per CPU-second of formats of text, and memory that grows by 20 % at most.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.foreign_logs import LOGS, batches, write_log
from kvtrace.formats.common import exporting as exporters
from kvtrace.formats.common import importing as importers
from kvtrace.formats.common.exporting import ExportOptions
from kvtrace.trace.header import Header
from kvtrace.trace.reader import open_trace
from kvtrace.trace.schema import Tier
from kvtrace.trace.writer import TraceWriter

BAR_ROWS_PER_CPU_S = 500_000
BAR_MEMORY_GROWTH = 0.20
BINARY = ("oracle", "lmcache")
"""Formats that aren't text: no bar for their speed."""


@dataclass(frozen=True, slots=True)
class Format:
    """A format to export to: how the file is named, with which options, and if it comes in."""

    file: str
    options: ExportOptions
    comes_in: bool = True


_ALL = tuple(Tier)
EXPORTS = {
    "fio": Format("t.log", ExportOptions(device="/dev/none", fio_version="3.34")),
    "mlperf-csv": Format("t.csv", ExportOptions(with_deletes=True)),
    "warp": Format("t.csv.zst", ExportOptions(tiers=_ALL)),
    "sai3": Format("t.tsv.zst", ExportOptions(tiers=_ALL), comes_in=False),
    "oracle": Format("t.oracleGeneral", ExportOptions()),
    "lmcache": Format("t.lct", ExportOptions()),
    "mooncake": Format("t.jsonl", ExportOptions(), comes_in=False),
    "perfetto": Format("t.json", ExportOptions(), comes_in=False),
}
STEPS = [f"export {name}" for name in EXPORTS]
STEPS += [
    f"import {name}" for name in (*(n for n, form in EXPORTS.items() if form.comes_in), *LOGS)
]


@dataclass(frozen=True, slots=True)
class Job:
    """A step to measure: `export` or `import` of a format, its input and its output."""

    way: str
    name: str
    source: str
    out: str


@dataclass(frozen=True, slots=True)
class Took:
    """What a step took."""

    rows: int
    cpu_s: float
    peak_mib: float


def make_trace(path: Path, rows: int, *, fresh: bool) -> None:
    """Write a trace of as many rows."""
    names = ("request", "step", "rank", "block")
    layout = {"name": "bench", "block_tokens": 512}
    with TraceWriter(path, Header(layout=layout), names) as writer:
        for columns in batches(rows, fresh=fresh):
            writer.append(columns)


def measured(job: Job) -> Took:
    """Do a job in this process; return rows read, CPU seconds and peak memory."""
    source, out = Path(job.source), Path(job.out)
    if job.way == "export":
        with open_trace(source) as trace:
            exporters.export(trace, out, job.name, EXPORTS[job.name].options)
            rows = trace.rows
    else:
        rows = importers.convert([source], out, format_name=job.name).header.totals.rows
    return Took(rows, time.process_time(), peak_mib())


def peak_mib() -> float:
    """Return this process's peak memory; getrusage's would be the parent's, if that was larger."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def in_child(job: Job) -> Took:
    """Return `measured` of a fresh process."""
    command = [sys.executable, __file__, "--child", json.dumps(asdict(job))]
    ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return Took(**json.loads(ended.stdout))


def step_of(step: str, folder: Path, rows: int, options: argparse.Namespace) -> list[Took]:
    """Return what one step takes, each time anew; files are removed as soon as they can be."""
    way, name = step.split()
    with tempfile.TemporaryDirectory(prefix="kvtrace-bench-", dir=folder) as work:
        trace = Path(work) / "t.parquet"
        if name in EXPORTS:
            make_trace(trace, rows, fresh=options.fresh)
        if way == "export":
            source = trace
        elif name in LOGS:
            source = write_log(name, Path(work), rows, fresh=options.fresh)
        else:
            source = Path(work) / EXPORTS[name].file
            in_child(Job("export", name, str(trace), str(source)))
            trace.unlink()
        took = []
        for _ in range(options.repeats):
            with tempfile.TemporaryDirectory(dir=work) as made:
                out = Path(made) / (EXPORTS[name].file if way == "export" else "back.parquet")
                took.append(in_child(Job(way, name, str(source), str(out))))
        return took


def table(folder: Path, options: argparse.Namespace) -> bool:
    """Print what each step costs; return whether all bars were reached."""
    reached = True
    for step in options.only:
        step_of(step, folder, 1000, options)  # imports, and warms the file cache
        rates, peaks = [], []
        for rows in options.rows:
            runs = step_of(step, folder, rows, options)
            rates.append(statistics.median(took.rows / took.cpu_s for took in runs))
            peaks.append(statistics.median(took.peak_mib for took in runs))
        growth = peaks[-1] / peaks[0] - 1
        slow = step.split()[1] not in BINARY and min(rates) < BAR_ROWS_PER_CPU_S
        large = growth > BAR_MEMORY_GROWTH
        reached &= not (slow or large)
        said = [f"{rate:,.0f}" for rate in rates] + [f"{peak:.0f}" for peak in peaks]
        missed = " MISSED:" + " rate" * slow + " memory" * large if slow or large else ""
        print("  ".join([f"{step:18}", *said, f"{growth:+.0%}{missed}"]), flush=True)
    return reached


def main() -> int:
    """Print all figures; 1 if a bar was missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path.cwd())
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--rows", type=int, nargs="+", default=[2_000_000, 8_000_000])
    parser.add_argument("--only", nargs="+", choices=STEPS, default=STEPS)
    parser.add_argument("--fresh", action="store_true", help="each write is of a new object")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(asdict(measured(Job(**json.loads(options.child))))))
        return 0
    counts = [f"{count / 1e6:g} M" for count in options.rows]
    print("step; rows per CPU-second at", ", ".join(counts), "rows; MiB; growth")
    return 0 if table(options.folder, options) else 1


if __name__ == "__main__":
    sys.exit(main())
