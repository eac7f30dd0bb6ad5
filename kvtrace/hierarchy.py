"""The tier hierarchy in virtual time: feeds requests to the compiled kernel, yields block events."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numba import typed

from kvtrace import kernel, policies
from kvtrace.hashmap import insert_all, table_size
from kvtrace.request import FOLLOW_NONE
from kvtrace.schema import Tier
from kvtrace.units import UNLIMITED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from numpy.typing import NDArray

    from kvtrace.request import Ragged, RequestBatch

EVENTS_PER_CALL = 1 << 16
_FIRST_SLOTS = 1 << 14


@dataclass(frozen=True, slots=True)
class TierSpec:
    """One tier: capacity in bytes (0: absent; UNLIMITED), watermarks as ratios of it.

    A block of n tokens takes `token_bytes` · n + `block_bytes` of it.
    """

    tier: Tier
    capacity_bytes: int
    token_bytes: int
    block_bytes: int
    high_watermark_ratio: float = 1.0
    low_watermark_ratio: float = 1.0

    def limit_bytes(self, ratio: float) -> int:
        """Return what `ratio` of the capacity comes to."""
        if self.capacity_bytes >= UNLIMITED or ratio == 1.0:
            return self.capacity_bytes
        return int(self.capacity_bytes * ratio)


@dataclass(frozen=True, slots=True)
class HierarchySpec:
    """What the hierarchy does. Times per token in ns; `reread_tokens` 0: no decode re-reads."""

    tiers: tuple[TierSpec, ...]
    write_through: bool = False
    promote: bool = False
    tail_first: bool = True
    prefix_rule: bool = True
    generation_ns: int = 0
    prefill_ns: float = 0.0
    reread_tokens: int = 0
    max_requests: int = UNLIMITED
    end_ns: int = UNLIMITED


@dataclass(frozen=True, slots=True)
class CutRequests:
    """A batch of requests, each with its blocks: `prompt_blocks` of its context, then generated.

    `blocks.values`: identities; `tokens`: of each block.
    """

    batch: RequestBatch
    blocks: Ragged
    tokens: NDArray[np.int32]
    prompt_blocks: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class BlockEvents:
    """What happens to blocks, one array per column, in order of time.

    `key`: dense number of the block in order of first appearance; words as wire values.
    """

    timestamp_ns: NDArray[np.int64]
    op: NDArray[np.uint8]
    tier: NDArray[np.uint8]
    phase: NDArray[np.uint8]
    step: NDArray[np.uint16]
    key: NDArray[np.int64]
    tokens: NDArray[np.int64]
    request: NDArray[np.int64]
    session: NDArray[np.int64]
    qos: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.timestamp_ns)

    @classmethod
    def from_rows(cls, rows: NDArray[np.int64]) -> BlockEvents:
        """Return the columns of the kernel's event rows."""
        code = rows[:, kernel.CODE]
        return cls(
            timestamp_ns=rows[:, kernel.TIME].copy(),
            op=(code & 3).astype(np.uint8),
            tier=(code >> 2 & 3).astype(np.uint8),
            phase=(code >> 4 & 3).astype(np.uint8),
            step=(code >> 8).astype(np.uint16),
            key=rows[:, kernel.KEY].copy(),
            tokens=rows[:, kernel.TOKENS].copy(),
            request=rows[:, kernel.REQUEST].copy(),
            session=rows[:, kernel.SESSION].copy(),
            qos=rows[:, kernel.QOS].astype(np.uint8),
        )


@dataclass(frozen=True, slots=True)
class HierarchyStats:
    """Counts of a simulation so far. `ideal_hits`: hits of a cache that forgets nothing."""

    requests: int
    blocks: int
    unique_blocks: int
    block_tokens: int
    hits: dict[Tier, int]
    hit_tokens: int
    ideal_hits: int
    prompt_tokens: int
    generated_tokens: int
    peak_bytes: dict[Tier, int] = field(default_factory=dict)


def _config(spec: HierarchySpec, max_events: int) -> kernel.Config:
    columns = np.zeros((4, kernel.TIERS), np.int64)
    for tier in spec.tiers:
        columns[:, tier.tier] = (
            tier.limit_bytes(tier.high_watermark_ratio),
            tier.limit_bytes(tier.low_watermark_ratio),
            tier.token_bytes,
            tier.block_bytes,
        )
    return kernel.Config(
        *columns,
        spec.write_through,
        spec.promote,
        spec.tail_first,
        spec.prefix_rule,
        spec.generation_ns,
        spec.prefill_ns,
        spec.reread_tokens,
        spec.max_requests,
        spec.end_ns,
        max_events,
    )


def _new_state(slots: int) -> kernel.State:
    state = kernel.State(
        ident=np.zeros(slots, np.int64),
        key=np.zeros(slots, np.int64),
        tokens=np.zeros(slots, np.int32),
        where=np.zeros(slots, np.uint8),
        retired=np.zeros(slots, np.uint8),
        free=np.arange(slots - 1, -1, -1, dtype=np.int32),
        table=np.zeros(table_size(slots), np.int32),
        policy=policies.init(kernel.TIERS, slots),
        used_bytes=np.zeros(kernel.TIERS, np.int64),
        peak_bytes=np.zeros(kernel.TIERS, np.int64),
        hits=np.zeros(kernel.TIERS, np.int64),
        count=np.zeros(kernel.COUNTERS, np.int64),
    )
    state.count[kernel.FREE] = slots
    return state


def _grow_state(state: kernel.State, slots: int) -> kernel.State:
    """Return the same state with room for `slots` slots."""
    before = len(state.ident)

    def wider(array: NDArray[np.generic]) -> NDArray[np.generic]:
        return np.pad(array, (0, slots - before))

    free_count = state.count[kernel.FREE]
    used = np.ones(slots, np.bool_)
    used[before:] = False
    used[state.free[:free_count]] = False
    free = np.zeros(slots, np.int32)
    free[: slots - before] = np.arange(slots - 1, before - 1, -1)
    free[slots - before : slots - before + free_count] = state.free[:free_count]
    state.count[kernel.FREE] = slots - before + free_count
    grown = state._replace(
        ident=wider(state.ident),
        key=wider(state.key),
        tokens=wider(state.tokens),
        where=wider(state.where),
        retired=wider(state.retired),
        free=free,
        table=np.zeros(table_size(slots), np.int32),
        policy=policies.grow(state.policy, slots),
    )
    insert_all(grown.table, grown.ident, np.flatnonzero(used))
    return grown


class _Pool:
    """The loaded requests; rows that are done are dropped from its front as new ones come."""

    def __init__(self, count: NDArray[np.int64]) -> None:
        self.count = count
        empty, ids = np.zeros(0, np.int64), np.zeros(0, np.int64)
        self.rows = kernel.Rows(
            *[empty] * 5,
            np.zeros(0, np.bool_),
            *[empty] * 4,
            np.zeros(1, np.int64),
            ids,
            np.zeros(0, np.int32),
            *[empty] * 4,
        )

    def _trim(self) -> None:
        """Drop the rows before the first that isn't done."""
        open_rows = np.flatnonzero(self.rows.step != policies.NONE)
        done = int(open_rows[0]) if len(open_rows) else len(self.rows.step)
        drop_ids = int(self.rows.begin[done] - self.count[kernel.ID_BASE])
        parts = {name: getattr(self.rows, name)[done:] for name in self.rows._fields}
        parts["ids"] = self.rows.ids[drop_ids:]
        parts["tokens"] = self.rows.tokens[drop_ids:]
        self.rows = kernel.Rows(**parts)
        self.count[kernel.ROW_BASE] += done
        self.count[kernel.ID_BASE] += drop_ids

    def add(self, cut: CutRequests) -> int:
        """Append requests; return the row number of the first."""
        self._trim()
        batch, rows, waiting = cut.batch, self.rows, np.zeros(len(cut.batch), np.int64)
        more = {
            "arrival_ns": batch.arrival_ns,
            "think_ns": batch.think_ns,
            "follow": batch.follow.copy(),
            "chain": batch.chain,
            "session": batch.session,
            "last_turn": batch.last_turn,
            "input_tokens": batch.input_tokens,
            "output_tokens": batch.output_tokens,
            "qos": batch.qos,
            "prompt": cut.prompt_blocks,
            "begin": rows.begin[-1] + cut.blocks.begin[1:],
            "ids": cut.blocks.values,
            "tokens": cut.tokens,
            "request": waiting,
            "step": waiting,
            "hit_blocks": waiting,
            "prefilled_ns": waiting,
        }
        self.rows = kernel.Rows(
            **{name: np.concatenate((getattr(rows, name), new)) for name, new in more.items()}
        )
        first_row = int(self.count[kernel.LOADED])
        self.count[kernel.LOADED] += len(batch)
        return first_row

    def link(self, row: int, first_row: int | None) -> None:
        """Let `first_row` follow `row`; None: nothing does."""
        index = row - int(self.count[kernel.ROW_BASE])
        self.rows.follow[index] = FOLLOW_NONE if first_row is None else first_row - row

    def chain(self, row: int) -> int:
        """Return the chain of `row`."""
        return int(self.rows.chain[row - int(self.count[kernel.ROW_BASE])])


def _new_heap(size: int) -> kernel.Heap:
    return kernel.Heap(*(np.zeros(size, np.int64) for _ in range(3)))


class Hierarchy:
    """One node's tiers. `events` runs requests through them; state stays from call to call."""

    def __init__(self, spec: HierarchySpec, *, events_per_call: int = EVENTS_PER_CALL) -> None:
        self.spec = spec
        self._config = _config(spec, events_per_call)
        self._state = _new_state(_FIRST_SLOTS)

    def events(
        self,
        requests: Iterable[CutRequests],
        more: Callable[[int], CutRequests | None] | None = None,
    ) -> Iterator[BlockEvents]:
        """Yield what happens, in order of (time, request, step), until the requests are done.

        `more(chain)` gives the next requests of a chain whose last one said FOLLOW_ASK.
        """
        count, batches = self._state.count, iter(requests)
        pool, heap = _Pool(count), _new_heap(1024)
        buffer = typed.List([np.empty((self._config.max_events * 2, kernel.EVENT_FIELDS), np.int64)])
        context = np.zeros(kernel.EVENT_FIELDS, np.int64)
        while True:
            loaded = int(count[kernel.LOADED] - count[kernel.ROW_BASE])
            if len(heap.row) < loaded + 1:
                heap = kernel.Heap(*(np.pad(part, (0, loaded + 1)) for part in heap))
            status = kernel.run(self._state, self._config, pool.rows, heap, buffer, context)
            if status == kernel.NEED_ROWS:
                cut = next(batches, None)
                if cut is None:
                    count[kernel.NO_MORE] = 1
                else:
                    pool.add(cut)
            elif status == kernel.NEED_CHAIN:
                row = int(count[kernel.ASKED_CHAIN])
                following = more(pool.chain(row)) if more else None
                pool.link(row, None if following is None else pool.add(following))
            elif status == kernel.NEED_SLOTS:
                self._grow()
            else:
                made = int(count[kernel.EVENTS])
                if made:
                    count[kernel.EVENTS] = 0
                    yield BlockEvents.from_rows(buffer[0][:made])
                if status == kernel.DONE:
                    return

    def _grow(self) -> None:
        before = len(self._state.ident)
        asked = int(self._state.count[kernel.ASKED_SLOTS])
        self._state = _grow_state(self._state, max(before * 2, before + asked))

    def stats(self) -> HierarchyStats:
        """Return what was counted so far."""
        count, present = self._state.count, [tier.tier for tier in self.spec.tiers]
        return HierarchyStats(
            requests=int(count[kernel.REQUESTS]),
            blocks=int(count[kernel.BLOCKS]),
            unique_blocks=int(count[kernel.KEYS]),
            block_tokens=int(count[kernel.BLOCK_TOKENS]),
            hits={tier: int(self._state.hits[tier]) for tier in present},
            hit_tokens=int(count[kernel.HIT_TOKENS]),
            ideal_hits=int(count[kernel.IDEAL_HITS]),
            prompt_tokens=int(count[kernel.PROMPT]),
            generated_tokens=int(count[kernel.GENERATED]),
            peak_bytes={tier: int(self._state.peak_bytes[tier]) for tier in present},
        )
