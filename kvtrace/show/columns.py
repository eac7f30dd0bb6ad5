"""The width of the terminal."""

from __future__ import annotations

import os

_STREAMS = (0, 1, 2)
_USUAL = 80


def columns() -> int:
    """Return the columns of the terminal; `COLUMNS` comes first, 80 stand where no one says."""
    asked = os.environ.get("COLUMNS", "")
    if asked.isdigit():
        return int(asked) or _USUAL
    for stream in _STREAMS:
        try:
            return os.get_terminal_size(stream).columns or _USUAL
        except OSError:
            continue
    return _USUAL
