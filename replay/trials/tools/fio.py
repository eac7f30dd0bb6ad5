"""fio's JSON output, all jobs together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from replay.summaries import TITLES
from replay.trials.figures import BYTES_PER_S, COUNT, NS, PER_S, Figure

if TYPE_CHECKING:
    from collections.abc import Iterator

FORM = "fio --output-format=json"
CAUTION = "fio's latencies begin at submission: compare them with service times only"
_PERCENTILES = {
    "p50": "50.000000",
    "p90": "90.000000",
    "p99": "99.000000",
    "p999": "99.900000",
    "p9999": "99.990000",
}
_TIER = "nvme"
"""What fio writes to is compared with tier nvme."""


def recognises(found: dict[str, Any]) -> bool:
    """Return whether it is fio's."""
    return "fio version" in found


def figures(found: dict[str, Any]) -> tuple[Figure, ...]:
    """Return the figures of all jobs together; none without jobs.

    Percentiles of several jobs can't be joined: of more than one they are left out; fio joins them
    itself with `group_reporting`.
    """
    jobs = [job for job in found["jobs"] if isinstance(job, dict)]
    return tuple(_all(jobs)) if jobs else ()


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
