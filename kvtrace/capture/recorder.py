"""Record an engine's storage tasks: one append in its threads, everything else in ours.

    recorder = shared(settings_of(parameters), "lmcache", "0.5.6", names=Names(key_bytes))
    recorder.task(Op.READ, Tier.NVME, Phase.DECODE, submit_ns, complete_ns, keys, sizes)
    recorder.release()

A task never raises, blocks, locks or calls the kernel. Beyond the queue's bound, and after the
end, its rows are counted as dropped.
"""

from __future__ import annotations

import atexit
import os
import sys
import weakref
from collections import deque
from threading import Event, Lock, Thread, get_ident
from typing import TYPE_CHECKING, Any

from kvtrace.capture import moment
from kvtrace.capture.errors import CaptureError
from kvtrace.capture.guard import Guard
from kvtrace.capture.identity import Hasher, Identities, Names
from kvtrace.capture.table import Table
from kvtrace.capture.writer import Writer
from kvtrace.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from kvtrace.capture.settings import Settings
    from kvtrace.capture.table import Task


class Recorder:
    """Records the tasks of one process in the files of a folder."""

    def __init__(
        self,
        settings: Settings,
        engine: str,
        engine_version: str,
        *,
        names: Names | None = None,
        header: Mapping[str, Any] | None = None,
    ) -> None:
        """Open the first file and start the writer.

        `header`: what the adapter adds to the files' header (`complete_is`, `not_visible`,
        `adapter`); it must name neither hosts, paths, models nor requests.

        Raises CaptureError: the engine's version is unknown, or the folder can't be written to.
        """
        if not engine_version:
            raise CaptureError(f"the version of {engine} is unknown: it isn't installed as usual")
        self.guard = Guard()
        self.users = 0
        self.events: Any = None
        """What an adapter listens to for this recorder, if anything."""
        self._pid = os.getpid()
        self._finalize: Any = None
        self._queue: deque[Task] = deque()
        self._append, self._most = self._queue.append, settings.queue_tasks
        self._dropped: dict[int, int] = {}
        self._close_s = settings.close_s
        hasher = Hasher(settings.secret)
        self._table = Table(Identities(hasher, names or Names()))
        first = header_of(engine, engine_version, hasher, settings) | dict(header or {})
        self._writer = self._start(settings, first)
        self._stop, self._interval_s = Event(), settings.flush_s
        self._thread = Thread(target=self._run, name="kvtrace-capture", daemon=True)
        self._open = True
        _every.add(self)
        self._thread.start()
        atexit.register(self.close)
        # Children that multiprocessing starts end without atexit; they have imported this.
        processes = sys.modules.get("multiprocessing.util")
        if processes is not None:
            self._finalize = processes.Finalize(self, self.close, exitpriority=100)

    def _start(self, settings: Settings, header: dict[str, Any]) -> Writer:
        name = f"{header['engine']}-{header['process']}"
        try:
            settings.out.mkdir(parents=True, exist_ok=True)
            writer = Writer(settings, self._queue, self._table, self.guard, header, name)
        except OSError as error:
            reason = error.strerror or error
            raise CaptureError(f"can't record in the folder {settings.out}: {reason}") from error
        writer.queue_dropped = self._queue_dropped
        return writer

    def task(
        self,
        op: int,
        tier: int,
        phase: int,
        submit_ns: int | list[int],
        complete_ns: int,
        keys: Sequence[Any],
        sizes: Any,
        errors: Any = 0,
        request: Any = None,
        rank: Any = None,
        block: Any = None,
    ) -> None:
        """Record a task of the engine: one op on each of its keys.

        All but `op`, `tier`, `phase` and `complete_ns` may be one value for all keys or a list of
        one for each; `sizes` and `errors` also an object whose `expand(count)` returns the list,
        in the writer's thread. Lists are kept, so the caller must not change them afterwards.
        """
        if self._open and len(self._queue) < self._most:
            self._append(
                (op, tier, phase, submit_ns, complete_ns, keys, sizes, errors, request, rank, block)
            )
        else:
            self.guard(self._drop, keys)

    def defer(self, expand: Callable[[Any], list[Task]], keys: Sequence[Any], subject: Any) -> None:
        """Let the writer's thread make tasks of something that is costly to look at.

        `expand` gets the subject and returns tasks (see `task_of`); `keys` are about those that
        they will have, for the bound and the count of what is dropped.
        """
        if self._open and len(self._queue) < self._most:
            self._append((expand, keys, subject))
        else:
            self.guard(self._drop, keys)

    def _drop(self, keys: Sequence[Any]) -> None:
        thread = get_ident()  # a thread changes its own count only: exact without a lock
        self._dropped[thread] = self._dropped.get(thread, 0) + len(keys)

    def _queue_dropped(self) -> int:
        return sum(list(self._dropped.values()))

    def join_by(self, join: Callable[[Sequence[Any]], Any]) -> None:
        """Let a function name the request of tasks that came without, in the writer's thread."""
        self._table.join = join

    def at_end(self, **counts: Callable[[], Any]) -> None:
        """Add counts to END frames: what functions return when one is written."""
        self._writer.ending.update(counts)

    @property
    def identities(self) -> Identities:
        """The hashes of keys, for the writer's thread alone."""
        return self._table.identities

    @property
    def rows(self) -> int:
        """Rows that are in the files."""
        return self._writer.rows

    @property
    def dropped(self) -> int:
        """Rows that were asked for and aren't in any file."""
        return self._writer.dropped

    @property
    def write_errors(self) -> int:
        """Frames that couldn't be written."""
        return self._writer.write_errors

    @property
    def path(self) -> Path:
        """The folder of the files."""
        return self._writer.settings.out

    def _run(self) -> None:
        while not self._stop.wait(self._interval_s):
            self.guard(self._writer.poll)
        self.guard(self._writer.finish)

    def close(self) -> None:
        """Record what waits and end the files; later tasks are counted as dropped."""
        if not self._open or os.getpid() != self._pid:
            return
        self._open = False
        self._stop.set()
        self._thread.join(self._close_s)
        if self._thread.is_alive():
            self.guard.tell("close", "the recording's disk is slow, its end is missing")
        atexit.unregister(self.close)
        if self._finalize is not None:
            self._finalize.cancel()

    def release(self) -> None:
        """Give the recorder back; the last of its users closes it."""
        with _shared_lock:
            self.users -= 1
            last = self.users <= 0
        if last:
            self.close()

    def _forked(self) -> None:
        """Be off in a child: the parent goes on with the file."""
        self._open = False
        self._queue.clear()
        if self._writer.part is not None:
            self._writer.part.abandon()


def header_of(
    engine: str, engine_version: str, hasher: Hasher, settings: Settings
) -> dict[str, Any]:
    """Return the header of a process's files, its anchor and what an adapter adds left out."""
    pid, start = os.getpid(), moment.monotonic_ns()
    return {
        "spool": 1,
        "engine": engine,
        "engine_version": engine_version,
        "plugin_version": VERSION,
        "process": f"{pid}-{start:x}",
        "part": 0,
        "pid": pid,
        "boot_id": moment.boot_id(),
        "anchor": None,
        "key_check": hasher.check,
        "secret_given": hasher.secret_given,
        "queue_tasks": settings.queue_tasks,
        "flush_s": settings.flush_s,
        "complete_is": {},
        "not_visible": [],
        "adapter": {},
    }


_every: weakref.WeakSet[Recorder] = weakref.WeakSet()
_shared: dict[tuple[str, str], Recorder] = {}
_shared_lock = Lock()


def shared(settings: Settings, engine: str, engine_version: str, **options: Any) -> Recorder:
    """Return the process's recorder of an engine in a folder, made at the first call.

    Adapters that share it release it each; `options` are those of `Recorder`.

    Raises CaptureError: as of `Recorder`.
    """
    name = str(settings.out.absolute()), engine
    with _shared_lock:
        recorder = _shared.get(name)
        if recorder is None or not recorder._open:
            recorder = _shared[name] = Recorder(settings, engine, engine_version, **options)
        recorder.users += 1
        return recorder


def _after_fork() -> None:
    global _shared_lock
    _shared_lock = Lock()  # another thread of the parent may have held it
    _shared.clear()
    for recorder in list(_every):
        recorder._forked()


os.register_at_fork(after_in_child=_after_fork)
