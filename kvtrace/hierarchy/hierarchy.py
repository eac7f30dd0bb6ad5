"""The tier hierarchy in virtual time: requests in, block events out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from kvtrace import plugins
from kvtrace.hierarchy import native
from kvtrace.hierarchy.events import BlockEvents, HierarchyStats, Tally
from kvtrace.hierarchy.pool import Pool
from kvtrace.native.hashmap import grown, new_table
from kvtrace.native.library import address, contiguous
from kvtrace.policies import Head
from kvtrace.trace.schema import Tier
from kvtrace.units import UNLIMITED

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Iterator

    from numpy.typing import NDArray

    from kvtrace.hierarchy.spec import HierarchySpec, TierSpec
    from kvtrace.requests.request import Ragged, RequestBatch

EVENTS_PER_CALL = 1 << 16
_FIRST_SLOTS = 1 << 14

# Most events of one step: of a block that it pushes down through all tiers (read, write, delete on
# each), and of one that it requests (read, a write per tier, and pushed down).
_EVENTS_PER_EVICTED = 3 * native.TIERS
_EVENTS_PER_ASKED = 1 + native.TIERS + _EVENTS_PER_EVICTED


@dataclass(frozen=True, slots=True)
class CutRequests:
    """A batch of requests, each with its blocks: `prompt_blocks` of its context, then generated.

    `blocks.values`: identities; then, of each block, its `tokens`; `at`: of a prompt's block the
    tokens from the start of its run to its end, of a generated one how many were generated when it
    is complete; `flags`: RUN, SHARED, CHECKPOINT of `native`.
    """

    batch: RequestBatch
    blocks: Ragged
    tokens: NDArray[np.int64]
    at: NDArray[np.int64]
    flags: NDArray[np.int64]
    prompt_blocks: NDArray[np.int64]


def _aligned_slots(count: int) -> NDArray[np.void]:
    """Return `count` slots of zeros, each in one line of the CPU's cache."""
    line = native.SLOT.itemsize
    values = np.zeros((count + 1) * line, np.uint8)
    begin = -values.ctypes.data % line
    return values[begin : begin + count * line].view(native.SLOT)


def _set_up_tier(struct: native.TierStruct, spec: TierSpec) -> NDArray[np.uint8]:
    """Describe an empty tier; return the state of its policy, which must be kept.

    Raises UsageError for an unknown or broken policy.
    """
    struct.policy = plugins.load(plugins.POLICY, spec.eviction).policy()
    kept = np.zeros(Head.from_address(struct.policy).state_bytes, np.uint8)
    struct.state = address(kept)
    struct.high_bytes = spec.limit_bytes(spec.high_watermark_ratio)
    struct.low_bytes = spec.limit_bytes(spec.low_watermark_ratio)
    struct.token_bytes, struct.block_bytes = spec.token_bytes, spec.block_bytes
    struct.constant_bytes = spec.state.constant_bytes
    struct.window_token_bytes = spec.state.window_token_bytes
    struct.window_tokens = spec.state.window_tokens
    struct.align_bytes = spec.state.align_bytes
    native.setup_tier(struct)
    return kept


def _new_struct(spec: HierarchySpec) -> native.HierarchyStruct:
    """Return the state of a hierarchy in which nothing has happened, without its tiers."""
    struct = native.HierarchyStruct(
        write_through=spec.write_through,
        promote=spec.promote,
        tail_first=spec.tail_first,
        second_use=spec.second_use,
        hybrid=spec.hybrid,
        lookups=spec.lookups,
        pause_ns=UNLIMITED,
        pause_requests=UNLIMITED,
        pause_tier=native.NONE,
        generation_ns=spec.generation_ns,
        prefill_ps=spec.prefill_ps,
        prefill_slots=spec.prefill_slots,
        decode_slots=spec.decode_slots,
        reread_tokens=spec.reread_tokens,
        max_requests=spec.max_requests,
        end_ns=spec.end_ns,
        first_free=native.NONE,
    )
    for number, tier in enumerate(struct.tiers):
        tier.number, tier.align_bytes = number, 1
    return struct


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
        self._struct = _new_struct(spec)
        self._struct.events_limit = events_per_call
        self._struct.tallied_tokens = tallied_tokens
        self._policies = [_set_up_tier(self._struct.tiers[tier.tier], tier) for tier in spec.tiers]
        self._free_ns = np.zeros((2, max(spec.prefill_slots, spec.decode_slots, 1)), np.int64)
        self._slots = np.zeros(0, native.SLOT)
        self._table = np.zeros(0, np.int64) if numbered else new_table(0)
        self._heap = np.zeros(0, native.NEXT)
        self._pool = Pool(self._struct)
        self._events_per_call = events_per_call
        self._made = {name: np.empty(0, dtype) for name, dtype in native.EVENT_COLUMNS.items()}
        self._grow_slots(_FIRST_SLOTS)

    def _grow_slots(self, more: int) -> None:
        """Make room for `more` slots."""
        used = self._slots
        self._slots = _aligned_slots(len(used) + more)
        self._slots[: len(used)] = used
        self._struct.free_slots += more
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
            heap = np.zeros(len(self._heap) + loaded + 1, native.NEXT)
            heap[: len(self._heap)] = self._heap
            self._heap = heap
        self._reserve_events()
        self._point()
        status: int = native.run(self._struct)
        return status

    def _point(self) -> None:
        """Tell the compiled code where the arrays are, which move as they grow."""
        struct = self._struct
        struct.slots = address(self._slots)
        struct.entries = address(self._table)
        struct.mask = max(0, len(self._table) - 1)
        requests, blocks = self._pool.rows, self._pool.blocks
        struct.requests, struct.blocks = address(requests), address(blocks)
        struct.block_count = len(blocks)
        struct.heap = address(self._heap)
        struct.prefill_free_ns, struct.decode_free_ns = map(address, self._free_ns)
        for name, column in self._made.items():
            setattr(struct, name, address(column))

    def _reserve_events(self) -> None:
        """Keep room for the events of one call and of the longest step that may end it.

        A step evicts at most everything there is, from tier to tier. So much room is address
        space only: pages that are never written to take no memory.
        """
        used = len(self._slots) - self._struct.free_slots * bool(len(self._table))
        rows = self._pool.rows
        longest = int((rows["end"] - rows["begin"]).max(initial=0))
        longest *= 1 + self.spec.hybrid  # checkpoints
        wanted = self._events_per_call + _EVENTS_PER_EVICTED * used + _EVENTS_PER_ASKED * longest
        if wanted > len(self._made["time_ns"]):
            made = self._struct.events
            for name, column in self._made.items():
                self._made[name] = np.empty(2 * wanted, column.dtype)
                self._made[name][:made] = column[:made]

    def pause_at(
        self, *, time_ns: int = UNLIMITED, requests: int = UNLIMITED, evicts: Tier | None = None
    ) -> None:
        """Let `events` pause once: at `time_ns`, after `requests`, or when a tier has evicted."""
        self._struct.pause_ns = time_ns
        self._struct.pause_requests = requests
        self._struct.pause_tier = native.NONE if evicts is None else int(evicts)

    def preload(self, tier: Tier, idents: NDArray[np.int64], tokens: NDArray[np.int64]) -> int:
        """Enter blocks into `tier` before anything happens; return how many of them fit."""
        if len(idents) > self._struct.free_slots:
            self._grow_slots(len(idents))
        self._point()
        fitted: int = native.preload(
            self._struct,
            contiguous(idents, np.int64),
            contiguous(tokens, np.int64),
            len(idents),
            tier,
        )
        return fitted

    def restart(self, time_ns: int, tiers: Container[Tier]) -> int:
        """Let the engine restart at `time_ns`, the events up to then having been yielded.

        `tiers` lose what they hold, in order of the keys, and what their policies know; others
        keep it, and their order. Requests in flight begin again, as new ones: return how many.
        """
        self._point()
        held = [self._held_slots(tier) if tier in tiers else None for tier in Tier]
        lost = [np.zeros(0, np.int64), *(slots for slots in held if slots is not None)]
        counts = [native.NONE if slots is None else len(slots) for slots in held]
        begun: int = native.restart(
            self._struct, time_ns, np.concatenate(lost), np.array(counts), len(self._slots)
        )
        return begun

    def used_bytes(self, tier: Tier) -> int:
        """Return what `tier` holds now."""
        used_bytes: int = self._struct.tiers[tier].used_bytes
        return used_bytes

    @property
    def now_ns(self) -> int:
        """Virtual time."""
        now_ns: int = self._struct.now_ns
        return now_ns

    def end_at(self, *, time_ns: int, requests: int) -> None:
        """Begin no request from `time_ns` on, nor more than `requests` in all."""
        self._struct.end_ns = time_ns
        self._struct.max_requests = requests

    def held_idents(self, tier: Tier) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return keys and identities of what `tier` holds, in order of the keys."""
        held = self._held(tier)
        return held["key"], held["ident"]

    def _held(self, tier: int) -> NDArray[np.void]:
        """Return the slots that `tier` holds, in order of their keys."""
        held: NDArray[np.void] = self._slots[self._held_slots(tier)]
        return held

    def _held_slots(self, tier: int) -> NDArray[np.int64]:
        """Return the numbers of the slots that `tier` holds, in order of their keys."""
        held = np.flatnonzero(self._slots["where"] >> np.uint64(tier) & np.uint64(1))
        return held[np.argsort(self._slots["key"][held])]

    def resident(self) -> NDArray[np.int64]:
        """Return what the tiers hold, rows of (tier, key, tokens) in this order."""
        parts = []
        for tier in range(native.TIERS):
            held = self._held(tier)
            parts.append(np.stack((np.full(len(held), tier), held["key"], held["tokens"]), axis=1))
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
        struct, pool, batches = self._struct, self._pool, iter(requests)
        while True:
            status = self._run()
            if status == native.NEED_REQUESTS:
                cut = next(batches, None)
                if cut is None:
                    struct.no_more = 1
                else:
                    self._add(cut)
            elif status == native.NEED_CHAIN:
                row = struct.asked
                following = more(pool.chain(row)) if more else None
                pool.link(row, None if following is None else self._add(following))
            elif status == native.NEED_SLOTS:
                self._grow_slots(max(len(self._slots), struct.asked))
            else:
                made, struct.events = struct.events, 0
                if made:
                    yield BlockEvents.from_columns(self._made, made)
                if status == native.PAUSED and at_pause is not None:
                    at_pause()
                if status == native.DONE:
                    return

    def tally(self) -> Tally:
        """Return the events of `tallied_tokens`."""
        struct = self._struct
        return Tally(np.array(struct.tally), struct.tallied_tokens, struct.tallied_ns)

    def stats(self) -> HierarchyStats:
        """Return the counts."""
        struct = self._struct
        present = [tier.tier for tier in self.spec.tiers]
        return HierarchyStats(
            requests=struct.begun,
            blocks=struct.blocks_asked,
            unique_blocks=struct.keys - struct.states,
            unique_states=struct.states,
            hits={tier: struct.tiers[tier].hits for tier in present},
            hit_tokens=struct.hit_tokens,
            ideal_hits=struct.ideal_hits,
            shared_blocks=struct.shared_blocks,
            shared_hits=struct.shared_hits,
            shared_hit_tokens=struct.shared_hit_tokens,
            shared_ideal_hits=struct.shared_ideal_hits,
            prompt_tokens=struct.prompt_tokens,
            generated_tokens=struct.generated_tokens,
            peak_bytes={tier: struct.tiers[tier].peak_bytes for tier in present},
            prefill_tokens=struct.prefill_tokens,
            prefill_busy_ns=struct.prefill_busy_ns,
            prefill_end_ns=struct.prefill_end_ns,
            decode_wait_ns=struct.decode_wait_ns,
            first_token=tuple(struct.first_token),
            prefill_wait=tuple(struct.prefill_wait),
        )
