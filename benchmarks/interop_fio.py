"""A recorded trace at maximum speed: `kvtrace replay` and fio on the export, side by side.

    python benchmarks/interop_fio.py --folder /var/tmp

Both do the same reads and writes at the same offsets of one file, 32 in flight, in turn; who comes
first changes from repeat to repeat. fio runs the job as it was exported (buffers filled anew for
each write, 4 KiB pages), and with buffers that are filled once and lie on huge pages, if there are
any: its strongest form, which writes the same bytes again and again. The ratio is that of medians.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.common import GIB, MIB, print_table
from benchmarks.scratch import reserved_pages
from kvtrace.formats.common import exporting as exporters
from kvtrace.formats.common.exporting import ExportOptions
from kvtrace.trace.reader import open_trace
from kvtrace.trace.schema import Tier
from replay import ReplayOptions, TargetSpec
from replay import run as replay_run
from replay.options import Timing
from tests.support.making import make

if TYPE_CHECKING:
    from collections.abc import Callable

DEPTH = 32
SIZE_BYTES = 768 * MIB


def exported(folder: Path) -> tuple[Path, Path, int]:
    """Record a trace and export it; return the trace, the job, and the bytes that fio moves."""
    trace, log = folder / "t.parquet", folder / "t.log"
    make(trace)
    options = ExportOptions(
        filename=str(folder / "kv.dat"), size_bytes=SIZE_BYTES, no_stall=True, queue_depth=DEPTH
    )
    with open_trace(trace) as opened:
        made = exporters.export(opened, log, "fio", options)
    lines = (line.split() for line in log.read_text().splitlines())
    moved = sum(int(line[4]) for line in lines if len(line) == 5)
    print(
        f"{made.rows:,} reads and writes, {moved / GIB:.2f} GiB, file of {SIZE_BYTES / MIB:.0f} MiB"
    )
    return trace, folder / "t.fio", moved


def replayed(trace: Path, file: Path) -> float:
    """Replay, and return GB/s."""
    options = ReplayOptions(
        mode=Timing.MAX, queue_depth=DEPTH, tiers=(Tier.NVME,), settle_ns=0, min_window_ns=0
    )
    spec = TargetSpec("file", (Tier.NVME,), file, SIZE_BYTES)
    rate = replay_run(trace, [spec], options).bytes_per_s
    assert rate is not None
    return rate / 1e9


def run_fio(job: Path, moved_bytes: int, *more: str) -> float:
    """Let fio run the job, with further lines in it, and return GB/s."""
    changed = job.with_name("run.fio")
    changed.write_text(job.read_text() + "".join(f"{line}\n" for line in more))
    command = ["fio", "--output-format=json", str(changed)]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = json.loads(text[text.index("{") :])["jobs"][0]
    assert found["error"] == 0
    sides = [found[side] for side in ("read", "write")]
    assert sum(side["io_bytes"] for side in sides) == moved_bytes
    return moved_bytes / found["job_runtime"] / 1e6


def interleaved(runs: dict[str, Callable[[], float]], repeats: int) -> dict[str, list[float]]:
    """Return each contender's GB/s; who comes first changes from repeat to repeat."""
    names = list(runs)
    rates: dict[str, list[float]] = {name: [] for name in names}
    for repeat in range(repeats):
        for position in range(len(names)):
            name = names[(repeat + position) % len(names)]
            rates[name].append(runs[name]())
    return rates


def main() -> int:
    """Run it and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path.cwd())
    parser.add_argument("--repeats", type=int, default=7, choices=range(1, 100))
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="kvtrace-bench-", dir=options.folder) as name,
        reserved_pages() as memory,
    ):
        folder = Path(name)
        trace, job, moved = exported(folder)
        runs: dict[str, Callable[[], float]] = {
            "kvtrace replay": lambda: replayed(trace, folder / "kv.dat"),
            "fio, as exported": lambda: run_fio(job, moved),
            f"fio, buffers filled once, mem={memory}": lambda: run_fio(
                job, moved, "refill_buffers=0", f"mem={memory}"
            ),
        }
        runs["kvtrace replay"]()  # makes the file and writes all of it once
        rates = interleaved(runs, options.repeats)
    ours = statistics.median(rates["kvtrace replay"])
    rows = []
    for name, values in rates.items():
        middle = statistics.median(values)
        cells = [f"{middle:.3f}", f"{min(values):.3f} to {max(values):.3f}", f"{ours / middle:.3f}"]
        rows.append([name, *cells])
    print_table(("at maximum speed", "GB/s", "range", "replay ÷ this"), rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
