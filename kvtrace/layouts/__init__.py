"""Layouts, one file each: how an inference engine lays a block out as objects.

A layout is a module with `create(geometry) -> Layout`; the first line of its docstring is what
`kvtrace list layouts` says.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import ceil, lcm
from typing import TYPE_CHECKING, Any

import numpy as np

from kvtrace import plugins
from kvtrace.errors import UsageError
from kvtrace.hierarchy.spec import NO_STATE, StateSize
from kvtrace.requests.request import ranges
from kvtrace.trace.schema import Op, Tier

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from kvtrace.hierarchy.events import BlockEvents
    from kvtrace.models.layers import Held

ALL_RANKS = "all"
ONE_RANK = "one"


@dataclass(frozen=True, slots=True)
class Geometry:
    """The model on one of `tensor_parallel` ranks, and what was asked of the layout.

    `token`: bytes per token, each rank's own and those that all ranks share, which a store keeps
    once; `layers`: the same of each layer. `rank_key_bytes`: how many of them are keys, 0 where K
    and V aren't apart. `rank_state`: the state of a hybrid model's sequence, `state_shared` if all
    ranks hold the same. `block_tokens`: asked for, or None for the layout's own. `ranks`: `all`,
    `one`, or None. `row_tokens`: tokens that a compressed cache's rows cover.
    """

    token: Held
    tensor_parallel: int
    rank_key_bytes: int = 0
    layers: tuple[Held, ...] = ()
    rank_state: StateSize = NO_STATE
    state_shared: bool = False
    block_tokens: int | None = None
    ranks: str | None = None
    row_tokens: int = 1

    @property
    def replicated(self) -> bool:
        """Whether all ranks keep the same of each token (MLA)."""
        return bool(self.token.shared) and not self.token.own

    @property
    def stored(self) -> int | Fraction:
        """Bytes per token that a store keeps of all ranks."""
        return self.token.shared + self.token.own * self.tensor_parallel

    @property
    def state_copies(self) -> int:
        """How many ranks' states a store keeps."""
        return 1 if self.state_shared else self.tensor_parallel

    def blocks(self, tokens: int) -> int:
        """Return the tokens of a block: as asked for, or a layout's own, grown to whole rows."""
        return self.block_tokens or lcm(tokens, self.row_tokens)

    def emitted_ranks(self, default: str = ALL_RANKS) -> range:
        """Return the ranks whose objects are emitted, if they have any."""
        return range(self.tensor_parallel if (self.ranks or default) == ALL_RANKS else 1)

    def per_rank(self, held: Held, default: str = ALL_RANKS) -> Iterator[tuple[int, Any]]:
        """Yield each emitted rank with the bytes that it stores: shared ones with rank 0."""
        for rank in self.emitted_ranks(default):
            stored = held.total if rank == 0 else held.own
            if stored:
                yield rank, stored


@dataclass(frozen=True, slots=True)
class Part:
    """One object of a block: whose it is, and its bytes per token of the block.

    A fraction where rows cover several tokens: it comes to whole bytes per block.
    """

    rank: int
    token_bytes: int | Fraction


@dataclass(frozen=True, slots=True)
class Layout:
    """How blocks become objects: one per entry of `parts`, its size rounded up to `align_bytes`.

    `block_tokens` is None where a block is a session's turn. Of the whole node, whatever is
    emitted: `stored_token_bytes` on cpu, nvme and object; `hbm_token_bytes` on gpu. A checkpoint of
    a hybrid model becomes one object of size `state` for each entry of `state_ranks`, of
    `state_copies` that the node stores and `hbm_state_copies` that its GPUs hold. `reread_tokens`:
    while generating, a turn's own object is read once per that number of tokens.
    """

    name: str
    block_tokens: int | None
    parts: tuple[Part, ...]
    stored_token_bytes: int | Fraction
    hbm_token_bytes: int | Fraction
    align_bytes: int = 1
    state: StateSize = NO_STATE
    state_ranks: tuple[int, ...] = ()
    state_copies: int = 1
    hbm_state_copies: int = 1
    stores_generated: bool = True
    reread_tokens: int = 0

    def __post_init__(self) -> None:
        """Refuse a layout without objects. Raises UsageError."""
        if not self.parts and not self.state_ranks:
            raise UsageError(
                "nothing to store: the model keeps no bytes per token",
                where=f"layout {self.name}",
                hint="choose a layout that stores the state of windows: lmcache, vllm, sglang",
            )

    @property
    def token_divisor(self) -> int:
        """Tokens for which each object has whole bytes: 1 but for compressed caches."""
        return lcm(*(Fraction(part.token_bytes).denominator for part in self.parts))

    @property
    def part_bytes(self) -> tuple[int, ...]:
        """Bytes of each object per `token_divisor` tokens."""
        return tuple(int(part.token_bytes * self.token_divisor) for part in self.parts)

    @property
    def emitted_token_bytes(self) -> int | Fraction:
        """Bytes per token of the objects that are emitted, before rounding up."""
        return sum(part.token_bytes for part in self.parts)

    @property
    def emits_rank_0(self) -> bool:
        """Whether no other rank's objects are emitted."""
        ranks = {part.rank for part in self.parts} or set(self.state_ranks)
        return ranks == {0}

    @property
    def objects(self) -> int:
        """How many keys a block takes."""
        return max(len(self.parts), len(self.state_ranks))

    def padding_bytes(self, tier: Tier) -> int:
        """Return what a block takes on `tier`, of the whole node, beyond node_token_bytes each."""
        if self.block_tokens is None:
            return 0
        block = self._held(tier) * self.block_tokens
        align = 1 if tier is Tier.GPU else self.align_bytes
        return ceil(block / align) * align - self.node_token_bytes(tier) * self.block_tokens

    def _held(self, tier: Tier) -> Fraction:
        return Fraction(self.hbm_token_bytes if tier is Tier.GPU else self.stored_token_bytes)

    def node_token_bytes(self, tier: Tier) -> int:
        """Return the whole bytes per token that the node holds on `tier`."""
        return int(self._held(tier))

    def node_state(self, tier: Tier) -> StateSize:
        """Return what the node holds of a checkpoint on `tier`."""
        state = self.state
        copies = self.hbm_state_copies if tier is Tier.GPU else self.state_copies
        return StateSize(
            state.constant_bytes * copies,
            state.window_token_bytes * copies,
            state.window_tokens,
            state.align_bytes,
        )

    def occupancy_factor(self, tier: Tier) -> float:
        """Return how many bytes the node holds on `tier` for each byte of the emitted objects.

        Blocks and checkpoints may differ, where only one of them is the same on all ranks: then
        it is the smaller factor, so that no trace seems to hold more than the node did.
        """
        factors = []
        if self.state_ranks:
            copies = self.hbm_state_copies if tier is Tier.GPU else self.state_copies
            factors.append(copies / len(self.state_ranks))
        if self.parts:
            tokens = self.block_tokens or 1
            held = self.node_token_bytes(tier) * tokens + self.padding_bytes(tier)
            factors.append(held / float(self._sizes(np.array([tokens])).sum()))
        return min(factors, default=1.0)

    def _sizes(self, tokens: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the sizes of the objects of blocks by their tokens, a row per block."""
        each = np.array(self.part_bytes or (0,), np.int64)
        sizes: NDArray[np.int64] = tokens[:, None] * each
        if self.token_divisor > 1:
            sizes //= self.token_divisor
        if self.align_bytes > 1:
            sizes = -(-sizes // self.align_bytes) * self.align_bytes
        return sizes

    def expand(self, events: BlockEvents) -> dict[str, NDArray[Any]]:
        """Return the rows of `events`: each block becomes its objects, in order of `parts`."""
        counts = self._counts(events.tokens)

        def each(values: NDArray[Any]) -> NDArray[Any]:
            return values if isinstance(counts, int) and counts == 1 else np.repeat(values, counts)

        number, sizes, ranks = self._objects(events.tokens, counts)
        sizes[each(events.op) == Op.LOOKUP] = 0
        block = each(events.key.astype(np.uint64))
        return {
            "timestamp": each(events.timestamp_ns),
            "op": each(events.op),
            "size": sizes.astype(np.uint64),
            "tier": each(events.tier),
            "key": block * np.uint64(self.objects) + number.astype(np.uint64),
            "phase": each(events.phase),
            "request": each(events.request.astype(np.uint64)),
            "session": each(events.session.astype(np.uint64)),
            "step": each(events.step),
            "rank": ranks,
            "block": block,
            "qos": each(events.qos),
        }

    def resident(self, held: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        """Return the objects of what a hierarchy holds, rows of (tier, key, tokens)."""
        counts = self._counts(held[:, 2])
        number, sizes, _ = self._objects(held[:, 2], counts)
        return {
            "tier": np.repeat(held[:, 0].astype(np.uint8), counts),
            "key": np.repeat(held[:, 1] * self.objects, counts).astype(np.uint64)
            + number.astype(np.uint64),
            "size": sizes.astype(np.uint64),
        }

    def _counts(self, tokens: NDArray[np.int64]) -> int | NDArray[np.int64]:
        """Return how many objects each block, or checkpoint, becomes."""
        if not self.state:
            return len(self.parts)
        return np.where(tokens < 0, len(self.state_ranks), len(self.parts))

    def _objects(
        self, tokens: NDArray[np.int64], counts: int | NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.uint16]]:
        """Return of each object: its number in its block, its size and its rank."""
        ranks = np.array([part.rank for part in self.parts] or [0], np.uint16)
        if isinstance(counts, int):
            number = np.tile(np.arange(counts), len(tokens))
            return number, self._sizes(tokens).reshape(-1), np.tile(ranks, len(tokens))
        number, of = ranges(counts), np.repeat(np.arange(len(tokens)), counts)
        part, state_rank = (np.minimum(number, len(c) - 1) for c in (ranks, self.state_ranks))
        state = tokens[of] < 0
        sizes = np.where(state, self.state.at(-tokens)[of], self._sizes(tokens)[of, part])
        of_rank = np.where(state, np.array(self.state_ranks, np.uint16)[state_rank], ranks[part])
        return number, sizes, of_rank


def create(name: str, geometry: Geometry) -> Layout:
    """Return the layout called `name`.

    Raises UsageError for an unknown name, or for blocks of parts of rows.
    """
    layout: Layout = plugins.load(plugins.LAYOUT, name).create(geometry)
    rows = geometry.row_tokens
    if rows > 1 and (layout.block_tokens is None or layout.block_tokens % rows):
        raise UsageError(
            "blocks don't hold whole rows of the model's compressed cache",
            where=f"layout {name}",
            got=f"{layout.block_tokens or 'any number of'} tokens per block",
            accepted=f"multiples of {rows} tokens",
            hint=f"set --block-tokens to a multiple of {rows}"
            if layout.block_tokens
            else "choose a layout of token blocks",
        )
    return layout


def per_rank(name: str, block_tokens: int, geometry: Geometry, parts: tuple[Part, ...]) -> Layout:
    """Return a layout of blocks that each rank stores for itself; a checkpoint is one object."""
    copies = geometry.state_copies
    ranks = tuple(rank for rank in geometry.emitted_ranks() if rank < copies)
    return Layout(
        name=name,
        block_tokens=geometry.blocks(block_tokens),
        parts=parts,
        stored_token_bytes=geometry.stored,
        hbm_token_bytes=geometry.token.total * geometry.tensor_parallel,
        state=geometry.rank_state,
        state_ranks=ranks if geometry.rank_state else (),
        state_copies=copies,
        hbm_state_copies=geometry.tensor_parallel,
    )
