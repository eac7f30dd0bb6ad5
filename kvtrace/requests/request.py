"""Requests as columns: what a source yields and the hierarchy takes."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from kvtrace.trace.header import SourceInfo

UNKNOWN_NS = -1
"""Arrival of a request that follows another one: its end plus the think time."""
FOLLOW_NONE = 0
FOLLOW_ASK = -1
"""In `follow`: the chain goes on, but its next request has yet to be asked for."""


@dataclass(frozen=True, slots=True)
class Ragged:
    """A list of values per request: those of request i are `values[begin[i]:begin[i + 1]]`."""

    begin: NDArray[np.int64]
    values: NDArray[np.int64]

    @classmethod
    def from_counts(cls, counts: NDArray[np.int64], values: NDArray[np.int64]) -> Ragged:
        """Return the lists whose lengths are `counts`."""
        begin = np.zeros(len(counts) + 1, np.int64)
        np.cumsum(counts, out=begin[1:])
        return cls(begin, values)

    @property
    def counts(self) -> NDArray[np.int64]:
        """Length of each list."""
        return np.diff(self.begin)

    @classmethod
    def joined(cls, parts: Sequence[Ragged]) -> Ragged:
        """Return the lists of all parts, one part after the other."""
        return cls.from_counts(
            np.concatenate([part.counts for part in parts]),
            np.concatenate([part.values for part in parts]),
        )

    def take(self, rows: NDArray[np.int64]) -> Ragged:
        """Return the lists at `rows`, in that order, repeated where it repeats one."""
        counts = self.counts[rows]
        places = np.repeat(self.begin[:-1][rows], counts) + ranges(counts)
        return Ragged.from_counts(counts, self.values[places])


@dataclass(frozen=True, slots=True)
class Lineage:
    """Of each request's context the parts that it has from others, and its own.

    A part reaches from the token `starts` to the next part, or to the end, and is what `owners`
    numbers: contexts that share an owner are the same up to the part's end in the shorter one.
    """

    starts: Ragged
    owners: Ragged

    def take(self, rows: NDArray[np.int64]) -> Lineage:
        """Return those of the requests at `rows`."""
        return Lineage(self.starts.take(rows), self.owners.take(rows))


def ranges(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return 0 … c − 1 for each c of `counts`, one after the other."""
    ends = np.cumsum(counts)
    return np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - counts, counts)


@dataclass(frozen=True, slots=True)
class SharedTokens:
    """Parts of prompts that sessions share: a system prompt each, and documents.

    A request's context begins with the first `prefix_tokens` of system prompt `prefix` (0 tokens:
    none). Its prompt also has the chunks `chunks.values` of `chunk_tokens` tokens each, which its
    input counts and its session's later context doesn't have.
    """

    prefix: NDArray[np.int64]
    prefix_tokens: NDArray[np.int64]
    chunks: Ragged
    chunk_tokens: int

    def take(self, rows: NDArray[np.int64]) -> SharedTokens:
        """Return those of the requests at `rows`."""
        return SharedTokens(
            self.prefix[rows], self.prefix_tokens[rows], self.chunks.take(rows), self.chunk_tokens
        )


@dataclass(frozen=True, slots=True)
class RequestBatch:
    """Requests in the order in which the source gives them, one array per column.

    arrival_ns     since the start, or UNKNOWN_NS where it follows from the request before it
    think_ns       from the end of the request before it in its chain to its arrival
    follow         how many rows further its chain goes on; FOLLOW_NONE; FOLLOW_ASK
    chain          whose chain it is (a closed-loop user); 0 where there are none
    session, turn  conversation and 0-based index in it
    last_turn      whether the session ends with it
    input_tokens   whole context of the prompt; output_tokens: generated
    qos            wire value of `schema.Qos`
    block_ids      identities of the prompt's blocks of `Source.block_tokens` tokens, or None for
                   a source whose sessions know their tokens (each session's context only grows)
    turn_tokens    for such sources: prompt tokens that each turn up to this one added
    shared         what of the prompt other sessions share, or None
    lineage        for sessions whose context doesn't only grow: of whom its parts are, or None
    """

    arrival_ns: NDArray[np.int64]
    think_ns: NDArray[np.int64]
    follow: NDArray[np.int64]
    chain: NDArray[np.int64]
    session: NDArray[np.int64]
    turn: NDArray[np.int64]
    last_turn: NDArray[np.bool_]
    input_tokens: NDArray[np.int64]
    output_tokens: NDArray[np.int64]
    qos: NDArray[np.int64]
    block_ids: Ragged | None
    turn_tokens: Ragged | None
    shared: SharedTokens | None = None
    lineage: Lineage | None = None

    def __len__(self) -> int:
        return len(self.arrival_ns)

    def where(self, kept: NDArray[np.bool_]) -> RequestBatch:
        """Return some of the requests; a chain is kept or left out as a whole."""
        rows, place = np.flatnonzero(kept), np.cumsum(kept) - 1
        following = self.follow > FOLLOW_NONE
        target = np.where(following, np.arange(len(self)) + self.follow, 0)
        follow = np.where(following, place[target] - place, self.follow)
        return replace(self.take(rows), follow=follow[rows])

    def take(self, rows: NDArray[np.int64]) -> RequestBatch:
        """Return the requests at `rows`, in that order; `follow` is theirs as it stands."""
        columns: dict[str, Any] = {}
        for part in fields(self):
            values = getattr(self, part.name)
            columns[part.name] = None if values is None else values.take(rows)
        return RequestBatch(**columns)


def joined(*batches: RequestBatch) -> RequestBatch:
    """Return the requests of batches of one source, none of which follows another."""
    columns: dict[str, Any] = {}
    for part in fields(RequestBatch):
        values = [getattr(batch, part.name) for batch in batches]
        if values[0] is None:
            columns[part.name] = None
        elif isinstance(values[0], np.ndarray):
            columns[part.name] = np.concatenate(values)
        elif isinstance(values[0], Ragged):
            columns[part.name] = Ragged.joined(values)
        else:
            assert isinstance(values[0], Lineage)
            starts, owners = zip(*((each.starts, each.owners) for each in values), strict=True)
            columns[part.name] = Lineage(Ragged.joined(starts), Ragged.joined(owners))
    return RequestBatch(**columns)


class Source(Protocol):
    """Where requests come from.

    `block_tokens` is the size of the blocks that `block_ids` name, or None where the source's
    sessions know their tokens and can be cut into blocks of any size. `known` names the optional
    columns of a trace that the source can tell: `session`, `qos`.
    """

    block_tokens: int | None
    known: frozenset[str]

    @property
    def info(self) -> SourceInfo:
        """Name, parameters and inputs, for the header; what was invented."""
        ...

    def batches(self) -> Iterator[RequestBatch]:
        """Yield the requests; those with a known arrival in order of arrival."""
        ...

    def more(self, chain: int) -> RequestBatch | None:
        """Return the next requests of a chain whose last one said FOLLOW_ASK, or None."""
        ...
