"""LMCache, layer by layer: 256-token blocks, one object per layer and rank (MLA: per layer)."""

from __future__ import annotations

from kvtrace.layouts import Geometry, Layout, Part, per_rank

BLOCK_TOKENS = 256


def create(geometry: Geometry) -> Layout:
    """Return the layout for a model at some tensor parallelism; layers in their order."""
    parts = tuple(
        Part(rank, stored) for layer in geometry.layers for rank, stored in geometry.per_rank(layer)
    )
    return per_rank("lmcache-layerwise", BLOCK_TOKENS, geometry, parts)
