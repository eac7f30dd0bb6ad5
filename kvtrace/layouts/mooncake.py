"""Mooncake's store: 64-token pages, keys and values an object each per rank (MLA: one in all)."""

from __future__ import annotations

from kvtrace.layouts import Geometry, Layout, Part, per_rank

BLOCK_TOKENS = 64


def create(geometry: Geometry) -> Layout:
    """Return the layout for a model at some tensor parallelism; keys before values."""
    keys = geometry.rank_key_bytes
    parts = tuple(
        Part(rank, token_bytes)
        for rank, stored in geometry.per_rank(geometry.token)
        for token_bytes in (keys, stored - keys)
        if token_bytes
    )
    return per_rank("mooncake", BLOCK_TOKENS, geometry, parts)
