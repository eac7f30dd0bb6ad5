"""Bytes of a block on each tier."""

from __future__ import annotations

from typing import Any

from kvtrace.compiled.jit import helper
from kvtrace.policies import (
    BLOCK_BYTES,
    STATE_ALIGN,
    STATE_BYTES,
    TOKEN_BYTES,
    WINDOW_BYTES,
    WINDOW_TOKENS,
)


@helper
def size(tiers: Any, tier: int, tokens: int) -> int:
    """Return the bytes of a block of `tokens`; of the constant state behind -`tokens` if negative.

    Of a window no more tokens count than it has.
    """
    if tokens >= 0:
        return tokens * tiers[tier, TOKEN_BYTES] + tiers[tier, BLOCK_BYTES]
    window = min(-tokens, tiers[tier, WINDOW_TOKENS])
    state = tiers[tier, STATE_BYTES] + window * tiers[tier, WINDOW_BYTES]
    align = tiers[tier, STATE_ALIGN]
    return (state + align - 1) // align * align
