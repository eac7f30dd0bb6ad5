"""Mooncake's request traces: JSONL with timestamp (ms), lengths and 512-token hash ids."""

from __future__ import annotations

import json
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from kvtrace.errors import TraceError, UsageError
from kvtrace.hashmap import Interner
from kvtrace.header import SourceInfo
from kvtrace.request import Ragged, RequestBatch
from kvtrace.textfile import open_text
from kvtrace.units import MS_NS
from kvtrace.writer import file_sha256

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from kvtrace.sources import SourceContext

BLOCK_TOKENS = 512
LINES_PER_PIECE = 4096
_U64_MAX = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class _Lines:
    """Parsed lines: three numbers per line and the ids of each."""

    numbers: NDArray[np.int64]
    ids: Ragged


def parse_lines(lines: list[str], where: str, first_line: int) -> _Lines:
    """Return the requests in `lines`. Raises TraceError that names the file and the line."""
    numbers = np.empty((len(lines), 3), np.int64)
    ids: list[int] = []
    counts = np.empty(len(lines), np.int64)
    for index, line in enumerate(lines):
        place = f"{where}:{first_line + index}"
        try:
            fields = json.loads(line)
        except json.JSONDecodeError as error:
            raise TraceError(f"not JSON: {error}", where=place) from error
        if not isinstance(fields, dict):
            raise TraceError("not a request", where=place, accepted="a JSON object")
        numbers[index] = (
            _whole(fields, "timestamp", 0, place),
            _whole(fields, "input_length", 1, place),
            _whole(fields, "output_length", 0, place),
        )
        found = fields.get("hash_ids")
        needed = -(-int(numbers[index, 1]) // BLOCK_TOKENS)
        if not isinstance(found, list) or len(found) < needed:
            raise TraceError(
                "too few hash_ids",
                where=place,
                got=len(found) if isinstance(found, list) else found,
                accepted=f"{needed}, one per {BLOCK_TOKENS} tokens of input_length",
            )
        for value in found:
            if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _U64_MAX:
                raise TraceError("bad hash id", where=place, got=value, accepted="0 to 2^64 - 1")
        ids.extend(found)
        counts[index] = len(found)
    values = np.array(ids, np.uint64).view(np.int64)
    return _Lines(numbers, Ragged.from_counts(counts, values))


def _whole(fields: dict[str, Any], name: str, least: int, where: str) -> int:
    value = fields.get(name)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value < 1 << 53:
        raise TraceError(
            f"bad {name}", where=where, got=repr(value), accepted=f"a whole number from {least}"
        )
    return value


class Mooncake:
    """The source. Its ids are global, prefix-chained, one per 512 tokens, the last one partial."""

    block_tokens: int | None = BLOCK_TOKENS
    known: frozenset[str] = frozenset()

    def __init__(self, context: SourceContext) -> None:
        self._inputs = context.inputs
        self._speed = context.config.speed
        self._workers = context.workers
        self._interner = Interner()
        self._requests = 0

    @property
    def info(self) -> SourceInfo:
        """Name, parameters and inputs, for the header."""
        return SourceInfo(
            name="mooncake",
            parameters={"speed": self._speed},
            sha256=[file_sha256(path) for path in self._inputs],
        )

    def batches(self) -> Iterator[RequestBatch]:
        """Yield the requests in the order of the lines."""
        last_ms = 0
        for where, first_line, lines in self._parsed():
            times_ms = lines.numbers[:, 0]
            backwards = np.flatnonzero(np.diff(times_ms, prepend=last_ms) < 0)
            if len(backwards):
                row = int(backwards[0])
                raise TraceError(
                    "time runs backwards",
                    where=f"{where}:{first_line + row}",
                    got=int(times_ms[row]),
                    hint="sort the lines by timestamp",
                )
            last_ms = int(times_ms[-1])
            yield self._batch(lines)
        if self._requests == 0:
            raise TraceError("no requests", where=self._inputs[0], accepted="at least one line")

    def _batch(self, lines: _Lines) -> RequestBatch:
        count = len(lines.numbers)
        zeros = np.zeros(count, np.int64)
        first = self._requests
        self._requests += count
        return RequestBatch(
            arrival_ns=np.rint(lines.numbers[:, 0] * (MS_NS / self._speed)).astype(np.int64),
            think_ns=zeros,
            follow=zeros,
            chain=zeros,
            session=first + np.arange(count),
            turn=zeros,
            last_turn=np.zeros(count, np.bool_),
            input_tokens=lines.numbers[:, 1].copy(),
            output_tokens=lines.numbers[:, 2].copy(),
            qos=zeros,
            block_ids=Ragged(lines.ids.begin, self._interner.intern(lines.ids.values)),
            turn_tokens=None,
        )

    def _parsed(self) -> Iterator[tuple[str, int, _Lines]]:
        pieces = (piece for path in self._inputs for piece in _pieces(path))
        if self._workers == 1:
            for lines, where, first_line in pieces:
                yield where, first_line, parse_lines(lines, where, first_line)
            return
        with ProcessPoolExecutor(self._workers) as pool:
            while some := list(islice(pieces, 2 * self._workers)):
                tasks = [(piece, pool.submit(parse_lines, *piece)) for piece in some]
                for (_, where, first_line), task in tasks:
                    yield where, first_line, task.result()

    def more(self, chain: int) -> RequestBatch | None:
        """Return None: no request waits for another."""
        return None


def _pieces(path: Path) -> Iterator[tuple[list[str], str, int]]:
    first_line = 1
    with open_text(path) as file:
        while lines := list(islice(file, LINES_PER_PIECE)):
            kept = [line for line in lines if not line.isspace()]
            if len(kept) != len(lines) and kept != lines[: len(kept)]:
                raise TraceError("empty line between requests", where=f"{path} near {first_line}")
            if kept:
                yield kept, str(path), first_line
            first_line += len(lines)


def create(context: SourceContext) -> Mooncake:
    """Return the source. Raises UsageError without an input."""
    if not context.inputs:
        raise UsageError("needs an input", where="source mooncake", accepted="--input FILE.jsonl")
    return Mooncake(context)
