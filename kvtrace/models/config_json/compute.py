"""Parameters that a token is multiplied by, from a `config.json` of the decoders of the field."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kvtrace.models.compute import MOST_DIMENSION, MOST_HEADS, MOST_PARAMETERS

if TYPE_CHECKING:
    from collections.abc import Mapping

    Config = Mapping[str, Any]

DENSE = ("llama", "mistral", "qwen2", "qwen3", "qwen3_vl_text", "gemma3_text")
LATENT = ("deepseek_v3", "kimi_k2", "deepseek_v32", "glm_moe_dsa")
ALL_EXPERTS = ("mixtral", "gpt_oss", "minimax_m2")
"""Every layer has experts as wide as `intermediate_size`."""
SPARSE = ("qwen3_moe", "qwen3_vl_moe_text")
SHARING = ("indexer_types", "index_topk_freq", "index_topk_pattern")
"""Keys of layers that use another's indexer, whose work isn't counted here."""
_GATED = 3
"""Matrices of a gated feed-forward: gate, up, down."""


class _UnstatedError(Exception):
    """A key that the parameters need isn't a number in the file."""


def compute_of(model_type: str, config: Config) -> dict[str, Any] | None:
    """Return the fields of a `Compute`; None where the type or a key of it isn't understood.

    Matrices of attention, feed-forward and routers count; biases, norms, embeddings and the output
    head don't.
    """
    try:
        fields = _read(model_type, config)
    except _UnstatedError:
        return None
    return fields if fields is not None and _sound(fields) else None


def _sound(fields: dict[str, Any]) -> bool:
    """Return whether a model may have such figures: geometry doesn't depend on them."""
    dimensions = [fields[name] for name in ("hidden_size", "query_heads", "head_dim", "v_head_dim")]
    return (
        0 < fields["active_parameters"] <= MOST_PARAMETERS
        and all(0 < value <= MOST_DIMENSION for value in dimensions)
        and fields.get("index_heads", 0) <= MOST_HEADS
        and fields.get("index_head_dim", 0) <= MOST_HEADS
        and fields.get("index_topk", 0) <= MOST_DIMENSION
    )


def _read(model_type: str, config: Config) -> dict[str, Any] | None:
    layers, hidden = _number(config, "num_hidden_layers"), _number(config, "hidden_size")
    if model_type in LATENT:
        if any(config.get(key) is not None for key in SHARING):
            return None
        attention, dimensions = _latent(config, hidden)
    else:
        attention, dimensions = _grouped(config, hidden)
    forward = _feed_forward(model_type, config, layers, hidden)
    if forward is None:
        return None
    return {
        "active_parameters": layers * attention + forward,
        "hidden_size": hidden,
        "query_heads": _number(config, "num_attention_heads"),
        **dimensions,
        "source": "worked out from config.json",
        "date": "unknown",
    }


def _number(config: Config, *names: str, default: int | None = None) -> int:
    for name in names:
        value = config.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            return value
    if default is None:
        raise _UnstatedError(names[0])
    return default


def _grouped(config: Config, hidden: int) -> tuple[int, dict[str, int]]:
    """Return a layer's parameters of attention, and its dimensions."""
    heads = _number(config, "num_attention_heads")
    width = _number(config, "head_dim", default=hidden // max(1, heads))
    kv_heads = _number(config, "num_key_value_heads", default=heads)
    parameters = 2 * hidden * width * (heads + kv_heads)
    return parameters, {"head_dim": width, "v_head_dim": width}


def _latent(config: Config, hidden: int) -> tuple[int, dict[str, int]]:
    """Return a layer's parameters of latent attention, with its indexer, and its dimensions.

    With an indexer attention multiplies the latent rows themselves.
    Source: DeepSeek-V3.2-Exp, inference/model.py (2025-09).
    """
    heads = _number(config, "num_attention_heads")
    nope, rope = _number(config, "qk_nope_head_dim"), _number(config, "qk_rope_head_dim")
    rank, value = _number(config, "kv_lora_rank"), _number(config, "v_head_dim")
    query_rank = _number(config, "q_lora_rank", default=0)
    query = heads * (nope + rope)
    parameters = query_rank * (hidden + query) if query_rank else hidden * query
    parameters += hidden * (rank + rope) + rank * heads * (nope + value) + heads * value * hidden
    topk = _number(config, "index_topk", default=0)
    if not topk:
        return parameters, {"head_dim": nope + rope, "v_head_dim": value}
    index_heads = _number(config, "index_n_heads")
    index_dim = _number(config, "index_head_dim")
    parameters += query_rank * index_heads * index_dim + hidden * (index_dim + index_heads)
    return parameters, {
        "head_dim": rank + rope, "v_head_dim": rank,
        "index_heads": index_heads, "index_head_dim": index_dim, "index_topk": topk,
    }  # fmt: skip


def _feed_forward(model_type: str, config: Config, layers: int, hidden: int) -> int | None:
    """Return what all layers' feed-forward multiplies a token by; None for an unknown kind."""
    wide = _number(config, "intermediate_size", default=0)
    if model_type in DENSE:
        return layers * _GATED * hidden * _number(config, "intermediate_size")
    if model_type in ALL_EXPERTS:
        return layers * _experts(config, hidden, wide)
    narrow = _number(config, "moe_intermediate_size", default=0)
    if model_type in (*LATENT, "glm4_moe"):
        dense = _number(config, "first_k_dense_replace", default=0)
        if _number(config, "moe_layer_freq", default=1) != 1:
            return None
        shared = _number(config, "n_shared_experts", default=0) * narrow
        sparse = _experts(config, hidden, narrow) + _GATED * hidden * shared
        return dense * _GATED * hidden * wide + (layers - dense) * sparse
    if model_type in SPARSE:
        if _number(config, "decoder_sparse_step", default=1) != 1 or config.get("mlp_only_layers"):
            return None
        return layers * _experts(config, hidden, narrow)
    if model_type == "llama4_text":
        sparse_layers = layers // max(1, _number(config, "interleave_moe_layer_step"))
        sparse = _experts(config, hidden, wide) + _GATED * hidden * wide  # one expert is shared
        dense = _GATED * hidden * _number(config, "intermediate_size_mlp")
        return sparse_layers * sparse + (layers - sparse_layers) * dense
    return None


def _experts(config: Config, hidden: int, width: int) -> int:
    """Return a layer's parameters of a token's experts and of the router."""
    count = _number(config, "num_local_experts", "n_routed_experts", "num_experts")
    chosen = _number(config, "num_experts_per_tok", "experts_per_token")
    return chosen * _GATED * hidden * width + hidden * count
