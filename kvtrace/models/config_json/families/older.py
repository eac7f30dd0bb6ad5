"""Older decoders, whose configurations use words of their own."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from kvtrace.errors import TraceError
from kvtrace.models.config_json import parts
from kvtrace.models.config_json.geometry import HEADS, head_dim, layers_of

if TYPE_CHECKING:
    from kvtrace.models.config_json.families import Reader
    from kvtrace.models.config_json.keys import Keys
    from kvtrace.models.config_json.parts import Part


def _mha(keys: Keys, layers: int, heads: int, hidden: int) -> list[list[Part]]:
    if hidden % heads:
        raise TraceError(
            "the hidden size isn't a multiple of the heads",
            where=keys.where,
            got=f"{hidden} and {heads}",
        )
    return [[parts.full(heads, hidden // heads)] for _ in range(layers)]


def _divides(keys: Keys, heads: int, kv: int, key: str) -> None:
    if heads % kv:
        raise keys.bad(key, f"a divisor of {heads} heads")


def same_heads(
    keys: Keys, layers: str = "num_hidden_layers", heads: str = HEADS, hidden: str = "hidden_size"
) -> list[list[Part]]:
    """Return layers with K and V of every head, by the names that the type uses."""
    return _mha(keys, layers_of(keys, layers), keys.number(heads), keys.number(hidden))


def bloom(keys: Keys) -> list[list[Part]]:
    """Return BLOOM's layers, under old names or new ones."""
    layers = layers_of(keys, "n_layer", "num_hidden_layers")
    heads = keys.first(("n_head", HEADS))
    return _mha(keys, layers, heads, keys.first(("hidden_size", "n_embed")))


def gpt_bigcode(keys: Keys) -> list[list[Part]]:
    """Return StarCoder's layers: one KV head unless multi_query is off."""
    layers, heads = layers_of(keys, "n_layer"), keys.number("n_head")
    made = _mha(keys, layers, heads, keys.number("n_embd"))
    keys.ignore("num_key_value_heads")
    if not keys.flag("multi_query", True):
        return made
    return [[part | {"kv_heads": 1}] for (part,) in made]


def falcon(keys: Keys) -> list[list[Part]]:
    """Return Falcon's layers: KV heads as stated in the new architecture, one with multi_query.

    Source: transformers 5.24, modeling_falcon.py, and vLLM 0.32.
    """
    layers = layers_of(keys, "num_hidden_layers", "n_layer")
    heads = keys.first((HEADS, "n_head"))
    hidden = keys.first(("hidden_size", "n_embed"))
    made = _mha(keys, layers, heads, hidden)
    stated = keys.first(("num_kv_heads", "n_head_kv"), heads)
    if keys.flag("new_decoder_architecture", False):
        keys.ignore("multi_query")
        kv = stated
    else:
        kv = 1 if keys.flag("multi_query", True) else heads
    _divides(keys, heads, kv, "num_kv_heads")
    return [[part | {"kv_heads": kv}] for (part,) in made]


def jetmoe(keys: Keys) -> list[list[Part]]:
    """Return JetMoE's layers: KV heads of kv_channels each."""
    keys.ignore(HEADS)
    part = parts.full(keys.number("num_key_value_heads"), keys.number("kv_channels"))
    return [[part] for _ in range(layers_of(keys))]


def chatglm(keys: Keys) -> list[list[Part]]:
    """Return ChatGLM's layers: groups of KV heads with multi-query attention."""
    layers, heads = layers_of(keys, "num_layers"), keys.number(HEADS)
    dim = keys.number("kv_channels")
    kv = heads
    if keys.flag("multi_query_attention", False):
        kv = keys.number("multi_query_group_num")
    keys.ignore("multi_query_group_num", "hidden_size")
    _divides(keys, heads, kv, "multi_query_group_num")
    return [[parts.full(kv, dim)] for _ in range(layers)]


def dbrx(keys: Keys) -> list[list[Part]]:
    """Return DBRX's layers: KV heads in attn_config."""
    layers, heads = layers_of(keys, "n_layers"), keys.number("n_heads")
    made = _mha(keys, layers, heads, keys.number("d_model"))
    attention = keys.table("attn_config")
    if attention is None:
        raise keys.missing("attn_config")
    keys.ignore("num_key_value_heads")
    kv = attention.number("kv_n_heads")
    _divides(attention, heads, kv, "kv_n_heads")
    return [[part | {"kv_heads": kv}] for (part,) in made]


def mpt(keys: Keys) -> list[list[Part]]:
    """Return MPT's layers: K and V of every head, unless its attention is of another type."""
    attention = keys.table("attn_config")
    if attention is not None:
        attention.must_be("attn_type", "multihead_attention")
        attention.ignore("attn_impl", "attn_uses_sequence_id", "chunk_size_feed_forward")
    return same_heads(keys, "n_layers", "n_heads", "d_model")


def stated(keys: Keys) -> list[list[Part]]:
    """Return GQA layers of a type that isn't known, if the file states all of their geometry."""
    kv = keys.number("num_key_value_heads")
    _divides(keys, keys.number(HEADS), kv, "num_key_value_heads")
    part = parts.full(kv, head_dim(keys))
    return [[part] for _ in range(layers_of(keys))]


_GPT = partial(same_heads, layers="n_layer", heads="n_head", hidden="n_embd")

READERS: dict[str, Reader] = {
    "baichuan": same_heads,
    "biogpt": same_heads,
    "bloom": bloom,
    "chatglm": chatglm,
    "codegen": _GPT,
    "ctrl": _GPT,
    "dbrx": dbrx,
    "falcon": falcon,
    "gpt2": _GPT,
    "gpt_bigcode": gpt_bigcode,
    "gpt_neox": same_heads,
    "gpt_neox_japanese": same_heads,
    "gptj": _GPT,
    "jetmoe": jetmoe,
    "mpt": mpt,
    "opt": same_heads,
    "persimmon": same_heads,
    "xverse": same_heads,
}
