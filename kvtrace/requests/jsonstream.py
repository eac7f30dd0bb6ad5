"""JSON files larger than memory, value by value."""

from __future__ import annotations

import json
from typing import IO, TYPE_CHECKING, Any

from kvtrace.errors import TraceError
from kvtrace.files.textfile import open_text

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CHUNK_CHARACTERS = 1 << 20
MAX_VALUE_CHARACTERS = 1 << 26
"""Longest value; in memory it may be 24 times as large."""
_SPACE = " \t\r\n"
_NEAR_THE_END = 16
"""Characters that may be wanting to an escape or a literal that a chunk ends in."""


def values(path: Path, *, array_only: bool = False) -> Iterator[tuple[str, Any]]:
    """Yield (place, value) of each element of a file's array, or of each value of a file of values.

    At most the value being read and a chunk are in memory. Raises TraceError for what isn't JSON,
    for a file that ends too early, and, with `array_only`, for one that isn't an array.
    """
    with open_text(path) as file:
        yield from _Values(file, path).all(array_only=array_only)


class _Values:
    def __init__(self, file: IO[str], path: Path) -> None:
        self._file, self._path = file, path
        self._text, self._at, self._ended = "", 0, False
        self._decoder = json.JSONDecoder()
        self._number = 0

    @property
    def _place(self) -> str:
        return f"{self._path}: entry {self._number + 1}"

    def all(self, *, array_only: bool) -> Iterator[tuple[str, Any]]:
        array = self._next() == "["
        if array_only and not array:
            raise TraceError("not a list", where=self._path, accepted="a JSON array of entries")
        self._at += array
        while (character := self._next()) and not (array and character == "]"):
            place = self._place
            yield place, self._value()
            self._number += 1
            if array:
                self._separator()
        if array:
            if not character:
                raise TraceError("the array doesn't end", where=self._place, hint="get it again")
            self._at += 1
            if self._next():
                raise TraceError("text behind the array", where=self._path)

    def _separator(self) -> None:
        character = self._next()
        if character == ",":
            self._at += 1
            if self._next() == "]":
                raise TraceError("not JSON: no entry after the last comma", where=self._place)
        elif character and character != "]":
            raise TraceError("not JSON: no comma between entries", where=self._place)

    def _more(self, characters: int = 0) -> bool:
        """Read on, dropping what was used; return whether there was more."""
        chunk = self._file.read(max(CHUNK_CHARACTERS, characters))
        self._text, self._at = self._text[self._at :] + chunk, 0
        self._ended = not chunk
        return bool(chunk)

    def _next(self) -> str:
        """Move to the next character that isn't space and return it; "" at the end."""
        while True:
            while self._at < len(self._text):
                if self._text[self._at] not in _SPACE:
                    return self._text[self._at]
                self._at += 1
            if not self._more():
                return ""

    def _value(self) -> Any:
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                self._read_on(error)
            except (ValueError, RecursionError) as error:
                raise TraceError(f"not JSON: {error}", where=self._place) from error
            else:
                # A number at the end may go on: 1.5e of 1.5e10 is one as well.
                ends = self._text[end - 1] in '}]"' or len(self._text) - end >= _NEAR_THE_END
                if ends or self._ended:
                    self._at = end
                    return value
                self._more()

    def _read_on(self, error: json.JSONDecodeError) -> None:
        """Read more of a value that is cut off. Raises TraceError if it's wrong, not cut off."""
        cut_off = error.msg.startswith("Unterminated string")
        cut_off |= error.pos >= len(self._text) - _NEAR_THE_END
        held = len(self._text) - self._at
        if not cut_off or held > MAX_VALUE_CHARACTERS or not self._more(held):
            message = f"not JSON: {error.msg}"
            if cut_off and self._ended:
                raise TraceError(f"{message} where the file ends", where=self._place) from error
            raise TraceError(message, where=self._place) from error
