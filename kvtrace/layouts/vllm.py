"""vLLM's offloading: 16-token blocks (MLA: 64), one file with all ranks, padded to 4,096 bytes."""

from __future__ import annotations

from kvtrace.errors import UsageError
from kvtrace.hierarchy.spec import StateSize
from kvtrace.layouts import ONE_RANK, Geometry, Layout, Part

BLOCK_TOKENS, MLA_BLOCK_TOKENS = 16, 64
ALIGN_BYTES = 4096


def create(geometry: Geometry) -> Layout:
    """Return the layout for a model. Raises UsageError for one rank: a file has all of them."""
    divided = geometry.token.own or (geometry.rank_state and not geometry.state_shared)
    if geometry.ranks == ONE_RANK and geometry.tensor_parallel > 1 and divided:
        raise UsageError(
            "can't emit one rank: a file holds all ranks",
            where="layout vllm",
            got="--ranks one",
            hint="leave it out or choose another layout",
        )
    stored, state, copies = geometry.stored, geometry.rank_state, geometry.state_copies
    return Layout(
        name="vllm",
        block_tokens=geometry.blocks(MLA_BLOCK_TOKENS if geometry.replicated else BLOCK_TOKENS),
        parts=(Part(0, stored),) if stored else (),
        stored_token_bytes=stored,
        hbm_token_bytes=geometry.token.total * geometry.tensor_parallel,
        align_bytes=ALIGN_BYTES,
        state=StateSize(
            state.constant_bytes * copies,
            state.window_token_bytes * copies,
            state.window_tokens,
            ALIGN_BYTES,
        ),
        state_ranks=(0,) if state else (),
        hbm_state_copies=geometry.tensor_parallel // copies,
        stores_generated=False,
    )
