"""Parts of a layer as a reader returns them: fields of a group without its count."""

from __future__ import annotations

from typing import Any

Part = dict[str, Any]
"""The fields of one group of layers (kvtrace/models/layers.py), for one layer."""

FP32_BYTES, BF16_BYTES = 4, 2


def full(kv_heads: int, head_dim: int, v_head_dim: int | None = None, **more: Any) -> Part:
    """Return a layer that keeps K and V of every token."""
    return _heads("full", kv_heads, head_dim, v_head_dim, more)


def window(kv_heads: int, head_dim: int, tokens: int, v_head_dim: int | None = None) -> Part:
    """Return a layer that keeps K and V of the last `tokens`."""
    return _heads("window", kv_heads, head_dim, v_head_dim, {"window": tokens})


def _heads(kind: str, kv_heads: int, head_dim: int, v: int | None, more: Part) -> Part:
    part: Part = {"kind": kind, "kv_heads": kv_heads, "head_dim": head_dim, **more}
    if v is not None and v != head_dim:
        part["v_head_dim"] = v
    return part


def none(why: str) -> Part:
    """Return a layer that keeps nothing of its own."""
    return {"kind": "none", "why": why}


def mamba2(heads: int, head_dim: int, state: int, groups: int, kernel: int, ssm_bytes: int) -> Part:
    """Return a Mamba 2 layer: the state of each head, and the tail of the convolution.

    `ssm_bytes` of a value of the state. Source: vLLM 0.32,
    model_executor/layers/mamba/mamba_utils.py, mamba2_state_shape.
    """
    return {
        "kind": "linear",
        "heads": heads,
        "state_bytes": heads * head_dim * state * ssm_bytes,
        "state_values": heads * head_dim * (kernel - 1),
        "groups": groups,
        "group_values": 2 * state * (kernel - 1),
    }


def mamba1(width: int, state: int, kernel: int, ssm_bytes: int) -> Part:
    """Return a Mamba 1 layer: `width` channels of state, and the tail of the convolution.

    Source: the same file, mamba1_state_shape.
    """
    return {
        "kind": "linear",
        "state_bytes": width * state * ssm_bytes,
        "state_values": width * (kernel - 1),
    }


def delta(
    k_heads: int, v_heads: int, k_dim: int, v_dim: int, kernel: int, state_bytes: int
) -> Part:
    """Return a gated delta net's layer: one matrix per value head, and the convolution's tail.

    Source: the same file, gated_delta_net_state_shape and kda_state_shape.
    """
    return {
        "kind": "linear",
        "heads": v_heads,
        "state_bytes": v_heads * k_dim * v_dim * state_bytes,
        "state_values": (2 * k_heads * k_dim + v_heads * v_dim) * (kernel - 1),
    }


def convolution(width: int, kernel: int) -> Part:
    """Return a layer of a short convolution: the last `kernel` - 1 inputs of `width` channels."""
    return {"kind": "linear", "state_values": width * (kernel - 1)}


def grouped(layers: list[list[Part]], origin: str) -> list[Part]:
    """Return the groups of equal parts, in order of their first layer, with their counts."""
    groups: dict[str, Part] = {}
    for parts in layers:
        for part in parts:
            group = groups.setdefault(repr(sorted(part.items())), part | {"layers": 0})
            group["layers"] += 1
    return [group | {"origin": origin} for group in groups.values()]
