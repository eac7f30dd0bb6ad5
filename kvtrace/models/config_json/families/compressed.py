"""DeepSeek V4: a window of rows in every layer, and compressed rows of what is older in most."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvtrace.models.config_json.families.latent import indexer_bytes
from kvtrace.models.config_json.geometry import layers_of
from kvtrace.models.config_json.parts import FP32_BYTES
from kvtrace.models.config_json.schedule import SLIDING, check_kinds, schedule

if TYPE_CHECKING:
    from kvtrace.models.config_json.families import Reader
    from kvtrace.models.config_json.keys import Keys
    from kvtrace.models.config_json.parts import Part

RATIOS = {
    SLIDING: 0,
    "compressed_sparse_attention": 4,
    "heavily_compressed_attention": 128,
}
"""Source: transformers 5.24, configuration_deepseek_v4.py."""
INDEXED_RATIO = 4
"""Layers that compress 4 tokens overlap their groups and have an indexer."""


def read(keys: Keys) -> list[list[Part]]:
    """Return the parts of each layer. Source: vLLM 0.32, models/deepseek_v4."""
    keys.ignore("num_key_value_heads", "num_attention_heads", "q_lora_rank", "o_lora_rank")
    keys.ignore("o_groups")
    layers = layers_of(keys)
    return [[_part(keys, ratio)] for ratio in _ratios(keys, layers)]


def _part(keys: Keys, ratio: int) -> Part:
    dim, rope = keys.number("head_dim"), keys.number("qk_rope_head_dim")
    part: Part = {
        "kind": "compressed",
        "head_dim": dim,
        "window": keys.number("sliding_window"),
        "ratio": ratio,
        # 8-bit values, the rotary part in bf16, and a byte of scale per 64 values, padded by one.
        "fp8_row_bytes": dim - rope + 2 * rope + -(-(dim - rope) // 64) + 1,
    }
    if ratio == INDEXED_RATIO:
        part["indexer_bytes"] = indexer_bytes(keys)
        part["state_bytes"] = _state(dim, ratio) + _state(keys.number("index_head_dim"), ratio)
    elif ratio:
        part["state_bytes"] = _state(dim, ratio)
    return part


def _state(dim: int, ratio: int) -> int:
    """Return the bytes of the rows being made: fp32 values and scores of one group, or two.

    Source: vLLM 0.32, models/deepseek_v4/compressor.py, CompressorStateCache.
    """
    overlap = 2 if ratio == INDEXED_RATIO else 1
    return overlap * ratio * 2 * overlap * dim * FP32_BYTES


def _ratios(keys: Keys, layers: int) -> list[int]:
    """Return the tokens per row of each layer, 0 for layers with a window only.

    A list of ratios may go on with those of the layers that predict further tokens.
    """
    more = keys.number("num_nextn_predict_layers", 0, least=0)
    listed = keys.numbers("compress_ratios")
    kinds = schedule(keys, layers)
    if listed is not None:
        if len(listed) not in (layers, layers + more) or set(listed) - set(RATIOS.values()):
            raise keys.bad("compress_ratios", f"{layers} values of 0, 4 or 128")
        return listed[:layers]
    if kinds is None:
        raise keys.missing("compress_ratios")
    rates = keys.table("compress_rates")
    check_kinds(keys, kinds, RATIOS)
    for kind in kinds:
        if rates is not None and RATIOS[kind]:
            rates.must_be(kind, RATIOS[kind])
    return [RATIOS[kind] for kind in kinds]


READERS: dict[str, Reader] = {"deepseek_v4": read, "deepseek_ref": read}
