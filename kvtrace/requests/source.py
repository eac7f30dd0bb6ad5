"""A source that reads requests, arrivals included, from files."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np

from kvtrace.errors import TraceError, UsageError
from kvtrace.requests.clock import Clock, in_order, spread
from kvtrace.requests.families import families
from kvtrace.requests.request import RequestBatch
from kvtrace.requests.scale import Copies, scaled
from kvtrace.requests.turns import TurnHistory
from kvtrace.trace.header import SourceInfo
from kvtrace.trace.writer import file_sha256

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kvtrace.requests.rows import FileRows, Piece
    from kvtrace.sources import SourceContext

FILE_KEYS = frozenset({"speed", "cycles", "scale_sessions", "dequantise"})
"""Configuration keys of every source whose files tell when requests arrive."""

BLOCK_OPTION = "--source-block-tokens"
"""Option that sets the tokens per id of a file."""

_TICK_STREAM = 20


@dataclass(slots=True)
class Told:
    """What the header says of a source beside its configuration; counts grow while it is read."""

    parameters: dict[str, Any] = field(default_factory=dict)
    invented: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    dropped: dict[str, int] = field(default_factory=dict)

    def drop(self, reason: str, count: int) -> None:
        """Count requests that were left out."""
        self.dropped[reason] = self.dropped.get(reason, 0) + count


def describe(
    context: SourceContext, keys: frozenset[str], remarks: Told, copies: Copies, shas: list[str]
) -> SourceInfo:
    """Return the header's part about a source; what there is none of is left out."""
    # A path tells of a machine: the tokenizer is told by its sha256.
    used = context.config.model_dump(mode="json", include=set(keys) - {"tokenizer"})
    fields: dict[str, Any] = {
        "name": context.config.name,
        "parameters": used | remarks.parameters,
        "sha256": shas,
        "invented": remarks.invented,
    }
    optional = {
        "notes": remarks.notes,
        "dropped": remarks.dropped,
        "listed_ids": copies.listed_ids if copies.references else None,
    }
    return SourceInfo.model_validate(
        fields | {key: value for key, value in optional.items() if value}
    )


def need_input(context: SourceContext, accepted: str) -> None:
    """Raise UsageError without an input."""
    if not context.inputs:
        raise UsageError(
            "needs an input", where=f"source {context.config.name}", accepted=f"--input {accepted}"
        )


Read = TypeVar("Read")


class RequestFiles(Generic[Read]):
    """What every source that reads files is.

    `pieces` reads the files anew from the start whenever it is called.
    """

    def __init__(
        self,
        context: SourceContext,
        keys: frozenset[str],
        pieces: Callable[[], Iterator[Read]],
        *,
        block_tokens: int | None,
        remarks: Told,
    ) -> None:
        self.block_tokens = block_tokens
        self._context, self._keys, self._pieces, self._told = context, keys, pieces, remarks
        self._copies = Copies(context.config.scale_sessions, context.seed)
        self._history = TurnHistory() if context.by_turn else None

    @cached_property
    def _shas(self) -> list[str]:
        return [file_sha256(path) for path in self._context.inputs]

    @property
    def info(self) -> SourceInfo:
        """Name, parameters and inputs, for the header; what was invented and left out."""
        return describe(self._context, self._keys, self._told, self._copies, self._shas)

    def _nothing(self) -> TraceError:
        return TraceError("no requests", where=self._context.inputs[0], accepted="at least one")


class FileSource(RequestFiles["Piece"]):
    """The source. With `sessions_known` its files tell conversations."""

    def __init__(
        self,
        context: SourceContext,
        keys: frozenset[str],
        pieces: Callable[[], Iterator[Piece]],
        *,
        block_tokens: int | None,
        remarks: Told,
        sessions_known: bool = False,
    ) -> None:
        super().__init__(context, keys, pieces, block_tokens=block_tokens, remarks=remarks)
        self.known = frozenset({"session"}) if sessions_known else frozenset[str]()

    def batches(self) -> Iterator[RequestBatch]:
        """Yield the requests in order of arrival, cycle after cycle."""
        if self._copies.scale != 1 and self.block_tokens is not None and not self.known:
            self._copies.families = families(in_order(self._pieces()), self.block_tokens)
        if self._copies.most > 1 and self.block_tokens is not None:
            for rows in in_order(self._pieces()):
                assert rows.ids is not None
                self._copies.learn(rows.ids, rows.session)
        config = self._context.config
        clock, session_base = Clock(config.speed), 0
        for _ in range(config.cycles):
            end_ns, sessions = -1, 0
            self._told.dropped.clear()
            for rows in scaled(self._timed(clock), self._copies):
                end_ns = int(rows.time_ns[-1])
                sessions = max(sessions, int(rows.session.max()) + 1)
                yield self._batch(rows, session_base)
            if end_ns < 0:
                raise self._none_left() if self._copies.scale < 1 else self._nothing()
            session_base += -(-sessions // self._copies.most) * self._copies.most
            clock.next_cycle(end_ns)

    def _none_left(self) -> UsageError:
        return UsageError(
            "no session is left",
            where="--scale-sessions",
            got=self._copies.scale,
            accepted="a ratio that keeps at least one",
            hint="give a larger one, or another --seed",
        )

    def _timed(self, clock: Clock) -> Iterator[FileRows]:
        """Yield the requests of a cycle, their times made arrivals."""
        ordered, tick_ns = in_order(self._pieces()), self._context.config.dequantise
        if tick_ns is not None:
            seeds = np.random.SeedSequence(self._context.seed, spawn_key=(_TICK_STREAM,))
            ordered = spread(ordered, tick_ns, np.random.default_rng(seeds))
        for rows in ordered:
            yield replace(rows, time_ns=clock.arrivals(rows.time_ns))

    def _batch(self, rows: FileRows, session_base: int) -> RequestBatch:
        zeros = np.zeros(len(rows), np.int64)
        session, turn_tokens = rows.session + session_base, None
        if self._history is not None:
            session, turn_tokens = self._history.follow(session, rows.input_tokens, rows.last_turn)
        hashed = rows.ids is not None
        return RequestBatch(
            arrival_ns=rows.time_ns,
            think_ns=zeros,
            follow=zeros,
            chain=zeros,
            session=session,
            turn=rows.turn,
            # A file's ids may come back at any time.
            last_turn=rows.last_turn & (not hashed),
            input_tokens=rows.input_tokens,
            output_tokens=rows.output_tokens,
            qos=zeros,
            block_ids=self._copies.identities(rows.ids, rows.session % self._copies.most)
            if rows.ids is not None
            else None,
            turn_tokens=turn_tokens,
        )

    def more(self, chain: int) -> RequestBatch | None:
        """Return None: no request waits for another."""
        return None
