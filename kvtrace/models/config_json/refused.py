"""Types of models that are known and not read, each with the reason."""

from __future__ import annotations

_EXPANDED = "engines differ on whether its latent attention is kept expanded"
_ENCODER = "an encoder-decoder: its cache also depends on the encoder's input"
_NO_CACHE = "an encoder or another part of a model: it keeps no KV cache of its own"
_OWN = "what it keeps isn't settled here"

_ENCODER_DECODERS = """
    bart bigbird_pegasus blenderbot blenderbot-small encoder-decoder fsmt led longt5 m2m_100
    marian mbart mt5 mvp nllb-moe pegasus pegasus_x plbart prophetnet speech_to_text
    switch_transformers t5 t5gemma t5gemma2 t5gemma2_decoder t5_gemma_module trocr udop umt5
    vision-encoder-decoder whisper
"""

_ENCODERS = """
    bert blt_global_transformer blt_local_decoder blt_local_encoder blt_patcher camembert d_fine
    deberta deberta-v2 deepseek_ocr2_encoder deimv2 dia_encoder dots3_note_audio_encoder
    efficientloftr electra embedding_gemma2_text esmc eurobert exaone4_5_vision gemma4_vision
    glmasr_encoder granite_speech5_encoder hunyuan_vl_vision hy_v4_vl_vision idefics2_perceiver
    kosmos_2_5_vision_model lasr_encoder lfm3_vl_vision lightglue mimi mimi_decoder mimi_encoder
    modernbert molmo2_adapter molmo2_vision moonshine_streaming moonshine_streaming_encoder
    nemotron3_5_transcribe_asr_audio nemotron3_5_transcribe_word_timestamp
    nemotron3_diarization_audio nemotron_asr_streaming_encoder neomme neucodec nomic_bert
    openai_privacy_filter parakeet_encoder pe_audio_encoder pe_audio_video_encoder
    pe_video_encoder pixtral pocket_tts_audio_tokenizer pocket_tts_audio_tokenizer_decoder
    pocket_tts_audio_tokenizer_encoder qwen2_5_omni_dit roberta t5gemma2_text timesfm timesfm2_5
    ultrabert voxtral_realtime_encoder xcodec2 xlm-roberta
"""

_OTHERS = """
    axk2 canary_decoder cohere_asr csm csm_depth_decoder_model dia_decoder diffusion_gemma_text
    doge dory dots3_note_text evolla glm5_next_text gradium_phonon_tts higgs_audio_v2 hrm_text
    inkling2_loop_text inkling2_text inkling_text kyutai_speech_to_text mistral_large4_text
    molmo2_text moshi moshi_depth muse_glimmer_assistant muse_glimmer_text muse_spark_text
    pocket_tts qwen2_5_omni_talker qwen3_omni_moe_talker_code_predictor
    qwen3_omni_moe_talker_text qwen4_exp_text reformer rwkv unlimited_ocr_text xlstm zaya
"""

_WRAPPERS = """
    gemma3 gemma3n gemma4 gemma4_unified idefics2 idefics3 internvl internvl_chat kimi_k25 kimi_k3
    kimi_vl llama4 llava llava_next llava_onevision minimax_m3_vl mistral3 mllama paligemma pixtral
    qwen2_5_omni qwen3_5 qwen3_5_moe qwen3_omni_moe qwen3_vl qwen3_vl_moe smolvlm step3_vl
"""

_UNSETTLED = """
    albert hymba jet_nemotron nemotron_flash phi4flash rwkv5 rwkv6 rwkv7 samba
"""

REFUSED: dict[str, str] = {
    **dict.fromkeys(_WRAPPERS.split(), "its language model should stand in text_config"),
    **dict.fromkeys(_UNSETTLED.split(), _OWN),
    **dict.fromkeys(
        _ENCODER_DECODERS.split(),
        _ENCODER,
    ),
    **dict.fromkeys(
        _ENCODERS.split(),
        _NO_CACHE,
    ),
    **dict.fromkeys(_OTHERS.split(), _OWN),
    "minicpm3": _EXPANDED,
}
