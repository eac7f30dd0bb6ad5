"""LMCache: 256-token blocks, one object per rank (MLA: one in all), partial blocks not stored."""

from __future__ import annotations

from kvtrace.layouts import ALL_RANKS, Geometry, Layout

BLOCK_TOKENS = 256


def create(geometry: Geometry) -> Layout:
    """Return the layout for a model at some tensor parallelism."""
    copies = 1 if geometry.replicated else geometry.tensor_parallel
    emitted = copies if (geometry.ranks or ALL_RANKS) == ALL_RANKS else 1
    return Layout(
        name="lmcache",
        block_tokens=geometry.block_tokens or BLOCK_TOKENS,
        object_token_bytes=geometry.rank_token_bytes,
        object_ranks=tuple(range(emitted)),
        stored_token_bytes=geometry.rank_token_bytes * copies,
        hbm_token_bytes=geometry.rank_token_bytes * geometry.tensor_parallel,
    )
