"""Shared parts of long commands that write: orderly stopping, a progress bar."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from kvtrace.cli.console import plain_console
from kvtrace.units import format_duration_ns
from replay.measure.live import Live
from replay.watch import Stop


def _columns(in_bytes: bool) -> tuple[ProgressColumn, ...]:
    counted: tuple[ProgressColumn, ...] = (MofNCompleteColumn(),)
    if in_bytes:
        counted = (DownloadColumn(binary_units=True), TransferSpeedColumn())
    name, now = TextColumn("{task.description}"), TextColumn("{task.fields[now]}")
    return (name, BarColumn(bar_width=10), *counted, TimeRemainingColumn(compact=True), now)


class Shown:
    """A bar on stderr where that is a terminal; lines for people in any case."""

    def __init__(self, *, in_bytes: bool = False) -> None:
        self.console = plain_console(stderr=True)
        self.progress = Progress(
            *_columns(in_bytes),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
        self.task: TaskID | None = None

    def say(self, text: str) -> None:
        """Print one line."""
        self.console.print(text, soft_wrap=True)

    def stage(self, name: str, total: int | None) -> None:
        """Show a new bar."""
        if self.task is not None:
            self.progress.remove_task(self.task)
        self.task = self.progress.add_task(name, total=total, now="")

    def advance(self, done: int) -> None:
        """Move the bar."""
        if self.task is not None:
            self.progress.update(self.task, completed=done)

    def look(self, live: Live) -> None:
        """Show beside the bar what the run does now."""
        if self.task is not None:
            self.progress.update(self.task, now=now_text(live))


def now_text(live: Live) -> str:
    """Return throughput, the slowest tier's P99 and the longest lateness of the last second."""
    rate = sum(lane.bytes_per_s for lane in live.lanes)
    p99 = [lane.service_p99_ns for lane in live.lanes if lane.service_p99_ns is not None]
    late = [lane.lateness_max_ns for lane in live.lanes if lane.lateness_max_ns is not None]
    parts = [f"{rate / 1e9:.2f}GB/s"]
    if p99 and late:
        parts += [f"P99 {_short(max(p99))}", f"late {_short(max(late))}"]
    return " ".join(parts)


def _short(duration_ns: int) -> str:
    return format_duration_ns(duration_ns).replace(" ", "")


def stop_signals() -> tuple[signal.Signals, ...]:
    """Return the signals that end a run: SIGHUP too, unless nohup has made it ignored."""
    hangs_up = signal.getsignal(signal.SIGHUP) != signal.SIG_IGN
    return (signal.SIGINT, signal.SIGTERM, *((signal.SIGHUP,) if hangs_up else ()))


@contextmanager
def handling(handle: Callable[[int, object], None]) -> Iterator[None]:
    """Call `handle` for each signal that ends a run; the earlier handlers come back at the end."""
    before = {number: signal.signal(number, handle) for number in stop_signals()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def stopping(stop: Stop) -> Iterator[None]:
    """Make SIGINT, SIGTERM and SIGHUP end the run in good order; a second one ends it at once."""

    def handle(number: int, _frame: object) -> None:
        if stop.requested:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        stop.set()
        print("stopping: waiting for what is in flight", file=sys.stderr)

    with handling(handle):
        yield
