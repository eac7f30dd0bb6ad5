"""A view of a run that is under way."""

from __future__ import annotations

import numpy as np

from kvtrace.trace.schema import Tier
from kvtrace.units import MS_NS, S_NS
from replay.measure.histogram import COARSE_BITS, Histogram
from replay.measure.live import Live, LiveLane


def view(**changed: object) -> Live:
    """Two tiers at 2 s."""
    fields: dict[str, object] = {
        "tier": Tier.NVME, "ops": 100, "bytes": 5 * 10**9, "errors": 2, "ops_per_s": 50.0,
        "bytes_per_s": 2.5e9, "service_p50_ns": MS_NS, "service_p99_ns": 4 * MS_NS,
        "lateness_max_ns": 20_000, "in_flight": 3.5,
        "service": Histogram.of(np.array([900, 3 * MS_NS, 9 * S_NS]), COARSE_BITS),
    }  # fmt: skip
    first = LiveLane(**(fields | changed))  # type: ignore[arg-type]
    nothing = {"service_p50_ns": None, "service_p99_ns": None, "lateness_max_ns": None}
    other = LiveLane(**(fields | {"tier": Tier.CPU, "bytes_per_s": 5e8} | nothing))  # type: ignore[arg-type]
    return Live(2.0, (other, first))
