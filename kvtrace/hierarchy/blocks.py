"""Cuts requests into blocks of the size that a layout wants."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Protocol

import numpy as np

from kvtrace.errors import UsageError
from kvtrace.hierarchy.hierarchy import CutRequests
from kvtrace.hierarchy.native import CHECKPOINT, RUN, SHARED
from kvtrace.native.core import function
from kvtrace.native.library import I64, INT, POINTER, address, contiguous
from kvtrace.requests.request import Ragged, RequestBatch, ranges

if TYPE_CHECKING:
    from numpy.typing import NDArray


INDEX_BITS = 24
"""A session's blocks are numbered below 2²⁴: identity = session · 2²⁴ + index."""
# What system prompts' and documents' blocks have in their identities; negative ones are those of
# checkpoints (`native`).
_PREFIX, _DOCUMENT = 1 << 62, 1 << 61


def _flags(
    index: NDArray[np.int64], prompt: NDArray[np.int64], block_tokens: int, state_interval: int
) -> NDArray[np.int64]:
    """Return the flags of the blocks of contexts: `index` in its own, that of `prompt` blocks."""
    flags: NDArray[np.int64] = RUN * (index == 0) + CHECKPOINT * (index == prompt - 1)
    if state_interval:
        begin = index * block_tokens
        full = (begin + block_tokens) // state_interval > begin // state_interval
        flags |= CHECKPOINT * full
    return flags


class _Cut(ctypes.Structure):
    """`struct kv_cut`."""

    _fields_ = (
        *((name, INT) for name in ("block_tokens", "state_interval", "index_bits")),
        *(
            (name, POINTER)
            for name in (
                "session", "input_tokens", "total_blocks", "prompt_blocks", "prefix",
                "prefix_tokens", "chunk_count", "chunks",
            )
        ),
        ("chunk_tokens", INT),
        *((name, POINTER) for name in ("part_begin", "part_starts", "part_owners")),
    )  # fmt: skip


_cut_contexts = function("kv_cut_contexts", ctypes.POINTER(_Cut), INT, I64, I64, I64)
_group_ids = function("kv_group_ids", I64, I64, I64, INT, INT, I64)


class Cutter(Protocol):
    """Gives each request its blocks.

    `tells_shared`: whether blocks that sessions share are told from those of one session.
    """

    tells_shared: bool

    def cut(self, batch: RequestBatch) -> CutRequests:
        """Return the requests with their blocks."""
        ...


class SessionBlocks:
    """Blocks of `block_tokens` of a session's growing context; a partial block isn't stored.

    Blocks wholly inside a shared system prompt are those of all its sessions. A document's chunk is
    a run of blocks of its own, wherever in the prompt it stands (its KV is reused as systems do
    that blend cached chunks). With `generated`, the blocks that generation completes follow those
    of the prompt; the first of them starts with the prompt's partial tail. A checkpoint is due at
    the last block of each run and, with `state_interval`, after each that number of tokens.
    """

    tells_shared = True

    def __init__(self, block_tokens: int, *, generated: bool, state_interval: int = 0) -> None:
        self.block_tokens = block_tokens
        self.generated = generated
        self.state_interval = state_interval

    def cut(self, batch: RequestBatch) -> CutRequests:
        """Return the requests with their blocks. Raises UsageError for chunks below a block."""
        size, shared = self.block_tokens, batch.shared
        zeros = np.zeros(len(batch), np.int64)
        chunks = zeros if shared is None else shared.chunks.counts
        chunk_tokens = shared.chunk_tokens if shared is not None and chunks.any() else size
        per_chunk = chunk_tokens // size
        if per_chunk == 0:
            raise UsageError(
                "a document's chunk is smaller than a block",
                where="source.rag.chunk_tokens", got=chunk_tokens,
                accepted=f"at least the {size} tokens of a block",
            )  # fmt: skip
        context = batch.input_tokens - chunks * chunk_tokens
        of_chunks, prompt = chunks * per_chunk, context // size
        total = (context + (batch.output_tokens if self.generated else zeros)) // size
        prompt_blocks = of_chunks + prompt
        blocks, at, flags = self._cut(batch, of_chunks + total, total, prompt)
        tokens = np.full(len(at), size)
        return CutRequests(batch, blocks, tokens, at, flags, prompt_blocks)

    def _cut(
        self,
        batch: RequestBatch,
        counts: NDArray[np.int64],
        total: NDArray[np.int64],
        prompt: NDArray[np.int64],
    ) -> tuple[Ragged, NDArray[np.int64], NDArray[np.int64]]:
        """Return identities, `at` and flags of `counts` blocks each.

        `total` of them are of its own context, of which `prompt` are computed.
        """
        shared = batch.shared
        given = [batch.session, batch.input_tokens, total, prompt]
        if shared is not None:
            chunks = shared.chunks
            given += [shared.prefix, shared.prefix_tokens, chunks.counts, chunks.values]
        arrays = [contiguous(values, np.int64) for values in given]
        parts, lineage = [], batch.lineage
        if lineage is not None:
            starts, owners = lineage.starts, lineage.owners
            parts = [contiguous(values, np.int64)
                     for values in (starts.begin, starts.values, owners.values)]  # fmt: skip
        cut = _Cut(
            self.block_tokens, self.state_interval, INDEX_BITS,
            *map(address, arrays), *[None] * (8 - len(arrays)),
            0 if shared is None else shared.chunk_tokens,
            *map(address, parts),
        )  # fmt: skip
        ident, at, flags = np.empty((3, int(counts.sum())), np.int64)
        _cut_contexts(cut, len(batch), ident, at, flags)
        return Ragged.from_counts(counts, ident), at, flags


class SessionTurns:
    """One block per turn of a session, of the tokens by which it made the context longer.

    These are the turn's own input and, from the second turn on, the answer before it, which its
    prompt repeats: a later turn's objects hold its whole context. A shared system prompt and the
    chunks of documents are blocks of their own, before those of the turns.
    """

    tells_shared = True

    def cut(self, batch: RequestBatch) -> CutRequests:
        """Return the requests with one block per turn."""
        turns = batch.turn_tokens or Ragged.from_counts(
            np.ones(len(batch), np.int64), batch.input_tokens
        )
        shared, ones = batch.shared, np.ones(len(batch), np.int64)
        prefix = 0 * ones if shared is None else (shared.prefix_tokens > 0).astype(np.int64)
        chunks = 0 * ones if shared is None else shared.chunks.counts
        counts = prefix + chunks + turns.counts
        row = np.repeat(np.arange(len(batch)), counts)
        index = ranges(counts)
        turn = index - (prefix + chunks)[row]
        own = turn >= 0
        ident = (batch.session << INDEX_BITS)[row] + turn
        tokens, flags = np.zeros(len(row), np.int64), np.full(len(row), RUN)
        tokens[own] = turns.values
        if shared is not None:
            first = index < prefix[row]
            ident[first] = _PREFIX + (shared.prefix[row][first] << INDEX_BITS)
            tokens[first] = shared.prefix_tokens[row][first]
            chunk = ~own & ~first
            ident[chunk] = _DOCUMENT + (shared.chunks.values << INDEX_BITS)
            tokens[chunk] = shared.chunk_tokens
            flags[~own] |= SHARED
        blocks = Ragged.from_counts(counts, ident)
        return CutRequests(batch, blocks, tokens, tokens, flags, counts)


class HashedBlocks:
    """Blocks of `block_tokens` from a source's prefix-chained ids of `source_tokens` each.

    Splitting: (id, index), for the parts wholly inside the prompt. Grouping: the chained hash of
    the group before it and its members; an incomplete group isn't stored. Raises UsageError if
    neither size divides the other.
    """

    tells_shared = False

    def __init__(self, source_tokens: int, block_tokens: int, *, state_interval: int = 0) -> None:
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
        self.state_interval = state_interval

    def cut(self, batch: RequestBatch) -> CutRequests:
        """Return the requests with the full blocks of their prompts, as far as ids tell them.

        A source may list full blocks of its own only: what is behind them has no identity.
        """
        assert batch.block_ids is not None
        known = np.minimum(batch.input_tokens, batch.block_ids.counts * self.source_tokens)
        counts = known // self.block_tokens
        ids, begin = batch.block_ids.values, batch.block_ids.begin[:-1]
        if self.source_tokens >= self.block_tokens:
            factor = self.source_tokens // self.block_tokens
            index = ranges(counts)
            member = ids[np.repeat(begin, counts) + index // factor]
            blocks = Ragged.from_counts(counts, member * factor + index % factor)
        else:
            group = self.block_tokens // self.source_tokens
            blocks = Ragged.from_counts(counts, _group(ids, begin, counts, group))
        index, row = ranges(counts), np.repeat(np.arange(len(batch)), counts)
        tokens, end = np.full(len(index), self.block_tokens), (index + 1) * self.block_tokens
        flags = _flags(index, counts[row], self.block_tokens, self.state_interval)
        return CutRequests(batch, blocks, tokens, end, flags, counts)


def nearest_block_tokens(source_tokens: int, block_tokens: int) -> int:
    """Return the divisor or multiple of `source_tokens` that is nearest to `block_tokens`."""
    divisors = [n for n in range(1, source_tokens + 1) if source_tokens % n == 0]
    below = max(1, block_tokens // source_tokens) * source_tokens
    candidates = [*divisors, below, below + source_tokens]
    return min(candidates, key=lambda n: (abs(n - block_tokens), n))


def _group(
    ids: NDArray[np.int64], begin: NDArray[np.int64], counts: NDArray[np.int64], group: int
) -> NDArray[np.int64]:
    """Return the chained hash of each group of `group` ids: `counts` of them per request."""
    out = np.empty(counts.sum(), np.int64)
    ids, begin, counts = (contiguous(each, np.int64) for each in (ids, begin, counts))
    _group_ids(ids, begin, counts, len(counts), group, out)
    return out
