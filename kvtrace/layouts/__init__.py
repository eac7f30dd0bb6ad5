"""Layouts, one file each: how an inference engine lays a block out as objects.

A layout is a module with `create(geometry) -> Layout`; the first line of its docstring is what
`kvtrace list layouts` says.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from kvtrace import plugins
from kvtrace.hierarchy import NO_STATE, StateSize
from kvtrace.request import ranges
from kvtrace.schema import Op, Tier

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kvtrace.events import BlockEvents

ALL_RANKS = "all"
ONE_RANK = "one"


@dataclass(frozen=True, slots=True)
class Geometry:
    """What a layout is made for.

    Bytes per token that one rank keeps: `rank_token_bytes`, of them `rank_key_bytes` keys (0 where
    K and V aren't apart), and per layer. `rank_state`: of a hybrid model, what one rank keeps of a
    sequence. `replicated`: all ranks keep the same. `block_tokens`: asked for, or None for the
    layout's own. `ranks`: `all`, `one`, or None.
    """

    rank_token_bytes: int
    replicated: bool
    tensor_parallel: int
    rank_key_bytes: int = 0
    layer_token_bytes: tuple[int, ...] = ()
    rank_state: StateSize = NO_STATE
    block_tokens: int | None = None
    ranks: str | None = None

    @property
    def copies(self) -> int:
        """How many ranks' bytes a store keeps: of replicated ones, one."""
        return 1 if self.replicated else self.tensor_parallel

    def emitted_ranks(self, default: str = ALL_RANKS) -> range:
        """Return the ranks whose objects are emitted."""
        return range(self.copies if (self.ranks or default) == ALL_RANKS else 1)


@dataclass(frozen=True, slots=True)
class Part:
    """One object of a block: whose it is, and its bytes per token of the block."""

    rank: int
    token_bytes: int


@dataclass(frozen=True, slots=True)
class Layout:
    """How blocks become objects: one per entry of `parts`, its size rounded up to `align_bytes`.

    `block_tokens` is None where a block is a session's turn. Of the whole node, whatever is
    emitted: `stored_token_bytes` on cpu, nvme and object; `hbm_token_bytes` on gpu. A checkpoint of
    a hybrid model becomes one object of size `state` for each entry of `state_ranks`, of
    `state_copies` that the node stores. `reread_tokens`: while generating, a turn's own object is
    read once per so many tokens.
    """

    name: str
    block_tokens: int | None
    parts: tuple[Part, ...]
    stored_token_bytes: int
    hbm_token_bytes: int
    align_bytes: int = 1
    state: StateSize = NO_STATE
    state_ranks: tuple[int, ...] = ()
    state_copies: int = 1
    stores_generated: bool = True
    reread_tokens: int = 0

    @property
    def emitted_token_bytes(self) -> int:
        """Bytes per token of the objects that are emitted, before rounding up."""
        return sum(part.token_bytes for part in self.parts)

    @property
    def objects(self) -> int:
        """How many keys a block takes."""
        return max(len(self.parts), len(self.state_ranks))

    def padding_bytes(self, tier: Tier) -> int:
        """Return by how much rounding up makes a block longer on `tier`, of the whole node."""
        if tier is Tier.GPU or self.align_bytes == 1 or self.block_tokens is None:
            return 0
        stored = self.stored_token_bytes * self.block_tokens
        return -(-stored // self.align_bytes) * self.align_bytes - stored

    def node_token_bytes(self, tier: Tier) -> int:
        """Return the bytes per token that the node holds on `tier`."""
        return self.hbm_token_bytes if tier is Tier.GPU else self.stored_token_bytes

    def node_state(self) -> StateSize:
        """Return what the node holds of a checkpoint, on any tier."""
        state, copies = self.state, self.state_copies
        return StateSize(
            state.constant_bytes * copies,
            state.window_token_bytes * copies,
            state.window_tokens,
            state.align_bytes,
        )

    def occupancy_factor(self, tier: Tier) -> float:
        """Return how many bytes the node holds on `tier` for each byte of the emitted objects."""
        tokens = self.block_tokens or 1
        held = self.node_token_bytes(tier) * tokens + self.padding_bytes(tier)
        return held / float(self._sizes(np.array([tokens])).sum())

    def _sizes(self, tokens: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the sizes of the objects of blocks of so many tokens, a row per block."""
        sizes: NDArray[np.int64] = tokens[:, None] * np.array(
            [part.token_bytes for part in self.parts]
        )
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
        ranks = np.array([part.rank for part in self.parts], np.uint16)
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
    """Return the layout called `name`. Raises UsageError for a name nobody knows."""
    layout: Layout = plugins.load("kvtrace.layouts", name, kind="layout").create(geometry)
    return layout


def per_rank(name: str, block_tokens: int, geometry: Geometry, parts: tuple[Part, ...]) -> Layout:
    """Return a layout of blocks that each rank stores for itself; a checkpoint is one object."""
    return Layout(
        name=name,
        block_tokens=geometry.block_tokens or block_tokens,
        parts=parts,
        stored_token_bytes=geometry.rank_token_bytes * geometry.copies,
        hbm_token_bytes=geometry.rank_token_bytes * geometry.tensor_parallel,
        state=geometry.rank_state,
        state_ranks=tuple(geometry.emitted_ranks()) if geometry.rank_state else (),
        state_copies=geometry.copies,
    )
