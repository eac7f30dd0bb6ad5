"""More or fewer sessions than a file has: whole ones thinned out, or copied."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from kvtrace.native.hashmap import Interner
from kvtrace.requests.request import Ragged, ranges
from kvtrace.requests.rows import join
from kvtrace.units import S_NS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

    from kvtrace.requests.rows import FileRows

COPY_DELAY_NS = 60 * S_NS
"""A copy of a session comes up to this much later than the session; part of what a seed means."""

_COUNT_STREAM, _DELAY_STREAM = 21, 22
_STEP, _MIX_1, _MIX_2 = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


class Copies:
    """How many copies of each session there are, and which block ids are a copy's own.

    An id that one session alone uses is private: a copy has its own instead. One that several
    sessions use stays the same in all copies.
    """

    def __init__(self, scale: float, seed: int) -> None:
        self.scale = scale
        self.most = max(1, math.ceil(scale))
        self._seed = seed
        self._interner = Interner()
        self.references = 0
        self.families: NDArray[np.int64] | None = None
        """The family of each session, where it is these that stay, go and are copied as a whole."""
        self._lowest = np.zeros(0, np.int64)
        self._highest = np.zeros(0, np.int64)

    @property
    def listed_ids(self) -> dict[str, int]:
        """Return the number of ids listed by requests, partial last ones included."""
        return {"references": self.references, "unique": len(self._interner)}

    def whole(self, session: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return what each session stays, goes or is copied with: its family, or itself."""
        return session if self.families is None else self.families[session]

    def counts(self, session: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return how many times each session appears: `scale` on average."""
        drawn = _uniform(self._seed, _COUNT_STREAM, self.whole(session))
        counts: NDArray[np.int64] = np.floor(self.scale + drawn).astype(np.int64)
        return counts

    def numbers(self, session: NDArray[np.int64], copy: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the session numbers of copies."""
        return session * self.most + copy

    def delays_ns(self, number: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return by how much each copy, named by its number, is later than its original."""
        delays = _uniform(self._seed, _DELAY_STREAM, number) * COPY_DELAY_NS
        return np.where(number % self.most == 0, 0, delays.astype(np.int64))

    def learn(self, ids: Ragged, session: NDArray[np.int64]) -> None:
        """Note which sessions use which ids; once over all requests before `identities`."""
        dense = self._interner.intern(ids.values)
        new = len(self._interner) - len(self._lowest)
        self._lowest = np.concatenate((self._lowest, np.full(new, np.iinfo(np.int64).max)))
        self._highest = np.concatenate((self._highest, np.full(new, -1)))
        user = np.repeat(self.whole(session), ids.counts)
        np.minimum.at(self._lowest, dense, user)
        np.maximum.at(self._highest, dense, user)

    def identities(self, ids: Ragged, copy: NDArray[np.int64]) -> Ragged:
        """Return what the blocks of requests of copies are known by, dense and never the ids."""
        self.references += len(ids.values)
        dense = self._interner.intern(ids.values)
        if self.most > 1:
            shared = self._lowest[dense] != self._highest[dense]
            dense = dense * self.most + np.where(shared, 0, np.repeat(copy, ids.counts))
        return Ragged(ids.begin, dense)


def scaled(pieces: Iterable[FileRows], copies: Copies) -> Iterator[FileRows]:
    """Yield the requests of the sessions that stay and of all copies, in order of arrival.

    Their sessions are those of `Copies.numbers`.
    """
    waiting: FileRows | None = None
    for piece in pieces:
        grown = _copied(piece, copies)
        rows = grown if waiting is None else join([waiting, grown])
        rows = rows.take(np.argsort(rows.time_ns, kind="stable"))
        # What comes later may still come before the copies that are due after this piece's end.
        ready, waiting = rows.split(int(np.searchsorted(rows.time_ns, piece.time_ns[-1])))
        if len(ready):
            yield ready
    if waiting is not None and len(waiting):
        yield waiting


def _copied(rows: FileRows, copies: Copies) -> FileRows:
    counts = copies.counts(rows.session)
    grown = rows.take(np.repeat(np.arange(len(rows)), counts))
    number = copies.numbers(grown.session, ranges(counts))
    # The requests of a family keep their distances.
    delays = copies.delays_ns(copies.numbers(copies.whole(grown.session), ranges(counts)))
    return replace(grown, time_ns=grown.time_ns + delays, session=number)


def _uniform(seed: int, stream: int, numbers: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return a number in [0, 1) for each of `numbers`, the same wherever it stands.

    Source: SplitMix64 (public domain, Vigna), keyed by seed and stream.
    """
    sequence = np.random.SeedSequence(seed, spawn_key=(stream,))
    mixed = numbers.astype(np.uint64) * np.uint64(_STEP) + sequence.generate_state(1, np.uint64)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(_MIX_1)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(_MIX_2)
    mixed ^= mixed >> np.uint64(31)
    return (mixed >> np.uint64(11)).astype(np.float64) * 2.0**-53
