"""From a file's clock to arrivals: order, coarse ticks, speed and cycles."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from kvtrace.errors import TraceError, UsageError
from kvtrace.requests.rows import MAX_TIME_NS, join
from kvtrace.units import S_NS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

    from kvtrace.requests.rows import FileRows, Piece

MAX_GAP_NS = 30 * 24 * 3600 * S_NS
"""Between two requests. A clock that goes on in milliseconds after seconds, or from another file's
epoch, jumps by far more; a service that was down for a month is two traces."""


def in_order(pieces: Iterable[Piece]) -> Iterator[FileRows]:
    """Yield the requests. Raises TraceError where time runs backwards or leaps."""
    last_ns: int | None = None
    for piece in pieces:
        times_ns = piece.rows.time_ns
        if not len(times_ns):
            continue
        gaps = np.diff(times_ns, prepend=times_ns[0] if last_ns is None else last_ns)
        wrong = np.flatnonzero((gaps < 0) | (gaps > MAX_GAP_NS))
        if len(wrong):
            raise _refusal(piece.place(int(wrong[0])), int(gaps[wrong[0]]))
        last_ns = int(times_ns[-1])
        yield piece.rows


def _refusal(place: str, gap_ns: int) -> TraceError:
    got = f"{abs(gap_ns) / S_NS:,.9g} s {'later' if gap_ns > 0 else 'earlier'} than the one before"
    if gap_ns < 0:
        hint = "sort the requests by time, and give files in their order"
        return TraceError("time runs backwards", where=place, got=got, hint=hint)
    return TraceError(
        "time leaps: units may be mixed",
        where=place,
        got=got,
        accepted=f"at most {MAX_GAP_NS // (24 * 3600 * S_NS)} days between two requests",
    )


def spread(
    pieces: Iterable[FileRows], tick_ns: int, rng: np.random.Generator
) -> Iterator[FileRows]:
    """Yield the requests, those of one tick of a coarse clock at random over it, in their order.

    Raises UsageError if the clock doesn't tick like that.
    """
    first_ns: int | None = None
    held: FileRows | None = None
    for piece in pieces:
        first_ns = int(piece.time_ns[0]) if first_ns is None else first_ns
        off = np.flatnonzero((piece.time_ns - first_ns) % tick_ns)
        if len(off):
            raise UsageError(
                "the file's clock doesn't tick like that",
                where="--dequantise",
                got=f"{tick_ns / S_NS:g}s, but a request {int(piece.time_ns[off[0]]) / S_NS:g} s",
                accepted="what all times are a multiple of, counted from the first",
            )
        rows = piece if held is None else join([held, piece])
        # The last tick may go on in the next piece.
        done, held = rows.split(int(np.searchsorted(rows.time_ns, rows.time_ns[-1])))
        if len(done):
            yield _spread(done, tick_ns, rng)
    if held is not None:
        yield _spread(held, tick_ns, rng)


def _spread(rows: FileRows, tick_ns: int, rng: np.random.Generator) -> FileRows:
    drawn = rng.random(len(rows))
    ascending = drawn[np.lexsort((drawn, rows.time_ns))]
    return replace(rows, time_ns=rows.time_ns + (ascending * tick_ns).astype(np.int64))


@dataclass(slots=True)
class Clock:
    """Turns a file's times into arrivals: from 0 on, divided by `speed`, one cycle after another.

    A cycle begins one mean gap after the last request of the one before it.
    """

    speed: float
    begin_ns: int = 0
    _first_ns: int | None = None
    _last_ns: int = 0
    _requests: int = 0

    def arrivals(self, time_ns: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the arrivals. Raises UsageError if they are too late to be told."""
        if self._first_ns is None:
            self._first_ns = int(time_ns[0])
        since = time_ns - self._first_ns
        scaled = since if self.speed == 1 else np.rint(since / self.speed)
        if float(scaled[-1]) + self.begin_ns >= MAX_TIME_NS:
            raise UsageError(
                "arrivals end too late",
                where="--speed, --cycles",
                got=f"{float(scaled[-1]) / S_NS:g} s",
                accepted="less than 146 years",
            )
        arrivals: NDArray[np.int64] = scaled.astype(np.int64) + self.begin_ns
        self._last_ns, self._requests = int(arrivals[-1]), self._requests + len(arrivals)
        return arrivals

    def next_cycle(self, end_ns: int) -> None:
        """Go on after `end_ns`, the last arrival of this cycle."""
        gap_ns = (self._last_ns - self.begin_ns) // max(1, self._requests - 1)
        self.begin_ns = end_ns + max(gap_ns, 1)
        self._first_ns, self._requests = None, 0
