"""A trace replayed round after round: what changes from one round to the next.

A round finds what the first one found: the same live set, under names that are new where an object
was new. What the round before has left and this one doesn't expect is deleted at its begin; an
object that is expected, and was deleted meanwhile, is replaced by one of the same length that is
left. Places are made free by deletes and waited for like any others, so that order holds across
rounds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np

from kvtrace.errors import UsageError
from kvtrace.placement.objects import LIVE
from kvtrace.placement.rows import Chunk, TraceRows
from kvtrace.placement.survey import survey_whole
from kvtrace.trace.schema import BY_NAME, Op, Phase
from kvtrace.trace.writer import numpy_dtype
from kvtrace.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from kvtrace.placement.survey import Survey, Surveyor
    from kvtrace.trace.reader import Columns

_NEXT = 0x9E3779B97F4A7C15
"""Added to names of one round for those of the next: odd, so that none comes back within 2⁶⁴."""
_CACHED_ROWS = 1 << 20
"""Rounds of up to as many rows are read once."""
_SHIFTED = ("timestamp", "due", "submit", "complete")


@dataclass(frozen=True, slots=True)
class Turnover:
    """How a round's end becomes the next one's begin. Keys are those of the first round.

    `kept`: keys that mean the same in all rounds, sorted. `replaced`: keys, sorted, that mean in
    each further round what those of `stand_ins` meant in the round before. `ended_…`: objects that
    are deleted between two rounds.
    """

    kept: NDArray[np.uint64]
    replaced: NDArray[np.uint64]
    stand_ins: NDArray[np.uint64]
    ended_key: NDArray[np.uint64]
    ended_tier: NDArray[np.uint8]
    ended_bytes: NDArray[np.uint64]
    first_ns: int
    period_ns: int


class Looped:
    """The rows of a trace again and again. `rounds`: how often; None: for ever."""

    def __init__(self, rows: TraceRows, turnover: Turnover, rounds: int | None = None) -> None:
        self._rows, self.turnover, self._rounds = rows, turnover, rounds
        self._cached: dict[tuple[str, ...], list[Chunk]] = {}

    @property
    def path(self) -> Path:
        """Where the rows come from."""
        return self._rows.path

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns that there are."""
        return self._rows.columns

    def resident(self) -> NDArray[np.void]:
        """Return the objects present at the start."""
        return self._rows.resident()

    def chunks(self, names: Sequence[str]) -> Iterator[Chunk]:
        """Yield the rows' columns, round after round; requests have the same ids in all rounds."""
        names = tuple(names)
        stand_ins = self.turnover.stand_ins
        for number in count():
            for chunk in self._round(names):
                yield Chunk(self._moved(chunk.columns, number, stand_ins), chunk.failed, number)
            if number + 1 == self._rounds:
                return
            yield from self._between(names, number, stand_ins)
            stand_ins = self._named(self.turnover.stand_ins, number, stand_ins)

    def _round(self, names: tuple[str, ...]) -> Iterator[Chunk]:
        """Yield the first round's rows; those of a short trace are kept in memory."""
        if names in self._cached:
            yield from self._cached[names]
            return
        cached: list[Chunk] = []
        rows = 0
        for chunk in self._rows.chunks(names):
            rows += len(chunk)
            cached = [*cached, chunk] if rows <= _CACHED_ROWS else []
            yield chunk
        if rows <= _CACHED_ROWS:
            self._cached[names] = cached

    def _named(
        self, keys: NDArray[np.uint64], number: int, stand_ins: NDArray[np.uint64]
    ) -> NDArray[np.uint64]:
        """Return what keys of the first round are called in round `number`.

        `stand_ins`: what the keys that are replaced are called in it.
        """
        if number == 0:
            return keys
        named = keys + round_step(number)
        for known, names in (
            (self.turnover.kept, self.turnover.kept),
            (self.turnover.replaced, stand_ins),
        ):
            if len(known):
                at = np.minimum(np.searchsorted(known, keys), len(known) - 1)
                named = np.where(known[at] == keys, names[at], named)
        return named

    def _moved(self, columns: Columns, number: int, stand_ins: NDArray[np.uint64]) -> Columns:
        if number == 0:
            return columns
        moved = dict(columns)
        for name in _SHIFTED:
            if name in moved:
                moved[name] = moved[name] + number * self.turnover.period_ns
        if "key" in moved:
            moved["key"] = self._named(columns["key"], number, stand_ins)
        return moved

    def _between(
        self, names: tuple[str, ...], number: int, stand_ins: NDArray[np.uint64]
    ) -> Iterator[Chunk]:
        """Yield the deletes of what round `number` has left and the next one doesn't expect."""
        turnover = self.turnover
        rows = len(turnover.ended_key)
        if not rows:
            return
        begin_ns = turnover.first_ns + (number + 1) * turnover.period_ns
        known: dict[str, Any] = {
            "timestamp": np.full(rows, begin_ns, np.int64),
            "op": np.full(rows, int(Op.DELETE), np.uint8),
            "size": turnover.ended_bytes,
            "tier": turnover.ended_tier,
            "key": self._named(turnover.ended_key, number, stand_ins),
            "phase": np.full(rows, int(Phase.EVICT), np.uint8),
        }
        yield Chunk({name: known.get(name, _unknown(name, rows)) for name in names}, 0, number + 1)


def round_step(number: int) -> np.uint64:
    """Return what names of round `number` are further than those of the first."""
    return np.uint64(_NEXT * number & (1 << 64) - 1)


def _unknown(name: str, rows: int) -> NDArray[Any]:
    """Return a column without values."""
    dtype = np.uint8 if BY_NAME[name].words is not None else numpy_dtype(BY_NAME[name])
    masked: NDArray[Any] = np.ma.masked_array(np.zeros(rows, dtype), mask=True)
    return masked


def fresh_requests(chunk: Chunk) -> Columns:
    """Return a chunk's columns with ids of requests that no other round has."""
    request = chunk.columns.get("request")
    if request is None or chunk.round == 0:
        return chunk.columns
    return chunk.columns | {"request": request + round_step(chunk.round)}


@dataclass(frozen=True, slots=True)
class Loop:
    """A trace's rows for ever, and what one round and two of them need."""

    rows: Looped
    once: Survey
    twice: Survey

    def survey(self, rounds: int) -> Survey:
        """Return what was surveyed, with the counts of as many rounds."""
        more = {
            name: getattr(self.once, name)
            + (getattr(self.twice, name) - getattr(self.once, name)) * (rounds - 1)
            for name in _COUNTED
        }
        return replace(self.twice, **more)


_COUNTED = (
    "cell_ops", "cell_bytes", "rows", "last_ns", "executed_ops", "original_reads", "beyond_reads",
    "failed_rows",
)  # fmt: skip


def loop(
    rows: TraceRows,
    lane_of_tier: NDArray[np.int8],
    progress: Callable[[int], None] = lambda rows: None,
    *,
    count_sessions: bool = False,
) -> Loop:
    """Return `rows` for ever. Reads them three times.

    Raises TraceError for a dead read, UsageError for a trace that can't follow itself.
    """
    once, state = survey_whole(rows, lane_of_tier, progress, count_sessions=count_sessions)
    turnover = _turnover(rows, state, once, lane_of_tier)
    twice = survey_whole(
        Looped(rows, turnover, 2), lane_of_tier, progress, count_sessions=count_sessions
    )[0]
    twice.repeats_from = once.lives.count
    return Loop(Looped(rows, turnover), once, twice)


def _first_ns(rows: TraceRows) -> int:
    chunk = next(rows.chunks(("timestamp",)), None)
    return 0 if chunk is None else int(chunk.columns["timestamp"][0])


def _turnover(
    rows: TraceRows, state: Surveyor, once: Survey, lane_of_tier: NDArray[np.int8]
) -> Turnover:
    """Return the ops between rounds, from the state behind the first one."""
    first_ns = _first_ns(rows)
    length_ns = once.last_ns - first_ns
    lanes = state.objects.shape[1]
    index, lane = np.nonzero(state.objects[: state.table.count]["state"] == LIVE)
    live = state.objects[index, lane]
    is_original = live["life"] < 0
    survives = np.zeros(len(state.originals), bool)
    survives[-1 - live["life"][is_original]] = True
    survives = survives[: len(once.original_of)][once.original_of >= 0]
    originals = once.originals
    expected = survives | (originals["deleted"] == 0)
    lost = np.unique(originals["key"][expected & ~survives])
    needed = _lengths(originals["key"][expected], originals["lane"][expected],
                      originals["length"][expected], lanes)  # fmt: skip
    left = _lengths(state.table.keys[index[~is_original]], lane[~is_original],
                    live["length"][~is_original], lanes)  # fmt: skip
    stand_ins = _stand_ins(lost, needed, left, np.unique(originals["key"]), rows)
    kept = np.setdiff1d(np.unique(originals["key"][survives]), lost)
    stays = np.where(is_original, np.isin(state.table.keys[index], kept),
                     np.isin(state.table.keys[index], stand_ins))  # fmt: skip
    tier_of_lane = np.flatnonzero(lane_of_tier >= 0)
    tier_of_lane = tier_of_lane[np.argsort(lane_of_tier[tier_of_lane])]
    order = np.lexsort((lane[~stays], state.table.keys[index[~stays]]))
    return Turnover(
        kept,
        lost,
        stand_ins,
        state.table.keys[index[~stays]][order],
        tier_of_lane[lane[~stays]][order].astype(np.uint8),
        live["length"][~stays][order].astype(np.uint64),
        first_ns,
        length_ns + max(1, length_ns // max(1, once.rows - 1)),
    )


def _lengths(
    key: NDArray[np.uint64], lane: NDArray[Any], length: NDArray[np.int64], lanes: int
) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Return keys, sorted, and the length of the object of each on each lane; −1 without one."""
    keys, at = np.unique(key, return_inverse=True)
    lengths = np.full((len(keys), lanes), -1, np.int64)
    lengths[at, lane] = length
    return keys, lengths


def _stand_ins(
    lost: NDArray[np.uint64],
    needed: tuple[NDArray[np.uint64], NDArray[np.int64]],
    left: tuple[NDArray[np.uint64], NDArray[np.int64]],
    originals: NDArray[np.uint64],
    rows: TraceRows,
) -> NDArray[np.uint64]:
    """Return, for each lost key, one that is left with objects of the same lengths and lanes.

    Raises UsageError where there are too few.
    """
    free = ~np.isin(left[0], originals)
    wanted = needed[1][np.searchsorted(needed[0], lost)]
    both = np.concatenate((wanted, left[1][free]))
    if not len(lost):
        return lost
    kind = np.unique(both, axis=0, return_inverse=True)[1].reshape(-1)
    ranked_lost, ranked_free = _ranked(kind[: len(lost)]), _ranked(kind[len(lost) :])
    place = {pair: at for at, pair in enumerate(ranked_free)}
    at = np.array([place.get(pair, -1) for pair in ranked_lost], np.int64)
    missing = at < 0
    if missing.any():
        total = int(np.maximum(wanted[missing], 0).sum())
        raise UsageError(
            "the trace can't follow itself: a round needs objects that the one before has deleted, "
            "and nothing of their length is left",
            where=f"--loop: {rows.path}",
            got=f"{int(missing.sum()):,} objects, {format_bytes(total)}",
            hint="replay it once (without --loop), or take a longer part of the trace",
        )
    return left[0][free][at]


def _ranked(kind: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Return, for each place, its kind and how many of this kind come before."""
    order = np.argsort(kind, kind="stable")
    begins = np.flatnonzero(np.diff(kind[order], prepend=-1))
    counts = np.diff([*begins.tolist(), len(kind)])
    rank = np.empty(len(kind), np.int64)
    rank[order] = np.arange(len(kind)) - np.repeat(begins, counts)
    return list(zip(kind.tolist(), rank.tolist(), strict=True))
