"""What some types need beyond their class's defaults to build and run."""

from __future__ import annotations

from typing import Any

ROPE = {"rope_theta": 10000.0, "rope_type": "default"}
MROPE = ROPE | {"partial_rotary_factor": 0.5, "mrope_section": [8, 12, 12]}
SMALL_MROPE = ROPE | {"partial_rotary_factor": 0.5, "mrope_section": [4, 4, 3]}
EXPERTS = {"num_experts": 8, "top_k_experts": 2, "moe_intermediate_size": 64}
INDEXER = {
    "indexer_n_heads": 4,
    "indexer_kv_heads": 1,
    "indexer_head_dim": 256,
    "indexer_budget": 2048,
    "indexer_compress_ratio": 4,
}
HUNYUAN_VL = {
    "head_dim": 128,
    "rope_parameters": ROPE | {"mrope_section": [16, 16, 16, 16]},
}
OCR = {"num_experts_per_tok": 6, "num_hidden_layers": 12, "mlp_layer_types": ["sparse"] * 12}

# Encoders, unless told to decode.
DECODERS = (
    "bert", "bert-generation", "big_bird", "camembert", "data2vec-text", "electra", "ernie",
    "megatron-bert", "reformer", "rembert", "roberta", "roberta-prelayernorm", "roc_bert",
    "roformer", "xlm-roberta", "xlm-roberta-xl",
)  # fmt: skip

# Keys without which the default configuration builds no model, or one that cannot run.
OVERRIDES: dict[str, dict[str, Any]] = {
    "bamba": {"attn_layer_indices": [9, 18, 27]},
    "chameleon": {"vocabulary_map": {"<image>": 8711}},
    "cohere_compass": {"text_config": {"rope_parameters": {"full_attention": ROPE}}},
    "cohere_compass_text": {"rope_parameters": {"full_attention": ROPE}},
    "dbrx": {"attn_config": {"rope_theta": 10000.0, "clip_qkv": 8.0}},
    "deepseek_ocr2": {"text_config": OCR},
    "deepseek_ocr2_text": OCR,
    "deepseek_v2": {"num_experts_per_tok": 6},
    "diffusion_gemma": {"text_config": EXPERTS},
    "diffusion_gemma_text": EXPERTS,
    "dots1": {"n_routed_experts": 8, "n_shared_experts": 1, "num_experts_per_tok": 2},
    "glm46v": {"text_config": {"rope_parameters": MROPE}},
    "glm4v": {"text_config": {"rope_parameters": MROPE}},
    "glm4v_moe": {"text_config": {"rope_parameters": SMALL_MROPE}},
    "glm4v_moe_text": {"rope_parameters": SMALL_MROPE},
    "glm4v_text": {"rope_parameters": MROPE},
    "glm_image": {"text_config": {"rope_parameters": MROPE}},
    "glm_image_text": {"rope_parameters": MROPE},
    "glmga": {"text_config": {"rope_parameters": MROPE}},
    "granitemoehybrid": {"layer_types": [*["linear_attention"] * 7, "full_attention"] * 4},
    "hunyuan_v1_dense": {"head_dim": 128},
    "hunyuan_v1_moe": {"head_dim": 128},
    "hunyuan_vl": {"text_config": HUNYUAN_VL},
    "hunyuan_vl_text": HUNYUAN_VL,
    "lfm2_moe": {"layer_types": (["conv", "conv", "full_attention"] * 11)[:32]},
    "ministral": {"head_dim": 128},
    "moonshine_streaming": {"num_key_value_heads": 8},
    "nemotron": {"head_dim": 128, "num_key_value_heads": 8},
    "qwen4_exp": {"text_config": INDEXER},
    "qwen4_exp_text": INDEXER,
    "step3p5": {"sliding_window": 512},
    "step3p7": {"text_config": {"sliding_window": 512}},
    **{name: {"is_decoder": True} for name in DECODERS},
}

# Types whose forward pass needs real data: run on the CPU, smaller where that can't shape a cache.
ON_CPU: dict[str, dict[str, Any]] = {
    "big_bird": {"intermediate_size": 16},
    "jetmoe": {"intermediate_size": 16, "num_local_experts": 2, "vocab_size": 64},
    "megatron-bert": {"intermediate_size": 16},
    "rembert": {"intermediate_size": 16, "vocab_size": 512, "output_embedding_size": 16},
    "roformer": {"intermediate_size": 16},
}

# Token ids with a codebook axis: (before the token axis, after it).
CODEBOOKS: dict[str, tuple[int, int]] = {
    "dia": (0, 9),
    "dia_decoder": (0, 9),
    "kyutai_speech_to_text": (0, 33),
    "musicgen": (4, 0),
    "musicgen_decoder": (4, 0),
    "musicgen_melody": (4, 0),
    "musicgen_melody_decoder": (4, 0),
}

# Types that keep nothing themselves, each with its reason.
NO_CACHE = {
    "xlnet": "keeps hidden states (mems) rather than keys and values, and by default none",
    "gemma4_assistant": "a drafter that reads the target model's keys and values",
    "gemma4_unified_assistant": "a drafter that reads the target model's keys and values",
}
