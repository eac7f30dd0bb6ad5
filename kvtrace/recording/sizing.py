"""The number of users that a node serves: simulations against a service model of its tiers.

Storage takes no virtual time in a simulation. Here each tier serves its ops one after the other, in
order of time, at a given bandwidth and latency; a request's load is over when the last of its reads
is. The largest number of users is wanted at which the P95 of each QoS class stays below its target.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from kvtrace.errors import UsageError
from kvtrace.hierarchy.native import LOAD
from kvtrace.recording.simulation import Simulation
from kvtrace.trace.schema import Op, Qos
from kvtrace.units import MS_NS, S_NS

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from kvtrace.hierarchy.events import BlockEvents
    from kvtrace.hierarchy.spec import TierSpec
    from kvtrace.recording.config import RecordConfig
    from kvtrace.recording.parts import Recording
    from kvtrace.recording.tiers_config import SizingConfig

PERCENTILE = 95


@dataclass(frozen=True, slots=True)
class Trial:
    """What one number of users came to: P95 of the loads of each class in ns (no request: 0)."""

    users: int
    p95_ns: dict[str, float]
    met: bool


class _Server:
    """A tier that serves ops one after the other."""

    def __init__(self, bytes_per_s: float, latency_ns: int) -> None:
        self._ns_per_byte = S_NS / bytes_per_s
        self._latency_ns = latency_ns
        self._free_ns = 0.0

    def serve(self, arrival_ns: NDArray[np.int64], moved: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return when ops that arrive in this order are done."""
        if not len(arrival_ns):
            return np.zeros(0)
        work = np.cumsum(moved * self._ns_per_byte)
        before = np.concatenate(([0.0], work[:-1]))
        free = work + np.maximum(self._free_ns, np.maximum.accumulate(arrival_ns - before))
        self._free_ns = float(free[-1])
        served: NDArray[np.float64] = free + self._latency_ns
        return served


class _Loads:
    """How long each request waited for its reads."""

    def __init__(self) -> None:
        self.wait_ns = np.zeros(1 << 12)
        self.qos = np.zeros(1 << 12, np.uint8)
        self.seen = np.zeros(1 << 12, np.bool_)

    def add(self, request: NDArray[np.int64], qos: NDArray[np.uint8], wait: NDArray[np.float64],
            loads: NDArray[np.bool_]) -> None:  # fmt: skip
        """Note ops of requests; those that are no loads only show that the request was there."""
        most = int(request.max(initial=-1)) + 1
        if most > len(self.seen):
            for name in ("wait_ns", "qos", "seen"):
                kept = getattr(self, name)
                setattr(self, name, np.concatenate((kept, np.zeros(2 * most, kept.dtype))))
        self.qos[request] = qos
        self.seen[request] = True
        np.maximum.at(self.wait_ns, request[loads], wait[loads])

    def p95_ns(self) -> dict[str, float]:
        """Return the P95 of each class."""
        trials = {}
        for word in Qos:
            wait = self.wait_ns[self.seen & (self.qos == word)]
            trials[word.label] = float(np.percentile(wait, PERCENTILE)) if len(wait) else 0.0
        return trials


def measure(recording: Recording, sizing: SizingConfig) -> dict[str, float]:
    """Return the P95 of the loads of each QoS class in ns."""
    servers = [
        (tier, _Server(sizing.of(tier.tier).bandwidth, sizing.of(tier.tier).latency))
        for tier in recording.spec.tiers
    ]
    loads = _Loads()
    for part in Simulation(recording).events():
        for tier, server in servers:
            _serve(part, tier, server, loads)
    return loads.p95_ns()


def _serve(part: BlockEvents, tier: TierSpec, server: _Server, loads: _Loads) -> None:
    """Let a tier serve its part of the events."""
    here = part.tier == tier.tier
    moves = np.isin(part.op[here], (Op.READ, Op.WRITE))
    arrival_ns = part.timestamp_ns[here]
    wait_ns = server.serve(arrival_ns, tier.sizes(part.tokens[here]) * moves) - arrival_ns
    is_load = (part.op[here] == Op.READ) & (part.step[here] == LOAD)
    loads.add(part.request[here], part.qos[here], wait_ns, is_load)


def search(
    config: RecordConfig,
    prepare: Callable[[RecordConfig], Recording],
    report: Callable[[Trial], None] | None = None,
) -> RecordConfig:
    """Return the configuration with the largest number of users whose targets are met.

    Doubles the number until a target is missed, then halves the interval. Raises UsageError if one
    user is too many.
    """
    sizing = config.sizing

    def tried(users: int) -> bool:
        source = config.source.model_copy(update={"users": users})
        p95_ns = measure(prepare(config.model_copy(update={"source": source})), sizing)
        met = all(p95_ns[word] <= target for word, target in sizing.targets)
        if report is not None:
            report(Trial(users, p95_ns, met))
        if users == 1 and not met:
            missed = ", ".join(
                f"{word} {p95_ns[word] / MS_NS:,.0f} ms > {target / MS_NS:,.0f} ms"
                for word, target in sizing.targets
                if p95_ns[word] > target
            )
            raise UsageError(
                "one user is too many for the targets",
                where="--users auto",
                got=f"P95 of {missed}",
                hint="raise sizing.targets, or give the tiers more bandwidth",
            )
        return met

    good, bad = 0, 1
    while bad <= sizing.max_users and tried(bad):
        good, bad = bad, 2 * bad
    bad = min(bad, sizing.max_users + 1)
    while bad - good > 1:
        middle = (good + bad) // 2
        good, bad = (middle, bad) if tried(middle) else (good, middle)
    source = config.source.model_copy(update={"users": good})
    return config.model_copy(update={"source": source})
