"""The MLPerf Storage KV benchmark's shape: one object per turn, re-read while generating."""

from __future__ import annotations

from kvtrace.errors import UsageError
from kvtrace.layouts import ONE_RANK, Geometry, Layout, Part

REREAD_TOKENS = 32


def create(geometry: Geometry) -> Layout:
    """Return the layout for a model. Raises UsageError for a block size: a block is a turn."""
    if geometry.block_tokens is not None:
        raise UsageError(
            "has no block size: a block is a whole turn",
            where="layout request",
            got=f"--block-tokens {geometry.block_tokens}",
            hint="leave it out or choose another layout",
        )
    return Layout(
        name="request",
        block_tokens=None,
        parts=tuple(
            Part(rank, stored) for rank, stored in geometry.per_rank(geometry.token, ONE_RANK)
        ),
        stored_token_bytes=geometry.stored,
        hbm_token_bytes=geometry.token.total * geometry.tensor_parallel,
        stores_generated=False,
        reread_tokens=REREAD_TOKENS,
    )
