"""Stores of engines that skip a file which exists, and report it as stored: told by its date."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kvtrace.capture import moment

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

CLOCK_STEP_NS = 20_000_000
"""A file's date may be a tick of the kernel's clock, 10 ms at most, earlier than its writing."""
MOST_REMEMBERED = 1 << 17


class Files:
    """The files of a tier; `path_of` gives a key's.

    A file is written anew under another name and renamed, so that its date is that of its writing.
    """

    def __init__(self, path_of: Callable[[Any], str]) -> None:
        self._path_of = path_of
        self._dates: dict[Any, int] = {}
        self._there: dict[Any, int] = {}
        """When a key's file was last known to be there: the beginning of a store, monotonic."""
        self._deleted: dict[Any, list[int]] = {}

    def deleted(self, key: Any) -> None:
        """Take it that the engine deleted a key's file; from the engine's thread."""
        if len(self._deleted) >= MOST_REMEMBERED:
            self._deleted.clear()
        self._deleted.setdefault(key, []).append(moment.monotonic_ns())

    def stored(self, keys: Sequence[Any], start_ns: int, missing: int = 0) -> Stored:
        """Return the outcomes of a store, for the writer's thread to look at.

        `missing`: the outcome of a key without a file: 0 after a success, since files may have
        been removed in the meantime.
        """
        return Stored(self, keys, start_ns, missing)

    def outcome(self, key: Any, start_ns: int, oldest_ns: int, missing: int) -> int:
        """Return EEXIST if the file is older than a date, or was written by an earlier store.

        A file that is gone by now was skipped if it was there when the store began.
        """
        try:
            date_ns = Path(self._path_of(key)).stat().st_mtime_ns
        except OSError:
            return self._of_gone(key, start_ns, missing)
        old = date_ns < oldest_ns or self._dates.get(key) == date_ns
        self._remember(self._there, key, start_ns)
        if not old:
            self._remember(self._dates, key, date_ns)
        return errno.EEXIST if old else 0

    def _of_gone(self, key: Any, start_ns: int, missing: int) -> int:
        since_ns = self._there.get(key)
        times_ns = list(self._deleted.get(key, ()))
        if since_ns is not None and not any(since_ns < at_ns <= start_ns for at_ns in times_ns):
            return missing or errno.EEXIST
        if not missing:
            self._remember(self._there, key, start_ns)
        return missing

    def _remember(self, values: dict[Any, int], key: Any, value: int) -> None:
        if len(values) >= MOST_REMEMBERED:
            values.clear()
        values[key] = value


class Stored:
    """Outcomes of a store's keys, not looked at yet."""

    __slots__ = ("_files", "_keys", "_missing", "_start_ns")

    def __init__(self, files: Files, keys: Sequence[Any], start_ns: int, missing: int) -> None:
        self._files, self._keys, self._start_ns, self._missing = files, keys, start_ns, missing

    def expand(self, count: int) -> list[int]:
        """Return an errno per key."""
        anchor = moment.anchor()
        oldest_ns = self._start_ns - anchor.mono_ns + anchor.wall_ns - CLOCK_STEP_NS
        outcome, missing = self._files.outcome, self._missing
        start_ns = self._start_ns
        return [outcome(key, start_ns, oldest_ns, missing) for key in self._keys[:count]]
