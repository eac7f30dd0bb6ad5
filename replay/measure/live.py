"""Live figures of a run, about once a second, for the progress bar and for metrics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from kvtrace.units import S_NS
from replay.measure.histogram import COARSE_BITS, Histogram

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from kvtrace.trace.schema import Tier
    from replay.measure.recorder import Recorder
    from replay.ops.contract import Control

PERIOD_NS = S_NS


@dataclass(frozen=True, slots=True)
class LiveLane:
    """One tier. Counts are since the clock's zero; rates and times are of the last second or so.

    Times are None while nothing has completed. `ops`: reads and writes that succeeded, of which
    `service` has the service times: both are of the ops already taken out.
    """

    tier: Tier
    ops: int
    bytes: int
    errors: int
    ops_per_s: float
    bytes_per_s: float
    service_p50_ns: int | None
    service_p99_ns: int | None
    lateness_max_ns: int | None
    in_flight: float
    service: Histogram


@dataclass(frozen=True, slots=True)
class Live:
    """All executed tiers at `elapsed_s` since the clock's zero."""

    elapsed_s: float
    lanes: tuple[LiveLane, ...]


class LiveView:
    """Looks at a running loop; `look` gives a view when the last one is old enough."""

    def __init__(self, tiers: Sequence[Tier], recorder: Recorder, control: Control) -> None:
        self._tiers, self._recorder, self._control = tuple(tiers), recorder, control
        self._threads = len(control.completed_ops) // len(self._tiers)
        self._last_ns = 0
        self._before = self._counts()

    def _counts(self) -> NDArray[np.int64]:
        """Return completed ops and bytes per tier, from the loop itself."""
        counts = np.stack((self._control.completed_ops, self._control.completed_bytes))
        shaped = counts.astype(np.int64).reshape(2, len(self._tiers), self._threads)
        return np.asarray(shaped.sum(axis=2))

    def look(self, now_ns: int, *, last: bool = False) -> Live | None:
        """Return a view at `now_ns`, on the loop's clock, at most one a second; `last`: anyway."""
        start_ns = int(self._control.start_ns[0])
        since_ns = now_ns - (self._last_ns or start_ns)
        if not start_ns or since_ns <= 0 or (since_ns < PERIOD_NS and not last):
            return None
        counts = self._counts()
        rates = np.asarray((counts - self._before) * (S_NS / since_ns), np.float64)
        self._last_ns, self._before = now_ns, counts
        elapsed_ns = now_ns - start_ns
        lanes = [self._lane(lane, rates[:, lane], elapsed_ns) for lane in range(len(self._tiers))]
        return Live(elapsed_ns / S_NS, tuple(lanes))

    def _lane(
        self,
        lane: int,
        rates: NDArray[np.float64],
        elapsed_ns: int,
    ) -> LiveLane:
        slices = self._recorder.lanes[lane].slices
        recent = slices.recent(elapsed_ns - PERIOD_NS, elapsed_ns)
        known = recent.service.count > 0
        return LiveLane(
            tier=self._tiers[lane],
            ops=slices.ops,
            bytes=slices.bytes,
            errors=slices.errors,
            ops_per_s=float(rates[0]),
            bytes_per_s=float(rates[1]),
            service_p50_ns=recent.service.value_at(5000) if known else None,
            service_p99_ns=recent.service.value_at(9900) if known else None,
            lateness_max_ns=recent.lateness_max_ns if known else None,
            in_flight=recent.in_flight,
            service=Histogram.from_counts(slices.service_counts(), COARSE_BITS),
        )
