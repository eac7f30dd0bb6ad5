"""Ops in flight when a trace was recorded: the depth that its engine kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from kvtrace.trace.schema import Op, Tier
from replay.measure.in_flight import FlightCounter

if TYPE_CHECKING:
    from kvtrace.trace.reader import Trace
    from replay.measure.figures import Flight


def recorded_flights(trace: Trace) -> dict[Tier, Flight]:
    """Return mean and most of each tier's reads and writes in flight, by the trace's own times.

    From a tier's first submission to its last completion; {} of a trace without such times.
    """
    if not {"submit", "complete"} <= set(trace.columns):
        return {}
    counters: dict[Tier, FlightCounter] = {}
    for rows in trace.batches(["op", "tier", "submit", "complete"], nulls=True):
        op, tier = np.asarray(rows["op"]), np.asarray(rows["tier"])
        submit, complete = rows["submit"], rows["complete"]
        done = (op == Op.READ) | (op == Op.WRITE)
        done &= ~np.ma.getmaskarray(submit) & ~np.ma.getmaskarray(complete)
        begin, end = np.ma.getdata(submit), np.ma.getdata(complete)
        done &= end >= begin
        for each in Tier:
            own = done & (tier == each)
            if own.any():
                counters.setdefault(each, FlightCounter(None)).add(begin[own], end[own])
    return {tier: counters[tier].flight() for tier in Tier if tier in counters}
