"""Specification of a hierarchy: tiers with sizes and policies, and the rules of the node."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from kvtrace.trace.schema import Tier
from kvtrace.units import UNLIMITED

if TYPE_CHECKING:
    from numpy.typing import NDArray


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
