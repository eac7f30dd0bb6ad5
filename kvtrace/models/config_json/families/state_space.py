"""Mamba, alone or mixed with attention: Jamba, Bamba, Nemotron-H, Falcon-H1, Zamba, Granite."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvtrace.models.config_json import parts
from kvtrace.models.config_json.geometry import (
    HEADS,
    filled_in,
    head_dim,
    kv_heads,
    layers_of,
    ssm_bytes,
)
from kvtrace.models.config_json.schedule import (
    FULL,
    LINEAR,
    by_kind,
    check_kinds,
    indices,
    schedule,
    stated_schedule,
)

if TYPE_CHECKING:
    from kvtrace.models.config_json.families import Reader
    from kvtrace.models.config_json.keys import Keys
    from kvtrace.models.config_json.parts import Part

SSM_DTYPES = ("mamba_ssm_cache_dtype", "mamba_ssm_dtype")


def _mamba2(keys: Keys) -> Part:
    """Return a layer in the words of Bamba, Granite, Falcon-H1."""
    keys.ignore("mamba_chunk_size")
    heads = keys.number("mamba_n_heads")
    expanded = keys.number("mamba_expand", 2) * keys.number("hidden_size")
    width = keys.number("mamba_d_ssm", expanded)
    if keys.data.get("mamba_d_head") == "auto":
        keys.ignore("mamba_d_head")
        head = width // heads
    else:
        head = keys.number("mamba_d_head", width // heads)
    if head * heads != width:
        raise keys.bad("mamba_d_head", f"mamba_n_heads times it is {width}")
    return parts.mamba2(
        heads,
        head,
        keys.number("mamba_d_state"),
        keys.number("mamba_n_groups"),
        keys.number("mamba_d_conv"),
        ssm_bytes(keys, *SSM_DTYPES),
    )


def _mamba1(keys: Keys) -> Part:
    """Return a layer in the words of Jamba and Zamba."""
    keys.ignore("mamba_dt_rank", "n_mamba_heads")
    width = keys.number("mamba_expand") * keys.number("hidden_size")
    state, kernel = keys.number("mamba_d_state"), keys.number("mamba_d_conv")
    return parts.mamba1(width, state, kernel, ssm_bytes(keys, *SSM_DTYPES))


def _attention(keys: Keys, default: int | None = None) -> Part:
    return parts.full(kv_heads(keys, default), head_dim(keys))


def jamba(keys: Keys) -> list[list[Part]]:
    """Return attention in one layer of a period, Mamba in the others."""
    layers = layers_of(keys)
    period = keys.number("attn_layer_period")
    offset = keys.number("attn_layer_offset", least=0)
    if offset >= period:
        raise keys.bad("attn_layer_offset", f"less than attn_layer_period {period}")
    keys.ignore("mamba_inner_layernorms")
    attention, mamba = _attention(keys, 8), _mamba1(keys)
    return [[attention if layer % period == offset else mamba] for layer in range(layers)]


def bamba(keys: Keys) -> list[list[Part]]:
    """Return attention in the layers that are named, Mamba 2 in the others."""
    layers = layers_of(keys)
    at = indices(keys, "attn_layer_indices", layers) if "attn_layer_indices" in keys else set()
    attention, mamba = _attention(keys, 8), _mamba2(keys)
    return [[attention if layer in at else mamba] for layer in range(layers)]


def falcon_h1(keys: Keys) -> list[list[Part]]:
    """Return attention and Mamba 2 side by side in each layer."""
    if "attn_layer_indices" in keys:
        raise keys.bad("attn_layer_indices", "null: attention in every layer")
    layers = layers_of(keys)
    attention, mamba = _attention(keys, 8), _mamba2(keys)
    return [[attention, mamba] for _ in range(layers)]


def granite_hybrid(keys: Keys) -> list[list[Part]]:
    """Return attention or Mamba 2 as layer_types lists it."""
    layers = layers_of(keys)
    kinds = stated_schedule(keys, layers)
    attention = _attention(keys)
    if not set(kinds) & {"mamba", LINEAR}:
        keys.ignore(*(key for key in keys.data if key.startswith("mamba_")))
    return by_kind(
        keys,
        kinds,
        {
            "attention": lambda: attention,
            FULL: lambda: attention,
            "mamba": lambda: _mamba2(keys),
            LINEAR: lambda: _mamba2(keys),
        },
    )


_LETTERS = {"M": "mamba", "*": "attention", "-": "mlp", "E": "moe"}
_WORDS = {
    "mamba": "mamba",
    LINEAR: "mamba",
    "attention": "attention",
    FULL: "attention",
    "mlp": "mlp",
    "moe": "moe",
}


def nemotron_h(keys: Keys) -> list[list[Part]]:
    """Return Mamba 2, attention or neither, by letters (M, *, -, E) or by words."""
    letters, words = keys.word("hybrid_override_pattern"), keys.words("layers_block_type")
    if letters is not None:
        if set(letters) - set(_LETTERS):
            raise keys.bad("hybrid_override_pattern", "letters M, *, - and E")
        kinds = [_LETTERS[letter] for letter in letters]
    elif words is not None:
        if set(words) - set(_WORDS):
            raise keys.bad("layers_block_type", ", ".join(_WORDS))
        kinds = [_WORDS[word] for word in words]
    else:
        raise keys.missing("hybrid_override_pattern")
    if "num_hidden_layers" in keys and keys.number("num_hidden_layers") != len(kinds):
        raise keys.bad("num_hidden_layers", f"{len(kinds)}, as the pattern has")
    keys.ignore("expand", "chunk_size")
    if "sliding_window" in keys:
        raise keys.bad("sliding_window", "null")
    mamba = parts.mamba2(
        keys.number("mamba_num_heads"),
        keys.number("mamba_head_dim"),
        keys.number("ssm_state_size"),
        keys.number("n_groups"),
        keys.number("conv_kernel"),
        ssm_bytes(keys, *SSM_DTYPES),
    )
    dim = filled_in(keys, 128, "head_dim", "attention_head_dim")
    kv = kv_heads(keys, 8)
    keys.must_be("num_query_groups", kv)
    attention = parts.full(kv, dim)
    none = parts.none("feed-forward only")
    by_kind = {"mamba": mamba, "attention": attention, "mlp": none, "moe": none}
    return [[by_kind[kind]] for kind in kinds]


def zamba(keys: Keys) -> list[list[Part]]:
    """Return Mamba in each layer, and the shared attention's own cache where it is applied."""
    layers = layers_of(keys)
    width = keys.number("attention_hidden_size", 2 * keys.number("hidden_size"))
    heads = keys.number(HEADS)
    dim = keys.number("attention_head_dim", width // heads)
    attention = parts.full(kv_heads(keys, 16), dim)
    kinds = schedule(keys, layers, "layers_block_type")
    period = keys.number("attn_layer_period", 6)
    offset = keys.number("attn_layer_offset", 4, least=0)
    if kinds is None:
        kinds = [
            "hybrid" if layer == 2 or (layer > 2 and layer % period == offset) else "mamba"
            for layer in range(layers)
        ]
    return _beside(keys, kinds, attention, _mamba1(keys))


def zamba2(keys: Keys) -> list[list[Part]]:
    """Return Mamba 2 in each layer, and the shared attention's own cache where it is applied."""
    layers = layers_of(keys)
    keys.ignore("attention_hidden_size", "kv_channels", "num_query_groups", "mamba_headdim")
    keys.ignore("chunk_size", "num_mem_blocks", "adapter_rank")
    heads = keys.number(HEADS)
    dim = keys.number("attention_head_dim", 2 * keys.number("hidden_size") // heads)
    kinds = schedule(keys, layers, "layers_block_type")
    if kinds is None:
        chosen = indices(keys, "hybrid_layer_ids", layers)
        kinds = ["hybrid" if layer in chosen else "mamba" for layer in range(layers)]
    elif "hybrid_layer_ids" in keys and indices(keys, "hybrid_layer_ids", layers) != {
        layer for layer, kind in enumerate(kinds) if kind == "hybrid"
    }:
        raise keys.bad("hybrid_layer_ids", "the hybrid layers of layers_block_type")
    mamba_heads = keys.number("n_mamba_heads")
    width = keys.number("mamba_expand", 2) * keys.number("hidden_size")
    mamba = parts.mamba2(
        mamba_heads,
        width // mamba_heads,
        keys.number("mamba_d_state"),
        keys.number("mamba_ngroups"),
        keys.number("mamba_d_conv"),
        ssm_bytes(keys, *SSM_DTYPES),
    )
    return _beside(keys, kinds, parts.full(kv_heads(keys), dim), mamba)


def _beside(keys: Keys, kinds: list[str], attention: Part, mamba: Part) -> list[list[Part]]:
    check_kinds(keys, kinds, ("hybrid", "mamba", LINEAR), "layers_block_type")
    return [[attention, mamba] if kind == "hybrid" else [mamba] for kind in kinds]


def mamba(keys: Keys) -> list[list[Part]]:
    """Return layers of Mamba 1 alone."""
    layers = layers_of(keys)
    keys.ignore("time_step_rank")
    width = keys.number("intermediate_size", keys.number("expand") * keys.number("hidden_size"))
    keys.must_be("d_model", keys.number("hidden_size"))
    keys.must_be("n_layer", layers)
    state, kernel = keys.number("state_size"), keys.number("conv_kernel")
    layer = parts.mamba1(width, state, kernel, ssm_bytes(keys, *SSM_DTYPES))
    return [[layer] for _ in range(layers)]


def mamba2(keys: Keys) -> list[list[Part]]:
    """Return layers of Mamba 2 alone."""
    layers = layers_of(keys)
    keys.ignore("time_step_rank", "chunk_size")
    if keys.number("expand") * keys.number("hidden_size") != (
        keys.number("num_heads") * keys.number("head_dim")
    ):
        raise keys.bad("num_heads", "as many heads of head_dim as expand × hidden_size has")
    layer = parts.mamba2(
        keys.number("num_heads"),
        keys.number("head_dim"),
        keys.number("state_size"),
        keys.number("n_groups"),
        keys.number("conv_kernel"),
        ssm_bytes(keys, *SSM_DTYPES),
    )
    return [[layer] for _ in range(layers)]


READERS: dict[str, Reader] = {
    "bamba": bamba,
    "falcon_h1": falcon_h1,
    "falcon_mamba": mamba,
    "granitemoehybrid": granite_hybrid,
    "jamba": jamba,
    "mamba": mamba,
    "mamba2": mamba2,
    "nemotron_h": nemotron_h,
    "zamba": zamba,
    "zamba2": zamba2,
}
