"""Counters of an engine per lane."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(slots=True)
class LaneCounters:
    """What an engine counted on one lane.

    `in_flight_max`, `in_flight_ns`: most I/Os at once, and their times from submit to completion,
    summed. `payload_stalls`: writes that had to wait for `filled_bytes`. `enter_calls`: system
    calls of an io_uring engine, to submit or to wait. `timed_submits`: how many of those that
    submit were timed, and `timed_submit_ns` how long these took. `checked_bytes`: verified,
    `body_bytes` of them byte by byte in `body_reads` reads, the others by stamps. `io_counts`:
    latencies of single I/Os, [size class, bucket of `histogram.COARSE_BITS`]; None if the engine
    doesn't keep them.
    """

    retries: int = 0
    short_transfers: int = 0
    bad_sectors: int = 0
    in_flight_max: int = 0
    in_flight_ns: int = 0
    planner_stalls: int = 0
    payload_stalls: int = 0
    enter_calls: int = 0
    timed_submits: int = 0
    timed_submit_ns: int = 0
    checked_bytes: int = 0
    body_bytes: int = 0
    body_reads: int = 0
    io_counts: NDArray[np.int64] | None = None
