"""Lines of words as columns: cut, numbered and turned into numbers by compiled code."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from kvtrace.errors import TraceError
from kvtrace.files.textfile import open_binary
from kvtrace.native.core import function
from kvtrace.native.library import BOOLEAN, INT, POINTER, U8, U64, contiguous
from kvtrace.placement.keys import KeyTable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

WORDS_MAX = 14
"""Words of a line that are looked at; there may be more."""
_BLOCK_BYTES = 4 << 20
_LINE_BYTES_MAX = 1 << 16
_NEWLINE = ord("\n")
_NUMBER_MAX = np.uint64((1 << 63) - 1)
BAD = np.uint64((1 << 64) - 1)
"""In place of what isn't a number from 0 to 2⁶³ − 1."""


class LinesStruct(ctypes.Structure):
    """`struct kv_lines` of `words.c`."""

    _fields_ = (("begin", POINTER), ("end", POINTER), ("count", POINTER), ("room", INT))


class WordsStruct(ctypes.Structure):
    """`struct kv_words` of `words.c`."""

    _fields_ = (
        ("data", POINTER),
        ("size", INT),
        ("begin", POINTER),
        ("end", POINTER),
        ("count", INT),
    )


_cut = function("kv_lines_cut", POINTER, U8, INT, BOOLEAN, returns=INT)
_numbers, _seconds, _hashes = (
    function(f"kv_words_{what}", POINTER, U64, returns=BOOLEAN)
    for what in ("numbers", "seconds", "hashes")
)


def _read(
    words: Callable[..., Any], data: NDArray[np.uint8], begin: NDArray[Any], end: NDArray[Any]
) -> NDArray[np.uint64]:
    """Return what one of the three functions makes of words."""
    begin, end = (contiguous(each, np.int32) for each in (begin, end))
    assert len(begin) == len(end)
    assert data.dtype == np.uint8
    out = np.empty(len(begin), np.uint64)
    pointers = (data.ctypes.data, len(data), begin.ctypes.data, end.ctypes.data, len(begin))
    within = words(ctypes.byref(WordsStruct(*pointers)), out)
    assert within
    return out


def seconds_ns(
    data: NDArray[np.uint8], begin: NDArray[Any], end: NDArray[Any]
) -> NDArray[np.uint64]:
    """Return `12.000345678` as nanoseconds, or BAD.

    Up to 10 digits may stand before a dot, and up to 9 behind it.
    """
    return _read(_seconds, data, begin, end)


@dataclass(frozen=True, slots=True)
class Lines:
    """Some lines of a file. `first`: number of the first one, from 1; empty lines count."""

    path: Path
    first: int
    data: NDArray[np.uint8]
    begin: NDArray[np.int32]
    end: NDArray[np.int32]
    count: NDArray[np.int32]
    """Words of each line."""

    def __len__(self) -> int:
        return len(self.count)

    def only(self, rows: NDArray[Any]) -> Picked:
        """Return some of the lines, by mask or index."""
        return Picked(self, np.flatnonzero(rows) if rows.dtype == np.bool_ else rows)

    def text(self, row: int) -> str:
        """Return a line as it stands in the file, shortened."""
        if not self.count[row]:
            return ""
        words = min(int(self.count[row]), WORDS_MAX)
        raw = self.data[self.begin[row, 0] : self.end[row, words - 1]]
        return raw.tobytes()[:80].decode("utf-8", "replace")

    def refuse(self, row: int, problem: str, accepted: str) -> TraceError:
        """Return the error of a line that isn't what it should be."""
        return TraceError(
            problem,
            where=f"{self.path}: line {self.first + row}",
            got=repr(self.text(row)),
            accepted=accepted,
        )


@dataclass(frozen=True, slots=True)
class Picked:
    """Some lines of `lines`; words are columns of them."""

    lines: Lines
    rows: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.rows)

    def _ends(self, word: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        return self.lines.begin[self.rows, word], self.lines.end[self.rows, word]

    def hashes(self, word: int) -> NDArray[np.uint64]:
        """Return a hash of each line's n-th word."""
        return _read(_hashes, self.lines.data, *self._ends(word))

    def bytes_at(self, word: int, at: int = 0) -> NDArray[np.uint8]:
        """Return a byte of each line's n-th word, the first one for 0; 0 behind the word's end."""
        begin, end = self._ends(word)
        inside = begin + at < end
        where = np.where(inside, begin + at, 0)
        return np.where(inside, self.lines.data[where], 0).astype(np.uint8)

    def numbers(self, word: int, name: str, most: int = int(_NUMBER_MAX)) -> NDArray[np.int64]:
        """Return each line's n-th word as a number. Raises TraceError for one that isn't."""
        numbers = _read(_numbers, self.lines.data, *self._ends(word))
        self.check(numbers > np.uint64(most), f"{name} isn't accepted", f"0 to {most}")
        return numbers.view(np.int64)

    def seconds_ns(self, word: int, name: str) -> NDArray[np.int64]:
        """Return each line's n-th word, seconds with a fraction, as ns. Raises TraceError."""
        times_ns = seconds_ns(self.lines.data, *self._ends(word))
        self.check(times_ns == BAD, f"{name} isn't accepted", "seconds, such as 12.000345678")
        return times_ns.view(np.int64)

    def check(self, bad: NDArray[np.bool_], problem: str, accepted: str) -> None:
        """Raise TraceError for the first bad line."""
        if bad.any():
            raise self.lines.refuse(int(self.rows[int(bad.argmax())]), problem, accepted)

    def word(self, at: int, word: int) -> str:
        """Return one line's n-th word."""
        begin, end = self._ends(word)
        raw = self.lines.data[begin[at] : end[at]].tobytes()
        return raw.decode("utf-8", "replace")


class Names:
    """Numbers words in order of first appearance."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self._table = KeyTable()

    def of(self, lines: Picked, word: int) -> NDArray[np.int64]:
        """Return the number of each line's n-th word."""
        numbers = self._table.add(lines.hashes(word)).astype(np.int64)
        while len(self.names) < self._table.count:
            at = int(np.argmax(numbers == len(self.names)))
            self.names.append(lines.word(at, word))
        return numbers


def word_hashes(words: Sequence[str]) -> NDArray[np.uint64]:
    """Return the hashes of words, to compare those of lines with."""
    data = np.frombuffer("".join(words).encode(), np.uint8)
    ends = np.cumsum([len(word.encode()) for word in words]).astype(np.int32)
    begins = np.concatenate((np.zeros(1, np.int32), ends[:-1]))
    return _read(_hashes, data, begins, ends)


def one_of(hashes: NDArray[np.uint64], words: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Return which of `words` each is, −1 for none."""
    order = np.argsort(words)
    at = np.minimum(np.searchsorted(words[order], hashes), len(words) - 1)
    return np.where(words[order][at] == hashes, order[at], -1)


def read_lines(path: Path, *, commas: bool = False) -> Iterator[Lines]:
    """Yield the lines of a file, some at a time; words are parted by spaces, and by commas if said.

    Raises TraceError for a file whose last line doesn't end: it may be cut anywhere.
    """
    first, left = 1, b""
    with open_binary(path) as stream:
        while data := stream.read(_BLOCK_BYTES):
            data = left + data
            whole = data.rfind(b"\n") + 1
            left = data[whole:]
            if len(left) > _LINE_BYTES_MAX:
                raise TraceError("not lines of text", where=f"{path}: after line {first}")
            if whole:
                lines = _lines(path, first, np.frombuffer(data, np.uint8, whole), commas=commas)
                first += len(lines)
                yield lines
    if left:
        raise TraceError(
            "the last line doesn't end: the file may be cut short",
            where=f"{path}: line {first}",
            got=repr(left[:80].decode("utf-8", "replace")),
            hint="copy the file again, or end the line if it is whole",
        )


def _lines(path: Path, first: int, data: NDArray[np.uint8], *, commas: bool) -> Lines:
    count = int(np.count_nonzero(data == _NEWLINE))
    begin = np.zeros((count, WORDS_MAX), np.int32)
    end = np.zeros((count, WORDS_MAX), np.int32)
    words = np.zeros(count, np.int32)
    lines = LinesStruct(begin.ctypes.data, end.ctypes.data, words.ctypes.data, count)
    cut = _cut(ctypes.byref(lines), data, len(data), commas)
    assert cut == count
    return Lines(path, first, data, begin, end, words)
