"""A source of whole sessions read from files that don't tell when they begin."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from kvtrace.requests.arrivals import ARRIVAL_KEYS, gaps_ns, of_the_day
from kvtrace.requests.request import (
    FOLLOW_ASK,
    FOLLOW_NONE,
    UNKNOWN_NS,
    Ragged,
    RequestBatch,
    ranges,
)
from kvtrace.requests.source import RequestFiles, Told

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from kvtrace.sources import SourceContext

SESSION_KEYS = ARRIVAL_KEYS | {"cycles", "scale_sessions"}
"""Configuration keys of every source of whole sessions."""
SAMPLE_PIECES = 16
"""Pieces of a file from which the mean turns of a session are taken; part of what a rate means."""

_ARRIVAL_STREAM = 24


@dataclass(frozen=True, slots=True)
class Sessions:
    """Whole sessions: the requests of each, then one array per request.

    `think_ns` is from the end of the request before; `stream` tells apart the growing contexts of
    one session (0 unless it has subagents).
    """

    turns: NDArray[np.int64]
    input_tokens: NDArray[np.int64]
    output_tokens: NDArray[np.int64]
    think_ns: NDArray[np.int64]
    stream: NDArray[np.int64]
    ids: Ragged | None = None

    def take(self, sessions: NDArray[np.int64]) -> Sessions:
        """Return the sessions at `sessions`, repeated where it repeats one."""
        turns = self.turns[sessions]
        begin = (np.cumsum(self.turns) - self.turns)[sessions]
        rows = np.repeat(begin, turns) + ranges(turns)
        return Sessions(
            turns,
            self.input_tokens[rows],
            self.output_tokens[rows],
            self.think_ns[rows],
            self.stream[rows],
            None if self.ids is None else self.ids.take(rows),
        )


class SessionSource(RequestFiles[Sessions]):
    """The source.

    Sessions begin in the order of the files: with `users` whenever a user's last one has ended,
    else by an open arrival process. Later requests follow the answer and the think time.
    """

    known = frozenset({"session"})

    def __init__(
        self,
        context: SourceContext,
        keys: frozenset[str],
        pieces: Callable[[], Iterator[Sessions]],
        *,
        block_tokens: int | None,
        remarks: Told,
    ) -> None:
        super().__init__(context, keys, pieces, block_tokens=block_tokens, remarks=remarks)
        self._queue = self._one_by_one()

    def batches(self) -> Iterator[RequestBatch]:
        """Yield each user's first session, or the sessions that arrive, in order of arrival."""
        self._learn()
        is_waiting = False
        for batch in self._of_users() if self._context.config.users else self._arriving():
            is_waiting = True
            yield batch
        if not is_waiting:
            raise self._nothing()

    def _learn(self) -> None:
        """Find out which ids sessions share, if there will be copies."""
        if self._copies.most == 1 or self.block_tokens is None:
            return
        first = 0
        for piece in self._pieces():
            assert piece.ids is not None
            session = first + np.arange(len(piece.turns))
            self._copies.learn(piece.ids, np.repeat(session, piece.turns))
            first += len(piece.turns)

    def _numbered(self) -> Iterator[tuple[NDArray[np.int64], Sessions]]:
        """Yield sessions and their numbers, copies behind their originals, cycle after cycle."""
        base = 0
        for _ in range(self._context.config.cycles):
            first = 0
            self._told.dropped.clear()
            for piece in self._pieces():
                session = first + np.arange(len(piece.turns))
                counts = self._copies.counts(session)
                numbers = self._copies.numbers(np.repeat(session, counts), ranges(counts))
                if len(numbers):
                    yield base + numbers, piece.take(np.repeat(np.arange(len(session)), counts))
                first += len(session)
            base += first * self._copies.most

    def _arriving(self) -> Iterator[RequestBatch]:
        config = self._context.config
        seeds = np.random.SeedSequence(self._context.seed, spawn_key=(_ARRIVAL_STREAM,))
        rng, even_ns = np.random.default_rng(seeds), 0
        sample = [piece.turns for piece in islice(self._pieces(), SAMPLE_PIECES)]
        mean_turns = float(np.concatenate(sample).mean()) if sample else 1.0
        for numbers, sessions in self._numbered():
            even = even_ns + np.cumsum(gaps_ns(config, rng, mean_turns, len(numbers)))
            batch = self._batch(numbers, sessions)
            last = batch.turn == np.repeat(sessions.turns, sessions.turns) - 1
            batch.follow[:] = np.where(last, FOLLOW_NONE, 1)
            batch.arrival_ns[batch.turn == 0] = of_the_day(config, even)
            even_ns = int(even[-1])
            yield batch

    def _of_users(self) -> Iterator[RequestBatch]:
        users = int(self._context.config.users or 0)
        firsts = [batch for user in range(users) if (batch := self.more(user)) is not None]
        for batch in firsts:
            batch.arrival_ns[0] = batch.think_ns[0]
        yield from sorted(firsts, key=lambda batch: int(batch.arrival_ns[0]))

    def more(self, chain: int) -> RequestBatch | None:
        """Return the next session, which user `chain` now begins, or None if there is none."""
        batch = next(self._queue, None)
        if batch is not None:
            batch.chain[:] = chain
            batch.follow[:] = 1
            batch.follow[-1] = FOLLOW_ASK
        return batch

    def _one_by_one(self) -> Iterator[RequestBatch]:
        for numbers, sessions in self._numbered():
            for at in range(len(numbers)):
                yield self._batch(numbers[at : at + 1], sessions.take(np.array([at])))

    def _batch(self, numbers: NDArray[np.int64], sessions: Sessions) -> RequestBatch:
        """Return the requests of sessions, whose follow and arrivals are yet to be set."""
        turns, count = sessions.turns, len(sessions.input_tokens)
        session, turn = np.repeat(numbers, turns), ranges(turns)
        last, ids = turn == np.repeat(turns, turns) - 1, None
        if sessions.ids is not None:
            ids = self._copies.identities(sessions.ids, session % self._copies.most)
        turn_tokens = None
        if self._history is not None:
            stream = (session << 24) + sessions.stream
            session, turn_tokens = self._history.follow(
                stream, sessions.input_tokens, np.zeros_like(last)
            )
            self._history.forget()
        return RequestBatch(
            arrival_ns=np.full(count, UNKNOWN_NS),
            think_ns=sessions.think_ns,
            follow=np.zeros(count, np.int64),
            chain=np.zeros(count, np.int64),
            session=session,
            turn=turn,
            # A file's ids may come back at any time.
            last_turn=last & (ids is None),
            input_tokens=sessions.input_tokens,
            output_tokens=sessions.output_tokens,
            qos=np.zeros(count, np.int64),
            block_ids=ids,
            turn_tokens=turn_tokens,
        )
