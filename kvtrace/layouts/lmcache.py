"""LMCache: 256-token blocks, one object per rank (MLA: one in all), partial blocks not stored."""

from __future__ import annotations

from kvtrace.layouts import Geometry, Layout, Part, per_rank

BLOCK_TOKENS = 256


def create(geometry: Geometry) -> Layout:
    """Return the layout for a model at some tensor parallelism."""
    parts = tuple(Part(rank, stored) for rank, stored in geometry.per_rank(geometry.token))
    return per_rank("lmcache", BLOCK_TOKENS, geometry, parts)
