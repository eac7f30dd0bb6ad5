"""Decoders with MHA or GQA, all layers of one width: full, or by a schedule of windows."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

from kvtrace.models.config_json import parts
from kvtrace.models.config_json.geometry import (
    filled_in,
    head_dim,
    kv_heads,
    layers_of,
    windowed,
)
from kvtrace.models.config_json.schedule import FULL, SLIDING, check_kinds, schedule

if TYPE_CHECKING:
    from kvtrace.models.config_json.families import Reader
    from kvtrace.models.config_json.keys import Keys
    from kvtrace.models.config_json.parts import Part

CHUNKED = "chunked_attention"
LISTED = "listed"
PATTERNS = (
    "sliding_window_pattern",
    "_sliding_window_pattern",
    "global_attn_every_n_layers",
    "layer_switch",
)
Windows = Literal[
    "none", "off", "all", "listed", "late", "tail", "pattern", "even", "first", "chunked"
]


@dataclass(frozen=True, slots=True)
class Decoder:
    """What the class of a `model_type` fills in, and which of its layers have a window.

    `kv_heads`: of an absent num_key_value_heads; None for as many as heads. `head_dim`: of an
    absent head_dim; None for hidden size over heads. `window`: of an absent sliding_window.
    `windows`, unless layer_types lists the kinds: `none`; `off`, none unless use_sliding_window,
    which is refused; `all` layers; as `listed`; `late`, those from max_window_layers on if
    use_sliding_window; `tail`, the same without such a switch; `pattern`, all but every `every`th;
    `even`, every other one; `first`, all but the first of `every`; `chunked` but in every fourth.
    """

    kv_heads: int | None = None
    head_dim: int | None = None
    windows: Windows = "none"
    every: int = 4
    window: int | None = None


DECODERS: dict[str, Decoder] = {
    **dict.fromkeys(
        [
            "llama",
            "aria_text",
            "apertus",
            "arcee",
            "chameleon",
            "cohere",
            "deepseek_ocr2_text",
            "diffllama",
            "granite",
            "granite4_vision_text",
            "granitemoe",
            "granitemoeshared",
            "hunyuan_vl_text",
            "hyperclovax",
            "jais2",
            "nanochat",
            "flex_olmo",
            "olmo",
            "olmo2",
            "olmoe",
            "phi",
            "apertus1p5_text",
        ],
        Decoder(),
    ),
    "bitnet": Decoder(kv_heads=5),
    "dots1": Decoder(kv_heads=32, windows="tail"),
    "emu3_text_model": Decoder(kv_heads=8),
    "ernie4_5": Decoder(kv_heads=2, head_dim=128),
    "ernie4_5_moe": Decoder(kv_heads=4),
    "ernie4_5_vl_moe_text": Decoder(kv_heads=4),
    "exaone": Decoder(kv_heads=8),
    "gemma": Decoder(kv_heads=16, head_dim=256),
    "glm": Decoder(kv_heads=2, head_dim=128),
    "glm4": Decoder(kv_heads=2, head_dim=128),
    "glm4_moe": Decoder(kv_heads=8),
    "glm4v_text": Decoder(kv_heads=2),
    "glm4v_moe_text": Decoder(kv_heads=8),
    "glm_image_text": Decoder(kv_heads=2),
    "glm_ocr_text": Decoder(kv_heads=8),
    "granite_docling_text": Decoder(kv_heads=4),
    "helium": Decoder(kv_heads=20, head_dim=128),
    "hy_v3": Decoder(kv_heads=8, head_dim=128),
    "internlm3": Decoder(kv_heads=2, head_dim=128),
    "iquestcoder": Decoder(kv_heads=8, head_dim=128),
    "cosmos3_edge_text": Decoder(kv_heads=8, head_dim=128),
    "minimax_m2": Decoder(kv_heads=8, head_dim=128),
    "nemotron": Decoder(),
    "paddleocr_vl_text": Decoder(kv_heads=2, head_dim=128),
    "sarvam_moe": Decoder(kv_heads=4, head_dim=64),
    "seed_oss": Decoder(kv_heads=8, head_dim=128),
    "solar_open": Decoder(kv_heads=8, head_dim=128),
    "stablelm": Decoder(kv_heads=32),
    "qwen3_moe": Decoder(kv_heads=4, windows="off"),
    "qwen3_vl_text": Decoder(kv_heads=32, head_dim=128),
    "qwen3_vl_moe_text": Decoder(kv_heads=16),
    "qwen3_omni_moe_text": Decoder(kv_heads=4, windows="all"),
    "mimo": Decoder(kv_heads=32, windows="late"),
    "qwen2": Decoder(kv_heads=32, windows="late"),
    "qwen2_moe": Decoder(kv_heads=16, windows="off"),
    "qwen2_vl_text": Decoder(kv_heads=8, windows="late"),
    "qwen2_vl": Decoder(kv_heads=8, windows="late"),
    "qwen2_5_vl_text": Decoder(kv_heads=8, windows="late"),
    "qwen2_5_vl": Decoder(kv_heads=8, windows="late"),
    "qwen2_5_omni_text": Decoder(kv_heads=4, windows="late"),
    "qwen3": Decoder(kv_heads=32, head_dim=128, windows="late"),
    "smollm3": Decoder(kv_heads=4, windows="off"),
    "mistral": Decoder(kv_heads=8, windows="all", window=4096),
    "ministral3": Decoder(kv_heads=8, head_dim=128, windows="all"),
    "mixtral": Decoder(kv_heads=8, windows="all"),
    "phi3": Decoder(windows="all"),
    "phi4_multimodal": Decoder(kv_heads=8, windows="all"),
    "phi4mm": Decoder(kv_heads=8, windows="all"),
    "phimoe": Decoder(kv_heads=8, windows="all"),
    "starcoder2": Decoder(kv_heads=2, windows="all"),
    "voxtral_realtime_text": Decoder(kv_heads=8, windows="all", window=8192),
    "ministral": Decoder(kv_heads=8, windows="all", window=4096),
    "gemma2": Decoder(kv_heads=4, head_dim=256, windows="even", window=4096),
    "vaultgemma": Decoder(kv_heads=4, head_dim=256, windows="even", window=4096),
    "gemma3_text": Decoder(kv_heads=4, head_dim=256, windows="pattern", every=6, window=4096),
    "cohere2": Decoder(windows="pattern", window=4096),
    "cohere2_moe": Decoder(head_dim=128, windows="listed"),
    "cohere_compass_text": Decoder(windows="listed"),
    "exaone4": Decoder(kv_heads=32, windows="pattern", window=4096),
    "exaone_moe": Decoder(kv_heads=32, windows="pattern", window=4096),
    "olmo3": Decoder(windows="pattern", window=4096),
    "afmoe": Decoder(head_dim=128, windows="pattern", window=1024),
    "gpt_oss": Decoder(kv_heads=8, head_dim=64, windows="even", window=128),
    "cwm": Decoder(kv_heads=8, head_dim=128, windows="first", window=8192),
    "granite_swa": Decoder(kv_heads=4, windows="first", window=128),
    "granitemoe_swa": Decoder(windows="first", window=128),
    "flint": Decoder(kv_heads=4, head_dim=128, windows="listed"),
    "kolibri1": Decoder(kv_heads=4, head_dim=128, windows="listed"),
    "beam": Decoder(kv_heads=8, head_dim=128, windows="listed"),
    "mellum": Decoder(kv_heads=4, head_dim=128, windows="listed"),
    "llama4_text": Decoder(kv_heads=8, head_dim=128, windows="chunked"),
}
"""Source: the configuration classes of transformers 5.24, and what their models cache."""


def read(keys: Keys, rule: Decoder) -> list[list[Part]]:
    """Return the parts of each layer of a decoder that `rule` describes."""
    layers = layers_of(keys, "num_hidden_layers", "num_layers")
    if rule.windows == "none":
        keys.ignore("use_bidirectional_attention")
    else:
        keys.must_be("use_bidirectional_attention", False, "vision")
    heads, dim = kv_heads(keys, rule.kv_heads), head_dim(keys, rule.head_dim)
    kinds = schedule(keys, layers)
    kinds = _kinds(keys, rule, layers) if kinds is None else _listed(keys, rule, kinds)
    if set(kinds) != {FULL} and rule.windows not in ("late", "off"):
        keys.must_be("use_sliding_window", True)
    for key in ("attention_head_dim", "kv_channels"):
        keys.must_be(key, dim)
    keys.must_be("full_attn_mod", 1)
    made = {kind: _part(keys, rule, kind, heads, dim) for kind in dict.fromkeys(kinds)}
    return [[made[kind]] for kind in kinds]


def _listed(keys: Keys, rule: Decoder, kinds: list[str]) -> list[str]:
    """Return the kinds that the file lists, once they are known and agree with what else it says.

    Raises TraceError where a pattern that the file states too would give other kinds.
    """
    check_kinds(keys, kinds, (FULL, SLIDING, CHUNKED))
    if rule.windows in ("late", "off", "tail"):
        keys.ignore("max_window_layers")
        on = rule.windows == "tail" or keys.flag("use_sliding_window", False)
        if SLIDING in kinds and not on:
            raise keys.bad("layer_types", f"{FULL}, since use_sliding_window is off")
    if rule.windows == "pattern":
        for key in PATTERNS:
            if key in keys and _pattern(keys, rule, len(kinds)) != kinds:
                raise keys.bad(key, "the layers of layer_types")
    if rule.windows in ("chunked", "none", "off"):
        keys.skip("no_rope_layers", "no_rope_layer_interval")
    if rule.windows != "none":
        keys.ignore("sliding_window", "prefix_dense_sliding_window_pattern")
        if rule.windows == LISTED:
            keys.ignore("sliding_window_pattern")
    return kinds


def _part(keys: Keys, rule: Decoder, kind: str, heads: int, dim: int) -> Part:
    if kind == FULL:
        return parts.full(heads, dim)
    if kind == CHUNKED:
        return windowed(keys, heads, dim, keys.number("attention_chunk_size"))
    names = ("sliding_window", "sliding_window_size")
    tokens = keys.first(names) if rule.window is None else filled_in(keys, rule.window, *names)
    return windowed(keys, heads, dim, tokens)


def _kinds(keys: Keys, rule: Decoder, layers: int) -> list[str]:
    """Return each layer's kind by its class's own rule, where the file lists none."""
    if rule.windows == "none":
        return [FULL] * layers
    if rule.windows == LISTED:
        raise keys.missing("layer_types")
    if rule.windows == "chunked":
        return _chunked(keys, layers)
    if rule.windows == "off":
        keys.must_be("use_sliding_window", False)
        keys.ignore("sliding_window", "max_window_layers", "no_rope_layer_interval")
        keys.skip("no_rope_layers")
        return [FULL] * layers
    if rule.windows in ("late", "tail"):
        return _late(keys, layers, rule.windows == "tail")
    if keys.stated("sliding_window") and "sliding_window" not in keys:
        return [FULL] * layers
    if rule.windows == "all":
        has = "sliding_window" in keys or rule.window is not None
        return [SLIDING if has else FULL] * layers
    return _pattern(keys, rule, layers)


def _pattern(keys: Keys, rule: Decoder, layers: int) -> list[str]:
    if rule.windows == "even":
        return [SLIDING if layer % 2 == 0 else FULL for layer in range(layers)]
    if rule.windows == "first":
        return [SLIDING if layer % rule.every else FULL for layer in range(layers)]
    for key in PATTERNS:
        if isinstance(keys.data.get(key), str):
            return _letters(keys, key, layers)
    every = keys.first(PATTERNS, rule.every)
    return [SLIDING if (layer + 1) % every else FULL for layer in range(layers)]


def _letters(keys: Keys, key: str, layers: int) -> list[str]:
    """Return the kinds that a word such as LLLG repeats: local layers, then a global one.

    Source: SGLang 0.5, models/exaone4.py, the engine that reads the word.
    """
    word = keys.word(key) or ""
    if len(word) < 2 or word != "L" * (len(word) - 1) + "G":
        raise keys.bad(key, "a number, or letters such as LLLG")
    return [SLIDING if (layer + 1) % len(word) else FULL for layer in range(layers)]


def _late(keys: Keys, layers: int, always: bool) -> list[str]:
    """Return windows from layer max_window_layers on, `always` or if use_sliding_window is set."""
    keys.ignore("sliding_window", "max_window_layers")
    if not keys.flag("use_sliding_window", always):
        return [FULL] * layers
    if not keys.stated("sliding_window"):
        raise keys.missing("sliding_window")
    if "sliding_window" not in keys:
        return [FULL] * layers
    first = keys.number("max_window_layers", least=0)
    return [SLIDING if layer >= first else FULL for layer in range(layers)]


def _chunked(keys: Keys, layers: int) -> list[str]:
    """Return chunks in the layers with rotary positions: all but every fourth, or as listed."""
    rotary = keys.numbers("no_rope_layers")
    every = keys.number("no_rope_layer_interval", 4)
    if not rotary:
        rotary = [int((layer + 1) % every != 0) for layer in range(layers)]
    if len(rotary) != layers or set(rotary) - {0, 1}:
        raise keys.bad("no_rope_layers", f"{layers} values of 0 or 1")
    if keys.stated("attention_chunk_size") and "attention_chunk_size" not in keys:
        return [FULL] * layers
    return [CHUNKED if turned else FULL for turned in rotary]


def cohere2(keys: Keys) -> list[list[Part]]:
    """Return Command R7B's layers: windows, and a full layer at the end of each group."""
    keys.must_be("order_of_interleaved_layers", "local_attn_first")
    keys.ignore("use_parallel_block")
    return read(keys, DECODERS["cohere2"])


def ernie(keys: Keys) -> list[list[Part]]:
    """Return ERNIE 4.5's layers. Its files may state that nothing is compressed."""
    keys.must_be("compression_ratio", 1.0)
    return read(keys, DECODERS["ernie4_5"])


def minimax_m2(keys: Keys) -> list[list[Part]]:
    """Return MiniMax M2's layers: all of them full, which attn_type_list says with ones."""
    listed = keys.numbers("attn_type_list")
    if listed is not None and set(listed) != {1}:
        raise keys.bad("attn_type_list", "1 for every layer")
    return read(keys, DECODERS["minimax_m2"])


READERS: dict[str, Reader] = {name: partial(read, rule=rule) for name, rule in DECODERS.items()} | {
    "cohere2": cohere2,
    "ernie4_5": ernie,
    "minimax_m2": minimax_m2,
}
