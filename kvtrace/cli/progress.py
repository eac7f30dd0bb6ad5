"""The progress bar: on stderr, on a terminal, for what takes longer than a second."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.progress import TaskID

    from kvtrace.recording.pipeline import Progress as RecordProgress


@contextmanager
def record_bar() -> Iterator[Callable[[RecordProgress], None] | None]:
    """Give what a recording reports to; None without a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("recording"),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[rows]:,} rows, {task.fields[rate]:,.0f}/s"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task: TaskID = bar.add_task("record", total=None, rows=0, rate=0.0)

        def report(now: RecordProgress) -> None:
            elapsed_s = bar.tasks[0].elapsed or 0
            bar.update(
                task,
                total=now.end_ns,
                completed=now.virtual_ns,
                rows=now.rows,
                rate=now.rows / elapsed_s if elapsed_s else 0,
            )

        yield report
