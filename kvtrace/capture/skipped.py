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

    def stored(self, keys: Sequence[Any], start_ns: int, missing: int = 0) -> Stored:
        """Return the outcomes of a store, for the writer's thread to look at.

        `missing`: the outcome of a key without a file: 0 after a success, since files may have
        been removed in the meantime.
        """
        return Stored(self, keys, start_ns, missing)

    def outcome(self, key: Any, oldest_ns: int, missing: int) -> int:
        """Return EEXIST if the file is older than a date, or was written by an earlier store."""
        try:
            date_ns = Path(self._path_of(key)).stat().st_mtime_ns
        except OSError:
            return missing
        if date_ns < oldest_ns or self._dates.get(key) == date_ns:
            return errno.EEXIST
        if len(self._dates) >= MOST_REMEMBERED:
            self._dates.clear()
        self._dates[key] = date_ns
        return 0


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
        return [outcome(key, oldest_ns, missing) for key in self._keys[:count]]
