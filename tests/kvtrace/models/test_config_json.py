"""Reading `config.json`: right or refused, by what engines keep of each architecture."""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING, Any

import pytest

from kvtrace.errors import KvtraceError, TraceError, UsageError
from kvtrace.models import Model, load_model
from kvtrace.models.config_json import read
from kvtrace.models.config_json.families import readers
from kvtrace.models.config_json.refused import REFUSED
from kvtrace.models.geometry import validated
from tests.support import places

if TYPE_CHECKING:
    from collections.abc import Iterator

SAMPLES = places.SAMPLES / "models"
needs_samples = pytest.mark.skipif(not SAMPLES.is_dir(), reason="needs the sample models")

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "torch_dtype": "bfloat16",
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "hidden_size": 4096,
}
MLA: dict[str, Any] = {
    "model_type": "deepseek_v3",
    "torch_dtype": "bfloat16",
    "num_hidden_layers": 61,
    "kv_lora_rank": 512,
    "qk_rope_head_dim": 64,
}
SPARSE = MLA | {"model_type": "deepseek_v32", "index_head_dim": 128}
QWEN_NEXT = {
    "model_type": "qwen3_next",
    "torch_dtype": "bfloat16",
    "num_hidden_layers": 48,
    "num_attention_heads": 16,
    "num_key_value_heads": 2,
    "head_dim": 256,
    "full_attention_interval": 4,
    "linear_num_key_heads": 16,
    "linear_num_value_heads": 32,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "linear_conv_kernel_dim": 4,
}
GPT_OSS = {
    "model_type": "gpt_oss",
    "dtype": "bfloat16",
    "num_hidden_layers": 24,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "sliding_window": 128,
    "layer_types": ["sliding_attention", "full_attention"] * 12,
}
JAMBA = {
    "model_type": "jamba",
    "dtype": "bfloat16",
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "hidden_size": 4096,
    "attn_layer_period": 8,
    "attn_layer_offset": 4,
    "mamba_expand": 2,
    "mamba_d_state": 16,
    "mamba_d_conv": 4,
    "mamba_dt_rank": 256,
}
NEMOTRON_H = {
    "model_type": "nemotron_h",
    "dtype": "bfloat16",
    "hybrid_override_pattern": "MEM*-",
    "num_attention_heads": 32,
    "num_key_value_heads": 2,
    "head_dim": 128,
    "mamba_num_heads": 64,
    "mamba_head_dim": 64,
    "ssm_state_size": 128,
    "n_groups": 8,
    "conv_kernel": 4,
    "mamba_ssm_cache_dtype": "float32",
}
KIMI = {
    "model_type": "kimi_linear",
    "dtype": "bfloat16",
    "num_hidden_layers": 4,
    "num_attention_heads": 32,
    "kv_lora_rank": 512,
    "qk_rope_head_dim": 64,
    "linear_attn_config": {
        "kda_layers": [1, 2, 3],
        "full_attn_layers": [4],
        "num_heads": 32,
        "head_dim": 128,
        "short_conv_kernel_size": 4,
    },
}
V4 = {
    "model_type": "deepseek_v4",
    "dtype": "bfloat16",
    "num_hidden_layers": 3,
    "num_attention_heads": 64,
    "num_key_value_heads": 1,
    "head_dim": 512,
    "qk_rope_head_dim": 64,
    "index_head_dim": 128,
    "sliding_window": 128,
    "compress_ratios": [0, 4, 128],
}
GEMMA4 = {
    "model_type": "gemma4_text",
    "dtype": "bfloat16",
    "num_hidden_layers": 12,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 256,
    "global_head_dim": 512,
    "num_global_key_value_heads": 2,
    "attention_k_eq_v": True,
    "num_kv_shared_layers": 0,
    "sliding_window": 1024,
    "layer_types": (["sliding_attention"] * 5 + ["full_attention"]) * 2,
}
FALCON = {
    "model_type": "falcon",
    "dtype": "bfloat16",
    "hidden_size": 8192,
    "num_attention_heads": 128,
    "num_hidden_layers": 60,
    "num_kv_heads": 8,
    "multi_query": True,
    "new_decoder_architecture": True,
}
MIXED = [LLAMA, MLA, SPARSE, QWEN_NEXT, GPT_OSS, JAMBA, NEMOTRON_H, KIMI, V4, GEMMA4, FALCON]


def model(config: Any) -> Model:
    return validated(read(config, "config.json"), "config.json")


def sizes(config: Any) -> tuple[float, int]:
    found = model(config)
    dtype = found.dtype or "bf16"
    return float(found.rank_bytes_per_token(1, dtype)), found.rank_bytes_per_sequence(1, dtype)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (LLAMA, (131_072, 0)),
        (LLAMA | {"num_key_value_heads": None}, (524_288, 0)),
        (LLAMA | {"text_config": None}, (131_072, 0)),
        (MLA, (70_272, 0)),
        (SPARSE, (78_324, 0)),
        (SPARSE | {"model_type": "glm_moe_dsa", "index_topk_freq": 4}, (61 * 1152 + 16 * 132, 0)),
        (QWEN_NEXT, (24_576, 77_266_944)),
        (GPT_OSS, (24_576, 3_145_728)),
        (JAMBA, (16_384, 28 * (8192 * 16 * 4 + 8192 * 3 * 2))),
        (NEMOTRON_H, (1024, 2 * 2_134_016)),
        (KIMI, (1152, 3 * (32 * 128 * 128 * 4 + 3 * 32 * 128 * 3 * 2))),
        # Compressed rows of 1,024 B and an index of 132 B per 4 tokens; of 1,024 B per 128.
        (V4, (289 + 8, 3 * 128 * 1024 + 8 * 8192 + 8 * 2048 + 128 * 4096)),
        (GEMMA4, (2 * 2 * 1024 * 2, 10 * 1024 * 8 * 512 * 2)),
        (GEMMA4 | {"num_kv_shared_layers": 6}, (2 * 1024 * 2, 5 * 1024 * 8 * 512 * 2)),
        (FALCON, (122_880, 0)),
        (FALCON | {"new_decoder_architecture": False}, (15_360, 0)),
        # As published, without what the class fills in: Gemma 3 4B, EXAONE 3.5, Command R7B.
        (
            {
                "model_type": "gemma3",
                "torch_dtype": "bfloat16",
                "text_config": {
                    "model_type": "gemma3_text",
                    "hidden_size": 2560,
                    "num_hidden_layers": 34,
                    "sliding_window": 1024,
                },
            },
            (5 * 4 * 512 * 2, 29 * 1024 * 4 * 512 * 2),
        ),
        (
            LLAMA | {"model_type": "exaone", "num_hidden_layers": None, "num_layers": 32},
            (131_072, 0),
        ),
        (
            LLAMA
            | {
                "model_type": "cohere2",
                "layer_switch": 4,
                "order_of_interleaved_layers": "local_attn_first",
                "sliding_window": 4096,
                "sliding_window_pattern": 4,
                "max_position_embeddings": 132_096,
            },
            (8 * 8 * 256 * 2, 24 * 4096 * 8 * 256 * 2),
        ),
        (
            {
                "model_type": "step3_text",
                "dtype": "bfloat16",
                "num_hidden_layers": 61,
                "num_attention_heads": 64,
                "num_attention_groups": 1,
                "head_dim": 256,
            },
            (62_464, 0),
        ),
        (
            MLA | {"model_type": "longcat_flash", "num_hidden_layers": None, "num_layers": 28},
            (64_512, 0),
        ),
        (
            LLAMA | {"model_type": "hunyuan", "use_cla": True, "cla_share_factor": 2},
            (65_536, 0),
        ),
    ],
)
def test_sizes(config: dict[str, Any], expected: tuple[int, int]) -> None:
    """Bytes per token and per sequence are those that engines keep of the architecture."""
    assert sizes(config) == expected


@needs_samples
def test_every_sample_is_right_or_refused() -> None:
    """All sample models come to their sizes as worked out by hand; none is silently wrong."""
    wrong = {}
    with (SAMPLES / "expected.csv").open() as file:
        rows = list(csv.DictReader(file))
    exact = 0
    for row in rows:
        try:
            loaded = load_model(str(SAMPLES / row["file"]))
            dtype = loaded.dtype or "bf16"
            got = loaded.rank_bytes_per_token(1, dtype), loaded.rank_bytes_per_sequence(1, dtype)
        except KvtraceError as error:
            if row["bytes_per_token"] not in ("see note", "refuse"):
                wrong[row["file"]] = str(error)
            continue
        stated = (row["bytes_per_token"], row["bytes_per_sequence"])
        if stated[0] == "see note":
            assert got[0] > 0
        elif str(got[0]) != stated[0] or (stated[1] and str(got[1]) != stated[1]):
            wrong[row["file"]] = f"{got}, not {stated}"
        else:
            exact += 1
    assert not wrong
    assert exact == sum(row["bytes_per_token"].isdigit() for row in rows) == 67


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"num_key_value_heads": [2, 2, 4, 4]}, "num_key_value_heads"),
        ({"num_key_value_heads": "8"}, "num_key_value_heads"),
        ({"num_key_value_heads": 5}, "num_key_value_heads"),
        ({"num_hidden_layers": True}, "num_hidden_layers"),
        ({"num_hidden_layers": None}, "num_hidden_layers"),
        ({"head_dim": 0}, "head_dim"),
        ({"hidden_size": 4095}, "hidden_size"),
        ({"layer_types": ["full_attention"]}, "layer_types"),
        ({"layer_types": ["odd"] * 32}, "unknown kind of layer"),
        ({"sliding_window": 4096}, "sliding_window"),
        ({"kv_lora_rank": 512}, "kv_lora_rank"),
        (
            {"model_type": "mistral", "sliding_window": 64, "use_sliding_window": False},
            "use_sliding",
        ),
        ({"model_type": "qwen3_5"}, "text_config"),
        ({"model_type": "rwkv6"}, "isn't read"),
        (
            {
                "model_type": "deepseek_v2",
                "kv_lora_rank": 512,
                "qk_rope_head_dim": 64,
                "use_mla": False,
            },
            "use_mla",
        ),
        ({"attention_head_dim": 64}, "attention_head_dim"),
        ({"model_type": "t5"}, "encoder-decoder"),
        ({"is_encoder_decoder": True}, "is_encoder_decoder"),
        ({"model_type": 7}, "model_type"),
        ({"torch_dtype": 2}, "torch_dtype"),
        ({"text_config": [1]}, "text_config"),
        ({"text_config": {"model_type": "llama"}}, "num_hidden_layers"),
        ({"attention": {"num_kv_heads": 4}}, "attention"),
        ({"more": {"of": {"layer_pattern": "LG"}}}, "more.of.layer_pattern"),
    ],
)
def test_what_is_not_understood_is_refused_by_name(change: dict[str, Any], named: str) -> None:
    """A value of the wrong type, or one that contradicts another, is an error with its key."""
    with pytest.raises(TraceError, match=named):
        sizes(LLAMA | change)


SCHEDULES: dict[str, Any] = {
    "layer_types_2": ["full_attention"],
    "attn_pattern": "LLLG",
    "window_pattern": 4,
    "global_period": 4,
    "attn_layer_period": 4,
    "attn_layer_offset": 2,
    "full_indices": [3, 7],
    "dense_layer_ids": [3],
    "block_types": ["recurrent", "attention"],
    "block_configs": [{}],
    "attn_types": [0, 1],
    "linear_attn": {"heads": 2},
    "mamba_d_inner": 8192,
    "ssm_cfg": {"layer": "Mamba2"},
    "conv_kernel_size": 4,
    "cross_attention_layers_2": [3],
    "use_cla_2": 2,
    "use_cla": 2,
    "compress_rate": [4],
    "indexer_kind": ["full"],
    "kv_group_size": 4,
    "num_kv_heads_2": 4,
    "multi_query_2": True,
    "num_attention_groups_2": 4,
    "kv_channels_2": 64,
    "attention_head_dim_2": 64,
    "v_head_dim_2": 64,
    "global_head_dim_2": 512,
    "num_global_key_value_heads_2": 2,
    "swa_num_heads": 4,
    "num_swa_layers": 12,
    "num_kv_shared": 4,
    "kv_shared_layers": 4,
    "per_layer": {"3": {"head_dim": 64}},
    "layers_per_group": 2,
    "attention_window": 512,
    "kv_cache_layers": [1, 2],
}


@pytest.mark.parametrize("key", SCHEDULES)
def test_an_unknown_schedule_is_refused(key: str) -> None:
    """A schedule, head geometry or sharing that a type isn't known to have is refused by name."""
    for config in MIXED:
        if key not in config:
            with pytest.raises(TraceError, match=key):
                sizes(config | {key: SCHEDULES[key]})


def changed(config: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for key, value in config.items():
        rest = {name: each for name, each in config.items() if name != key}
        yield key, "renamed", rest | {f"{key}_2": value}
        yield key, "prefixed", rest | {f"x_{key}": value}
        yield key, "nested", rest | {key: {"value": value}}
        yield key, "moved", rest | {"attention_config": {key: value}}
        yield key, "in a list", rest | {key: [value]}
        yield key, "null", rest | {key: None}


HARMLESS_WHEN_NULL = {
    "full_attention_interval",
    "mamba_ssm_cache_dtype",
    "mamba_dt_rank",
    "num_kv_shared_layers",
    "multi_query",
}
"""Keys whose value here is what the class fills in, or that the class ignores beside another."""
NOT_OF_THE_CACHE = {"dtype", "torch_dtype", "model_type", "mamba_dt_rank"}
UNUSED = {("deepseek_v4", "num_attention_heads"), ("deepseek_v4", "num_key_value_heads")}
"""The type's code keeps one vector per row, whatever these say."""


@pytest.mark.parametrize("config", MIXED, ids=lambda config: str(config["model_type"]))
def test_a_changed_key_changes_the_size_or_is_refused(config: dict[str, Any]) -> None:
    """Renamed, nested, listed or null: a key that shapes the cache is never passed over."""
    before = sizes(config)
    for key, how, mutant in changed(config):
        if key in NOT_OF_THE_CACHE or (config["model_type"], key) in UNUSED:
            continue
        try:
            after = sizes(mutant)
        except (TraceError, UsageError):
            continue
        by_default = how == "null" and (key in HARMLESS_WHEN_NULL or key == "layer_types")
        unused = key in ("num_attention_heads", "multi_query") and after == before
        assert after != before or by_default or (unused and how == "null"), (key, how)


def test_the_changes_are_of_keys_that_shape_the_cache() -> None:
    """Each number of the configurations above matters: another value gives another size."""
    unchanged = set()
    for config in MIXED:
        for key, value in config.items():
            if isinstance(value, int) and not isinstance(value, bool):
                try:
                    same = sizes(config | {key: 2 * value}) == sizes(config)
                except TraceError:
                    continue
                if same:
                    unchanged.add(key)
    assert unchanged <= {
        "num_attention_heads",
        "num_key_value_heads",
        "full_attention_interval",
        "mamba_dt_rank",
        "num_kv_shared_layers",  # twice 0
        "qk_rope_head_dim",  # of DeepSeek V4: only in fp8
    }


def test_dtype_is_settled_by_the_caller_where_the_file_states_none() -> None:
    """Without a dtype, or with one that is none, sizes need `--dtype`; never 2 bytes by guess."""
    for dtype in (None, "auto", "int3"):
        found = model(LLAMA | {"torch_dtype": dtype})
        with pytest.raises(UsageError, match="dtype"):
            found.rank_bytes_per_token()
        assert found.rank_bytes_per_token(1, "fp8") == 65_536


def test_dtype_beside_the_text_model() -> None:
    """The dtype may stand one level up; two that differ are none, and need --dtype."""
    text = {key: value for key, value in LLAMA.items() if key != "torch_dtype"}
    outer = {"model_type": "mistral3", "dtype": "float32", "text_config": text}
    assert sizes(outer) == (262_144, 0)
    both = model(outer | {"text_config": text | {"dtype": "bfloat16"}})
    with pytest.raises(UsageError, match="bfloat16 or float32"):
        both.rank_bytes_per_token()
    assert both.rank_bytes_per_token(1, "bf16") == 131_072


@pytest.mark.parametrize(
    "scheme",
    [
        {"kv_cache_scheme": {"num_bits": 8, "type": "float"}},
        {"kv_cache_quant_algo": "FP8"},
        {"kv_cache_scheme": "FP8"},
    ],
)
def test_a_stated_cache_type_is_noted(scheme: dict[str, Any]) -> None:
    """A quantised cache that the file states is a note that names --dtype, never passed over."""
    found = model(LLAMA | {"quantization_config": scheme})
    (note,) = found.notes_on(1)
    assert "--dtype fp8" in note
    assert next(iter(scheme)) in note
    assert not found.notes_on(1, "fp8")
    assert not model(LLAMA | {"quantization_config": {"kv_cache_scheme": None}}).notes_on(1)


def test_fp8_rows_of_sparse_latent_attention() -> None:
    """Sparse MLA keeps fp8 rows of 656 B with scales; DeepSeek V4 keeps rows of 584 B."""
    assert model(SPARSE).rank_bytes_per_token(1, "fp8") == 61 * 788
    assert model(MLA).rank_bytes_per_token(1, "fp8") == 61 * 576
    v4 = model(V4)
    assert v4.rank_bytes_per_token(1, "fp8") == (584 + 132) / 4 + 584 / 128
    assert load_model("deepseek-v3.2").rank_bytes_per_token(1, "fp8") == 61 * 788


def test_an_unknown_type_is_read_only_if_the_file_states_all() -> None:
    """Grouped-query attention by stated keys, with a note; any further key is refused."""
    config = LLAMA | {"model_type": "new"}
    assert sizes(config) == (131_072, 0)
    assert "isn't known" in model(config).notes[0]
    for change in ({"num_key_value_heads": None}, {"something": 3}, {"model_type": None}):
        with pytest.raises(TraceError):
            sizes(config | change)


def test_no_type_is_both_read_and_refused() -> None:
    """The types that are refused have no reader."""
    assert not REFUSED.keys() & readers().keys()
    for name, reason in REFUSED.items():
        with pytest.raises(TraceError, match="isn't read"):
            sizes(LLAMA | {"model_type": name})
        assert reason


def test_a_scaled_context_outgrows_a_window() -> None:
    """A window of all positions is full, unless scaling makes the context longer than it."""
    config = LLAMA | {
        "model_type": "mistral",
        "sliding_window": 4096,
        "max_position_embeddings": 4096,
    }
    assert sizes(config) == (131_072, 0)
    for scaling in (
        {"type": "yarn", "factor": 8, "original_max_position_embeddings": 4096},
        {"rope_type": "linear", "factor": 2.0},
    ):
        assert sizes(config | {"rope_scaling": scaling}) == (0, 4096 * 131_072)
    assert sizes(config | {"rope_scaling": {"rope_type": "llama3", "factor": 8}}) == (131_072, 0)


def test_ranks_divide_the_attention_heads() -> None:
    """28 heads can't be shared by 8 ranks, even where the 4 KV heads could be copied."""
    qwen = model(LLAMA | {"num_attention_heads": 28, "num_key_value_heads": 4, "hidden_size": 3584})
    assert qwen.check_parallel(4) == []
    with pytest.raises(UsageError, match="28 attention heads"):
        qwen.check_parallel(8)


@pytest.mark.parametrize(
    "key",
    ["_attn_implementation_autoset", "use_flash_attn", "compression_config", "init_nonlinearity"],
)
def test_harmless_keys_of_published_files_are_read_over(key: str) -> None:
    """Keys that tools leave in files and that only sound like the cache's aren't refused."""
    assert sizes(LLAMA | {key: {"format": "x"} if key == "compression_config" else True}) == (
        131_072,
        0,
    )


def test_a_wrapper_may_repeat_its_language_model() -> None:
    """Keys beside text_config are read over where they say the same, and refused where not."""
    outer = LLAMA | {"model_type": "qwen2_vl", "text_config": LLAMA}
    assert sizes(outer) == (131_072, 0)
    with pytest.raises(TraceError, match="num_key_value_heads"):
        sizes(outer | {"num_key_value_heads": 4})
