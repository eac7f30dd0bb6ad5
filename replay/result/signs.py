"""Warnings derived from the latency time series: drift, stalls, queueing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from kvtrace.units import MS_NS, S_NS, format_duration_ns
from replay.result.reason import Reason

if TYPE_CHECKING:
    from collections.abc import Iterable

    from replay.measure.recorder import LaneMeasure
    from replay.measure.slices import Series

STILL_NS = 250 * MS_NS
STILL_SERVICES = 10
"""A stall: no completion for this time, and for this number of median service times."""
WAIT_RATIO, WAIT_NS = 2.0, MS_NS
"""Waiting counts where P99 response exceeds P99 service by this factor, and by this time."""
DRIFT_RATIO = 0.10
"""Allowed difference of median service times between the first and the last quarter."""


def warnings(lanes: Iterable[LaneMeasure]) -> list[Reason]:
    """Return the warnings of each lane."""
    collected = []
    for lane in lanes:
        collected += [*_drifted(lane), *_still(lane), *_waited(lane)]
    return collected


def longest_still_ns(series: Series) -> tuple[int, int]:
    """Return (begin, length) of the longest time in which ops were in flight and none completed.

    In whole slices: a standstill is up to two slices longer than what is found.
    """
    completed = np.asarray(series.columns["completed"], np.int64)
    in_flight = np.asarray(series.columns["in_flight_mean"], np.float64)
    still = (completed == 0) & (in_flight > 0)
    edges = np.flatnonzero(np.diff(np.concatenate(([0], still.astype(np.int8), [0]))))
    if not len(edges):
        return 0, 0
    begins, ends = edges[0::2], edges[1::2]
    longest = int(np.argmax(ends - begins))
    length = int(ends[longest] - begins[longest])
    return int(begins[longest]) * series.width_ns, length * series.width_ns


def _drifted(lane: LaneMeasure) -> list[Reason]:
    if lane.drift_ratio is None or abs(lane.drift_ratio) <= DRIFT_RATIO:
        return []
    return [
        Reason(
            "drift",
            f"tier {lane.tier.label}: median service time changed by {lane.drift_ratio:+.0%} "
            "from the first quarter to the last",
            "run longer, or raise --settle",
        )
    ]


def _still(lane: LaneMeasure) -> list[Reason]:
    begin_ns, length_ns = longest_still_ns(lane.series)
    if length_ns < max(STILL_NS, STILL_SERVICES * lane.service["p50"]):
        return []
    return [
        Reason(
            "standstill",
            f"tier {lane.tier.label}: nothing completed for {format_duration_ns(length_ns)}, from "
            f"{begin_ns / S_NS:.1f} s on",
            "check the highest percentiles and the heat map; means hide a stall",
        )
    ]


def _waited(lane: LaneMeasure) -> list[Reason]:
    if lane.response is None or not lane.service.max:  # a target that does nothing takes no time
        return []
    service_ns = lane.service["p99"]
    if lane.response["p99"] < max(WAIT_RATIO * service_ns, service_ns + WAIT_NS):
        return []
    return [
        Reason(
            "waiting",
            f"tier {lane.tier.label}: P99 response {format_duration_ns(lane.response['p99'])}, "
            f"P99 service {format_duration_ns(service_ns)}",
            "use response times: service times exclude queueing (coordinated omission)",
        )
    ]
