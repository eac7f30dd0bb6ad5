"""A model's groups of layers as rows of a table: geometry, bytes, and what is replicated."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from kvtrace.models.layers import (
    CompressedAttention,
    FullAttention,
    LatentAttention,
    StatelessLayers,
    WindowAttention,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from fractions import Fraction

    from kvtrace.models.geometry import Model
    from kvtrace.models.layers import Held, LayerGroup


class GroupSummary(NamedTuple):
    """One group: geometry, and the bytes of all its layers on one rank and on the node.

    `heads` and `window` are None where the kind has none; `width` as K + V or latent + rotary.
    `stored`: `per rank`, `once` or `both`, by what a store keeps of the ranks' bytes.
    """

    layers: int
    kind: str
    heads: int | None
    width: str
    window: int | None
    rank_bytes_per_token: float
    rank_bytes_per_sequence: float
    node_bytes_per_token: float
    node_bytes_per_sequence: float
    stored: str
    origin: str


def groups(model: Model, ranks: int = 1, dtype: str | None = None) -> list[GroupSummary]:
    """Return a row per group of `model` on `ranks` ranks. Raises UsageError without a dtype."""
    cache = model.cache(dtype)
    rows = []
    for group in model.attention:
        token = group.token(cache, ranks).times(group.layers)
        tokens, row = group.windowed(cache, ranks)
        windows = row.times(tokens * group.layers)
        state = group.state(cache, ranks).times(group.layers)
        sequence = type(state)(state.own + windows.own, state.shared + windows.shared)
        heads, width = _shape(group)
        rows.append(
            GroupSummary(
                group.layers,
                _kind(group),
                heads,
                width,
                tokens or None,
                number(token.total),
                number(sequence.total),
                number(_node(token, ranks)),
                number(_node(sequence, ranks)),
                _stored(token, sequence),
                group.origin,
            )
        )
    return rows


def totals(rows: Sequence[GroupSummary]) -> dict[str, float]:
    """Return the sums over all groups: per token and per sequence, of a rank and of the node."""
    names = (
        "rank_bytes_per_token",
        "rank_bytes_per_sequence",
        "node_bytes_per_token",
        "node_bytes_per_sequence",
    )
    return {name: sum(getattr(row, name) for row in rows) for name in names}


def number(value: int | Fraction) -> float:
    """Return whole bytes as an int, a fraction of a byte as a float."""
    return int(value) if value == int(value) else float(value)


def _node(held: Held, ranks: int) -> int | Fraction:
    return held.shared + held.own * ranks


def _stored(*parts: Held) -> str:
    own, shared = any(part.own for part in parts), any(part.shared for part in parts)
    return {(True, False): "per rank", (False, True): "once", (True, True): "both"}.get(
        (own, shared), "-"
    )


def _kind(group: LayerGroup) -> str:
    if isinstance(group, CompressedAttention):
        return f"compressed {group.ratio}:1" if group.ratio else "window"
    if isinstance(group, StatelessLayers):
        return "none"
    return str(getattr(group, "kind", ""))


def _shape(group: LayerGroup) -> tuple[int | None, str]:
    """Return the KV heads and the width of a row, of K and V or of latent and rotary parts."""
    if isinstance(group, FullAttention | WindowAttention):
        return group.kv_heads, f"{group.head_dim}+{group.v_head_dim or group.head_dim}"
    if isinstance(group, LatentAttention):
        return None, f"{group.kv_lora_rank}+{group.qk_rope_head_dim}"
    if isinstance(group, CompressedAttention):
        return 1, str(group.head_dim)
    divided = group.divided()
    return (divided[1] if divided else None), ""
