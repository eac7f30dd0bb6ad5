"""The figures of a result that can be compared with another's, whatever tool it comes from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from replay.measure.summaries import TITLES, has_few, merged, percentile

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from replay.measure.figures import GroupDocument
    from replay.measure.summaries import Distribution, Percentiles
    from replay.result.document import ResultDocument

BYTES_PER_S, PER_S, NS, RATIO, COUNT = "bytes/s", "per s", "ns", "ratio", "count"


@dataclass(frozen=True, slots=True)
class Figure:
    """One number with its unit. `higher_is_better` None: neither is.

    `few_samples`: of a percentile, whether fewer than 10 samples lie beyond it.
    """

    name: str
    value: float
    unit: str
    higher_is_better: bool | None
    few_samples: bool = False


def rate_name(tier: str, op: str) -> str:
    """Return what the rate of a tier's reads or writes is called."""
    return f"{tier} {op} rate"


def response_name(tier: str, op: str) -> str:
    """Return what the response times of a tier's reads or writes are called."""
    return f"{tier} {op} response"


def time_name(what: str, percentile_name: str) -> str:
    """Return what a percentile of a time is called, such as `p50` of `nvme read`."""
    return f"{what} {TITLES[percentile_name]}"


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
                yield from _rate(rate_name(lane.tier, op), rate, BYTES_PER_S)
            yield from latencies(f"{lane.tier} {op}", mine)
            yield from _responses(response_name(lane.tier, op), mine)
        yield from percentiles(f"{lane.tier} response", lane.response_ns)
        if lane.lateness_ns is not None and lane.lateness_ns.host_lateness_ns is not None:
            late = lane.lateness_ns.host_lateness_ns
            few = "p99" in late.few_samples
            yield Figure(f"{lane.tier} host lateness P99", late.p99, NS, False, few)
    if document.requests is not None:
        yield from percentiles("request waits", document.requests.waited_ns)
    if document.tool is not None and document.tool.cpu_s_per_gb is not None:
        yield Figure("tool's CPU s per GB", document.tool.cpu_s_per_gb, RATIO, False)


def _rate(name: str, value: float | None, unit: str) -> Iterator[Figure]:
    if value is not None:
        yield Figure(name, value, unit, True)


def percentiles(name: str, times: Percentiles | None) -> Iterator[Figure]:
    """Yield the percentiles of a time."""
    if times is None or not times.count:
        return
    for quantile in TITLES:
        few = quantile in times.few_samples
        yield Figure(time_name(name, quantile), times[quantile], NS, False, few)


def latencies(name: str, groups: Sequence[GroupDocument]) -> Iterator[Figure]:
    """Yield the percentiles of the service times of several groups together."""
    return _joined(name, [group.service_distribution_ns for group in groups], TITLES)


def _responses(name: str, groups: Sequence[GroupDocument]) -> Iterator[Figure]:
    """Yield P50 and P99 of response times, of results that have them per op."""
    return _joined(name, [group.response_distribution_ns for group in groups], ("p50", "p99"))


def _joined(
    name: str, parts: Sequence[Distribution | None], quantiles: Iterable[str]
) -> Iterator[Figure]:
    together = merged(parts)
    count = sum(together.count)
    for quantile in quantiles:
        value = percentile(together, quantile)
        if value is not None:
            yield Figure(time_name(name, quantile), value, NS, False, has_few(count, quantile))
