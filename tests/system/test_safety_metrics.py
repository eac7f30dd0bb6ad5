"""The metrics port: no client costs a run more than a few threads."""

from __future__ import annotations

import socket
import threading
import urllib.request
from contextlib import ExitStack

import pytest

from replay.metrics import server as metrics_server
from replay.metrics.prometheus import Metrics, MetricsPort, parse_address
from replay.metrics.server import CONNECTIONS_MAX

pytest.importorskip("prometheus_client")


def port_of_a_run() -> MetricsPort:
    """Return the port of a run that hasn't begun."""
    return MetricsPort(Metrics("run", "t.parquet", {}), *parse_address("0"))


def half_open(port: int) -> socket.socket:
    """Return a connection that has begun a request and never ends it."""
    client = socket.create_connection(("127.0.0.1", port), timeout=10)
    client.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n")
    return client


def closed(client: socket.socket) -> bool:
    """Return whether the server has closed a connection."""
    try:
        return client.recv(1) == b""
    except ConnectionResetError:
        return True


@pytest.mark.slow
def test_half_open_requests_take_no_more_than_a_few_threads() -> None:
    """120 clients that don't finish their request: eight are heard, the others closed."""
    before = threading.active_count()
    with ExitStack() as clients, port_of_a_run() as metrics:
        opened = [clients.enter_context(half_open(metrics.port)) for _ in range(120)]
        assert all(closed(client) for client in opened[CONNECTIONS_MAX:])
        assert threading.active_count() - before <= CONNECTIONS_MAX + 1


@pytest.mark.slow
def test_a_silent_client_loses_its_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has a few seconds; then the place is another's."""
    monkeypatch.setattr(metrics_server._Handler, "timeout", 0.2)
    with port_of_a_run() as metrics, half_open(metrics.port) as client:
        assert closed(client)


def test_a_scraper_gets_in_where_all_places_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients that send a byte now and then don't keep others out: the oldest goes."""
    monkeypatch.setattr(metrics_server, "TIMEOUT_S", 0)
    with ExitStack() as clients, port_of_a_run() as metrics:
        for _ in range(CONNECTIONS_MAX):
            clients.enter_context(half_open(metrics.port))
        address = f"http://127.0.0.1:{metrics.port}/metrics"
        with urllib.request.urlopen(address, timeout=10) as answer:
            assert answer.status == 200
