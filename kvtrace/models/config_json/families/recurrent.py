"""Linear attention and short convolutions mixed with attention: Qwen, Kimi, MiniMax, Ring, LFM."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvtrace.models.config_json import parts
from kvtrace.models.config_json.families.latent import latent
from kvtrace.models.config_json.geometry import (
    HEADS,
    head_dim,
    kv_heads,
    layers_of,
    ssm_bytes,
    windowed,
)
from kvtrace.models.config_json.schedule import (
    FULL,
    LINEAR,
    SLIDING,
    by_kind,
    indices,
    schedule,
    stated_schedule,
)

if TYPE_CHECKING:
    from kvtrace.models.config_json.families import Reader
    from kvtrace.models.config_json.keys import Keys
    from kvtrace.models.config_json.parts import Part


def _gated_delta(keys: Keys) -> Part:
    """Return a gated delta net's layer in Qwen's words; its state in fp32 unless stated."""
    return parts.delta(
        keys.number("linear_num_key_heads"),
        keys.number("linear_num_value_heads"),
        keys.number("linear_key_head_dim"),
        keys.number("linear_value_head_dim"),
        keys.number("linear_conv_kernel_dim"),
        ssm_bytes(keys, "mamba_ssm_dtype", "mamba_ssm_cache_dtype"),
    )


def qwen_next(keys: Keys) -> list[list[Part]]:
    """Return gated delta nets, and full attention in every fourth layer or as listed."""
    layers = layers_of(keys)
    every = keys.number("full_attention_interval", 4)
    kinds = schedule(keys, layers) or [
        LINEAR if (layer + 1) % every else FULL for layer in range(layers)
    ]
    if "full_attention_interval" in keys and any(
        (kind == FULL) != ((layer + 1) % every == 0) for layer, kind in enumerate(kinds)
    ):
        raise keys.bad("full_attention_interval", "the interval of layer_types")
    return by_kind(
        keys,
        kinds,
        {
            FULL: lambda: parts.full(_stated_heads(keys), keys.number("head_dim")),
            LINEAR: lambda: _gated_delta(keys),
        },
    )


def _stated_heads(keys: Keys) -> int:
    if "num_key_value_heads" not in keys:
        raise keys.missing("num_key_value_heads")
    return kv_heads(keys)


def olmo_hybrid(keys: Keys) -> list[list[Part]]:
    """Return gated delta nets and full attention as listed."""
    layers = layers_of(keys)
    kinds = stated_schedule(keys, layers)
    return by_kind(
        keys,
        kinds,
        {
            FULL: lambda: parts.full(kv_heads(keys), head_dim(keys)),
            LINEAR: lambda: _gated_delta(keys),
        },
    )


def lara(keys: Keys) -> list[list[Part]]:
    """Return gated delta nets, windows and full attention as listed."""
    layers = layers_of(keys)
    kinds = stated_schedule(keys, layers)
    heads, dim = _stated_heads(keys), keys.number("head_dim")
    return by_kind(
        keys,
        kinds,
        {
            FULL: lambda: parts.full(heads, dim),
            SLIDING: lambda: windowed(keys, heads, dim, keys.number("sliding_window")),
            LINEAR: lambda: _gated_delta(keys),
        },
    )


def kimi_linear(keys: Keys) -> list[list[Part]]:
    """Return delta attention, and latent attention in the layers that are named, counted from 1.

    Source: the model's own modeling_kimi_linear.py, and vLLM 0.32.
    """
    layers = layers_of(keys)
    linear = keys.table("linear_attn_config")
    if linear is None:
        return _kimi_listed(keys, layers)
    latent_at = indices(linear, "full_attn_layers", layers, base=1)
    delta_at = indices(linear, "kda_layers", layers, base=1)
    if latent_at & delta_at or len(latent_at) + len(delta_at) != layers:
        raise linear.bad("kda_layers", f"all of {layers} layers but those in full_attn_layers")
    kinds = [FULL if layer in latent_at else LINEAR for layer in range(layers)]
    listed = schedule(keys, layers)
    if listed is not None and listed != kinds:
        raise keys.bad("layer_types", "the layers of linear_attn_config")
    heads, dim = linear.number("num_heads"), linear.number("head_dim")
    kernel = linear.number("short_conv_kernel_size")
    return _kimi(keys, kinds, heads, dim, kernel)


def _kimi_listed(keys: Keys, layers: int) -> list[list[Part]]:
    kinds = stated_schedule(keys, layers, "linear_attn_config")
    heads, dim = keys.number("linear_num_heads"), keys.number("linear_head_dim")
    return _kimi(keys, kinds, heads, dim, keys.number("linear_conv_kernel_dim"))


def _kimi(keys: Keys, kinds: list[str], heads: int, dim: int, kernel: int) -> list[list[Part]]:
    keys.ignore("linear_num_heads", "linear_head_dim", "linear_conv_kernel_dim")
    return by_kind(
        keys,
        kinds,
        {
            FULL: lambda: latent(keys),
            LINEAR: lambda: parts.delta(heads, heads, dim, dim, kernel, parts.FP32_BYTES),
        },
    )


def _lightning(keys: Keys, dim: int) -> Part:
    """Return a layer of lightning attention: one matrix per head, in the model's own type.

    Source: vLLM 0.32, linear_attention_state_shape and linear_attention_state_dtype.
    """
    heads = keys.number(HEADS)
    return {"kind": "linear", "heads": heads, "state_values": heads * dim * dim}


def minimax(keys: Keys) -> list[list[Part]]:
    """Return lightning or full attention, as attn_type_list (0, 1) or layer_types says."""
    layers = layers_of(keys)
    keys.ignore("block_size")
    dim = head_dim(keys)
    numbers, kinds = keys.numbers("attn_type_list"), schedule(keys, layers)
    if numbers is not None:
        if len(numbers) != layers or set(numbers) - {0, 1}:
            raise keys.bad("attn_type_list", f"{layers} values of 0 or 1")
        by_number = [FULL if number else LINEAR for number in numbers]
        if kinds is not None and kinds != by_number:
            raise keys.bad("layer_types", "the layers of attn_type_list")
        kinds = by_number
    if kinds is None:
        raise keys.missing("attn_type_list")
    return by_kind(
        keys,
        kinds,
        {
            FULL: lambda: parts.full(_stated_heads(keys), dim),
            LINEAR: lambda: _lightning(keys, dim),
        },
    )


def ring(keys: Keys) -> list[list[Part]]:
    """Return lightning attention, and attention in the last layer of each group.

    Source: vLLM 0.32 and SGLang 0.5, bailing_moe_linear.py.
    """
    layers = layers_of(keys)
    kinds = _ring_kinds(keys, layers)
    dim = keys.number("head_dim")
    heads = _stated_heads(keys)
    return by_kind(
        keys,
        kinds,
        {FULL: lambda: parts.full(heads, dim), LINEAR: lambda: _lightning(keys, dim)},
    )


def ring_latent(keys: Keys) -> list[list[Part]]:
    """Return latent attention in the last layer of each group, delta or lightning in the others.

    A short convolution tells the delta models (Ling 3) from the lightning ones (Ring 2.5).
    Source: SGLang 0.5, configs/bailing_hybrid.py.
    """
    layers = layers_of(keys)
    kinds = _ring_kinds(keys, layers)
    heads = keys.number(HEADS)
    dim = keys.number("linear_head_dim") if "linear_head_dim" in keys else keys.number("head_dim")
    keys.ignore("head_dim", "num_key_value_heads")
    keys.must_be("linear_num_heads", heads)
    if keys.value("short_conv_kernel_size") is None:
        return by_kind(
            keys, kinds, {FULL: lambda: latent(keys), LINEAR: lambda: _lightning(keys, dim)}
        )
    kernel = keys.number("short_conv_kernel_size")
    keys.must_be("linear_conv_kernel_dim", kernel)
    return by_kind(
        keys,
        kinds,
        {
            FULL: lambda: latent(keys),
            LINEAR: lambda: parts.delta(heads, heads, dim, dim, kernel, parts.FP32_BYTES),
        },
    )


def _ring_kinds(keys: Keys, layers: int) -> list[str]:
    every = keys.number("layer_group_size")
    if layers % every:
        raise keys.bad("layer_group_size", f"a divisor of {layers} layers")
    kinds = [LINEAR if (layer + 1) % every else FULL for layer in range(layers)]
    listed = schedule(keys, layers)
    if listed is not None and listed != kinds:
        raise keys.bad("layer_types", "the groups of layer_group_size")
    return kinds


def lfm(keys: Keys) -> list[list[Part]]:
    """Return short convolutions, and full or windowed attention where it is listed."""
    layers = layers_of(keys)
    kinds = schedule(keys, layers)
    if kinds is None:
        at = indices(keys, "full_attn_idxs", layers)
        kinds = [FULL if layer in at else "conv" for layer in range(layers)]
    keys.skip("full_attn_idxs")
    keys.ignore("conv_dim", "conv_dim_out", "conv_L_cache", "sliding_window", "num_heads")
    heads, dim = _stated_heads(keys), head_dim(keys)
    return by_kind(
        keys,
        kinds,
        {
            FULL: lambda: parts.full(heads, dim),
            SLIDING: lambda: windowed(keys, heads, dim, keys.number("sliding_window")),
            "conv": lambda: parts.convolution(
                keys.number("hidden_size"), keys.number("conv_L_cache")
            ),
        },
    )


def recurrent_gemma(keys: Keys) -> list[list[Part]]:
    """Return linear recurrent units and windows in the order that block_types repeats."""
    layers = layers_of(keys)
    pattern = keys.words("block_types") or keys.words("_block_types")
    if keys.words("_block_types") not in (None, pattern):
        raise keys.bad("_block_types", "the same as block_types")
    if not pattern:
        raise keys.missing("block_types")
    kinds = [pattern[layer % len(pattern)] for layer in range(layers)]
    width = keys.number("lru_width", keys.number("hidden_size"))
    tail = keys.number("conv1d_width") - 1
    unit: Part = {
        "kind": "linear",
        "state_bytes": width * parts.FP32_BYTES,
        "state_values": width * tail,
    }
    heads = kv_heads(keys)
    window = keys.number("attention_window_size")
    keys.must_be("head_dim", keys.number("hidden_size") // keys.number(HEADS))
    dim = head_dim(keys)
    return by_kind(
        keys,
        kinds,
        {"recurrent": lambda: unit, "attention": lambda: windowed(keys, heads, dim, window)},
        "block_types",
    )


READERS: dict[str, Reader] = {
    "bailing_hybrid": ring_latent,
    "bailing_moe_linear": ring,
    "kimi_linear": kimi_linear,
    "lara_mini": lara,
    "lfm2": lfm,
    "lfm2_moe": lfm,
    "lfm3": lfm,
    "minimax": minimax,
    "minimax_m1": minimax,
    "minimax_text_01": minimax,
    "olmo_hybrid": olmo_hybrid,
    "qwen3_5_moe_text": qwen_next,
    "qwen3_5_text": qwen_next,
    "qwen3_next": qwen_next,
    "recurrent_gemma": recurrent_gemma,
}
