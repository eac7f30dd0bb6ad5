"""Reads KV geometry from a Hugging Face `config.json`."""

from __future__ import annotations

from typing import Any

from kvtrace.errors import TraceError

_MOST = 1 << 24
"""Layers, heads, dimensions, tokens of a window: no model has as many."""
_FP32_BYTES = 4
_FP8_INDEXER_BYTES = 132  # 128 values of fp8 and one fp32 scale, per layer and token


def geometry(config: dict[str, Any], where: object) -> dict[str, Any]:
    """Return the fields of a `Model` for a `config.json`; its `where` names it in errors.

    Raises TraceError for a configuration without the keys that KV geometry needs.
    """
    text = config.get("text_config", config)
    if not isinstance(text, dict):
        raise _missing("text_config", where)
    name = str(config.get("_name_or_path") or config.get("model_type") or "model")
    dtype = text.get("dtype") or text.get("torch_dtype") or config.get("torch_dtype")
    if not isinstance(dtype, str):
        raise _missing("torch_dtype", where)
    reader = _mla if "kv_lora_rank" in text else _mixed
    return {
        "name": name,
        "source": "config.json",
        "date": "unknown",
        "dtype": dtype.removeprefix("torch."),
        "attention": reader(text, where),
    }


def _missing(key: str, where: object) -> TraceError:
    return TraceError(
        f"model configuration without {key}",
        where=where,
        hint="write the geometry as a TOML model file (docs/models.md)",
    )


def _need(config: dict[str, Any], key: str, where: object) -> int:
    value = config.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
        raise _missing(key, where)
    if value > _MOST:
        raise TraceError(f"bad {key}", where=where, got=value, accepted=f"1 to {_MOST:,}")
    return value


def _mla(config: dict[str, Any], where: object) -> list[dict[str, Any]]:
    layer_types = _layer_types(config, where)
    if set(layer_types) != {"full_attention"}:
        raise TraceError(
            "MLA mixed with other layers",
            where=where,
            got=", ".join(sorted(set(layer_types))),
            hint="write the geometry as a TOML model file (docs/models.md)",
        )
    return [
        {
            "kind": "mla",
            "layers": len(layer_types),
            "kv_lora_rank": _need(config, "kv_lora_rank", where),
            "qk_rope_head_dim": _need(config, "qk_rope_head_dim", where),
            "indexer_bytes": _FP8_INDEXER_BYTES if "index_head_dim" in config else 0,
        }
    ]


def _mixed(config: dict[str, Any], where: object) -> list[dict[str, Any]]:
    parts = []
    kinds = _layer_types(config, where)
    for kind in dict.fromkeys(kinds):
        count = kinds.count(kind)
        if kind == "linear_attention":
            parts.append({"kind": "linear", "layers": count, "state_bytes": _state(config, where)})
            continue
        part = {"kind": "full", "layers": count, **_heads(config, where)}
        if kind in ("sliding_attention", "chunked_attention"):
            key = "sliding_window" if kind == "sliding_attention" else "attention_chunk_size"
            part |= {"kind": "window", "window": _need(config, key, where)}
        elif kind != "full_attention":
            raise TraceError("unknown kind of layer", where=where, got=repr(kind))
        parts.append(part)
    return parts


def _heads(config: dict[str, Any], where: object) -> dict[str, int]:
    heads = _need(config, "num_attention_heads", where)
    dim = config.get("head_dim") or _need(config, "hidden_size", where) // heads
    kv_heads = config.get("num_key_value_heads") or heads
    return {"kv_heads": kv_heads, "head_dim": dim}


def _layer_types(config: dict[str, Any], where: object) -> list[str]:
    """Return the kind of each layer, listed in the file or told by its model's own rule."""
    layers = _need(config, "num_hidden_layers", where)
    listed = config.get("layer_types")
    if listed:
        if not isinstance(listed, list) or not all(isinstance(kind, str) for kind in listed):
            raise TraceError("bad layer_types", where=where, accepted="a list of words")
        if len(listed) != layers:
            raise TraceError(
                "layer_types doesn't match num_hidden_layers",
                where=where,
                got=len(listed),
                accepted=layers,
            )
        return list(listed)
    pattern, other = None, "sliding_attention"
    if config.get("full_attention_interval"):
        pattern, other = config["full_attention_interval"], "linear_attention"
    elif config.get("sliding_window_pattern"):
        pattern = config["sliding_window_pattern"]
    elif config.get("attention_chunk_size"):
        pattern, other = config.get("no_rope_layer_interval", 4), "chunked_attention"
    elif config.get("sliding_window") and config.get("use_sliding_window", True):
        return ["sliding_attention"] * layers
    if pattern is None:
        return ["full_attention"] * layers
    if not isinstance(pattern, int) or pattern <= 0:
        raise TraceError("bad pattern of layers", where=where, got=pattern, accepted="1 or more")
    return [other if (index + 1) % pattern else "full_attention" for index in range(layers)]


def _state(config: dict[str, Any], where: object) -> int:
    """Return bytes per layer of a gated delta net: fp32 state plus the convolution's bf16 tail."""
    key_heads = _need(config, "linear_num_key_heads", where)
    value_heads = _need(config, "linear_num_value_heads", where)
    key_dim = _need(config, "linear_key_head_dim", where)
    value_dim = _need(config, "linear_value_head_dim", where)
    kernel = _need(config, "linear_conv_kernel_dim", where)
    channels = 2 * key_heads * key_dim + value_heads * value_dim
    return value_heads * key_dim * value_dim * _FP32_BYTES + channels * (kernel - 1) * 2
