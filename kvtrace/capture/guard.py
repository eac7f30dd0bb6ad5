"""Keep a plug-in's faults from its engine: they are counted, told once, never raised."""

from __future__ import annotations

import sys
from threading import get_ident
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


class Guard:
    """Calls hooks; an exception of one is counted under its name instead of being raised.

    Counts are exact without a lock: each thread adds to its own.
    """

    def __init__(self) -> None:
        self._counts: dict[tuple[str, int], int] = {}
        self._told: set[str] = set()

    def __call__(self, hook: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Return what the hook returns, None if it raised."""
        try:
            return hook(*args, **kwargs)
        except Exception as error:
            self.count(getattr(hook, "__name__", "hook"), error)
            return None

    def hook(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function guarded, for engines that call it themselves."""

        def guarded(*args: Any) -> Any:
            return self(function, *args)

        guarded.__name__ = getattr(function, "__name__", "hook")
        return guarded

    def count(self, name: str, error: BaseException) -> None:
        """Count a fault of a hook; the first of each name is told on stderr, without its text."""
        name = name.lstrip("_")
        mine = name, get_ident()
        self._counts[mine] = self._counts.get(mine, 0) + 1
        # An exception's text may hold keys or prompts; its kind and place don't.
        self.tell(name, f"a fault in {name} was counted: {type(error).__name__} at {_place(error)}")

    def tell(self, subject: str, text: str) -> None:
        """Write a line to stderr, once per subject."""
        if subject in self._told:
            return
        self._told.add(subject)
        try:
            sys.stderr.write(f"kvtrace capture: {text}; the engine isn't affected\n")
        except (OSError, ValueError, AttributeError):
            return  # stderr is closed or was never open

    @property
    def errors(self) -> dict[str, int]:
        """Faults per hook."""
        totals: dict[str, int] = {}
        for (name, _), count in list(self._counts.items()):
            totals[name] = totals.get(name, 0) + count
        return totals


def release_once(shared: Any) -> Callable[[], None]:
    """Return a function that releases a recorder at its first call: engines may close twice."""
    left = [shared]

    def release() -> None:
        if left:
            left.pop().release()

    return release


def _place(error: BaseException) -> str:
    """Return file and line of where an exception was raised."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return "an unknown place"
    return f"{trace.tb_frame.f_code.co_filename.rpartition('/')[2]}:{trace.tb_lineno}"
