"""Figures of fio's JSON output (`--output-format=json`), all jobs together."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from kvtrace.errors import TraceError
from replay.trials.figures import BYTES_PER_S, COUNT, NS, PER_S, TITLES, Figure

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_PERCENTILES = {
    "p50": "50.000000",
    "p90": "90.000000",
    "p99": "99.000000",
    "p999": "99.900000",
    "p9999": "99.990000",
}
_TIER = "nvme"
"""What fio writes to is compared with tier nvme."""


def recognises(path: Path) -> bool:
    """Return whether a file is fio's JSON, or looks as if it were."""
    if path.suffix != ".json" or not path.is_file():
        return False
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and "fio version" in found


def figures(path: Path) -> tuple[Figure, ...]:
    """Return the figures that fio reports. Raises TraceError for a file without jobs.

    Percentiles of several jobs can't be joined: of more than one they are left out; fio joins them
    itself with `group_reporting`.
    """
    found = json.loads(path.read_bytes())
    jobs = [job for job in found.get("jobs", []) if isinstance(job, dict)]
    if not jobs:
        raise TraceError("no jobs in fio's output", where=path, hint="run fio again")
    try:
        return tuple(_all(jobs))
    except (KeyError, TypeError) as error:
        raise TraceError(
            f"fio's output lacks {error}", where=path, accepted="fio --output-format=json"
        ) from error


def _all(jobs: list[dict[str, Any]]) -> Iterator[Figure]:
    rates = {op: sum(job[op]["bw_bytes"] for job in jobs) for op in ("read", "write")}
    yield Figure("throughput", sum(rates.values()), BYTES_PER_S, True)
    ops = sum(job[op]["iops"] for job in jobs for op in rates)
    yield Figure("ops", ops, PER_S, True)
    yield Figure("failed ops", sum(job.get("total_err", 0) for job in jobs), COUNT, False)
    for op, rate in rates.items():
        if rate:
            yield Figure(f"{_TIER} {op} rate", rate, BYTES_PER_S, True)
            if len(jobs) == 1:
                yield from _percentiles(op, jobs[0][op])


def _percentiles(op: str, side: dict[str, Any]) -> Iterator[Figure]:
    """Yield whole latencies where fio was asked for them (lat_percentiles), else completion's."""
    known = side["lat_ns"].get("percentile") or side["clat_ns"].get("percentile") or {}
    for name, key in _PERCENTILES.items():
        if key in known:
            yield Figure(f"{_TIER} {op} {TITLES[name]}", known[key], NS, False)
