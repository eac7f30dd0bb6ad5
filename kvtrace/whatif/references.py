"""Block references in order, independent of tiers, for ceilings and curves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from kvtrace.trace.schema import Op, Phase
from kvtrace.units import UNLIMITED
from kvtrace.whatif.counting import stored_tokens
from kvtrace.whatif.optimal import optimal_hits

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kvtrace.whatif.workload import Run


@dataclass(frozen=True, slots=True)
class References:
    """Touches of blocks in order of time.

    `key`: dense numbers. `asked`: by a prompt, else stored since it was generated. `group`: a
    request's prompt is looked up as a whole before any of it is stored; numbers from 0 on.
    """

    key: NDArray[np.int64]
    asked: NDArray[np.bool_]
    group: NDArray[np.int64]
    mean_tokens: float

    @property
    def blocks(self) -> int:
        """How many blocks are asked for."""
        return int(self.asked.sum())

    @property
    def distinct(self) -> int:
        """How many different blocks there are."""
        return int(self.key.max(initial=-1)) + 1

    def optimal_ratio(self, blocks: int) -> float:
        """Return the upper bound of a cache's hit ratio by its blocks."""
        room = min(blocks, self.distinct)
        return optimal_hits(self.key, self.asked, self.group, room) / max(1, self.blocks)


def collect(run: Run) -> References:
    """Return the references of a run on one unlimited tier with look-ups.

    Every prompt is then seen whole, and a generated block is written once. Times are those of
    requests that find all that was there before.
    """
    assert max(tier.capacity_bytes for tier in run.spec.tiers) == UNLIMITED
    assert run.spec.lookups
    parts: dict[str, list[NDArray[np.int64]]] = {"key": [], "asked": [], "request": []}
    blocks = tokens = 0
    for events in run.events():
        asked = events.op == Op.LOOKUP
        generated = (events.op == Op.WRITE) & (events.phase == Phase.DECODE) & (events.tokens >= 0)
        kept = asked | generated
        parts["key"].append(events.key[kept])
        parts["asked"].append(asked[kept].astype(np.int64))
        parts["request"].append(events.request[kept])
        written = stored_tokens(events)
        blocks, tokens = blocks + len(written), tokens + int(written.sum())
    key, asked_, request = (np.concatenate([np.zeros(0, np.int64), *parts[n]]) for n in parts)
    anew = np.ones(len(key), np.bool_)
    anew[1:] = (request[1:] != request[:-1]) | (asked_[1:] != asked_[:-1])
    group = np.cumsum(anew) - 1
    _, dense = np.unique(key, return_inverse=True)
    return References(dense, asked_ == 1, group, tokens / max(1, blocks))
