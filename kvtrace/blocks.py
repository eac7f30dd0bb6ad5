"""Cuts requests into blocks of the size that a layout wants."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np

from kvtrace.errors import UsageError
from kvtrace.hierarchy import CutRequests
from kvtrace.jit import compiled
from kvtrace.request import Ragged, RequestBatch, ranges

if TYPE_CHECKING:
    from numpy.typing import NDArray

SESSION_BITS = 24
"""A session's blocks are numbered below 2²⁴: identity = session · 2²⁴ + index."""


class Cutter(Protocol):
    """Gives each request its blocks."""

    def cut(self, batch: RequestBatch) -> CutRequests:
        """Return the requests with their blocks."""
        ...


class SessionBlocks:
    """Blocks of `block_tokens` of a session's growing context; a partial block isn't stored.

    With `generated`, the blocks that generation completes follow those of the prompt; the first
    of them starts with the prompt's partial tail.
    """

    def __init__(self, block_tokens: int, *, generated: bool) -> None:
        self.block_tokens = block_tokens
        self.generated = generated

    def cut(self, batch: RequestBatch) -> CutRequests:
        """Return the requests with their blocks."""
        prompt = batch.input_tokens // self.block_tokens
        total_tokens = batch.input_tokens + (batch.output_tokens if self.generated else 0)
        counts = total_tokens // self.block_tokens
        base = np.repeat(batch.session << SESSION_BITS, counts)
        blocks = Ragged.from_counts(counts, base + ranges(counts))
        tokens = np.full(len(base), self.block_tokens, np.int32)
        return CutRequests(batch, blocks, tokens, prompt)


class SessionTurns:
    """One block per turn of a session, of the tokens by which it made the context longer.

    These are the turn's own input and, from the second turn on, the answer before it, which its
    prompt repeats: a later turn's objects hold its whole context.
    """

    def cut(self, batch: RequestBatch) -> CutRequests:
        """Return the requests with one block per turn so far."""
        turns = batch.turn_tokens or Ragged.from_counts(
            np.ones(len(batch), np.int64), batch.input_tokens
        )
        counts = turns.counts
        base = np.repeat(batch.session << SESSION_BITS, counts)
        blocks = Ragged(turns.begin, base + ranges(counts))
        return CutRequests(batch, blocks, turns.values.astype(np.int32), counts)


class HashedBlocks:
    """Blocks of `block_tokens` from a source's prefix-chained ids of `source_tokens` each.

    Splitting: (id, index), for the parts wholly inside the prompt. Grouping: the chained hash of
    the group before it and its members; an incomplete group isn't stored. Raises UsageError if
    neither size divides the other.
    """

    def __init__(self, source_tokens: int, block_tokens: int) -> None:
        if source_tokens % block_tokens and block_tokens % source_tokens:
            raise UsageError(
                "block size doesn't fit the source's",
                where="--block-tokens",
                got=block_tokens,
                accepted=f"a divisor or multiple of {source_tokens}",
                hint=f"nearest: {nearest_block_tokens(source_tokens, block_tokens)}",
            )
        self.source_tokens = source_tokens
        self.block_tokens = block_tokens

    def cut(self, batch: RequestBatch) -> CutRequests:
        """Return the requests with the full blocks of their prompts."""
        assert batch.block_ids is not None
        counts = batch.input_tokens // self.block_tokens
        ids, begin = batch.block_ids.values, batch.block_ids.begin[:-1]
        if self.source_tokens >= self.block_tokens:
            factor = self.source_tokens // self.block_tokens
            index = ranges(counts)
            member = ids[np.repeat(begin, counts) + index // factor]
            blocks = Ragged.from_counts(counts, member * factor + index % factor)
        else:
            group = self.block_tokens // self.source_tokens
            blocks = Ragged.from_counts(counts, _group(ids, begin, counts, group))
        tokens = np.full(len(blocks.values), self.block_tokens, np.int32)
        return CutRequests(batch, blocks, tokens, counts)


def nearest_block_tokens(source_tokens: int, block_tokens: int) -> int:
    """Return the divisor or multiple of `source_tokens` that is nearest to `block_tokens`."""
    divisors = [n for n in range(1, source_tokens + 1) if source_tokens % n == 0]
    below = max(1, block_tokens // source_tokens) * source_tokens
    candidates = [*divisors, below, below + source_tokens]
    return min(candidates, key=lambda n: (abs(n - block_tokens), n))


@compiled
def _group(
    ids: NDArray[np.int64], begin: NDArray[np.int64], counts: NDArray[np.int64], group: int
) -> NDArray[np.int64]:
    out = np.empty(counts.sum(), np.int64)
    at = 0
    for i in range(counts.shape[0]):
        chained = np.uint64(0x9E3779B97F4A7C15)
        for j in range(counts[i]):
            for k in range(group):
                chained ^= np.uint64(ids[begin[i] + j * group + k])
                chained *= np.uint64(0xFF51AFD7ED558CCD)
                chained ^= chained >> np.uint64(32)
                chained *= np.uint64(0xC4CEB9FE1A85EC53)
                chained ^= chained >> np.uint64(29)
            out[at] = np.int64(chained)
            at += 1
    return out
