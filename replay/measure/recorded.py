"""Depth and bandwidth that an engine kept when its trace was recorded."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from kvtrace.trace.schema import Op, Tier
from kvtrace.units import S_NS
from replay.measure.figures import RecordedFlight
from replay.measure.in_flight import FlightCounter

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from numpy.typing import NDArray

    from kvtrace.trace.reader import Columns, Trace


@dataclass(slots=True)
class _Counted:
    """Reads and writes of one tier."""

    counter: FlightCounter = field(default_factory=lambda: FlightCounter(None))
    moved_bytes: int = 0

    def flight(self) -> RecordedFlight:
        """Return what they come to."""
        flight, length_ns = self.counter.flight(), self.counter.length_ns
        rate = self.moved_bytes * S_NS / length_ns if length_ns else None
        return RecordedFlight(mean=flight.mean, max=flight.max, bytes_per_s=rate)


def recorded_flights(trace: Trace) -> dict[Tier, RecordedFlight]:
    """Return what each tier's reads and writes kept in flight and moved, by the trace's own times.

    From a tier's first submission to its last completion; {} of a trace without such times.
    """
    if not {"submit", "complete"} <= set(trace.columns):
        return {}
    counted: dict[Tier, _Counted] = {}
    names = ["op", "tier", "size", "submit", "complete"]
    names += ["error"] if "error" in trace.columns else []
    for rows in trace.batches(names, nulls=True):
        for tier, own, moved in _moves(rows):
            each = counted.setdefault(tier, _Counted())
            each.counter.add(
                np.ma.getdata(rows["submit"])[own], np.ma.getdata(rows["complete"])[own]
            )
            each.moved_bytes += moved
    return {tier: counted[tier].flight() for tier in Tier if tier in counted}


def _moves(rows: Columns) -> Iterator[tuple[Tier, NDArray[np.bool_], int]]:
    """Yield each tier with reads or writes that have both times, which those are, and bytes."""
    op, tier = np.asarray(rows["op"]), np.asarray(rows["tier"])
    submit, complete = rows["submit"], rows["complete"]
    done = (op == Op.READ) | (op == Op.WRITE)
    done &= ~np.ma.getmaskarray(submit) & ~np.ma.getmaskarray(complete)
    done &= np.ma.getdata(complete) >= np.ma.getdata(submit)
    good: Any = np.ma.filled(rows["error"], 0) == 0 if "error" in rows else True
    for each in Tier:
        own = done & (tier == each)
        if own.any():
            yield each, own, int(rows["size"][own & good].astype(np.int64).sum())
