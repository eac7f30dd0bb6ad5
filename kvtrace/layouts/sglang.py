"""SGLang's HiCache: 64-token pages, one object per rank (MLA: one in all)."""

from __future__ import annotations

from kvtrace.layouts import Geometry, Layout, Part, per_rank

BLOCK_TOKENS = 64


def create(geometry: Geometry) -> Layout:
    """Return the layout for a model at some tensor parallelism."""
    parts = tuple(Part(rank, stored) for rank, stored in geometry.per_rank(geometry.token))
    return per_rank("sglang", BLOCK_TOKENS, geometry, parts)
