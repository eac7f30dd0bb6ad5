"""Exports and imports of text formats: rows per CPU-second, and memory at two lengths of a trace.

    python benchmarks/interop_text.py --folder /var/tmp
    python benchmarks/interop_text.py --folder /var/tmp --rows 20000000 50000000 --formats fio

Each step runs in a process of its own and says what it took: CPU seconds of all its threads, and
the most memory that was resident. Bars: 500,000 rows per CPU-second both ways, and memory of the
long trace within 1.2 of the short one's. Both traces have the same number of objects.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.common import MIB, print_table
from kvtrace import exporters, importers
from kvtrace.exporters import ExportOptions
from kvtrace.header import Header
from kvtrace.reader import open_trace
from kvtrace.schema import Op, Phase, Tier
from kvtrace.writer import TraceWriter

if TYPE_CHECKING:
    from collections.abc import Iterator

RATE_BAR = 500_000
MEMORY_BAR = 1.2
OBJECTS = 100_000
CHUNK_ROWS = 1 << 18


@dataclass(frozen=True, slots=True)
class Format:
    """A format of text: how it is written, and how the file is named."""

    exporter: str
    suffix: str
    options: ExportOptions


FORMATS = {
    "fio": Format("fio", ".log", ExportOptions(device="/dev/none", fio_version="3.34")),
    "mlperf-csv": Format("mlperf-csv", ".csv", ExportOptions(with_deletes=True)),
}


def make_trace(path: Path, rows: int) -> None:
    """Write a trace of nvme: objects written, read twice and deleted, in turn."""
    with TraceWriter(path, Header()) as writer:
        for begin in range(0, rows, CHUNK_ROWS):
            row = np.arange(begin, min(begin + CHUNK_ROWS, rows))
            turn, left = np.divmod(row, 4 * OBJECTS)
            step, index = np.divmod(left, OBJECTS)
            kinds = np.array([Op.WRITE, Op.READ, Op.READ, Op.DELETE], np.uint8)
            size = (64 << 10) * (1 + index % 7)
            writer.append(
                {
                    "timestamp": row * 1_500,
                    "op": kinds[step],
                    "size": size.astype(np.uint64),
                    "tier": np.full(len(row), Tier.NVME, np.uint8),
                    "key": ((turn % 4) * OBJECTS + index).astype(np.uint64),
                    "phase": np.full(len(row), Phase.DECODE, np.uint8),
                }
            )


def step(kind: str, name: str, source: Path, out: Path) -> None:
    """Do one export or import, and print what it took as JSON."""
    form = FORMATS[name]
    import polars  # noqa: F401  # a fifth of a second that isn't the step's

    began_s = time.process_time()
    if kind == "export":
        with open_trace(source) as trace:
            rows = exporters.export(trace, out, form.exporter, form.options).rows
    else:
        rows = importers.convert([source], out, format_name=name).header.totals.rows
    cpu_s = time.process_time() - began_s
    peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"rows": rows, "cpu_s": cpu_s, "peak_bytes": peak_bytes}))


@dataclass(frozen=True, slots=True)
class Took:
    """What a step took."""

    rows: int
    cpu_s: float
    peak_bytes: int

    @property
    def rate(self) -> float:
        """Rows per CPU-second."""
        return self.rows / self.cpu_s


def measured(kind: str, name: str, source: Path, out: Path) -> Took:
    """Run a step in a process of its own."""
    command = [sys.executable, __file__, "--step", kind, name, str(source), str(out)]
    ended = subprocess.run(command, check=True, capture_output=True, text=True)
    return Took(**json.loads(ended.stdout))


def run(folder: Path, names: list[str], lengths: list[int]) -> list[str]:
    """Measure all formats at all lengths; print a table, and return what missed a bar."""
    table, missed = [], []
    for name in names:
        short: dict[str, int] = {}
        # The first run, of another trace, compiles.
        for rows in (1000, *lengths):
            for kind, took in round_trip(folder, name, rows):
                if rows == 1000:
                    continue
                growth = took.peak_bytes / short.setdefault(kind, took.peak_bytes)
                cells = [f"{name} {kind}", f"{took.rows:,}", f"{took.rate:,.0f}"]
                table.append([*cells, f"{took.peak_bytes / MIB:,.0f}", f"{growth:.2f}"])
                if took.rate < RATE_BAR:
                    missed.append(f"{name} {kind}: {took.rate:,.0f} rows per CPU-second")
                if growth > MEMORY_BAR:
                    missed.append(f"{name} {kind}: {growth:.2f} of the short one's memory")
    print_table(("step", "rows", "rows per CPU-s", "MiB", "÷ short"), table)
    return missed


def round_trip(folder: Path, name: str, rows: int) -> Iterator[tuple[str, Took]]:
    """Yield what the export of a trace of that length took, and the import of what it made."""
    with tempfile.TemporaryDirectory(dir=folder) as made:
        trace, back = Path(made) / "t.parquet", Path(made) / "back.parquet"
        text = Path(made) / f"t{FORMATS[name].suffix}"
        make_trace(trace, rows)
        yield "export", measured("export", name, trace, text)
        yield "import", measured("import", name, text, back)


def main() -> int:
    """Run it; 1 if a bar was missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path.cwd())
    parser.add_argument("--rows", type=int, nargs="+", default=[5_000_000, 20_000_000])
    parser.add_argument("--formats", nargs="+", choices=list(FORMATS), default=list(FORMATS))
    parser.add_argument("--step", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        kind, name, source, out = options.step
        step(kind, name, Path(source), Path(out))
        return 0
    with tempfile.TemporaryDirectory(prefix="kvtrace-bench-", dir=options.folder) as folder:
        missed = run(Path(folder), options.formats, options.rows)
    for text in missed:
        print(f"missed: {text}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
