"""Metrics of a run for Prometheus, and the HTTP endpoint that serves them."""

from __future__ import annotations

import importlib.util
import threading
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from kvtrace.errors import TargetError, UsageError
from kvtrace.units import MS_NS, S_NS, US_NS
from replay.measure.histogram import Histogram, uppers

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from kvtrace.trace.schema import Tier
    from replay.measure.live import Live, LiveLane

LOOPBACK = "127.0.0.1"
EDGES_NS = tuple(
    factor * unit
    for unit in (US_NS, MS_NS, S_NS)
    for factor in (1, 2, 5, 10, 20, 50, 100, 200, 500)
)
"""Upper edges of the buckets of service times."""
_PORT_MAX = 65_535


def parse_address(text: str) -> tuple[str, int]:
    """Return (address, port) of `[ADDRESS:]PORT`; without an address it is this machine's own."""
    address, _, port = text.rpartition(":")
    if not port.isdigit() or int(port) > _PORT_MAX:
        raise UsageError(
            "not a port",
            where="--metrics-port",
            got=repr(text),
            accepted=f"[ADDRESS:]PORT, e.g. 9400 (on {LOOPBACK}) or 0.0.0.0:9400; 0: any free one",
        )
    return address.strip("[]") or LOOPBACK, int(port)


@dataclass(frozen=True, slots=True)
class Ended:
    """How a run ended. `verdict` None: with an error, without a result."""

    verdict: str | None
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Snapshot:
    """All that one scrape shows, replaced as a whole."""

    state: str = "starting"
    live: Live | None = None
    ended: Ended | None = None


class Metrics:
    """What a run does as metrics, from before its first check on. A watcher, that only looks.

    All series have the labels `run`, `trace` and `device`: what executes the tier, or, of series
    that are of no tier, what executes all of them.
    """

    def __init__(self, run: str, trace: str, devices: Mapping[Tier, str]) -> None:
        self._devices = {tier.label: device for tier, device in devices.items()}
        all_of_them = ",".join(dict.fromkeys(self._devices.values()))
        self._run, self._all = [run, trace], all_of_them
        self._now = _Snapshot()

    def say(self, text: str) -> None:
        """Drop it."""

    def stage(self, name: str, total: int | None) -> None:
        """Take the run's state."""
        self._now = replace(self._now, state=name)

    def advance(self, done: int) -> None:
        """Drop it."""

    def look(self, live: Live) -> None:
        """Keep the view."""
        self._now = replace(self._now, live=live)

    def finish(self, ended: Ended) -> None:
        """Take how the run ended; the first time counts."""
        if self._now.ended is None:
            state = "failed" if ended.verdict is None else "done"
            self._now = replace(self._now, state=state, ended=ended)

    @property
    def version(self) -> object:
        """Another object whenever anything has changed."""
        return self._now

    def text(self) -> bytes:
        """Return all series in Prometheus' text format, as node_exporter reads it."""
        import prometheus_client

        return prometheus_client.generate_latest(self.registry())

    def registry(self) -> Any:
        """Return a registry of prometheus_client that has these metrics only."""
        import prometheus_client

        registry = prometheus_client.CollectorRegistry()
        registry.register(self)
        return registry

    def collect(self) -> Iterator[Any]:
        """Yield the metrics of one snapshot, as prometheus_client has them."""
        now = self._now
        yield self._word("kvtrace_state", "What the run does now: 1", "state", [now.state])
        if now.ended is not None and now.ended.verdict is not None:
            yield self._word("kvtrace_verdict", "How it ended: 1", "verdict", [now.ended.verdict])
            yield self._word("kvtrace_reason", "Why INVALID: 1 each", "reason", now.ended.reasons)
        if now.live is not None:
            yield from self._of_run(now.live)

    def _word(self, name: str, text: str, label: str, words: Iterable[str]) -> Any:
        from prometheus_client import core

        family = core.GaugeMetricFamily(name, text, labels=[*_LABELS, label])
        for word in words:
            family.add_metric([*self._run, self._all, word], 1)
        return family

    def _of_run(self, live: Live) -> Iterator[Any]:
        from prometheus_client import core

        elapsed = core.GaugeMetricFamily(
            "kvtrace_elapsed_seconds", "Since the clock's start", labels=_LABELS
        )
        elapsed.add_metric([*self._run, self._all], live.elapsed_s)
        yield elapsed
        labels = [*_LABELS, "tier"]
        for name, text, field, factor, kind in _METRICS:
            family = getattr(core, f"{kind}MetricFamily")(name, text, labels=labels)
            for lane in live.lanes:
                value = getattr(lane, field)
                if value is not None:
                    family.add_metric(self._labels_of(lane), value * factor)
            yield family
        service = core.HistogramMetricFamily(
            "kvtrace_service_seconds", "From submit to completion", labels=labels
        )
        for lane in live.lanes:
            service.add_metric(self._labels_of(lane), *_buckets(lane))
        yield service

    def _labels_of(self, lane: LiveLane) -> list[str]:
        tier = lane.tier.label
        return [*self._run, self._devices.get(tier, self._all), tier]


class MetricsPort:
    """Serves metrics in the OpenMetrics format while it is open."""

    def __init__(self, metrics: Metrics, address: str, port: int) -> None:
        check_package("--metrics-port")
        self._metrics, self._address, self.port = metrics, address, port
        self._server: Any = None

    def __enter__(self) -> Self:
        import prometheus_client

        from replay.metrics.server import BoundedServer  # it brings http, which few runs need

        application = prometheus_client.make_wsgi_app(self._metrics.registry())
        try:
            self._server = BoundedServer(self._address, self.port, application)
        except OSError as error:
            raise TargetError(
                f"can't listen: {error.strerror}",
                where=f"--metrics-port {self._address}:{self.port}",
                hint="name another port",
            ) from error
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def check_package(option: str) -> None:
    """Check that prometheus_client is installed. Raises TargetError."""
    if importlib.util.find_spec("prometheus_client") is None:
        raise TargetError(
            "needs a package that isn't installed: prometheus_client",
            where=option,
            hint="pip install kvtrace[metrics]",
        )


_LABELS = ["run", "trace", "device"]
_METRICS = (
    ("kvtrace_ops", "Reads and writes that succeeded", "ops", 1, "Counter"),
    ("kvtrace_bytes", "Bytes that they moved", "bytes", 1, "Counter"),
    ("kvtrace_errors", "Failed reads and writes", "errors", 1, "Counter"),
    ("kvtrace_ops_per_second", "In the last second", "ops_per_s", 1, "Gauge"),
    ("kvtrace_bytes_per_second", "In the last second", "bytes_per_s", 1, "Gauge"),
    ("kvtrace_service_p50_seconds", "Of the last second", "service_p50_ns", 1 / S_NS, "Gauge"),
    ("kvtrace_service_p99_seconds", "Of the last second", "service_p99_ns", 1 / S_NS, "Gauge"),
    ("kvtrace_lateness_max_seconds", "Of the last second", "lateness_max_ns", 1 / S_NS, "Gauge"),
    ("kvtrace_in_flight", "Reads and writes in flight", "in_flight", 1, "Gauge"),
)
"""Name, help, field of a lane, factor to base units, kind."""


def _buckets(lane: LiveLane) -> tuple[list[tuple[str, float]], float]:
    """Return cumulative counts by upper edge, and the sum, each bucket taken at its end."""
    histogram: Histogram = lane.service
    filled = np.flatnonzero(histogram.counts)
    ends = uppers(histogram.bits)[filled]
    counts = histogram.counts[filled]
    buckets = [(str(edge / S_NS), float(counts[ends <= edge].sum())) for edge in EDGES_NS]
    total = float(counts.sum())
    return [*buckets, ("+Inf", total)], float((ends * counts).sum() / S_NS)
