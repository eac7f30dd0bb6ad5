"""Multi-turn sessions drawn from templates: users with think time, or open arrivals."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from kvtrace.errors import UsageError
from kvtrace.requests.arrivals import ARRIVAL_KEYS, gaps_ns, of_the_day
from kvtrace.requests.request import (
    FOLLOW_ASK,
    FOLLOW_NONE,
    UNKNOWN_NS,
    Ragged,
    RequestBatch,
    SharedTokens,
    ranges,
)
from kvtrace.trace.header import SourceInfo
from kvtrace.trace.schema import Qos
from kvtrace.units import S_NS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from kvtrace.requests.source_config import SourceConfig
    from kvtrace.sources import SourceContext

KEYS = ARRIVAL_KEYS | {
    "multi_turn", "end_probability", "max_turns", "max_context_tokens", "templates",
    "prefix_caching", "system_prompts", "rag", "qos_mix",
}  # fmt: skip
SESSIONS_PER_DRAW = 4
"""Sessions of a user that are drawn at once; part of what a seed means."""
ARRIVALS_PER_DRAW = 256
"""Sessions of an open arrival process that are drawn at once; part of what a seed means."""

# Purposes of random streams: a new one never shifts another.
_USER_STREAM, _ARRIVAL_STREAM, _OPEN_STREAM, _SAMPLE_STREAM = range(1, 5)
_PREFIX_STREAM, _RAG_STREAM, _LIBRARY_STREAM = range(5, 8)
_SAMPLE_SESSIONS = 1 << 14


@dataclass(frozen=True, slots=True)
class _Sessions:
    """Sessions drawn from templates: turns per session, then one array per turn."""

    turns: NDArray[np.int64]
    added_tokens: NDArray[np.int64]
    input_tokens: NDArray[np.int64]
    output_tokens: NDArray[np.int64]
    think_ns: NDArray[np.int64]
    qos: NDArray[np.int64]
    prefix: NDArray[np.int64]
    prefix_tokens: NDArray[np.int64]


class _Library:
    """What sessions share: system prompts and documents, the same for all users of a seed."""

    def __init__(self, config: SourceConfig, rng: np.random.Generator) -> None:
        self._prompts, self._rag = config.system_prompts, config.rag
        self.shares = config.prefix_caching
        low, high = self._prompts.tokens
        self._prompt_tokens = rng.integers(low, high, self._prompts.count, endpoint=True)
        if self._rag is None:
            return
        low, high = self._rag.document_tokens
        tokens = rng.integers(low, high, self._rag.documents, endpoint=True)
        self._chunks = np.maximum(1, tokens // self._rag.chunk_tokens)
        zipfian = self._rag.popularity == "zipfian"
        exponent = self._rag.zipf_exponent if zipfian else 0.0
        weights = np.arange(1, self._rag.documents + 1) ** -exponent
        self._popularity = weights / weights.sum()

    def prefixes(
        self, rng: np.random.Generator, count: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the system prompt of each of `count` sessions and its tokens; 0 tokens: none."""
        prompt = rng.integers(0, self._prompts.count, count)
        has = rng.random(count) < self._prompts.probability
        return prompt, np.where(has, self._prompt_tokens[prompt], 0)

    def retrieve(self, rng: np.random.Generator, room_tokens: NDArray[np.int64]) -> Ragged | None:
        """Return the chunks that each request retrieves, as many as there is room for."""
        rag = self._rag
        if rag is None:
            return None
        count = len(room_tokens)
        retrieves = rng.random(count) < rag.probability
        document = rng.choice(rag.documents, count, p=self._popularity)
        order = rng.random((count, int(self._chunks.max())))
        order[np.arange(order.shape[1]) >= self._chunks[document][:, None]] = np.inf
        ranked = np.argsort(order, axis=1)
        wanted = np.minimum(self._chunks[document], rag.top_k)
        counts = np.where(retrieves, np.minimum(wanted, room_tokens // rag.chunk_tokens), 0)
        row, place = np.repeat(np.arange(count), counts), ranges(counts)
        # A document's chunks are numbered from its own multiple of the longest document's length.
        chunk = document[row] * order.shape[1] + ranked[row, place]
        return Ragged.from_counts(counts, chunk)

    @property
    def chunk_tokens(self) -> int:
        """Tokens of a chunk."""
        return 1 if self._rag is None else self._rag.chunk_tokens


class _Templates:
    """The templates as columns, to draw from."""

    def __init__(self, config: SourceConfig, library: _Library) -> None:
        self._config = config
        self._library = library
        templates = list(config.templates.values())
        self._weights = _cumulated([template.weight for template in templates])
        self._context = np.array([template.context_tokens for template in templates])
        self._generated = np.array([template.generated_tokens for template in templates])
        self._think_s = np.array([template.think_s for template in templates])
        self._qos_mix = _cumulated([config.qos_mix[word.label] for word in Qos])

    def draw(self, rng: np.random.Generator, prompts: np.random.Generator, count: int) -> _Sessions:
        """Return `count` sessions; their system prompts are drawn from `prompts`."""
        config = self._config
        template = _picked(rng, self._weights, count)
        qos = _picked(rng, self._qos_mix, count)
        turns = np.minimum(rng.geometric(config.end_probability, count), config.max_turns)
        if not config.multi_turn:
            turns = np.ones(count, np.int64)
        per_turn = np.repeat(template, turns)
        context = _uniform_int(rng, self._context[per_turn])
        output = _uniform_int(rng, self._generated[per_turn])
        low, high = self._think_s[per_turn].T
        think_ns = np.rint((low + rng.random(len(per_turn)) * (high - low)) * S_NS)
        prefix, prefix_tokens = self._library.prefixes(prompts, count)
        thinks = think_ns.astype(np.int64)
        return _fit(
            _Sessions(turns, context, context, output, thinks, qos, prefix, prefix_tokens),
            config.max_context_tokens,
        )


def _cumulated(weights: list[float]) -> NDArray[np.float64]:
    """Return the cumulated shares of weights, the last one 1."""
    shares = np.array(weights, np.float64)
    cumulated = np.cumsum(shares / shares.sum())
    return np.asarray(cumulated / cumulated[-1], np.float64)


def _picked(
    rng: np.random.Generator, cumulated: NDArray[np.float64], count: int
) -> NDArray[np.int64]:
    """Return `count` places by their shares: what `rng.choice` does, without its checks."""
    return np.searchsorted(cumulated, rng.random(count), side="right").astype(np.int64)


def _uniform_int(rng: np.random.Generator, bounds: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.asarray(rng.integers(bounds[:, 0], bounds[:, 1], endpoint=True), np.int64)


def _fit(drawn: _Sessions, max_tokens: int) -> _Sessions:
    """Return the sessions with cumulative contexts, ended before one outgrows `max_tokens`."""
    turn = ranges(drawn.turns)
    first = turn == 0
    output = np.minimum(drawn.output_tokens, max_tokens - 1)
    prefix_tokens = np.minimum(drawn.prefix_tokens, max_tokens - 1 - output[first])
    room = max_tokens - output - np.repeat(prefix_tokens, drawn.turns)
    context = np.where(first, np.minimum(drawn.added_tokens, room), drawn.added_tokens)
    # A later turn's prompt repeats the answer before it.
    added = context + np.where(first, 0, np.roll(output, 1))
    running = np.cumsum(added)
    begin = np.repeat(np.flatnonzero(first), drawn.turns)
    inputs = running - (running - added)[begin] + np.repeat(prefix_tokens, drawn.turns)
    fits = inputs + output <= max_tokens
    session = np.repeat(np.arange(len(drawn.turns)), drawn.turns)
    return _Sessions(
        np.bincount(session[fits], minlength=len(drawn.turns)),
        added[fits],
        inputs[fits],
        output[fits],
        drawn.think_ns[fits],
        drawn.qos,
        drawn.prefix,
        prefix_tokens,
    )


@dataclass(frozen=True, slots=True)
class _Streams:
    """Random streams, one per purpose."""

    sessions: np.random.Generator
    prompts: np.random.Generator
    documents: np.random.Generator


class Synthetic:
    """The source. Its sessions know their tokens, so that any block size will do."""

    block_tokens: int | None = None
    known: frozenset[str] = frozenset({"session", "qos"})

    def __init__(self, context: SourceContext) -> None:
        self._config = context.config
        self._seed = context.seed
        self._end_ns = context.end_ns
        self._by_turn = context.by_turn
        self._library = _Library(context.config, self._stream(_LIBRARY_STREAM))
        self._templates = _Templates(context.config, self._library)
        users = context.config.users or 0
        assert users != "auto"
        self._users = [self._streams(_USER_STREAM, user) for user in range(users)]
        self._next_session = list(range(users))
        self._mean_turns = 1.0

    @property
    def info(self) -> SourceInfo:
        """Name and parameters, for the header."""
        parameters = self._config.model_dump(mode="json", include=set(KEYS))
        return SourceInfo(name="synthetic", parameters=parameters)

    def _stream(self, *purpose: int) -> np.random.Generator:
        return np.random.default_rng(np.random.SeedSequence(self._seed, spawn_key=purpose))

    def _streams(self, first: int, *user: int) -> _Streams:
        return _Streams(
            self._stream(first, *user),
            self._stream(_PREFIX_STREAM, *user),
            self._stream(_RAG_STREAM, *user),
        )

    def batches(self) -> Iterator[RequestBatch]:
        """Yield each user's first requests, or the sessions that arrive, in order of arrival."""
        if self._users:
            yield self._first_of_users()
        else:
            yield from self._arrivals()

    def _first_of_users(self) -> RequestBatch:
        firsts = []
        for user in range(len(self._users)):
            batch = self._of_user(user)
            batch.arrival_ns[0] = batch.think_ns[0]
            firsts.append(batch)
        firsts.sort(key=lambda batch: int(batch.arrival_ns[0]))
        return _concatenate(firsts)

    def more(self, chain: int) -> RequestBatch | None:
        """Return the next sessions of user `chain`."""
        return self._of_user(chain)

    def _of_user(self, user: int) -> RequestBatch:
        streams = self._users[user]
        drawn = self._templates.draw(streams.sessions, streams.prompts, SESSIONS_PER_DRAW)
        step = len(self._users)
        session = self._next_session[user] + step * np.arange(SESSIONS_PER_DRAW)
        self._next_session[user] += step * SESSIONS_PER_DRAW
        batch = self._batch(drawn, session, streams.documents, chain=user)
        batch.follow[:] = 1
        batch.follow[-1] = FOLLOW_ASK
        return batch

    def _arrivals(self) -> Iterator[RequestBatch]:
        gaps, streams = self._stream(_ARRIVAL_STREAM), self._streams(_OPEN_STREAM)
        sampled = (self._stream(_SAMPLE_STREAM), self._stream(_SAMPLE_STREAM, _PREFIX_STREAM))
        sample = self._templates.draw(*sampled, _SAMPLE_SESSIONS)
        self._mean_turns = float(sample.turns.mean())
        even_ns, last_ns, first_session = 0, 0, 0
        while last_ns < self._end_ns:
            arrivals = even_ns + np.cumsum(
                gaps_ns(self._config, gaps, self._mean_turns, ARRIVALS_PER_DRAW)
            )
            arrival_ns = of_the_day(self._config, arrivals)
            drawn = self._templates.draw(streams.sessions, streams.prompts, ARRIVALS_PER_DRAW)
            session = first_session + np.arange(ARRIVALS_PER_DRAW)
            batch = self._batch(drawn, session, streams.documents, chain=0)
            batch.follow[:] = np.where(batch.last_turn, FOLLOW_NONE, 1)
            batch.arrival_ns[batch.turn == 0] = arrival_ns
            yield batch
            even_ns, last_ns = int(arrivals[-1]), int(arrival_ns[-1])
            first_session += ARRIVALS_PER_DRAW

    def _batch(
        self,
        drawn: _Sessions,
        session: NDArray[np.int64],
        documents: np.random.Generator,
        *,
        chain: int,
    ) -> RequestBatch:
        """Return the requests of `drawn`, whose follow and arrivals are yet to be set."""
        batch = _requests(drawn, session, chain=chain, by_turn=self._by_turn)
        room = self._config.max_context_tokens - batch.input_tokens - batch.output_tokens
        chunks = self._library.retrieve(documents, room)
        zeros = np.zeros(len(batch), np.int64)
        if chunks is None:
            chunks = Ragged.from_counts(zeros, np.zeros(0, np.int64))
        batch.input_tokens[:] += chunks.counts * self._library.chunk_tokens
        # Without prefix caching every session's system prompt is its own.
        prompts = drawn.prefix if self._library.shares else self._prompts_of_their_own(session)
        shared = SharedTokens(
            prefix=np.repeat(prompts, drawn.turns),
            prefix_tokens=np.repeat(drawn.prefix_tokens, drawn.turns),
            chunks=chunks,
            chunk_tokens=self._library.chunk_tokens,
        )
        return replace(batch, shared=shared)

    def _prompts_of_their_own(self, session: NDArray[np.int64]) -> NDArray[np.int64]:
        return session + self._config.system_prompts.count


def _requests(
    drawn: _Sessions, session: NDArray[np.int64], *, chain: int, by_turn: bool
) -> RequestBatch:
    """Return the requests of `drawn` without what they share."""
    count, turn = len(drawn.input_tokens), ranges(drawn.turns)
    last_turn = np.zeros(count, np.bool_)
    last_turn[np.cumsum(drawn.turns) - 1] = True
    turn_tokens = None
    if by_turn:
        begin = np.repeat(np.cumsum(drawn.turns) - drawn.turns, drawn.turns)
        lengths = turn + 1
        turn_tokens = Ragged.from_counts(
            lengths, drawn.added_tokens[np.repeat(begin, lengths) + ranges(lengths)]
        )
    return RequestBatch(
        arrival_ns=np.full(count, UNKNOWN_NS),
        think_ns=drawn.think_ns,
        follow=np.zeros(count, np.int64),
        chain=np.full(count, chain),
        session=np.repeat(session, drawn.turns),
        turn=turn,
        last_turn=last_turn,
        input_tokens=drawn.input_tokens,
        output_tokens=drawn.output_tokens,
        qos=np.repeat(drawn.qos, drawn.turns).astype(np.int64),
        block_ids=None,
        turn_tokens=turn_tokens,
    )


def _concatenate(batches: list[RequestBatch]) -> RequestBatch:
    def joined(name: str) -> NDArray[Any]:
        return np.concatenate([getattr(batch, name) for batch in batches])

    turns = [batch.turn_tokens for batch in batches if batch.turn_tokens is not None]
    shared = [batch.shared for batch in batches if batch.shared is not None]
    ragged = ("block_ids", "turn_tokens", "shared", "lineage")
    plain = [name for name in RequestBatch.__slots__ if name not in ragged]
    columns: dict[str, Any] = {name: joined(name) for name in plain}
    return RequestBatch(
        **columns,
        block_ids=None,
        turn_tokens=Ragged.joined(turns) if turns else None,
        shared=SharedTokens(
            prefix=np.concatenate([part.prefix for part in shared]),
            prefix_tokens=np.concatenate([part.prefix_tokens for part in shared]),
            chunks=Ragged.joined([part.chunks for part in shared]),
            chunk_tokens=shared[0].chunk_tokens,
        ),
    )


def create(context: SourceContext) -> Synthetic:
    """Return the source. Raises UsageError for an input: it takes none."""
    if context.inputs:
        raise UsageError("takes no input", where="source synthetic", got=str(context.inputs[0]))
    return Synthetic(context)
