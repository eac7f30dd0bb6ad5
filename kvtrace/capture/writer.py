"""The writer's side of a recorder: drains the queue into files, in a thread of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kvtrace.capture import moment, spool
from kvtrace.capture.part import Part
from kvtrace.capture.spool import Kind
from kvtrace.capture.table import KEYS

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import numpy as np

    from kvtrace.capture.guard import Guard
    from kvtrace.capture.settings import Settings
    from kvtrace.capture.table import Table, Task

DRAIN_ROWS, DRAIN_TASKS = 8192, 4096
"""Rows and tasks of a frame, about: the engine's threads wait for the GIL while one is built."""
DEFERRED = 3
"""Length of what is queued in lieu of a task: a function, keys, what it makes tasks of."""
QUEUE, DISK, FAULT = "queue full", "write failed", "task unreadable"


class Writer:
    """Owns the current file and all counts; used by the writer's thread, at first by its maker."""

    def __init__(
        self,
        settings: Settings,
        queue: deque[Task],
        table: Table,
        guard: Guard,
        header: dict[str, Any],
        name: str,
    ) -> None:
        """Open the first file.

        Raises OSError: it can't be made or written.
        """
        self.settings, self.queue, self.table, self.guard = settings, queue, table, guard
        self.header, self.name = header, name
        self.queue_dropped: Callable[[], int] = int
        self.ending: dict[str, Callable[[], Any]] = {}
        self.rows = self.write_errors = self.batches = self.parts = self.cpu_ns = 0
        self._part_rows = 0
        self._lost = {DISK: 0, FAULT: 0}
        self._gaps_written: dict[str, int] = {}
        self._anchored = self._opened = 0
        self.part: Part | None = self._next_part()

    @property
    def dropped(self) -> int:
        """Rows that were asked for and aren't in any file."""
        return self.queue_dropped() + sum(self._lost.values())

    def poll(self) -> None:
        """Write what waits; with each frame what is due of gaps, anchors and another file."""
        began = moment.thread_cpu_ns()
        more = True
        while more:
            self._record(self._take())
            self._tell_gaps()
            self._anchor()
            self._rotate()
            more = bool(self.queue)
            if more:
                moment.wait_s(0)  # lets the engine's threads have the GIL
        self.cpu_ns += moment.thread_cpu_ns() - began

    def _anchor(self) -> None:
        if moment.monotonic_ns() - self._anchored > moment.ANCHOR_EVERY_NS:
            self._anchored = moment.monotonic_ns()
            self._append(spool.pack_json(Kind.ANCHOR, moment.anchor().document()))

    def finish(self) -> None:
        """Write the end and close the file."""
        self.poll()
        self._append(spool.pack_json(Kind.END, self.totals(final=True)))
        self._close(self.part)
        self.part = None

    def totals(self, *, final: bool) -> dict[str, Any]:
        """Return what an END frame holds: counts of the process so far, all its files together."""
        return {
            "rows": self.rows,
            "dropped_rows": self.dropped,
            "bus_dropped": None,
            "write_errors": self.write_errors,
            "guarded_errors": self.guard.errors,
            "writer_cpu_ns": self.cpu_ns,
            **{name: self.guard(value) for name, value in self.ending.items()},
            "final": final,
            "anchor": moment.anchor().document(),
        }

    def _take(self) -> list[Task]:
        self.table.identities.trim()
        joins, join = self.table.join is not None, self.table.joined
        tasks: list[Task] = []
        rows, queue = 0, self.queue
        while queue and rows < DRAIN_ROWS and len(tasks) < DRAIN_TASKS:
            task = queue.popleft()
            rows += _length(task)
            if len(task) == DEFERRED:
                tasks += self._expanded(*task)
            else:
                # Now, before what follows: the next request may ask for the same keys.
                tasks.append(self.guard(join, task) or task if joins else task)
        return tasks

    def _expanded(self, expand: Callable[[Any], list[Task]], keys: Any, subject: Any) -> list[Task]:
        """Return the tasks of a deferred subject, none if it can't be read."""
        try:
            return expand(subject)
        except Exception as error:
            self.guard.count(getattr(expand, "__name__", "deferred"), error)
            self._lost[FAULT] += _length((expand, keys, subject))
            return []

    def _record(self, tasks: list[Task]) -> None:
        """Write tasks; if one of them can't be read, all but that one."""
        if not tasks:
            return
        try:
            frames = _packed(self.table.records(tasks, self.batches))
        except Exception as error:
            if len(tasks) > 1:
                for task in tasks:
                    self._record([task])
                return
            self.guard.count("task", error)
            self._lost[FAULT] += _length(tasks[0])
            self.batches += 1
            return
        self.batches += len(tasks)
        for frame, rows in frames:
            if self._append(frame):
                self.rows += rows
                self._part_rows += rows
            else:
                self._lost[DISK] += rows

    def _append(self, frame: bytes) -> bool:
        """Write a frame; return whether it is in the file."""
        try:
            if self.part is None:
                self.part = self._next_part()
            self.part.append(frame)
        except OSError as error:
            self._count(error)
            return False
        return True

    def _count(self, error: OSError) -> None:
        self.write_errors += 1
        self.guard.tell("disk", f"the recording can't be written ({error.strerror}), rows are lost")

    def _tell_gaps(self) -> None:
        for reason, dropped in self._losses():
            new = dropped - self._gaps_written.get(reason, 0)
            if not new:
                continue
            gap = {"dropped_rows": new, "until_mono_ns": moment.monotonic_ns(), "reason": reason}
            if self._append(spool.pack_json(Kind.GAP, gap)):
                self._gaps_written[reason] = dropped

    def _losses(self) -> Sequence[tuple[str, int]]:
        return [(QUEUE, self.queue_dropped()), *self._lost.items()]

    def _rotate(self) -> None:
        """Go on in another file if this one is large or old; stay if none can be made."""
        age_s = (moment.monotonic_ns() - self._opened) / 1e9
        old = self.part
        if old is None or not self._part_rows:
            return
        if old.length < self.settings.rotate_bytes and age_s < self.settings.rotate_s:
            return
        try:
            new = self._next_part()
        except OSError as error:
            self._count(error)
            return
        self._append(spool.pack_json(Kind.END, self.totals(final=False)))
        self._close(old)
        self.part = new

    def _next_part(self) -> Part:
        path: Path = self.settings.out / f"{self.name}-{self.parts:04}{spool.SUFFIX}"
        part = Part(path)
        now = moment.anchor()
        header = {**self.header, "part": self.parts, "anchor": now.document()}
        try:
            part.append(spool.pack_json(Kind.HEADER, header))
        except OSError:
            part.abandon()
            path.unlink(missing_ok=True)
            raise
        self.parts += 1
        self._part_rows = 0
        self._opened = self._anchored = now.mono_ns
        return part

    def _close(self, part: Part | None) -> None:
        try:
            if part is not None:
                part.close()
        except OSError as error:
            self._count(error)


def _packed(records: np.ndarray) -> list[tuple[bytes, int]]:
    """Return frames of records, with the rows of each."""
    chunks = [
        records[begin : begin + spool.MAX_FRAME_ROWS]
        for begin in range(0, len(records), spool.MAX_FRAME_ROWS)
    ]
    return [(spool.pack_rows(chunk), len(chunk)) for chunk in chunks]


def _length(task: Task) -> int:
    """Return a task's rows, about those of a deferred one, 1 if its keys aren't a list."""
    try:
        return len(task[1 if len(task) == DEFERRED else KEYS])
    except TypeError:
        return 1
