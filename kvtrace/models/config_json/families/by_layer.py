"""Attention whose width differs from layer to layer, or that some layers share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvtrace.models.config_json import parts
from kvtrace.models.config_json.geometry import (
    HEADS,
    filled_in,
    head_dim,
    kv_heads,
    layers_of,
    windowed,
)
from kvtrace.models.config_json.schedule import (
    FULL,
    SLIDING,
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


def _shared(layers: list[list[Part]], count: int) -> list[list[Part]]:
    """Return the layers, the last `count` of which read the cache of an earlier one."""
    first = len(layers) - count
    return [
        each if layer < first else [parts.none("shares the KV of an earlier layer")]
        for layer, each in enumerate(layers)
    ]


def _kinds(keys: Keys, layers: int, every: int) -> list[str]:
    kinds = schedule(keys, layers) or [
        SLIDING if (layer + 1) % every else FULL for layer in range(layers)
    ]
    check_kinds(keys, kinds, (FULL, SLIDING))
    return kinds


def gemma3n(keys: Keys) -> list[list[Part]]:
    """Return windows and full layers of one width; the last layers share."""
    layers = layers_of(keys)
    keys.must_be("use_bidirectional_attention", False, "vision")
    heads, dim = kv_heads(keys, 2), head_dim(keys, 256)
    window = filled_in(keys, 512, "sliding_window")
    each = {FULL: parts.full(heads, dim), SLIDING: windowed(keys, heads, dim, window)}
    made = [[each[kind]] for kind in _kinds(keys, layers, 5)]
    return _shared(made, _shared_layers(keys, layers, 15))


def _shared_layers(keys: Keys, layers: int, default: int) -> int:
    count = keys.number("num_kv_shared_layers", default, least=0)
    if count >= layers:
        raise keys.bad("num_kv_shared_layers", f"less than {layers}")
    return count


def gemma4(keys: Keys) -> list[list[Part]]:
    """Return windows of one width and full layers of another; the last layers share.

    The last layer is full. Source: transformers 5.24, configuration_gemma4.py.
    """
    layers = layers_of(keys)
    keys.must_be("use_bidirectional_attention", False, "vision")
    kinds = [*_kinds(keys, layers, 6)[:-1], FULL]
    heads, dim = kv_heads(keys, 4), head_dim(keys, 256)
    window = filled_in(keys, 512, "sliding_window")
    overrides = _per_layer(keys, layers)
    wide = {"head_dim": filled_in(keys, 512, "global_head_dim")}
    if keys.flag("attention_k_eq_v", False) and "num_global_key_value_heads" in keys:
        wide["num_key_value_heads"] = keys.number("num_global_key_value_heads")
    keys.ignore("num_global_key_value_heads")
    made = []
    for layer, kind in enumerate(kinds):
        own = overrides.get(layer, {}) if overrides is not None else wide if kind == FULL else {}
        kv, width = own.get("num_key_value_heads", heads), own.get("head_dim", dim)
        part = parts.full(kv, width) if kind == FULL else windowed(keys, kv, width, window)
        made.append([part])
    return _shared(made, _shared_layers(keys, layers, 0))


def _per_layer(keys: Keys, layers: int) -> dict[int, dict[str, int]] | None:
    """Return what per_layer_config says of each layer that it names, or None without it."""
    table = keys.table("per_layer_config")
    if table is None:
        return None
    overrides = {}
    for name in table.data:
        if not name.isdecimal() or int(name) >= layers:
            raise table.bad(name, f"layers 0 to {layers - 1}")
        inner = table.table(name)
        if inner is None or set(inner.data) - {"head_dim", "num_key_value_heads", HEADS}:
            raise table.bad(name, "head_dim, num_key_value_heads")
        inner.ignore(HEADS)
        overrides[int(name)] = {key: inner.number(key) for key in inner.data if key != HEADS}
    return overrides


def mimo(keys: Keys) -> list[list[Part]]:
    """Return full layers and windows, each with heads and widths of their own.

    Source: vLLM 0.32, mimo_v2.py, and transformers 5.24, modeling_mimo_v2_flash.py.
    """
    layers = layers_of(keys)
    pattern = keys.numbers("hybrid_layer_pattern")
    full = parts.full(
        keys.number("num_key_value_heads"), keys.number("head_dim"), keys.number("v_head_dim")
    )
    if pattern is None:
        return _mimo_class(keys, layers, full)
    if len(pattern) != layers or set(pattern) - {0, 1}:
        raise keys.bad("hybrid_layer_pattern", f"{layers} values of 0 or 1")
    keys.ignore("attention_chunk_size", "swa_num_attention_heads", HEADS)
    tokens = keys.first(("sliding_window_size", "sliding_window"))
    window = windowed(
        keys,
        keys.number("swa_num_key_value_heads"),
        keys.number("swa_head_dim"),
        tokens,
        keys.number("swa_v_head_dim"),
    )
    return [[window if windows else full] for windows in pattern]


def _mimo_class(keys: Keys, layers: int, full: Part) -> list[list[Part]]:
    """Return the layers as transformers' class lists them: twice the KV heads under a window."""
    kinds = stated_schedule(keys, layers, "hybrid_layer_pattern")
    keys.ignore(HEADS)
    window = windowed(
        keys,
        2 * keys.number("num_key_value_heads"),
        keys.number("head_dim"),
        keys.number("sliding_window"),
        keys.number("v_head_dim"),
    )
    return by_kind(keys, kinds, {FULL: lambda: full, SLIDING: lambda: window})


def step3(keys: Keys) -> list[list[Part]]:
    """Return Step 3's layers: one KV head for all. Source: vLLM 0.32, step3_text.py."""
    keys.ignore("share_q_dim", HEADS)
    if keys.number("num_attention_groups") != 1:
        raise keys.bad("num_attention_groups", "1")
    part = parts.full(1, keys.number("head_dim"))
    return [[part] for _ in range(layers_of(keys))]


def step35(keys: Keys) -> list[list[Part]]:
    """Return full layers and windows; those of one kind may have heads of their own.

    Lists go on with the layers that predict further tokens. Source: vLLM 0.32, step3p5.py.
    """
    layers = layers_of(keys)
    more = keys.number("num_nextn_predict_layers", 0, least=0)
    listed = keys.words("layer_types")
    if listed is None:
        raise keys.missing("layer_types")
    if len(listed) not in (layers, layers + more):
        raise keys.bad("layer_types", f"{layers} kinds, one per layer")
    groups = keys.first(("num_attention_groups", "num_key_value_heads"))
    dim = keys.number("head_dim")
    keys.ignore(HEADS, "num_sliding_attention_heads", "share_expert_dim")
    widths = {FULL: (groups, dim), SLIDING: (groups, dim)}
    other = keys.table("attention_other_setting")
    if other is not None:
        other.ignore(HEADS, "true_head_dim")
        kind = other.word("attention_type") or SLIDING
        widths[kind] = other.number("num_attention_groups"), other.number("head_dim")
    made = by_kind(
        keys,
        listed[:layers],
        {
            FULL: lambda: parts.full(*widths[FULL]),
            SLIDING: lambda: windowed(keys, *widths[SLIDING], keys.number("sliding_window")),
        },
    )
    _same_heads(keys, layers)
    return made


def _same_heads(keys: Keys, layers: int) -> None:
    """Refuse a per_layer_config that changes more than the query heads."""
    for layer, own in (_per_layer(keys, layers) or {}).items():
        if own:
            raise keys.bad("per_layer_config", f"{HEADS} only in layer {layer}")


def nemotron_nas(keys: Keys) -> list[list[Part]]:
    """Return each block's attention: with KV heads of its own, or none."""
    layers, heads = layers_of(keys), keys.number(HEADS)
    dim = head_dim(keys)
    blocks = keys.tables("block_configs")
    if blocks is None or len(blocks) != layers:
        raise keys.bad("block_configs", f"{layers} blocks")
    keys.ignore("num_key_value_heads")
    made = []
    for block in blocks:
        block.skip("ffn")
        attention = block.table("attention")
        if attention is None:
            raise block.missing("attention")
        made.append([_nas_part(attention, heads, dim)])
    return made


def _nas_part(attention: Keys, heads: int, dim: int) -> Part:
    attention.must_be("sparsify")
    attention.must_be("window_length")
    attention.must_be("num_sink_tokens")
    attention.must_be("unshifted_sink", False)
    attention.must_be("use_prefill_window_in_sink_attention", False)
    no_op = attention.flag("no_op", False)
    linear = attention.flag("replace_with_linear", False)
    if no_op or linear:
        attention.ignore("n_heads_in_group")
        return parts.none("no attention")
    group = attention.number("n_heads_in_group")
    if heads % group:
        raise attention.bad("n_heads_in_group", f"a divisor of {heads} heads")
    return parts.full(heads // group, dim)


def minimax_m3(keys: Keys) -> list[list[Part]]:
    """Return GQA layers; the sparse ones keep a bf16 key of an indexer beside.

    Source: vLLM 0.32, models/minimax_m3/common/indexer.py.
    """
    layers = layers_of(keys)
    heads, dim = kv_heads(keys, 4), keys.number("head_dim")
    sparse = keys.table("sparse_attention_config")
    at, width = _m3_sparse(keys, layers) if sparse is None else _m3_table(sparse, layers)
    full = parts.full(heads, dim)
    indexed = parts.full(heads, dim, indexer_bytes=width * parts.BF16_BYTES) if at else full
    return [[indexed if layer in at else full] for layer in range(layers)]


def _m3_table(sparse: Keys, layers: int) -> tuple[set[int], int]:
    sparse.ignore("sparse_block_size", "sparse_init_block", "sparse_local_block")
    sparse.ignore("sparse_num_index_heads", "sparse_score_type", "sparse_topk_blocks")
    sparse.skip("sparse_disable_index_value")
    if not sparse.flag("use_sparse_attention", True):
        return set(), 1
    listed = sparse.numbers("sparse_attention_freq")
    if listed is None or len(listed) != layers or set(listed) - {0, 1}:
        raise sparse.bad("sparse_attention_freq", f"{layers} values of 0 or 1")
    return {layer for layer, each in enumerate(listed) if each}, sparse.number("sparse_index_dim")


def _m3_sparse(keys: Keys, layers: int) -> tuple[set[int], int]:
    keys.ignore("index_n_heads", "index_block_size", "index_topk_blocks", "index_local_blocks")
    kinds = stated_schedule(keys, layers, "sparse_attention_config")
    check_kinds(keys, kinds, (FULL, "minimax_m3_sparse", "sparse_attention", "indexed_attention"))
    at = {layer for layer, kind in enumerate(kinds) if kind != FULL}
    return at, keys.number("index_head_dim")


def mllama(keys: Keys) -> list[list[Part]]:
    """Return self-attention; the cross-attention layers keep nothing per token of text."""
    layers = layers_of(keys)
    crossing = indices(keys, "cross_attention_layers", layers)
    full = parts.full(kv_heads(keys, 8), head_dim(keys))
    cross = parts.none("cross-attention to an image: nothing per token of text")
    return [[cross if layer in crossing else full] for layer in range(layers)]


def hunyuan(keys: Keys) -> list[list[Part]]:
    """Return GQA layers, of which groups may share the first one's cache.

    Source: SGLang 0.5, models/hunyuan.py: cla_share_factor.
    """
    layers = layers_of(keys)
    keys.must_be("use_mla", False)
    if keys.stated("use_mla"):
        keys.ignore("kv_lora_rank", "q_lora_rank", "qk_rope_head_dim", "qk_nope_head_dim")
        keys.ignore("v_head_dim")
    part = parts.full(kv_heads(keys), head_dim(keys, key=_hunyuan_dim(keys)))
    factor = 1
    if keys.flag("use_cla", False):
        factor = keys.number("cla_share_factor", 1)
    keys.ignore("cla_share_factor")
    shares = parts.none("shares the KV of an earlier layer")
    return [[shares if layer % factor else part] for layer in range(layers)]


def _hunyuan_dim(keys: Keys) -> str:
    """Return the key of the width: head_dim, or attention_head_dim in the older files."""
    if "head_dim" in keys and "attention_head_dim" in keys:
        keys.first(("head_dim", "attention_head_dim"))
    return "head_dim" if "head_dim" in keys else "attention_head_dim"


def laguna(keys: Keys) -> list[list[Part]]:
    """Return full layers and windows of one width; only the query heads differ by layer."""
    layers = layers_of(keys)
    keys.skip("num_attention_heads_per_layer")
    keys.ignore(HEADS, "sliding_window")
    heads, dim = keys.number("num_key_value_heads"), keys.number("head_dim")
    return by_kind(
        keys,
        stated_schedule(keys, layers),
        {
            FULL: lambda: parts.full(heads, dim),
            SLIDING: lambda: windowed(keys, heads, dim, keys.number("sliding_window")),
        },
    )


READERS: dict[str, Reader] = {
    "gemma3n_text": gemma3n,
    "gemma4_text": gemma4,
    "gemma4_unified_text": gemma4,
    "hunyuan": hunyuan,
    "hunyuan_v1_dense": hunyuan,
    "hunyuan_v1_moe": hunyuan,
    "laguna": laguna,
    "mimo_v2_flash": mimo,
    "minimax_m3": minimax_m3,
    "minimax_m3_vl_text": minimax_m3,
    "mllama_text_model": mllama,
    "nemotron-nas": nemotron_nas,
    "step3_text": step3,
    "step3p5": step35,
    "step3p7": step35,
    "step3p7_text": step35,
}
