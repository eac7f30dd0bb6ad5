"""What a run does, for Prometheus: an HTTP endpoint in the OpenMetrics format."""

from __future__ import annotations

import importlib.util
import threading
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from kvtrace.errors import TargetError, UsageError
from kvtrace.units import MS_NS, S_NS, US_NS
from replay.histogram import Histogram, uppers
from replay.metrics_server import BoundedServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

    from replay.live import Live, LiveLane

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


class Metrics:
    """Serves the latest view of a run while it is open. A watcher, that only looks."""

    def __init__(self, address: str, port: int) -> None:
        if importlib.util.find_spec("prometheus_client") is None:
            raise TargetError(
                "needs a package that isn't installed: prometheus_client",
                where="--metrics-port",
                hint="pip install kvtrace[metrics]",
            )
        self._address, self.port = address, port
        self._live: Live | None = None
        self._server: Any = None

    def __enter__(self) -> Self:
        import prometheus_client

        registry = prometheus_client.CollectorRegistry()
        registry.register(self)
        application = prometheus_client.make_wsgi_app(registry)
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

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    def say(self, text: str) -> None:
        """Drop it."""

    def stage(self, name: str, total: int | None) -> None:
        """Drop it."""

    def advance(self, done: int) -> None:
        """Drop it."""

    def look(self, live: Live) -> None:
        """Keep the view."""
        self._live = live

    def collect(self) -> Iterator[Any]:
        """Yield the metrics of the latest view, as prometheus_client has them; none before it."""
        from prometheus_client import core

        live = self._live
        if live is None:
            return
        elapsed = core.GaugeMetricFamily("kvtrace_elapsed_seconds", "Since the clock's start")
        elapsed.add_metric([], live.elapsed_s)
        yield elapsed
        for name, text, field, factor, kind in _METRICS:
            family = getattr(core, f"{kind}MetricFamily")(name, text, labels=["tier"])
            for lane in live.lanes:
                value = getattr(lane, field)
                if value is not None:
                    family.add_metric([lane.tier.label], value * factor)
            yield family
        service = core.HistogramMetricFamily(
            "kvtrace_service_seconds", "From submit to completion", labels=["tier"]
        )
        for lane in live.lanes:
            service.add_metric([lane.tier.label], *_buckets(lane))
        yield service


_METRICS = (
    ("kvtrace_ops", "Completed ops", "ops", 1, "Counter"),
    ("kvtrace_bytes", "Bytes moved", "bytes", 1, "Counter"),
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
    found: Histogram = lane.service
    filled = np.flatnonzero(found.counts)
    ends = uppers(found.bits)[filled]
    counts = found.counts[filled]
    buckets = [(str(edge / S_NS), float(counts[ends <= edge].sum())) for edge in EDGES_NS]
    total = float(counts.sum())
    return [*buckets, ("+Inf", total)], float((ends * counts).sum() / S_NS)
