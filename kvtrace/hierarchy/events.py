"""Output of a simulation: events of blocks, and their counts."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from kvtrace.hierarchy.native import BINS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import numpy as np
    from numpy.typing import NDArray

    from kvtrace.trace.schema import Tier


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

    def pieces(self, count: int) -> Iterator[BlockEvents]:
        """Yield them in order, at most `count` at a time."""
        for begin in range(0, len(self), count):
            cut = slice(begin, begin + count)
            yield BlockEvents(*(getattr(self, column.name)[cut] for column in fields(self)))

    @classmethod
    def from_columns(cls, columns: Mapping[str, NDArray[Any]], count: int) -> BlockEvents:
        """Return copies of the first `count` events in the compiled code's columns."""
        copied = {name: column[:count].copy() for name, column in columns.items()}
        return cls(timestamp_ns=copied.pop("time_ns"), **copied)


_HISTOGRAMS = ("first_token", "prefill_wait")


@dataclass(frozen=True, slots=True)
class HierarchyStats:
    """Counts of a simulation. `ideal_hits`: hits of a cache that forgets nothing.

    `unique_blocks` and `unique_states`: blocks and checkpoints that appeared in the trace.
    `shared_…`: of blocks of system prompts and documents, as far as the source tells them apart.
    `prefill_tokens` that no tier had took the node `prefill_busy_ns`; the last prompt was computed
    at `prefill_end_ns`; requests waited `decode_wait_ns` for a place in the batch. Histograms by
    `native`'s bins: of the time from arrival to the end of prefill, and to its beginning.
    """

    requests: int
    blocks: int
    unique_blocks: int
    unique_states: int
    hits: dict[Tier, int]
    hit_tokens: int
    ideal_hits: int
    shared_blocks: int
    shared_hits: int
    shared_hit_tokens: int
    shared_ideal_hits: int
    prompt_tokens: int
    generated_tokens: int
    peak_bytes: dict[Tier, int] = field(default_factory=dict)
    prefill_tokens: int = 0
    prefill_busy_ns: int = 0
    prefill_end_ns: int = 0
    decode_wait_ns: int = 0
    first_token: tuple[int, ...] = (0,) * BINS
    prefill_wait: tuple[int, ...] = (0,) * BINS

    @classmethod
    def of_requests(cls, requests: int) -> HierarchyStats:
        """Return the counts of requests that no tiers were simulated for."""
        counts = {
            part.name: 0
            for part in fields(cls)
            if part.name not in ("hits", "peak_bytes", "requests", *_HISTOGRAMS)
        }
        return cls(requests=requests, hits={}, **counts)  # type: ignore[arg-type]

    def plus(self, other: HierarchyStats) -> HierarchyStats:
        """Return what two nodes counted; of peaks the higher one."""
        return self._combined(other, 1)

    def since(self, earlier: HierarchyStats) -> HierarchyStats:
        """Return what was counted since then; peaks are those of the whole time."""
        return self._combined(earlier, -1)

    def _combined(self, other: HierarchyStats, sign: int) -> HierarchyStats:
        counts: dict[str, Any] = {
            part.name: getattr(self, part.name) + sign * getattr(other, part.name)
            for part in fields(self)
            if part.name not in ("hits", "peak_bytes", "prefill_end_ns", *_HISTOGRAMS)
        }
        counts["prefill_end_ns"] = max(self.prefill_end_ns, other.prefill_end_ns)
        for name in _HISTOGRAMS:
            pairs = zip(getattr(self, name), getattr(other, name), strict=True)
            counts[name] = tuple(mine + sign * theirs for mine, theirs in pairs)
        hits = {tier: count + sign * other.hits[tier] for tier, count in self.hits.items()}
        peaks = {tier: max(peak, other.peak_bytes[tier]) for tier, peak in self.peak_bytes.items()}
        return HierarchyStats(**counts, hits=hits, peak_bytes=peaks)


@dataclass(frozen=True, slots=True)
class Tally:
    """Events that were counted instead of being made: `ops` by `trace.cell`.

    Each was of a block of `tokens`; the last one happened at `last_ns`.
    """

    ops: NDArray[np.int64]
    tokens: int
    last_ns: int

    def since(self, earlier: Tally) -> Tally:
        """Return the counts since then."""
        return Tally(self.ops - earlier.ops, self.tokens, self.last_ns)
