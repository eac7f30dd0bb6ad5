"""The tier hierarchy in virtual time: requests to the compiled kernel, block events from it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from kvtrace import policies
from kvtrace.compiled.hashmap import grown, new_table
from kvtrace.compiled.jit import constant
from kvtrace.hierarchy import eviction, kernel
from kvtrace.hierarchy.events import BlockEvents, HierarchyStats, Tally
from kvtrace.hierarchy.pool import Pool
from kvtrace.trace.schema import Tier
from kvtrace.units import UNLIMITED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from numpy.typing import NDArray

    from kvtrace.requests.request import Ragged, RequestBatch

EVENTS_PER_CALL = 1 << 16
_FIRST_SLOTS = 1 << 14

# Most events of one step: of a block that it pushes down through all tiers (read, write, delete on
# each), and of one that it requests (read, a write per tier, and pushed down).
_EVENTS_PER_EVICTED = 3 * kernel.TIERS
_EVENTS_PER_ASKED = 1 + kernel.TIERS + _EVENTS_PER_EVICTED


@dataclass(frozen=True, slots=True)
class StateSize:
    """What a hybrid model's constant state behind n tokens takes, rounded up to `align_bytes`.

    `constant_bytes`, plus `window_token_bytes` for each of the last `window_tokens` of the n.
    """

    constant_bytes: int = 0
    window_token_bytes: int = 0
    window_tokens: int = 0
    align_bytes: int = 1

    def __bool__(self) -> bool:
        return bool(self.constant_bytes or self.window_token_bytes)

    def at(self, tokens: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the bytes behind a number of tokens."""
        window = np.minimum(tokens, self.window_tokens)
        state = self.constant_bytes + window * self.window_token_bytes
        return -(-state // self.align_bytes) * self.align_bytes


NO_STATE = StateSize()


@dataclass(frozen=True, slots=True)
class TierSpec:
    """One tier: capacity in bytes (0: absent; UNLIMITED), watermarks as ratios of it, policy.

    A block of n tokens takes `token_bytes` · n + `block_bytes` of it; a checkpoint behind n tokens
    takes `state`.
    """

    tier: Tier
    capacity_bytes: int
    token_bytes: int
    block_bytes: int = 0
    state: StateSize = NO_STATE
    high_watermark_ratio: float = 1.0
    low_watermark_ratio: float = 1.0
    eviction: str = "lru"

    def sizes(self, tokens: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the bytes of blocks by their tokens; of -n, the checkpoint behind n tokens."""
        blocks = tokens * self.token_bytes + self.block_bytes
        return np.where(tokens < 0, self.state.at(-tokens), blocks) if self.state else blocks

    def limit_bytes(self, ratio: float) -> int:
        """Return what `ratio` of the capacity comes to."""
        if self.capacity_bytes >= UNLIMITED or ratio == 1.0:
            return self.capacity_bytes
        return int(self.capacity_bytes * ratio)


@dataclass(frozen=True, slots=True)
class HierarchySpec:
    """What the hierarchy does.

    Virtual time per generated token in ns, per prompt token that no tier had in ps of the whole
    node, which `prefill_slots` requests share; `decode_slots` generate at once, 0 for any number;
    `reread_tokens` 0: no decode re-reads. `second_use`: nvme and slower tiers take only blocks
    requested twice. `hybrid`: a hit ends at a checkpoint. `lookups`: look-ups are events.
    """

    tiers: tuple[TierSpec, ...]
    write_through: bool = False
    promote: bool = False
    tail_first: bool = True
    second_use: bool = False
    hybrid: bool = False
    lookups: bool = False
    generation_ns: int = 0
    prefill_ps: int = 0
    prefill_slots: int = 1
    decode_slots: int = 0
    reread_tokens: int = 0
    max_requests: int = UNLIMITED
    end_ns: int = UNLIMITED


@dataclass(frozen=True, slots=True)
class CutRequests:
    """A batch of requests, each with its blocks: `prompt_blocks` of its context, then generated.

    `blocks.values`: identities; then, of each block, its `tokens`; `at`: of a prompt's block the
    tokens from the start of its run to its end, of a generated one how many were generated when it
    is complete; `flags`: RUN, SHARED, CHECKPOINT of `kernel`.
    """

    batch: RequestBatch
    blocks: Ragged
    tokens: NDArray[np.int64]
    at: NDArray[np.int64]
    flags: NDArray[np.int64]
    prompt_blocks: NDArray[np.int64]


def _aligned_rows(count: int) -> NDArray[np.int64]:
    """Return `count` slots of zeros, each in one line of the CPU's cache."""
    line = kernel.SLOT_COLUMNS
    values = np.zeros((count + 1) * line, np.int64)
    begin = -(values.ctypes.data // values.itemsize) % line
    return values[begin : begin + count * line].reshape(count, line)


def _new_tiers(spec: HierarchySpec) -> NDArray[np.int64]:
    tiers = np.zeros((kernel.TIERS, kernel.TIER_COLUMNS), np.int64)
    tiers[:, (policies.OLDEST, policies.NEWEST)] = policies.NONE
    tiers[:, policies.STATE_ALIGN] = 1
    for tier in spec.tiers:
        row = tiers[tier.tier]
        row[kernel.HIGH] = tier.limit_bytes(tier.high_watermark_ratio)
        row[kernel.LOW] = tier.limit_bytes(tier.low_watermark_ratio)
        row[policies.TOKEN_BYTES] = tier.token_bytes
        row[policies.BLOCK_BYTES] = tier.block_bytes
        row[policies.STATE_BYTES] = tier.state.constant_bytes
        row[policies.WINDOW_BYTES] = tier.state.window_token_bytes
        row[policies.WINDOW_TOKENS] = tier.state.window_tokens
        row[policies.STATE_ALIGN] = tier.state.align_bytes
        eviction.setup(row, tier.eviction, int(row[kernel.HIGH]))
    return tiers


def _new_count(spec: HierarchySpec, events_per_call: int) -> NDArray[np.int64]:
    count = np.zeros(kernel.SLOTS + spec.prefill_slots + spec.decode_slots, np.int64)
    for place, value in (
        (kernel.WRITE_THROUGH, spec.write_through),
        (kernel.PROMOTE, spec.promote),
        (kernel.TAIL_FIRST, spec.tail_first),
        (kernel.SECOND_USE, spec.second_use),
        (kernel.HYBRID, spec.hybrid),
        (kernel.LOOKUPS, spec.lookups),
        (kernel.PAUSE_NS, UNLIMITED),
        (kernel.PAUSE_REQUESTS, UNLIMITED),
        (kernel.PAUSE_TIER, policies.NONE),
        (kernel.GENERATION_NS, spec.generation_ns),
        (kernel.PREFILL_PS, spec.prefill_ps),
        (kernel.PREFILL_SLOTS, spec.prefill_slots),
        (kernel.DECODE_SLOTS, spec.decode_slots),
        (kernel.REREAD_TOKENS, spec.reread_tokens),
        (kernel.MAX_REQUESTS, spec.max_requests),
        (kernel.END_NS, spec.end_ns),
        (kernel.MAX_EVENTS, events_per_call),
        (kernel.FIRST_FREE, policies.NONE),
    ):
        count[place] = value
    return count


def endless(spec: HierarchySpec) -> HierarchySpec:
    """Return the specification of one unlimited tier that looks up and stores every block."""
    tiers = tuple(
        replace(tier, capacity_bytes=UNLIMITED if tier.tier is Tier.NVME else 0)
        for tier in spec.tiers
    )
    return replace(
        spec, tiers=tiers, write_through=False, promote=False, second_use=False, hybrid=False,
        tail_first=False, lookups=True, reread_tokens=0,
    )  # fmt: skip


class Hierarchy:
    """One node's tiers. `events` runs requests through them; state stays from call to call.

    `numbered`: identities are 1, 2, … in order of first appearance, which makes look-ups direct.
    `tallied_tokens`: blocks of that number of tokens make no events, `tally` has their counts.
    """

    def __init__(
        self,
        spec: HierarchySpec,
        *,
        events_per_call: int = EVENTS_PER_CALL,
        numbered: bool = False,
        tallied_tokens: int = 0,
    ) -> None:
        assert not (numbered and spec.hybrid), "a checkpoint's identity is no number"
        self.spec = spec
        self._tiers = _new_tiers(spec)
        self._count = _new_count(spec, events_per_call)
        self._count[kernel.TALLIED] = tallied_tokens
        self._slots = np.zeros((0, kernel.SLOT_COLUMNS), np.int64)
        self._table = np.zeros(0, np.int64) if numbered else new_table(0)
        self._heap = np.zeros((0, 3), np.int64)
        self._pool = Pool(self._count)
        self._events_per_call = events_per_call
        self._made = np.empty((0, kernel.EVENT_COLUMNS), np.int64)
        self._grow_slots(_FIRST_SLOTS)

    def _grow_slots(self, more: int) -> None:
        """Make room for `more` slots."""
        used = self._slots
        self._slots = _aligned_rows(len(used) + more)
        self._slots[: len(used)] = used
        self._count[kernel.FREE] += more
        if len(self._table):
            self._table = grown(self._table, len(self._slots))

    def _add(self, cut: CutRequests) -> int:
        """Load requests; return the number of the first one's row."""
        if not len(self._table):
            numbers = int(cut.blocks.values.max(initial=0)) + 1
            if numbers > len(self._slots):
                self._grow_slots(max(numbers - len(self._slots), len(self._slots)))
        return self._pool.add(cut)

    def _run(self) -> int:
        loaded = len(self._pool.rows)
        if len(self._heap) <= loaded:
            self._heap = np.concatenate((self._heap, np.zeros((loaded + 1, 3), np.int64)))
        self._reserve_events()
        return kernel.run(
            self._slots,
            self._table,
            self._tiers,
            self._count,
            self._made,
            self._pool.rows,
            self._pool.blocks,
            self._heap,
        )

    def _reserve_events(self) -> None:
        """Keep room for the events of one call and of the longest step that may end it.

        A step evicts at most everything there is, from tier to tier. So much room is address
        space only: pages that are never written to take no memory.
        """
        used = len(self._slots) - int(self._count[kernel.FREE]) * bool(len(self._table))
        rows = self._pool.rows
        longest = int((rows[:, kernel.END] - rows[:, kernel.BEGIN]).max(initial=0))
        longest *= 1 + self.spec.hybrid  # checkpoints
        wanted = self._events_per_call + _EVENTS_PER_EVICTED * used + _EVENTS_PER_ASKED * longest
        if wanted > len(self._made):
            bigger = np.empty((2 * wanted, kernel.EVENT_COLUMNS), np.int64)
            made = int(self._count[kernel.EVENTS])
            bigger[:made] = self._made[:made]
            self._made = bigger

    def pause_at(
        self, *, time_ns: int = UNLIMITED, requests: int = UNLIMITED, evicts: Tier | None = None
    ) -> None:
        """Let `events` pause once: at `time_ns`, after `requests`, or when a tier has evicted."""
        self._count[kernel.PAUSE_NS] = time_ns
        self._count[kernel.PAUSE_REQUESTS] = requests
        self._count[kernel.PAUSE_TIER] = policies.NONE if evicts is None else int(evicts)

    def preload(self, tier: Tier, idents: NDArray[np.int64], tokens: NDArray[np.int64]) -> int:
        """Enter blocks into `tier` before anything happens; return how many of them fit."""
        if len(idents) > self._count[kernel.FREE]:
            self._grow_slots(len(idents))
        return kernel.preload(
            self._slots, self._table, self._tiers, self._count, idents, tokens, constant(tier)
        )

    @property
    def now_ns(self) -> int:
        """Virtual time."""
        return int(self._count[kernel.NOW])

    def end_at(self, *, time_ns: int, requests: int) -> None:
        """Begin no request from `time_ns` on, nor more than `requests` in all."""
        self._count[kernel.END_NS] = time_ns
        self._count[kernel.MAX_REQUESTS] = requests

    def held_idents(self, tier: Tier) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return keys and identities of what `tier` holds, in order of the keys."""
        held = self._slots[self._slots[:, policies.WHERE] >> int(tier) & 1 == 1]
        held = held[np.argsort(held[:, policies.KEY])]
        return held[:, policies.KEY], held[:, policies.IDENT]

    def resident(self) -> NDArray[np.int64]:
        """Return what the tiers hold, rows of (tier, key, tokens) in this order."""
        where, parts = self._slots[:, policies.WHERE], []
        for tier in range(kernel.TIERS):
            held = self._slots[where >> tier & 1 == 1]
            rows = np.stack(
                (np.full(len(held), tier), held[:, policies.KEY], held[:, policies.TOKENS]), axis=1
            )
            parts.append(rows[np.argsort(rows[:, 1])])
        return np.concatenate(parts)

    def events(
        self,
        requests: Iterable[CutRequests],
        more: Callable[[int], CutRequests | None] | None = None,
        at_pause: Callable[[], None] | None = None,
    ) -> Iterator[BlockEvents]:
        """Yield what happens, in order of (time, request, step), until the requests are done.

        `more(chain)` gives the next requests of a chain whose last one said FOLLOW_ASK. `at_pause`
        is called when `pause_at`'s point is reached, all events before it having been yielded.
        """
        count, pool, batches = self._count, self._pool, iter(requests)
        while True:
            status = self._run()
            if status == kernel.NEED_ROWS:
                cut = next(batches, None)
                if cut is None:
                    count[kernel.NO_MORE] = 1
                else:
                    self._add(cut)
            elif status == kernel.NEED_CHAIN:
                row = int(count[kernel.ASKED])
                following = more(pool.chain(row)) if more else None
                pool.link(row, None if following is None else self._add(following))
            elif status == kernel.NEED_SLOTS:
                self._grow_slots(max(len(self._slots), int(count[kernel.ASKED])))
            else:
                made = int(count[kernel.EVENTS])
                if made:
                    count[kernel.EVENTS] = 0
                    yield BlockEvents.from_rows(self._made[:made])
                if status == kernel.PAUSED and at_pause is not None:
                    at_pause()
                if status == kernel.DONE:
                    return

    def tally(self) -> Tally:
        """Return the events of `tallied_tokens`."""
        count = self._count
        ops = count[kernel.TALLY : kernel.TALLY + kernel.TALLIES].copy()
        return Tally(ops, int(count[kernel.TALLIED]), int(count[kernel.TALLIED_NS]))

    def stats(self) -> HierarchyStats:
        """Return the counts."""
        count = [int(value) for value in self._count]
        present = [tier.tier for tier in self.spec.tiers]
        return HierarchyStats(
            requests=count[kernel.REQUESTS],
            blocks=count[kernel.BLOCKS],
            unique_blocks=count[kernel.KEYS] - count[kernel.STATES],
            unique_states=count[kernel.STATES],
            hits={tier: int(self._tiers[tier, kernel.HITS]) for tier in present},
            hit_tokens=count[kernel.HIT_TOKENS],
            ideal_hits=count[kernel.IDEAL_HITS],
            shared_blocks=count[kernel.SHARED_BLOCKS],
            shared_hits=count[kernel.SHARED_HITS],
            shared_hit_tokens=count[kernel.SHARED_HIT_TOKENS],
            shared_ideal_hits=count[kernel.SHARED_IDEAL_HITS],
            prompt_tokens=count[kernel.PROMPT_TOKENS],
            generated_tokens=count[kernel.GENERATED_TOKENS],
            peak_bytes={tier: int(self._tiers[tier, kernel.PEAK]) for tier in present},
            prefill_tokens=count[kernel.PREFILL_TOKENS],
            prefill_busy_ns=count[kernel.PREFILL_BUSY_NS],
            prefill_end_ns=count[kernel.PREFILL_END_NS],
            decode_wait_ns=count[kernel.DECODE_WAIT_NS],
            first_token=tuple(count[kernel.FIRST_TOKEN : kernel.PREFILL_WAIT]),
            prefill_wait=tuple(count[kernel.PREFILL_WAIT : kernel.SLOTS]),
        )
