"""An HTTP server for a few readers, which no client can make cost more than that."""

from __future__ import annotations

import socket
import socketserver
import threading
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from kvtrace.units import S_NS
from replay import clock

if TYPE_CHECKING:
    from collections.abc import Callable

CONNECTIONS_MAX = 8
TIMEOUT_S = 5
"""Time limit of a client for its request, and for reading the answer."""


class _Handler(WSGIRequestHandler):
    """Answers one request; a client that is silent for too long loses its connection."""

    timeout = TIMEOUT_S

    def log_message(self, *_: object) -> None:
        """Print nothing."""


class BoundedServer(socketserver.ThreadingMixIn, WSGIServer):
    """Serves at most CONNECTIONS_MAX connections, each in a thread.

    When all are taken a new one replaces the oldest that has had its time; else it is closed.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: str, port: int, application: Callable[..., Any]) -> None:
        self._lock = threading.Lock()
        self._begun_ns: dict[Any, int] = {}
        self.address_family = socket.getaddrinfo(address, port, flags=socket.AI_PASSIVE)[0][0]
        super().__init__((address, port), _Handler)
        self.set_app(application)

    def server_bind(self) -> None:
        """Bind, without asking a name server what this machine is called."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = "localhost", self.server_address[1]
        self.setup_environ()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread if there is room."""
        if self._admit(request):
            super().process_request(request, client_address)
        else:
            super().shutdown_request(request)

    def _admit(self, request: Any) -> bool:
        now_ns = clock.now_ns()
        with self._lock:
            if len(self._begun_ns) >= CONNECTIONS_MAX:
                oldest = min(self._begun_ns, key=lambda each: self._begun_ns[each])
                if now_ns - self._begun_ns[oldest] < TIMEOUT_S * S_NS:
                    return False
                del self._begun_ns[oldest]
                oldest.shutdown(socket.SHUT_RDWR)  # its thread ends, and closes it
            self._begun_ns[request] = now_ns
        return True

    def shutdown_request(self, request: Any) -> None:
        """Close a connection and make room."""
        with self._lock:
            self._begun_ns.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, *_: object) -> None:
        """Print nothing: a client has gone, or was told to."""
