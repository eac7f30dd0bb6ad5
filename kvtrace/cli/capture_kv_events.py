"""`kvtrace capture kv-events`: subscribe to an engine's KV-cache events and record them."""

from __future__ import annotations

import json
import signal
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import typer

from kvtrace.capture import moment
from kvtrace.capture.errors import CaptureError
from kvtrace.capture.events import Cleaner
from kvtrace.capture.identity import Hasher
from kvtrace.capture.settings import settings_of
from kvtrace.capture.subscriber import Endpoint, EventWriter, Subscriber, endpoint_of, record
from kvtrace.cli.console import say
from kvtrace.errors import TargetError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import FrameType


@dataclass(frozen=True, slots=True)
class EventsAsked:
    """What a user wants recorded of whom; `bind` None: as the engine's endpoint asks for."""

    endpoint: str
    out: Path
    secret_file: Path | None = None
    bind: bool | None = None
    topic: str = ""
    duration_ns: int | None = None


def record_events(asked: EventsAsked, *, as_json: bool) -> None:
    """Record events until Ctrl-C, SIGTERM or the end of the duration; print what came.

    Raises UsageError for wrong options, TargetError if nothing came or pyzmq is missing.
    """
    parameters: dict[str, Any] = {"out": asked.out}
    if asked.secret_file is not None:
        parameters["secret_file"] = asked.secret_file
    try:
        settings = settings_of(parameters)
    except CaptureError as error:
        raise UsageError(_plain(error), where="capture kv-events") from error
    endpoint = endpoint_of(asked.endpoint, bind=asked.bind, topic=asked.topic)
    cleaner = Cleaner(Hasher(settings.secret))
    try:
        subscriber = Subscriber(endpoint)
        writer = EventWriter(settings, cleaner)
    except CaptureError as error:
        raise TargetError(_plain(error), where="capture kv-events") from error
    if not as_json:
        verb = "bound to" if endpoint.bind else "connected to"
        say(f"{verb} {endpoint.address}, recording in {asked.out}; Ctrl-C ends")
    with _stopping(asked.duration_ns) as stopped:
        record(subscriber, writer, stopped)
    subscriber.close()
    _print(asked, endpoint, cleaner, writer.write_errors, as_json=as_json)


def _plain(error: CaptureError) -> str:
    return str(error).removeprefix("kvtrace capture: ")


class _Stop:
    """Whether to stop: after a signal, or at the end of a duration."""

    def __init__(self, duration_ns: int | None) -> None:
        self._asked = False
        self._end_ns = None if duration_ns is None else moment.monotonic_ns() + duration_ns

    def ask(self, _signal: int, _frame: FrameType | None) -> None:
        self._asked = True

    def __call__(self) -> bool:
        late = self._end_ns is not None and moment.monotonic_ns() >= self._end_ns
        return self._asked or late


@contextmanager
def _stopping(duration_ns: int | None) -> Iterator[_Stop]:
    """Let SIGINT and SIGTERM ask to stop instead of ending the process."""
    stop = _Stop(duration_ns)
    before = {each: signal.signal(each, stop.ask) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def _print(
    asked: EventsAsked, endpoint: Endpoint, cleaner: Cleaner, write_errors: int, *, as_json: bool
) -> None:
    counts = cleaner.counts()
    if as_json:
        document = {"path": str(asked.out), **counts, "write_errors": write_errors}
        typer.echo(json.dumps(document, indent=2))
    else:
        say(f"{asked.out}: {cleaner.batches:,} batches")
        for name, count in counts["events"].items():
            say(f"  {count:,} blocks of {name}")
        for key, text in _LOSSES.items():
            if counts[key]:
                say(f"  {counts[key]:,} {text}")
    if not cleaner.batches:
        other = "connect" if endpoint.bind else "bind"
        raise TargetError(
            "no events came", where=endpoint.address, got=f"{cleaner.unreadable:,} other messages",
            accepted="batches of KV-cache events of vLLM or SGLang",
            hint=f"does the engine publish them, to this port? Or try --{other}",
        )  # fmt: skip


_LOSSES = {
    "batches_missed": "batches are missing between those that came",
    "batches_before": "batches were published before the first that came",
    "unreadable_messages": "messages weren't batches of events",
}
