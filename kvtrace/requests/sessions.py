"""A source of whole sessions read from files."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from kvtrace.errors import UsageError
from kvtrace.requests import lanes
from kvtrace.requests.arrivals import ARRIVAL_KEYS, gaps_ns, of_the_day
from kvtrace.requests.clock import Clock
from kvtrace.requests.request import (
    FOLLOW_ASK,
    FOLLOW_NONE,
    UNKNOWN_NS,
    Lineage,
    Ragged,
    RequestBatch,
    joined,
    ranges,
)
from kvtrace.requests.source import RequestFiles, Told
from kvtrace.requests.source_config import DEFAULT_RATE_PER_S

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from numpy.typing import NDArray

    from kvtrace.sources import SourceContext

SESSION_KEYS = ARRIVAL_KEYS | {"cycles", "scale_sessions"}
"""Configuration keys of every source of whole sessions."""
SAMPLE_PIECES = 16
"""Pieces of a file from which the mean turns of a session are taken; part of what a rate means."""
SESSIONS_PER_BATCH = 256
"""Sessions whose requests are given at a time, where the files tell when they begin."""

_ARRIVAL_STREAM = 24


@dataclass(frozen=True, slots=True)
class Sessions:
    """Whole sessions: the requests of each, then one array per request.

    `think_ns` is from the end of the request before; `stream` tells apart the growing contexts of
    one session (0 unless it has subagents). Where the files tell it: `begin_ns`, when each session
    began by their clock, and `offset_ns`, when each request came, from there on. `lineage` has
    owners from 0 to `owners` − 1 in each session.
    """

    turns: NDArray[np.int64]
    input_tokens: NDArray[np.int64]
    output_tokens: NDArray[np.int64]
    think_ns: NDArray[np.int64]
    stream: NDArray[np.int64]
    ids: Ragged | None = None
    begin_ns: NDArray[np.int64] | None = None
    offset_ns: NDArray[np.int64] | None = None
    lineage: Lineage | None = None
    owners: int = 1

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
            None if self.begin_ns is None else self.begin_ns[sessions],
            None if self.offset_ns is None else self.offset_ns[rows],
            None if self.lineage is None else self.lineage.take(rows),
            self.owners,
        )


class SessionSource(RequestFiles[Sessions]):
    """The source.

    Sessions begin in the order of the files: with `begins` when they were recorded, with `users`
    whenever a user's last one has ended, else by an open arrival process. Later requests follow the
    answer and the think time, or with `recorded` come when they were recorded. With `begins` the
    files are one piece, in order of `begin_ns`.
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
        begins: bool = False,
        recorded: bool = False,
    ) -> None:
        super().__init__(context, keys, pieces, block_tokens=block_tokens, remarks=remarks)
        self._begins, self._recorded = begins, recorded
        self._queue = self._one_by_one()
        self._waiting_users: set[int] = set()
        if recorded and context.config.users:
            raise UsageError(
                "users begin a session when their last one has ended", where="source.users",
                got=context.config.users, accepted="a rate, or --timing think",
            )  # fmt: skip

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
        started = self._as_recorded() if self._begins else self._drawn()
        batches = (self._begun(*each) for each in started)
        yield from merged(batches) if self._recorded else batches

    def _begun(
        self, numbers: NDArray[np.int64], begin_ns: NDArray[np.int64], sessions: Sessions
    ) -> RequestBatch:
        """Return the requests of sessions that begin at `begin_ns`."""
        batch, turns = self._batch(numbers, sessions), sessions.turns
        if self._recorded:
            assert sessions.offset_ns is not None
            offset_ns = np.rint(sessions.offset_ns / self._context.config.speed).astype(np.int64)
            batch.arrival_ns[:] = np.repeat(begin_ns, turns) + offset_ns
            batch.think_ns[:] = 0
        else:
            last = batch.turn == np.repeat(turns, turns) - 1
            batch.follow[:] = np.where(last, FOLLOW_NONE, 1)
            batch.arrival_ns[batch.turn == 0] = begin_ns
        return batch

    def _drawn(self) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], Sessions]]:
        """Yield sessions, their numbers and when they begin by the arrival process."""
        config = self._context.config
        if config.rate is None:
            config = config.model_copy(update={"rate": DEFAULT_RATE_PER_S})
        seeds = np.random.SeedSequence(self._context.seed, spawn_key=(_ARRIVAL_STREAM,))
        rng, even_ns = np.random.default_rng(seeds), 0
        sample = [piece.turns for piece in islice(self._pieces(), SAMPLE_PIECES)]
        mean_turns = float(np.concatenate(sample).mean()) if sample else 1.0
        for numbers, sessions in self._numbered():
            even = even_ns + np.cumsum(gaps_ns(config, rng, mean_turns, len(numbers)))
            even_ns = int(even[-1])
            yield numbers, of_the_day(config, even), sessions

    def _as_recorded(self) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], Sessions]]:
        """Yield sessions, their numbers and when they began, copies up to a minute later."""
        clock = Clock(self._context.config.speed)
        for numbers, sessions in self._numbered():
            assert sessions.begin_ns is not None
            begin_ns = sessions.begin_ns + self._copies.delays_ns(numbers)
            order = np.argsort(begin_ns, kind="stable")
            arrivals = clock.arrivals(begin_ns[order])
            for first in range(0, len(order), SESSIONS_PER_BATCH):
                some = order[first : first + SESSIONS_PER_BATCH]
                yield (
                    numbers[some],
                    arrivals[first : first + SESSIONS_PER_BATCH],
                    sessions.take(some),
                )
            clock.next_cycle(int(arrivals[-1]))

    def _of_users(self) -> Iterator[RequestBatch]:
        users = int(self._context.config.users or 0)
        self._waiting_users = set(range(users))
        firsts = [batch for user in range(users) if (batch := self.more(user)) is not None]
        for batch in firsts:
            batch.arrival_ns[0] = batch.think_ns[0]
        yield from sorted(firsts, key=lambda batch: int(batch.arrival_ns[0]))

    def more(self, chain: int) -> RequestBatch | None:
        """Return the next session, which user `chain` now begins, or None if there is none."""
        number, session = next(self._queue, (None, None))
        if number is None or session is None:
            return None
        if chain in self._waiting_users:
            self._waiting_users.remove(chain)
            session = self._first(chain, session)
        batch = self._batch(number, session)
        batch.chain[:] = chain
        batch.follow[:] = 1
        batch.follow[-1] = FOLLOW_ASK
        return batch

    def _first(self, user: int, session: Sessions) -> Sessions:
        """Return a user's first session, which may have begun before."""
        config = self._context.config
        if config.start_ratio is None:
            return session
        ratio = lanes.ratio_of(user, config.start_ratio, self._context.seed)
        return lanes.begun(session, ratio, config.warmup_requests)

    def _one_by_one(self) -> Iterator[tuple[NDArray[np.int64], Sessions]]:
        for numbers, sessions in self._numbered():
            for at in range(len(numbers)):
                yield numbers[at : at + 1], sessions.take(np.array([at]))

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
            think_ns=self._scaled(sessions.think_ns),
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
            lineage=_owned(sessions, np.repeat(numbers, turns)),
        )

    def _scaled(self, think_ns: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return think times divided by the speed, in arrays of their own."""
        if self._context.config.speed == 1:
            return think_ns.copy()
        scaled: NDArray[np.int64] = np.rint(think_ns / self._context.config.speed).astype(np.int64)
        return scaled


def _owned(sessions: Sessions, number: NDArray[np.int64]) -> Lineage | None:
    """Return the lineage of requests of sessions of these numbers, its owners told apart."""
    if sessions.lineage is None:
        return None
    owners = sessions.lineage.owners
    own = np.repeat(number * sessions.owners, owners.counts)
    return Lineage(sessions.lineage.starts, Ragged(owners.begin, own + owners.values))


def merged(batches: Iterable[RequestBatch]) -> Iterator[RequestBatch]:
    """Yield requests of sessions that begin one after the other in order of arrival."""
    waiting: RequestBatch | None = None
    for batch in batches:
        # What comes later comes after the last session here has begun.
        begun_ns = int(batch.arrival_ns[batch.turn == 0][-1])
        every = batch if waiting is None else joined(waiting, batch)
        order = np.argsort(every.arrival_ns, kind="stable")
        ready = int(np.searchsorted(every.arrival_ns[order], begun_ns))
        if ready:
            yield every.take(order[:ready])
        waiting = every.take(order[ready:])
    if waiting is not None:
        yield waiting
