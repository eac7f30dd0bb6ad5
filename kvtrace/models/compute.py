"""A model's work per token: parameters that are multiplied, and attention's dimensions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import BaseModel, ConfigDict, Field

from kvtrace.models.layers import (
    FullAttention,
    LatentAttention,
    LayerGroup,
    WindowAttention,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Tokens = NDArray[np.float64]

MOST_PARAMETERS, MOST_DIMENSION, MOST_HEADS = 1 << 50, 1 << 24, 1 << 16
"""Far above any model's."""
Dimension = Annotated[int, Field(gt=0, le=MOST_DIMENSION)]


class Compute(BaseModel):
    """Figures of a prefill.

    `active_parameters`: weights that each token is multiplied by, embeddings and the output head
    left out. `head_dim`, `v_head_dim`: widths of a query and of a value head that attention
    multiplies. With `index_topk` a token attends to as many others, chosen from all before it by
    an indexer of `index_heads` heads of `index_head_dim`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    active_parameters: Annotated[int, Field(gt=0, le=MOST_PARAMETERS)]
    hidden_size: Dimension
    query_heads: Dimension
    head_dim: Dimension
    v_head_dim: Dimension
    index_heads: Annotated[int, Field(ge=0, le=MOST_HEADS)] = 0
    index_head_dim: Annotated[int, Field(ge=0, le=MOST_HEADS)] = 0
    index_topk: Annotated[int, Field(ge=0, le=MOST_DIMENSION)] = 0
    source: str
    date: str

    def attention_flops(self, groups: tuple[LayerGroup, ...], tokens: Tokens) -> Tokens:
        """Return the FLOPs of attention over prompts of `tokens`, each token seeing those before.

        A pair of a query and a key costs 2 FLOPs per multiplied value. Recurrent layers count by
        their parameters only; chunked layers count as windows.
        """
        total = tokens * 0.0
        for group in groups:
            total = total + group.layers * self._layer_flops(group, tokens)
        return total

    def _layer_flops(self, group: LayerGroup, tokens: Tokens) -> Tokens:
        pair = 2.0 * self.query_heads * (self.head_dim + self.v_head_dim)
        if isinstance(group, WindowAttention):
            return pair * pairs(tokens, group.window)
        if not isinstance(group, FullAttention | LatentAttention):
            return tokens * 0.0
        if not self.index_topk:
            return pair * pairs(tokens)
        chosen = 2.0 * self.index_heads * self.index_head_dim
        return chosen * pairs(tokens) + pair * pairs(tokens, self.index_topk)


def pairs(tokens: Tokens, window: int | None = None) -> Tokens:
    """Return how many pairs of query and key prompts have, each token seeing `window` at most."""
    if window is None:
        return tokens * tokens / 2
    inside: Tokens = tokens.clip(max=window)
    return inside * inside / 2 + (tokens - inside) * window
