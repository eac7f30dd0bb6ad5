"""Multi-head latent attention: one vector per token and layer, with or without an indexer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvtrace.models.config_json.geometry import layers_of
from kvtrace.models.config_json.parts import BF16_BYTES, FP32_BYTES
from kvtrace.models.config_json.schedule import FULL, by_kind, check_kinds, schedule

if TYPE_CHECKING:
    from kvtrace.models.config_json.families import Reader
    from kvtrace.models.config_json.keys import Keys
    from kvtrace.models.config_json.parts import Part

EXPANDED = ("num_key_value_heads", "head_dim", "v_head_dim", "qk_nope_head_dim", "qk_head_dim")
"""Widths of what the latent vector is expanded to: engines that keep it don't keep those."""
SCALE_VALUES = 128


def latent(keys: Keys, *, indexed: bool = False, sparse: bool = False) -> Part:
    """Return a layer of latent attention; `indexed` with its indexer's fp8 key and scale.

    `sparse` models keep an fp8 cache in rows of 8-bit values, an fp32 scale per 128 of them and
    a bf16 rotary part. Source: vLLM 0.32, fp8_ds_mla: 512 + 4 x 4 + 64 x 2 = 656 bytes.
    """
    keys.must_be("use_mla", True)
    keys.ignore(*EXPANDED, "q_lora_rank", "num_attention_heads")
    rank, rope = keys.number("kv_lora_rank"), keys.number("qk_rope_head_dim")
    part: Part = {"kind": "mla", "kv_lora_rank": rank, "qk_rope_head_dim": rope}
    if sparse:
        scales = -(-rank // SCALE_VALUES) * FP32_BYTES
        part["fp8_row_bytes"] = rank + scales + rope * BF16_BYTES
    if indexed:
        part["indexer_bytes"] = indexer_bytes(keys)
    return part


def indexer_bytes(keys: Keys) -> int:
    """Return the bytes of an indexer's key: 8-bit values and an fp32 scale per 128 of them.

    Source: vLLM 0.32, model_executor/models/deepseek_v2.py, and SGLang 0.5: 132 for 128.
    """
    keys.ignore("index_n_heads", "index_topk")
    dim = keys.number("index_head_dim")
    return dim + -(-dim // SCALE_VALUES) * FP32_BYTES


def dense(keys: Keys, layers_key: str = "num_hidden_layers", each: int = 1) -> list[list[Part]]:
    """Return layers of latent attention without an indexer, `each` times per layer."""
    layers = layers_of(keys, layers_key)
    check_kinds(keys, schedule(keys, layers) or (), (FULL,))
    part = latent(keys)
    return [[part] * each for _ in range(layers)]


def sparse(keys: Keys) -> list[list[Part]]:
    """Return layers of sparse latent attention; those whose indexer is shared keep no key."""
    layers = layers_of(keys)
    check_kinds(keys, schedule(keys, layers) or (), ("indexed_attention", FULL))
    return by_kind(
        keys,
        indexer_types(keys, layers),
        {
            "full": lambda: latent(keys, indexed=True, sparse=True),
            "shared": lambda: latent(keys, sparse=True),
        },
        "indexer_types",
    )


def indexer_types(keys: Keys, layers: int) -> list[str]:
    """Return `full` or `shared` for each layer, as the file lists them or by its frequency.

    Source: transformers 5.24, configuration_glm_moe_dsa.py.
    """
    listed = schedule(keys, layers, "indexer_types")
    frequency = keys.number("index_topk_freq", 1)
    offset = keys.number("index_skip_topk_offset", 2, least=0)
    pattern = keys.word("index_topk_pattern")
    if listed is None and pattern is not None:
        if len(pattern) != layers or set(pattern) - {"F", "S"}:
            raise keys.bad("index_topk_pattern", f"{layers} letters F and S")
        return ["full" if letter == "F" else "shared" for letter in pattern]
    if listed is None:
        return [
            "full" if max(layer - offset + 1, 0) % frequency == 0 else "shared"
            for layer in range(layers)
        ]
    return listed


def _listed(keys: Keys) -> list[list[Part]]:
    """Return the layers of a sparse model whose file has to list which indexers are shared."""
    if "indexer_types" not in keys:
        raise keys.missing("indexer_types")
    return sparse(keys)


def longcat(keys: Keys) -> list[list[Part]]:
    """Return LongCat's layers: two latent attentions each."""
    keys.must_be("attention_method", "MLA")
    keys.first(("num_layers", "num_hidden_layers"))
    return dense(keys, "num_layers" if "num_layers" in keys else "num_hidden_layers", 2)


READERS: dict[str, Reader] = {
    **dict.fromkeys(
        [
            "deepseek_v2",
            "deepseek_v3",
            "kimi_k2",
            "axk1",
            "glm4_moe_lite",
            "youtu",
            "sarvam_mla",
            "mistral4",
            "pangu_ultra_moe",
        ],
        dense,
    ),
    "deepseek_v32": sparse,
    "glm_moe_dsa": sparse,
    "hy_v4": _listed,
    "hy_v4_vl_text": _listed,
    "longcat_flash": longcat,
}
