"""Keys that may shape the cache: an unread one is refused by name."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from kvtrace.errors import TraceError
from kvtrace.models.config_json.keys import HINT

if TYPE_CHECKING:
    from kvtrace.models.config_json.keys import Keys

STATES_GEOMETRY = re.compile(
    r"layer.*type|type.*layer|pattern|_period$|_offset$|_indices$|_idxs?$|_layer_ids$|^block_"
    r"|block_(types|configs|list)|attn_type|attention_type|linear_attn|(^|_)mamba|(^|_)ssm(_|$)"
    r"|conv_|cross_attention_layers|(^|_)cla(_|$)|compress|indexer|_group_size$|kv_head|key_value"
    r"|heads_kv|head_kv|multi_query|attention_groups|kv_channels|head_(dim|size)|(^|_)swa(_|$)"
    r"|kv_shared|shared_kv|kv_layers|per_layer|window|kv_lora|state_(size|dim)|interval|share_factor"
    r"|layers$|^index_|layer_(ids|list|map|config|schedule)|schedule|^layers_|hybrid|recurrent|attn_layer"
)
"""Words of keys that state a schedule of layers, heads, sharing or state, whatever else is said."""

SHAPING = re.compile(
    r"layer|head|(^|_)kvs?(_|$)|cache|attn|attention|sliding|indices|_ids$|block|conv|state|(^|_)linear(_|$)"
    r"|index_|group|shar(e|ed|ing)(_|$)|chunk|channels|(^|_)dims?(_|$)|rank|lora|latent|lightning"
    r"|query|(^|_)keys?(_|$)|values?(_|$)|freq|hidden|d_model|embd|global|local|sparse|expand"
    r"|memory|width|lru|rnn|retention|loop|stage|span|reuse|depth|kinds?$|types?$|mixer|stride"
    r"|kernel|architecture|gqa|mqa|mha|mla|delta|kda|gdn|cross"
)
"""Weaker signs, which a harmless word outweighs."""

_HARMLESS_WORDS = """
    dropout pdrop bias eps epsilon act activation initializer norm norms layernorm rmsnorm qknorm
    rope rotary softcap softcapping logit logits scaling scale multiplier multipliers clip theta
    vision image images audio video visual speech mm vit projector pixel patch expert experts moe
    router routing topk mlp ffn ff fc dense aux score scoring sinkhorn gate gating mtp nextn eagle
    draft vocab gated pool embedding embeddings embed tokenizer tie label labels label2id id2label
    quant quantization auto norms token tokens std tp ep pp beam beams dt sink hc altup laurel
"""
HARMLESS = re.compile("(^|_)(" + "|".join(_HARMLESS_WORDS.split()) + ")(_|$)|norm|dropout|_act_")
"""Words of keys about something else: positions, experts, normalisation, other modalities."""

_IGNORED = """
    _attn_implementation attn_implementation _attn_implementation_internal attn_pdrop
    activation_sparsity_pattern add_cross_attention apply_residual_connection_post_layernorm
    attention_dropout attention_bias attention_gate attn_gate attention_chunk_attn
    attention_softmax_in_fp32 attn_output_gate attention_output_gate attn_res_block_size
    attn_scale attn_temperature_tuning cache_implementation chunk_size_feed_forward
    cross_attention_hidden_size decoder_sparse_step expert_layer_offset expert_layer_period
    first_k_dense_replace hidden_size hidden_size_per_layer_input interleave_moe_layer_step
    intermediate_size is_decoder is_encoder_decoder layer_rope_theta layerdrop logits_to_keep
    mla_use_nope mla_use_output_gate mlp_layer_types mlp_only_layers moe_layer_end_index
    moe_layer_freq moe_layer_interval moe_layer_start_index moe_layers moe_layers_enum
    mtp_layer_types mtp_layers_block_type mtp_hybrid_override_pattern mtp_mlp_layer_types
    mtp_num_hidden_layers mtp_num_layers mtp_transformer_layers num_nextn_predict_layers
    no_rope_layer_interval no_rope_layers num_dense_layers num_hash_layers
    num_ln_in_parallel_attn output_attentions output_hidden_states parallel_attn pretraining_tp
    qk_layernorm query_pre_attn_scalar reorder_and_upcast_attn residual_in_fp32
    rescale_prenorm_residual return_dict return_dict_in_generate routed_expert_hidden_size
    scale_attn_weights scale_attn_by_inverse_layer_idx scale_attention_softmax_in_fp32
    shared_expert_intermediate_size shared_intermediate_size share_expert_dim tf_legacy_loss
    torchscript type_vocab_size use_attention_gate use_cache
    use_double_wide_mlp use_mamba_kernels use_mambapy vocab_size_per_layer_input
    mamba_hidden_act hidden_mamba_act mamba_conv_bias mamba_proj_bias mamba_rms_norm
    mamba_norm_before_gate mamba_dt_min mamba_dt_max mamba_dt_limit mamba_dt_init_floor
    use_conv_bias conv_bias conv_use_xavier_init block_multiple_of block_ffn_dim_multiplier
    block_auto_adjust_ff_dim block_mlp_init_scale block_norm_eps block_out_init_scale
    block_use_swiglu block_use_xavier_init block_ff_dim block_dim attention_in_multiplier
    attention_out_multiplier attention_multiplier ssm_multipliers ssm_in_multiplier
    ssm_out_multiplier key_multiplier linear_a_log_min linear_a_log_max linear_dt_min
    linear_dt_max linear_dt_init_floor linear_allow_neg_eigval linear_silu
    full_attn_alpha_factor full_attn_beta_factor linear_attn_alpha_factor
    linear_attn_beta_factor group_norm_size group_routing hidden_act hidden_activation
    hidden_dropout hidden_dropout_prob attention_value_scale add_swa_attention_sink_bias
    add_full_attention_sink_bias swa_rope_theta compress_rope_theta indexer_rope_interleave
    index_share_for_mtp_iteration position_embedding_type prefix pruned_heads
    task_specific_params torch_dtype dtype transformers_version problem_type model_type
    architectures _name_or_path name_or_path tie_word_embeddings expert_dtype
    keys_to_ignore_at_inference use_shared_attention_adapter use_long_context linear_scaling
    latent_moe_use_norm per_layer_norm n_group topk_group num_expert_group n_expert_groups
    altup_active_idx summary_type vq_config kda_safe_gate kda_lower_bound no_kda_lora
    _attn_implementation_autoset _flash_attn_2_enabled use_flash_attn use_flash_attention
    compression_config js_config perceiver_config seconds_per_chunk time_step_rank
    mla_scale_kv_lora mla_scale_q_lora mamba_use_mlp
    num_experts_per_group
"""

_PLAIN = """
    max_position_embeddings original_max_position_embeddings model_max_length max_seq_len
    n_positions n_ctx seq_length max_length min_length initial_context_length intermediate_size
    use_return_dict num_return_sequences dim_model_base diversity_penalty
    exponential_decay_length_penalty no_repeat_ngram_size
    encoder_no_repeat_ngram_size remove_invalid_values finetuning_task use_bfloat16
    tie_encoder_decoder tokenizer_class temperature
    top_k top_p typical_p repetition_penalty length_penalty
    do_sample
"""

IGNORED = frozenset(_IGNORED.split())
"""Keys of real configurations that sound like the cache's and don't shape it."""


PLAIN = frozenset(_PLAIN.split())
"""Further keys that are harmless in a type that isn't known."""


def refuse_unread(keys: Keys, *, strict: bool = False, wrapper: bool = False) -> None:
    """Raise TraceError naming an unread key that may shape the cache.

    `strict`, for types that aren't known: any key that isn't known to be harmless is refused.
    `wrapper`: the object holds the language model's beside those of other modalities, and has
    geometry of its own only if a key says so outright.
    """
    for name, value in keys.unread():
        key = name.rpartition(".")[2]
        if wrapper and name.endswith("_config") and isinstance(value, dict):
            continue
        if wrapper and not STATES_GEOMETRY.search(key.lower()):
            continue
        shaping = _shaping(key, value)
        if strict and shaping is None and value is not False and not _harmless(key):
            shaping = ""
        if shaping is not None:
            raise TraceError(
                f"a key that isn't understood for this model: {name}"
                + (f".{shaping}" if shaping else ""),
                where=keys.where,
                got=_value(value),
                hint=HINT,
            )


def _harmless(key: str) -> bool:
    return key in IGNORED or key in PLAIN or bool(HARMLESS.search(key.lower()))


def _shaping(key: str, value: Any) -> str | None:
    """Return where in `value` a shaping key stands, "" for the key itself, None for nowhere."""
    if value is False or value == [] or value == {}:
        return None
    if key in IGNORED:
        return None
    lower = key.lower()
    if STATES_GEOMETRY.search(lower):
        return ""
    if HARMLESS.search(lower):
        return None
    if SHAPING.search(lower):
        return ""
    if isinstance(value, dict):
        for inner, deeper in value.items():
            place = _shaping(str(inner), deeper)
            if place is not None and deeper is not None:
                return f"{inner}.{place}" if place else str(inner)
    return None


def _value(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
