"""Progress reports of a run, and its stop signal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from kvtrace.errors import EXIT_INVALID, KvtraceError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from replay.measure.live import Live


class RunInterruptedError(KvtraceError):
    """Stopped by the user before anything was measured."""

    exit_code = EXIT_INVALID


class Watcher(Protocol):
    """Is told what happens. Called from the thread that called `run`."""

    def say(self, text: str) -> None:
        """Take one line for people."""
        ...

    def stage(self, name: str, total: int | None) -> None:
        """Take note that a stage begins, with its number of rows, ops or bytes."""
        ...

    def advance(self, done: int) -> None:
        """`done` rows, ops or bytes of the stage are complete."""
        ...

    def look(self, live: Live) -> None:
        """Take what the run does now; about once a second."""
        ...


class Silent:
    """Ignores all reports."""

    def say(self, text: str) -> None:
        """Drop it."""

    def stage(self, name: str, total: int | None) -> None:
        """Drop it."""

    def advance(self, done: int) -> None:
        """Drop it."""

    def look(self, live: Live) -> None:
        """Drop it."""


class Together:
    """Tells several watchers."""

    def __init__(self, *watchers: Watcher) -> None:
        self._watchers = watchers

    def say(self, text: str) -> None:
        """Tell it to all."""
        for watcher in self._watchers:
            watcher.say(text)

    def stage(self, name: str, total: int | None) -> None:
        """Tell it to all."""
        for watcher in self._watchers:
            watcher.stage(name, total)

    def advance(self, done: int) -> None:
        """Tell it to all."""
        for watcher in self._watchers:
            watcher.advance(done)

    def look(self, live: Live) -> None:
        """Tell it to all."""
        for watcher in self._watchers:
            watcher.look(live)


class Stop:
    """A switch that ends a run: it submits nothing more, drains, and gives a partial result.

    `requested`: a user's stop, which makes the result INVALID.
    """

    def __init__(self) -> None:
        import numpy as np

        self.flag: NDArray[np.int32] = np.zeros(1, np.int32)
        self.requested = False

    def set(self) -> None:
        """Stop."""
        self.requested = True
        self.flag[0] = 1

    def end(self) -> None:
        """Submit nothing more, as the run was asked to from the start."""
        self.flag[0] = 1

    def check(self) -> None:
        """Raise RunInterruptedError if it was set."""
        if self.requested:
            raise RunInterruptedError("stopped before the run began", hint="nothing was measured")
