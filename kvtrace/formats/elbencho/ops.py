"""elbencho's lines put together: the start and the end of each op, and the file that it is on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kvtrace.compiled.hashmap import MISSING, Interner, find, give_back, new_table, take, with_room
from kvtrace.compiled.jit import constant, kernel
from kvtrace.compiled.xxh3 import LANES, hash_of
from kvtrace.formats.common.names import Parts, parts_of, texts
from kvtrace.formats.elbencho.lines import ASYNC, CLOSES, OPENS, OTHER, WORDS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kvtrace.formats.elbencho.lines import Lines

_IS_OPEN, _IS_CLOSE = (
    np.array([word in words for word in WORDS] + [False] * (OTHER + 1 - len(WORDS)))
    for words in (OPENS, CLOSES)
)
_IS_ASYNC = np.array([word in ASYNC for word in WORDS] + [False] * (OTHER + 1 - len(WORDS)))
_IS_TAKEN = ~(_IS_OPEN | _IS_CLOSE) & (np.arange(OTHER + 1) < len(WORDS))
_NOWHERE = constant(-1)
_PRIME = np.uint64(0x9E3779B97F4A7C15)
_NS, _USED, _LEFT_OUT = 1, constant(0), constant(2)
_FIRST_STARTS = 1024
_DESCRIPTOR, _BETWEEN = (pa.scalar(text, pa.large_string()) for text in ("descriptor", " "))


@kernel
def _ident(name: Any, rank: int, word: int, offset: int, length: int, equal: int) -> Any:
    """Return what tells an op from all others, and from `equal` ones that started before it."""
    value = np.uint64(name)
    value = (value ^ np.uint64(rank)) * _PRIME
    value = (value ^ (value >> np.uint64(29)) ^ np.uint64(word)) * _PRIME
    value = (value ^ (value >> np.uint64(29)) ^ np.uint64(offset)) * _PRIME
    value = (value ^ (value >> np.uint64(29)) ^ np.uint64(length)) * _PRIME
    value = (value ^ (value >> np.uint64(29)) ^ np.uint64(equal)) * _PRIME
    return np.int64(value ^ (value >> np.uint64(32)))


@kernel
def _is_number(data: Any, begin: int, end: int) -> bool:
    for at in range(begin, end):
        if not 48 <= data[at] <= 57:
            return False
    return end > begin


@kernel
def _pair(
    data: Any, begin: Any, end: Any, lanes: Any, rank: Any, word: Any, offset: Any, length: Any,
    is_finished: Any, ns: Any, table: Any, starts: Any, count: Any, over: Any, begun: Any,
) -> int:  # fmt: skip
    """Find the ops that end in these lines: their last lines, `over`, and when they began.

    Of equal ops of one worker that run at once the last one started ends first. One of which the
    log has the start only is over at once. Returns how many, or _NOWHERE − the line of an end
    without a start.
    """
    ops = 0
    for line in range(rank.size):
        if not _IS_TAKEN[word[line]]:
            count[_LEFT_OUT] += is_finished[line]
            continue
        if _IS_ASYNC[word[line]]:
            if not is_finished[line]:
                over[ops], begun[ops] = line, ns[line]
                ops += 1
            continue
        name = hash_of(data, begin[line], end[line], lanes)
        running, slot = 0, MISSING
        ident = _ident(name, rank[line], word[line], offset[line], length[line], 0)
        above = find(table, starts, ident)
        while above != MISSING:
            running, slot = running + 1, above
            ident = _ident(name, rank[line], word[line], offset[line], length[line], running)
            above = find(table, starts, ident)
        if not is_finished[line]:
            starts[take(table, starts, count, ident), _NS] = ns[line]
        elif slot == MISSING:
            return _NOWHERE - line
        else:
            over[ops], begun[ops] = line, starts[slot, _NS]
            ops += 1
            give_back(table, starts, count, slot)
    return ops


@kernel
def _resolve(
    data: Any, begin: Any, end: Any, worker: Any, word: Any, is_finished: Any, is_error: Any,
    open_count: Any, open_begin: Any, open_end: Any, descriptor: Any,
) -> None:  # fmt: skip
    """Replace the number of a descriptor by the file that its worker has open, if that is one.

    Other numbers are `descriptor`s.
    """
    for line in range(worker.size):
        number = _is_number(data, begin[line], end[line])
        by, done = worker[line], is_finished[line] and not is_error[line]
        if done and _IS_OPEN[word[line]]:
            open_count[by] += 1
            open_begin[by], open_end[by] = begin[line], end[line]
        elif done and _IS_CLOSE[word[line]]:
            open_count[by] -= 1
        if number:
            sole = open_count[by] == 1 and open_begin[by] != _NOWHERE
            descriptor[line] = not sole
            if sole:
                begin[line], end[line] = open_begin[by], open_end[by]


@dataclass(frozen=True, slots=True)
class Ops:
    """Ops that are over: the index of each one's last line, when it began, and what it is on."""

    line: NDArray[np.int64]
    begun_ns: NDArray[np.int64]
    names: Parts


class LostEndError(Exception):
    """An op's end without its start, at an index among the lines."""

    def __init__(self, at: int) -> None:
        super().__init__(at)
        self.at = at


class Follower:
    """Goes through a log's lines; memory grows with what runs and is open at a time."""

    def __init__(self) -> None:
        self._workers = Interner()
        self._open = np.zeros(0, np.int64)
        self._open_begin, self._open_end = np.zeros(0, np.int64), np.zeros(0, np.int64)
        self._open_data = np.zeros(0, np.uint8)
        self._starts = np.zeros((_FIRST_STARTS, 2), np.int64)
        self._table = new_table(_FIRST_STARTS)
        self._count = np.array([0, MISSING, 0], np.int64)
        self._lanes = np.zeros(LANES, np.uint64)
        self._running = 0

    @property
    def left_out(self) -> int:
        """How many ops of other kinds ended."""
        return int(self._count[_LEFT_OUT])

    @property
    def unfinished(self) -> int:
        """How many ops haven't ended yet."""
        return self._running

    def take(self, lines: Lines) -> Ops:
        """Return the ops that end in the next lines. Raises LostEndError."""
        over, begun_ns = self._pairs(lines)
        names = self._names(lines)
        return Ops(over, begun_ns, Parts(names.data, names.begin[over], names.end[over]))

    def _pairs(self, lines: Lines) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        needed = int(self._count[_USED]) + len(lines)
        self._table, self._starts = with_room(self._table, self._starts, needed)
        over, begun_ns = np.empty(len(lines), np.int64), np.empty(len(lines), np.int64)
        names = lines.names
        paired = _pair(
            names.data, names.begin, names.end, self._lanes, lines.rank, lines.word, lines.offset,
            lines.length, lines.is_finished, lines.ns, self._table, self._starts, self._count,
            over, begun_ns,
        )  # fmt: skip
        if paired < 0:
            raise LostEndError(int(_NOWHERE - paired))
        started = _IS_TAKEN[lines.word] & ~lines.is_finished
        self._running += int(started.sum()) - paired
        return over[:paired], begun_ns[:paired]

    def _names(self, lines: Lines) -> Parts:
        """Return what each line's op is on."""
        worker = self._workers.intern(lines.rank)
        new = len(self._workers) - len(self._open)
        self._open = np.pad(self._open, (0, new))
        self._open_begin, self._open_end = (
            np.pad(places, (0, new), constant_values=_NOWHERE)
            for places in (self._open_begin, self._open_end)
        )
        shift = len(self._open_data)
        data = np.concatenate((self._open_data, lines.names.data)) if shift else lines.names.data
        begin, end = lines.names.begin + shift, lines.names.end + shift
        descriptor = np.zeros(len(lines), np.bool_)
        _resolve(
            data, begin, end, worker, lines.word, lines.is_finished, lines.is_error,
            self._open, self._open_begin, self._open_end, descriptor,
        )  # fmt: skip
        self._keep_open(data)
        return _with_descriptors(Parts(data, begin, end), np.flatnonzero(descriptor))

    def _keep_open(self, data: NDArray[np.uint8]) -> None:
        """Keep the names of open files, which lie in `data`, for the next lines."""
        is_open = self._open_begin != _NOWHERE
        begin, end = self._open_begin[is_open], self._open_end[is_open]
        kept = parts_of(texts(data, begin, end))
        self._open_data = kept.data
        self._open_begin[is_open], self._open_end[is_open] = kept.begin, kept.end


def _with_descriptors(names: Parts, rows: NDArray[np.int64]) -> Parts:
    """Return names of which some rows, numbers, are said to be descriptors."""
    if not len(rows):
        return names
    numbers = texts(names.data, names.begin[rows], names.end[rows])
    made = parts_of(pc.binary_join_element_wise(_DESCRIPTOR, numbers, _BETWEEN))
    begin, end, shift = names.begin.copy(), names.end.copy(), len(names.data)
    begin[rows], end[rows] = made.begin + shift, made.end + shift
    return Parts(np.concatenate((names.data, made.data)), begin, end)
