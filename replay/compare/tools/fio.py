"""fio's JSON output, all jobs together."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from replay.compare.figures import BYTES_PER_S, COUNT, NS, PER_S, Figure
from replay.compare.setup import Setup, io_class
from replay.measure.summaries import TITLES, has_few

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
_ENGINES = {"io_uring": "uring"}
"""fio's names of engines that are the same as ours."""
_ONE_AT_A_TIME = ("psync", "sync", "vsync", "pvsync", "pvsync2", "mmap")
"""Engines whose jobs have one I/O in flight, whatever iodepth says. Source: fio's HOWTO."""
_TIER = "nvme"
"""fio's target counts as tier nvme."""


def recognises(fields: dict[str, Any]) -> bool:
    """Return whether it is fio's."""
    return "fio version" in fields


def figures(fields: dict[str, Any]) -> tuple[Figure, ...]:
    """Return the figures of all jobs together; none without jobs.

    Percentiles of several jobs can't be joined: of more than one they are left out; fio joins them
    itself with `group_reporting`.
    """
    jobs = [job for job in fields["jobs"] if isinstance(job, dict)]
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
            total = side.get("total_ios")
            few = isinstance(total, int) and has_few(total, name)
            yield Figure(f"{_TIER} {op} {TITLES[name]}", known[key], NS, False, few)


def setup(fields: dict[str, Any]) -> Setup:
    """Return what the options of its jobs say; of jobs that differ, and of ranges, nothing."""
    shared = _options(fields.get("global options"))
    jobs = [shared | _options(job.get("job options")) for job in _jobs(fields)]
    engines = {job.get("ioengine", "psync") for job in jobs}
    sizes = {_size(job.get("bs", "4k")) for job in jobs if not job.get("read_iolog")}
    return Setup(
        mode="open" if any(map(_timed, jobs)) else "max" if jobs else None,
        depth=_depth(jobs),
        io_class_bytes=sizes.pop() if len(sizes) == 1 else None,
        engine=_ENGINES.get(engine := engines.pop(), engine) if len(engines) == 1 else None,
    )


def _jobs(fields: dict[str, Any]) -> list[dict[str, Any]]:
    jobs = fields.get("jobs")
    return [job for job in jobs if isinstance(job, dict)] if isinstance(jobs, list) else []


def _options(stated: Any) -> dict[str, str]:
    return {name: str(value) for name, value in stated.items()} if isinstance(stated, dict) else {}


def _timed(job: dict[str, str]) -> bool:
    """Return whether a job keeps to a log's times, or to a rate."""
    logged = "read_iolog" in job and job.get("replay_no_stall", "0") == "0"
    return logged or any(name.startswith("rate") for name in job)


def _depth(jobs: list[dict[str, str]]) -> int | None:
    """Return the I/Os in flight of all jobs; one job may stand for its group's clones."""
    depths = [1 if job.get("ioengine", "psync") in _ONE_AT_A_TIME else _number(job.get("iodepth"))
              for job in jobs]  # fmt: skip
    clones = _number(jobs[0].get("numjobs")) if len(jobs) == 1 else 1
    if not jobs or clones is None or None in depths:
        return None
    return clones * sum(depth for depth in depths if depth is not None)


def _number(text: str | None) -> int | None:
    """Return an option's number, by default 1; None of what isn't one."""
    if text is None:
        return 1
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else None


def _size(text: str) -> int | None:
    """Return the class of a block size as fio writes it (k is 1,024); None of several sizes."""
    match = re.fullmatch(r"(\d{1,12})([kmg]?)(?:i?b)?", text.strip().lower())
    if match is None or not int(match[1]):
        return None
    return io_class(int(match[1]) << {"": 0, "k": 10, "m": 20, "g": 30}[match[2]])
