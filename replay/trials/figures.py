"""The figures of a result that can be compared with another's, whatever tool it comes from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from replay.summaries import TITLES, merged, percentile

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from replay.document import GroupDocument, ResultDocument
    from replay.summaries import Percentiles

BYTES_PER_S, PER_S, NS, RATIO, COUNT = "bytes/s", "per s", "ns", "ratio", "count"


@dataclass(frozen=True, slots=True)
class Figure:
    """One number with its unit. `higher_is_better` None: neither is."""

    name: str
    value: float
    unit: str
    higher_is_better: bool | None


def of_result(document: ResultDocument) -> tuple[Figure, ...]:
    """Return the figures of a result: totals, then per tier its rate and latencies."""
    return tuple(_all(document))


def _all(document: ResultDocument) -> Iterator[Figure]:
    yield from _rate("throughput", document.throughput_bytes_per_s, BYTES_PER_S)
    yield from _rate("ops", document.ops_per_s, PER_S)
    yield from _rate("KV tokens", document.kv_tokens_per_s, PER_S)
    yield Figure("failed ops", document.errors, COUNT, False)
    for lane in document.lanes:
        if len(document.lanes) > 1:
            yield from _rate(f"{lane.tier} throughput", lane.throughput_bytes_per_s, BYTES_PER_S)
        groups = document.groups_of(lane)
        for op in ("read", "write"):
            mine = [group for group in groups if group.op == op]
            rate = lane.read_bytes_per_s if op == "read" else lane.write_bytes_per_s
            if rate or any(group.bytes for group in mine):
                yield from _rate(f"{lane.tier} {op} rate", rate, BYTES_PER_S)
            yield from latencies(f"{lane.tier} {op}", mine)
        yield from percentiles(f"{lane.tier} response", lane.response_ns)
        if lane.lateness_ns is not None and lane.lateness_ns.host_lateness_ns is not None:
            late = lane.lateness_ns.host_lateness_ns.p99
            yield Figure(f"{lane.tier} host lateness P99", late, NS, False)
    if document.requests is not None:
        yield from percentiles("request waits", document.requests.waited_ns)
    if document.tool is not None and document.tool.cpu_s_per_gb is not None:
        yield Figure("tool's CPU s per GB", document.tool.cpu_s_per_gb, RATIO, False)


def _rate(name: str, value: float | None, unit: str) -> Iterator[Figure]:
    if value is not None:
        yield Figure(name, value, unit, True)


def percentiles(name: str, found: Percentiles | None) -> Iterator[Figure]:
    """Yield the percentiles of a time."""
    if found is None or not found.count:
        return
    for quantile in TITLES:
        yield Figure(f"{name} {TITLES[quantile]}", found[quantile], NS, False)


def latencies(name: str, groups: Sequence[GroupDocument]) -> Iterator[Figure]:
    """Yield the percentiles of the service times of several groups together."""
    together = merged(group.service_distribution_ns for group in groups)
    for quantile in TITLES:
        value = percentile(together, quantile)
        if value is not None:
            yield Figure(f"{name} {TITLES[quantile]}", value, NS, False)
