"""Subscribe to the KV-cache events of an engine and record them, beside the engine."""

from __future__ import annotations

import importlib
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kvtrace.capture import events, moment
from kvtrace.capture.errors import CaptureError
from kvtrace.capture.events import Cleaner, EventError
from kvtrace.capture.guard import Guard
from kvtrace.capture.identity import Identities, Names
from kvtrace.capture.recorder import header_of
from kvtrace.capture.table import Table
from kvtrace.capture.writer import DISK, Writer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import ModuleType

    from kvtrace.capture.settings import Settings

ENGINE = "kv-events"
MOST_WAITING = 100_000
"""Messages that ZeroMQ keeps for us, as many as vLLM's publisher keeps."""
MAX_MESSAGE_BYTES = 64 << 20
FLUSH_LINES = 1024
MISSED = "batches missed"
POLL_MS = 100


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where events come from. `bind`: as the publisher connects."""

    address: str
    bind: bool
    topic: str = ""


def endpoint_of(address: str, *, bind: bool | None = None, topic: str = "") -> Endpoint:
    """Return the other end of an engine's `endpoint`, as its configuration has it.

    Engines bind an address with a wildcard and ipc, and connect to others; `bind` overrides that.
    """
    wild = next((host for host in ("*", "0.0.0.0", "[::]") if f"//{host}:" in address), None)
    binds = wild is None and not address.startswith("ipc://") if bind is None else bind
    if wild is not None and not binds:
        address = address.replace(f"//{wild}:", "//127.0.0.1:")
    return Endpoint(address, binds, topic)


def needed(name: str, package: str) -> ModuleType:
    """Return a module that engines have and kvtrace needs here only. Raises CaptureError."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise CaptureError(f"{package} isn't installed: pip install 'kvtrace[capture]'") from error


class EventWriter(Writer):
    """Writes lines of events, with ends, anchors and rotation as of other recordings."""

    def __init__(self, settings: Settings, cleaner: Cleaner) -> None:
        """Open the first file.

        Raises CaptureError: the folder can't be written to.
        """
        header = header_of(ENGINE, "", cleaner.hasher, settings) | {
            "complete_is": {"gpu": "not known: an event has one time, the end of a step"},
            "not_visible": ["request ids", "sizes", "reads of the GPU's cache", "latencies"],
        }
        self.cleaner = cleaner
        name = f"{ENGINE}-{header['process']}"
        table = Table(Identities(cleaner.hasher, Names()))
        try:
            settings.out.mkdir(parents=True, exist_ok=True)
            super().__init__(settings, deque(), table, Guard(), header, name)
        except OSError as error:
            reason = error.strerror or error
            raise CaptureError(f"can't record in the folder {settings.out}: {reason}") from error

    def write(self, lines: Sequence[dict[str, Any]]) -> None:
        """Write lines, if they are any, and what is due beside them."""
        if lines:
            count = sum(len(line["events"]) for line in lines)
            if self._append(events.pack(lines)):
                self._part_rows += count
            else:
                self._lost[DISK] += count
        self.poll()

    def _losses(self) -> Sequence[tuple[str, int]]:
        return [(MISSED, self.cleaner.missed), *self._lost.items()]

    def totals(self, *, final: bool) -> dict[str, Any]:
        """Return what an END frame holds."""
        return super().totals(final=final) | self.cleaner.counts()


class Subscriber:
    """A subscription, from its making on."""

    def __init__(self, endpoint: Endpoint) -> None:
        """Bind or connect.

        Raises CaptureError: pyzmq or msgpack is missing, or the address can't be used.
        """
        self._zmq, self._msgpack = needed("zmq", "pyzmq"), needed("msgpack", "msgpack")
        self._context = self._zmq.Context()
        self._socket = self._context.socket(self._zmq.SUB)
        self._socket.setsockopt(self._zmq.RCVHWM, MOST_WAITING)
        self._socket.setsockopt(self._zmq.MAXMSGSIZE, MAX_MESSAGE_BYTES)
        self._socket.setsockopt(self._zmq.SUBSCRIBE, endpoint.topic.encode())
        try:
            act = self._socket.bind if endpoint.bind else self._socket.connect
            act(endpoint.address)
        except self._zmq.ZMQError as error:
            self.close()
            verb = "bind" if endpoint.bind else "connect to"
            raise CaptureError(f"can't {verb} {endpoint.address}: {error}") from error

    def messages(self) -> list[tuple[list[bytes], int]]:
        """Return messages that came within a moment, and when."""
        received: list[tuple[list[bytes], int]] = []
        if not self._socket.poll(POLL_MS):
            return received
        while len(received) < FLUSH_LINES:
            try:
                frames = self._socket.recv_multipart(self._zmq.NOBLOCK)
            except self._zmq.Again:
                break
            received.append((frames, moment.monotonic_ns()))
        return received

    def batch(self, frames: list[bytes]) -> tuple[bytes, int, Any]:
        """Return topic, number and batch of a message. Raises EventError."""
        if len(frames) != 3 or len(frames[1]) != 8:
            raise EventError("not topic, number and batch")
        try:
            batch = self._msgpack.unpackb(frames[2], raw=False, strict_map_key=False)
        except Exception as error:  # the package's errors, and those of a wrong UTF-8
            raise EventError("not msgpack") from error
        return frames[0], int.from_bytes(frames[1], "big"), batch

    def close(self) -> None:
        """End the subscription."""
        self._socket.close(linger=0)
        self._context.term()


def record(subscriber: Subscriber, writer: EventWriter, stopped: Callable[[], bool]) -> None:
    """Record what comes until told to stop; the files are ended then."""
    flushed, waiting = moment.monotonic_ns(), list[dict[str, Any]]()
    flush_ns = int(writer.settings.flush_s * 1e9)
    try:
        while not stopped():
            for frames, at_ns in subscriber.messages():
                line = _line(subscriber, writer.cleaner, frames, at_ns)
                if line is not None:
                    waiting.append(line)
            now = moment.monotonic_ns()
            if len(waiting) >= FLUSH_LINES or now - flushed >= flush_ns:
                writer.write(waiting)
                flushed, waiting = now, []
    finally:
        writer.write(waiting)
        writer.finish()


def _line(
    subscriber: Subscriber, cleaner: Cleaner, frames: list[bytes], at_ns: int
) -> dict[str, Any] | None:
    try:
        topic, seq, batch = subscriber.batch(frames)
    except EventError:
        cleaner.unreadable += 1
        return None
    try:
        return cleaner.line(topic, seq, batch, at_ns)
    except EventError:
        return None
