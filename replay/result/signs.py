"""Warnings derived from the latency time series: drift, stalls, queueing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from kvtrace.units import MS_NS, S_NS, format_duration_ns
from replay.result.reason import Reason

if TYPE_CHECKING:
    from collections.abc import Iterable

    from replay.measure.figures import LaneDocument, TimeSlices

STILL_NS = 250 * MS_NS
STILL_SERVICES = 10
"""A stall: no completion for this time, and for this number of median service times."""
WAIT_RATIO, WAIT_NS = 2.0, MS_NS
"""Waiting counts where P99 response exceeds P99 service by this factor, and by this time."""
DRIFT_RATIO = 0.10
"""Allowed difference of median service times between the first and the last quarter."""


def warnings(lanes: Iterable[LaneDocument]) -> list[Reason]:
    """Return the warnings of each lane."""
    collected = []
    for lane in lanes:
        collected += [*_drifted(lane), *_still(lane), *_waited(lane)]
    return collected


def longest_still_ns(series: TimeSlices) -> tuple[int, int]:
    """Return (begin, length) of the longest time in which ops were in flight and none completed.

    In whole slices: a standstill is up to two slices longer than what is found.
    """
    completed = np.asarray(series.completed, np.int64)
    in_flight = np.asarray(series.in_flight_mean, np.float64)
    still = (completed == 0) & (in_flight > 0)
    edges = np.flatnonzero(np.diff(np.concatenate(([0], still.astype(np.int8), [0]))))
    if not len(edges):
        return 0, 0
    begins, ends = edges[0::2], edges[1::2]
    longest = int(np.argmax(ends - begins))
    length = int(ends[longest] - begins[longest])
    width_ns = round(series.width_s * S_NS)
    return int(begins[longest]) * width_ns, length * width_ns


def _drifted(lane: LaneDocument) -> list[Reason]:
    if lane.drift_ratio is None or abs(lane.drift_ratio) <= DRIFT_RATIO:
        return []
    return [
        Reason(
            "drift",
            f"tier {lane.tier}: median service time changed by {lane.drift_ratio:+.0%} "
            "from the first quarter to the last",
            "run longer, or raise --settle",
        )
    ]


def _still(lane: LaneDocument) -> list[Reason]:
    begin_ns, length_ns = longest_still_ns(lane.time_slices)
    if length_ns < max(STILL_NS, STILL_SERVICES * lane.service_ns["p50"]):
        return []
    return [
        Reason(
            "standstill",
            f"tier {lane.tier}: nothing completed for {format_duration_ns(length_ns)}, from "
            f"{begin_ns / S_NS:.1f} s on",
            "check the highest percentiles and the heat map; means hide a stall",
        )
    ]


def _waited(lane: LaneDocument) -> list[Reason]:
    if lane.response_ns is None or not lane.service_ns.max:
        return []  # a target that does nothing takes no time
    service_ns = lane.service_ns["p99"]
    if lane.response_ns["p99"] < max(WAIT_RATIO * service_ns, service_ns + WAIT_NS):
        return []
    return [
        Reason(
            "waiting",
            f"tier {lane.tier}: P99 response {format_duration_ns(lane.response_ns['p99'])}, "
            f"P99 service {format_duration_ns(service_ns)}",
            "use response times: service times exclude queueing (coordinated omission)",
        )
    ]
