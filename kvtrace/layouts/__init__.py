"""Layouts, one file each: how an inference engine lays a block out as objects.

A layout is a module with `create(geometry) -> Layout`; the first line of its docstring is what
`kvtrace list layouts` says.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from kvtrace import plugins
from kvtrace.schema import Op, Tier

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kvtrace.hierarchy import BlockEvents

ALL_RANKS = "all"
ONE_RANK = "one"


@dataclass(frozen=True, slots=True)
class Geometry:
    """What a layout is made for.

    `rank_token_bytes`: bytes per token that one rank keeps; `replicated`: all ranks keep the same.
    `block_tokens`: asked for, or None for the layout's own. `ranks`: `all`, `one`, or None.
    """

    rank_token_bytes: int
    replicated: bool
    tensor_parallel: int
    block_tokens: int | None = None
    ranks: str | None = None


@dataclass(frozen=True, slots=True)
class Layout:
    """How blocks become objects: one object per entry of `object_ranks`, all of equal size.

    `block_tokens` is None where a block is a session's turn. Of the whole node, whatever is
    emitted: `stored_token_bytes` on cpu, nvme and object; `hbm_token_bytes` on gpu.
    `reread_tokens`: while generating, a turn's own object is read once per so many tokens.
    """

    name: str
    block_tokens: int | None
    object_token_bytes: int
    object_ranks: tuple[int, ...]
    stored_token_bytes: int
    hbm_token_bytes: int
    prefix_rule: bool = True
    stores_generated: bool = True
    reread_tokens: int = 0

    @property
    def emitted_token_bytes(self) -> int:
        """Bytes per token of the objects that are emitted."""
        return self.object_token_bytes * len(self.object_ranks)

    def node_token_bytes(self, tier: Tier) -> int:
        """Return the bytes per token that the node holds on `tier`."""
        return self.hbm_token_bytes if tier is Tier.GPU else self.stored_token_bytes

    def occupancy_factor(self, tier: Tier) -> float:
        """Return how many bytes the node holds on `tier` for each byte of the emitted objects."""
        return self.node_token_bytes(tier) / self.emitted_token_bytes

    def expand(self, events: BlockEvents) -> dict[str, NDArray[Any]]:
        """Return the rows of `events`: each block becomes its objects, in order of rank."""
        objects = len(self.object_ranks)

        def each(values: NDArray[Any]) -> NDArray[Any]:
            return np.repeat(values, objects) if objects > 1 else values

        sizes = (events.tokens * self.object_token_bytes).astype(np.uint64)
        sizes[events.op == Op.LOOKUP] = 0
        count, block = len(events), events.key.astype(np.uint64)
        index = np.tile(np.arange(objects, dtype=np.uint64), count)
        return {
            "timestamp": each(events.timestamp_ns),
            "op": each(events.op),
            "size": each(sizes),
            "tier": each(events.tier),
            "key": each(block * np.uint64(objects)) + index,
            "phase": each(events.phase),
            "request": each(events.request.astype(np.uint64)),
            "session": each(events.session.astype(np.uint64)),
            "step": each(events.step),
            "rank": np.tile(np.array(self.object_ranks, np.uint16), count),
            "block": each(block),
            "qos": each(events.qos),
        }


def create(name: str, geometry: Geometry) -> Layout:
    """Return the layout called `name`. Raises UsageError for a name nobody knows."""
    layout: Layout = plugins.load("kvtrace.layouts", name, kind="layout").create(geometry)
    return layout
