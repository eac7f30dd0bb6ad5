"""What commands share that take long and write: stopping in good order, a bar."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
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

from replay.watch import Stop


def _columns(in_bytes: bool) -> tuple[ProgressColumn, ...]:
    counted: tuple[ProgressColumn, ...] = (MofNCompleteColumn(),)
    if in_bytes:
        counted = (DownloadColumn(binary_units=True), TransferSpeedColumn())
    name = TextColumn("{task.description}")
    return (name, BarColumn(bar_width=24), *counted, TimeRemainingColumn())


class Shown:
    """A bar on stderr where that is a terminal; lines for people in any case."""

    def __init__(self, *, in_bytes: bool = False) -> None:
        self.console = Console(stderr=True, highlight=False)
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
        self.task = self.progress.add_task(name, total=total)

    def advance(self, done: int) -> None:
        """Move the bar."""
        if self.task is not None:
            self.progress.update(self.task, completed=done)


@contextmanager
def stopping(stop: Stop) -> Iterator[None]:
    """Make SIGINT and SIGTERM end the run in good order; a second one ends it at once."""

    def handle(number: int, _frame: object) -> None:
        if stop.requested:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        stop.set()
        print("stopping: waiting for what is in flight", file=sys.stderr)

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
