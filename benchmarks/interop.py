"""What exporting and importing cost: rows per CPU-second, and memory at two lengths.

Each figure is of a process of its own, so that CPU time and peak memory are its own. The trace is
of one tier whose objects are written, read twice and deleted, 50,000 of them there at a time.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.common import print_table
from kvtrace import exporters, importers
from kvtrace.exporters import ExportOptions
from kvtrace.header import Header
from kvtrace.reader import open_trace
from kvtrace.schema import Op, Phase, Tier
from kvtrace.writer import TraceWriter

BAR_ROWS_PER_CPU_S = 500_000
BAR_MEMORY_GROWTH = 0.20
LIVE = 50_000
BATCH = 1 << 18
TEXT = ("warp", "sai3", "perfetto", "cachebench", "elbencho")
OUT = {
    "warp": "t.csv.zst",
    "sai3": "t.tsv.zst",
    "oracle": "t.oracleGeneral",
    "lmcache": "t.lct",
    "mooncake": "t.jsonl",
    "perfetto": "t.json",
}
OPTIONS = {"warp": {"tiers": tuple(Tier)}, "sai3": {"tiers": tuple(Tier)}}


def make_trace(path: Path, rows: int) -> None:
    """Write a trace: of requests of 80 rows."""
    names = ("request", "step", "rank", "block")
    layout = {"name": "bench", "block_tokens": 512}
    with TraceWriter(path, Header(layout=layout), names) as writer:
        for begin in range(0, rows, BATCH):
            writer.append(columns(np.arange(begin, min(rows, begin + BATCH))))


def columns(row: np.ndarray) -> dict[str, np.ndarray]:
    """Return rows of the trace: a request reads 40 objects, writes 20 and deletes 20."""
    request, within = row // 80, row % 80
    kind, number = within // 20, request * 20 + within % 20
    behind = np.array([20, LIVE // 2, 0, LIVE])[kind]
    old = number >= behind
    key = np.where(old, number - behind, 0)
    op = np.where(old, np.array([Op.READ, Op.READ, Op.WRITE, Op.DELETE])[kind], Op.LOOKUP)
    phase = np.array([Phase.DECODE, Phase.PREFILL, Phase.EVICT, Phase.DECODE], np.uint8)
    return {
        "timestamp": request * 987_654,
        "op": op.astype(np.uint8),
        "size": np.where(op == Op.LOOKUP, 0, 1 << 20).astype(np.uint64),
        "tier": np.full(len(row), Tier.NVME, np.uint8),
        "key": key.astype(np.uint64),
        "phase": phase[op],
        "request": request.astype(np.uint64),
        "step": np.where(op == Op.WRITE, 2, 1).astype(np.uint16),
        "rank": (number % 8).astype(np.uint16),
        "block": key.astype(np.uint64),
    }


def write_cachebench(path: Path, rows: int) -> None:
    """Write a trace of CacheBench with as many rows."""
    import polars as pl

    with path.open("wb") as file:
        file.write(b"op_time,key,key_size,op,op_count,size,cache_hits,ttl\n")
        for begin in range(0, rows, BATCH):
            made = columns(np.arange(begin, min(rows, begin + BATCH)))
            pl.DataFrame(
                {
                    "t": made["timestamp"] // 10**9,
                    "key": made["key"] + 10**12,
                    "key_size": 16,
                    "op": pl.Series(["GET", "SET", "DELETE", "GET"]).gather(made["op"]),
                    "op_count": 1,
                    "size": made["size"],
                    "hits": 1,
                    "ttl": 0,
                }
            ).write_csv(file, include_header=False)


def write_elbencho(path: Path, rows: int) -> None:
    """Write an ops log of elbencho with as many ops, two lines each."""
    import polars as pl

    word = pl.Series(["S3GetObject", "S3PutObject", "S3DeleteObject", "S3HeadObject"])
    with path.open("wb") as file:
        for begin in range(0, rows, BATCH):
            made = columns(np.arange(begin, min(rows, begin + BATCH)))
            stamp = pl.Series(made["timestamp"] // 10**6).cast(pl.Datetime("ms"))
            frame = pl.DataFrame(
                {
                    "date": stamp.dt.strftime("%Y-%m-%dT%H:%M:%S%.3f+0000"),
                    "op": word.gather(made["op"]),
                    "name": made["key"],
                    "size": made["size"],
                }
            )
            lines = [
                pl.format(
                    '{{ "date": "{}", "worker_rank": 0, "op_name": "{}", "entry_name": "b/{}", '
                    '"offset": 0, "length": {}, "is_finished": ' + end + ', "is_error": false }}',
                    "date", "op", "name", "size",
                )
                for end in ("false", "true")
            ]  # fmt: skip
            both = frame.select(pl.concat_list(lines).alias("line")).explode("line")
            both.write_csv(file, include_header=False, quote_style="never")


WRITERS = {"cachebench": ("t.csv", write_cachebench), "elbencho": ("t.log", write_elbencho)}


def exported(name: str, folder: Path, trace: Path) -> int:
    """Export once; return the rows that were read."""
    with open_trace(trace) as opened:
        exporters.export(
            opened, folder / OUT[name], name, ExportOptions(force=True, **OPTIONS.get(name, {}))
        )
        return opened.rows


def measured(job: dict[str, Any]) -> dict[str, float]:
    """Do a job in this process; return rows, CPU seconds and peak memory."""
    path, name = Path(job["path"]), job["name"]
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        cpu = time.process_time()
        if job["way"] == "export":
            rows = exported(name, Path(folder), path)
        else:
            made = importers.convert([path], Path(folder) / "t.parquet", format_name=name)
            rows = made.header.totals.rows
        return {
            "rows": rows,
            "cpu_s": time.process_time() - cpu,
            "rss_mib": peak_mib(),
        }


def peak_mib() -> float:
    """Return this process's peak memory; getrusage's would be the parent's, if that was larger."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def in_child(job: dict[str, Any]) -> dict[str, float]:
    """Return `measured` of a fresh process."""
    command = [sys.executable, __file__, "--child", json.dumps(job)]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    return dict(json.loads(ended.stdout))


def inputs(folder: Path, rows: int, names: list[str]) -> dict[str, Path]:
    """Return what there is to import, made by the exporters or as the tools write it."""
    trace, found = folder / "t.parquet", {}
    for name in ("warp", "oracle", "lmcache"):
        if f"import {name}" in names:
            exported(name, folder, trace)
            found[name] = folder / OUT[name]
    for name, (file, write) in WRITERS.items():
        if f"import {name}" in names:
            write(folder / file, rows)
            found[name] = folder / file
    return found


def jobs(folder: Path, rows: int, names: list[str]) -> list[dict[str, Any]]:
    """Return the jobs of one length."""
    make_trace(folder / "t.parquet", rows)
    made = [
        {"way": "export", "name": name, "path": str(folder / "t.parquet")}
        for name in OUT
        if f"export {name}" in names
    ]
    for name, path in inputs(folder, rows, names).items():
        made.append({"way": "import", "name": name, "path": str(path)})
    return made


def table(rows: list[int], repeats: int, names: list[str]) -> None:
    """Print what each format costs."""
    found: dict[str, list[list[dict[str, float]]]] = {}
    for count in rows:
        with tempfile.TemporaryDirectory() as folder:
            for job in jobs(Path(folder), count, names):
                in_child(job)  # compiles, and warms the file cache
                runs = [in_child(job) for _ in range(repeats)]
                found.setdefault(f"{job['way']} {job['name']}", []).append(runs)
    lines = []
    for name, lengths in found.items():
        rates = [statistics.median(run["rows"] / run["cpu_s"] for run in runs) for runs in lengths]
        peaks = [statistics.median(run["rss_mib"] for run in runs) for runs in lengths]
        text = name.split()[1] in TEXT
        reached = "reached" if min(rates) >= BAR_ROWS_PER_CPU_S else "MISSED"
        growth = peaks[-1] / peaks[0] - 1
        kept = "reached" if growth <= BAR_MEMORY_GROWTH else "MISSED"
        rate = [f"{rate:,.0f}" for rate in rates]
        lines.append([name, *rate, reached if text else "-",
                      *(f"{peak:.0f}" for peak in peaks), f"{growth:+.0%} {kept}"])  # fmt: skip
    counts = [f"{count / 1e6:g} M" for count in rows]
    head = ["format", *(f"rows/CPU s, {c}" for c in counts), "bar", *(f"MiB, {c}" for c in counts)]
    print_table([*head, "growth"], lines)
    print(f"bars: text formats {BAR_ROWS_PER_CPU_S:,} rows per CPU-second; memory "
          f"+{BAR_MEMORY_GROWTH:.0%} from the first to the last length")  # fmt: skip


def main() -> None:
    """Print all figures."""
    every = [f"export {name}" for name in OUT]
    every += [f"import {name}" for name in ("warp", "oracle", "lmcache", *WRITERS)]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--rows", type=int, nargs="+", default=[500_000, 4_000_000])
    parser.add_argument("--only", nargs="+", default=every, help=", ".join(every))
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(measured(json.loads(arguments.child))))
        return
    table(arguments.rows, arguments.repeats, arguments.only)


if __name__ == "__main__":
    main()
