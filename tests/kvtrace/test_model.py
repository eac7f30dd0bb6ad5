"""KV geometry: every size of docs/workload.md, exactly."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from kvtrace.errors import KvtraceError, TraceError, UsageError
from kvtrace.models import load_model, model_names, models

if TYPE_CHECKING:
    from pathlib import Path

# Bytes per token and per sequence in bf16, all ranks together at TP 1 (docs/models.md).
TABLE = {
    "llama2-7b": (524_288, 0),
    "llama3.1-8b": (131_072, 0),
    "llama3.1-70b": (327_680, 0),
    "llama3.3-70b": (327_680, 0),
    "llama3.1-405b": (516_096, 0),
    "mistral-7b": (131_072, 0),
    "qwen2.5-7b": (57_344, 0),
    "qwen2.5-32b": (262_144, 0),
    "qwen2.5-72b": (327_680, 0),
    "qwen3-8b": (147_456, 0),
    "qwen3-32b": (262_144, 0),
    "qwen3-30b-a3b": (98_304, 0),
    "qwen3-235b-a22b": (192_512, 0),
    "qwen3-coder-480b": (253_952, 0),
    "glm-4.5": (376_832, 0),
    "glm-4.6": (376_832, 0),
    "glm-4.5-air": (188_416, 0),
    "minimax-m2": (253_952, 0),
    "deepseek-v3": (70_272, 0),
    "deepseek-r1": (70_272, 0),
    "kimi-k2": (70_272, 0),
    "deepseek-v3.2": (78_324, 0),
    "glm-5": (100_152, 0),
    "gpt-oss-20b": (24_576, 3_145_728),
    "gpt-oss-120b": (36_864, 4_718_592),
    "gemma3-27b": (81_920, 436_207_616),
    "llama4-scout": (49_152, 1_207_959_552),
    "llama4-maverick": (49_152, 1_207_959_552),
    "qwen3-next-80b": (24_576, 77_266_944),
    "kimi-k3": (27_648, 449_372_160),
    "tiny-1b": (24_576, 0),
}
REPLICATED = {"deepseek-v3", "deepseek-r1", "kimi-k2", "deepseek-v3.2", "glm-5"}


def test_the_table_is_whole() -> None:
    """Each model of the table is there, and no other."""
    assert set(model_names()) == set(TABLE)


@pytest.mark.parametrize("name", sorted(TABLE))
def test_bytes(name: str) -> None:
    """A model's bytes per token and per sequence are those of the table."""
    model = load_model(name)
    assert (model.rank_bytes_per_token(), model.rank_bytes_per_sequence()) == TABLE[name]
    assert model.replicated == (name in REPLICATED)


@pytest.mark.parametrize("name", ["llama3.1-8b", "qwen3-32b"])
def test_fp8_halves(name: str) -> None:
    """KV in fp8 takes half of bf16."""
    model = load_model(name)
    assert 2 * model.rank_bytes_per_token(1, "fp8") == model.rank_bytes_per_token(1, "bf16")


def test_tensor_parallelism() -> None:
    """GQA is divided by rank down to one head each, MLA is replicated on all of them."""
    llama, qwen, deepseek = map(load_model, ("llama3.1-70b", "qwen3-235b-a22b", "deepseek-v3"))
    assert llama.rank_bytes_per_token(8) * 8 == llama.rank_bytes_per_token(1)
    assert qwen.rank_bytes_per_token(8) * 8 == 2 * qwen.rank_bytes_per_token(1)
    assert deepseek.rank_bytes_per_token(8) == deepseek.rank_bytes_per_token(1)
    assert (llama.copies(8), deepseek.copies(8)) == (8, 1)


def test_every_model_states_its_expectation() -> None:
    """Each model file states what its geometry must come to, its source and the date."""
    for model in models():
        assert model.expected_bytes_per_token
        assert model.expected_bytes_per_sequence is not None
        assert model.source
        assert model.date


def toml(**changes: str) -> str:
    fields = {"name": '"mine"', "source": '"me"', "date": '"2026-01-01"', "dtype": '"bf16"'}
    lines = [f"{key} = {value}" for key, value in (fields | changes).items()]
    layers = '[[attention]]\nkind = "full"\nlayers = 2\nkv_heads = 4\nhead_dim = 64\n'
    return "\n".join(lines) + "\n" + layers


def test_custom_toml(tmp_path: Path) -> None:
    """A model of one's own is one TOML file."""
    path = tmp_path / "mine.toml"
    path.write_text(toml())
    assert load_model(str(path)).rank_bytes_per_token() == 2 * 2 * 4 * 64 * 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (toml(dtype='"int3"'), "unknown dtype"),
        (toml(expected_bytes_per_token="7"), "doesn't come to the stated bytes per token"),
        (toml(colour='"red"'), "colour"),
        ("name = ", "not TOML"),
        ('name = "x"\nsource = "s"\ndate = "d"\nattention = []', "attention"),
    ],
)
def test_bad_toml(tmp_path: Path, text: str, message: str) -> None:
    """A model file that is wrong says where and what, and is never guessed at."""
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(TraceError, match=message) as caught:
        load_model(str(path))
    assert "mine" in str(caught.value)


def test_unknown_model_offers_the_nearest() -> None:
    """A name nobody knows is refused with the nearest known ones."""
    with pytest.raises(UsageError, match=r"did you mean.*llama3\.1-70b"):
        load_model("llama31-70b")


GQA: dict[str, Any] = {
    "model_type": "llama",
    "torch_dtype": "bfloat16",
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "hidden_size": 4096,
}
MLA = {
    "torch_dtype": "bfloat16",
    "num_hidden_layers": 61,
    "num_attention_heads": 128,
    "kv_lora_rank": 512,
    "qk_rope_head_dim": 64,
}
CONFIGS: list[tuple[dict[str, Any], str]] = [
    (GQA, "llama3.1-8b"),
    (MLA, "deepseek-v3"),
    (MLA | {"index_head_dim": 128}, "deepseek-v3.2"),
    (
        {
            "dtype": "bfloat16",
            "num_hidden_layers": 24,
            "num_attention_heads": 64,
            "num_key_value_heads": 8,
            "head_dim": 64,
            "sliding_window": 128,
            "layer_types": ["sliding_attention", "full_attention"] * 12,
        },
        "gpt-oss-20b",
    ),
    (
        {
            "text_config": {
                "torch_dtype": "bfloat16",
                "num_hidden_layers": 62,
                "num_attention_heads": 32,
                "num_key_value_heads": 16,
                "head_dim": 128,
                "sliding_window": 1024,
                "sliding_window_pattern": 6,
            }
        },
        "gemma3-27b",
    ),
    (
        {
            "torch_dtype": "bfloat16",
            "num_hidden_layers": 48,
            "num_attention_heads": 40,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "attention_chunk_size": 8192,
        },
        "llama4-scout",
    ),
    (
        {
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
        },
        "qwen3-next-80b",
    ),
]


@pytest.mark.parametrize(("config", "like"), CONFIGS, ids=[like for _, like in CONFIGS])
def test_config_json(tmp_path: Path, config: dict[str, Any], like: str) -> None:
    """A Hugging Face config.json comes to the same bytes as the model's own file."""
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    model = load_model(str(path))
    assert (model.rank_bytes_per_token(), model.rank_bytes_per_sequence()) == TABLE[like]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("[]", "not a model configuration"),
        ("{", "not JSON"),
        (json.dumps(GQA | {"torch_dtype": None}), "without torch_dtype"),
        (json.dumps(GQA | {"torch_dtype": "int3"}), "unknown dtype"),
        (json.dumps(GQA | {"num_hidden_layers": None}), "without num_hidden_layers"),
        (json.dumps(GQA | {"layer_types": ["full_attention"]}), "layer_types"),
        (json.dumps(GQA | {"layer_types": ["odd"] * 32}), "unknown kind of layer"),
        (json.dumps(MLA | {"layer_types": ["linear_attention"] * 61}), "MLA mixed"),
    ],
)
def test_bad_config_json(tmp_path: Path, config: str, message: str) -> None:
    """A configuration without what geometry needs is refused, never guessed at."""
    path = tmp_path / "config.json"
    path.write_text(config)
    with pytest.raises(KvtraceError, match=message):
        load_model(str(path))
