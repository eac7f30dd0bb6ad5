"""What models compute per token: published counts, and the same from their config.json."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from kvtrace.models import load_model, model_names
from kvtrace.models.config_json.compute import SHARING, compute_of
from tests.support.places import SAMPLES

if TYPE_CHECKING:
    from pathlib import Path

# Active parameters that makers state, in 10⁹, and of them embeddings and output head: width ·
# vocabulary, twice where they differ.
STATED = {
    "llama2-7b": (6.74, 2 * 4096 * 32_000),
    "llama3.1-8b": (8.03, 2 * 4096 * 128_256),
    "llama3.1-70b": (70.55, 2 * 8192 * 128_256),
    "llama3.1-405b": (405.85, 2 * 16_384 * 128_256),
    "mistral-7b": (7.24, 2 * 4096 * 32_000),
    "qwen2.5-7b": (7.62, 2 * 3584 * 152_064),
    "qwen2.5-32b": (32.8, 2 * 5120 * 152_064),
    "qwen2.5-72b": (72.7, 2 * 8192 * 152_064),
    "qwen3-8b": (8.2, 2 * 4096 * 151_936),
    "qwen3-32b": (32.8, 2 * 5120 * 151_936),
    "qwen3-30b-a3b": (3.3, 2 * 2048 * 151_936),
    "qwen3-235b-a22b": (22, 2 * 4096 * 151_936),
    "qwen3-coder-480b": (35, 2 * 6144 * 151_936),
    "deepseek-v3": (37, 2 * 7168 * 129_280),
    "kimi-k2": (32, 2 * 7168 * 163_840),
    "glm-4.5": (32, 0),
    "glm-4.5-air": (12, 0),
    "minimax-m2": (10, 0),
    "gpt-oss-20b": (3.6, 2880 * 201_088),
    "gpt-oss-120b": (5.1, 2880 * 201_088),
    "gemma3-27b": (27, 5376 * 262_208),
    "llama4-scout": (17, 2 * 5120 * 202_048),
    "llama4-maverick": (17, 2 * 5120 * 202_048),
    "qwen3-next-80b": (3, 0),
}  # fmt: skip
FILES = {
    "llama3.1-8b": "meta-llama--Meta-Llama-3.1-8B",
    "llama3.1-70b": "meta-llama--Meta-Llama-3.1-70B",
    "qwen3-8b": "Qwen--Qwen3-8B",
    "qwen3-32b": "Qwen--Qwen3-32B",
    "qwen3-30b-a3b": "Qwen--Qwen3-30B-A3B",
    "qwen3-235b-a22b": "Qwen--Qwen3-235B-A22B",
    "qwen3-coder-480b": "Qwen--Qwen3-Coder-480B-A35B-Instruct",
    "deepseek-v3": "deepseek-ai--DeepSeek-V3",
    "deepseek-v3.2": "deepseek-ai--DeepSeek-V3.2",
    "kimi-k2": "moonshotai--Kimi-K2-Instruct",
    "glm-5": "zai-org--GLM-5",
    "gpt-oss-120b": "openai--gpt-oss-120b",
    "llama4-scout": "meta-llama--Llama-4-Scout-17B-16E-Instruct",
    "minimax-m2": "MiniMaxAI--MiniMax-M2.5",
}
DENSE = {
    "model_type": "llama", "num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 4,
    "num_key_value_heads": 2, "intermediate_size": 128, "torch_dtype": "bfloat16",
}  # fmt: skip


@pytest.mark.parametrize("name", model_names())
def test_every_model_has_an_answer(name: str) -> None:
    """Parameters and dimensions with their source and date; near what its makers state."""
    compute = load_model(name).compute
    assert compute is not None
    assert compute.source
    assert compute.date == "2026-11-30"
    if name in STATED:
        stated, embeddings = STATED[name]
        assert compute.active_parameters + embeddings == pytest.approx(stated * 1e9, rel=0.09)


@pytest.mark.parametrize("name", FILES)
def test_a_config_json_gives_the_same(name: str) -> None:
    """What is worked out from a model's config.json is what its own file states."""
    path = SAMPLES / "models" / f"{FILES[name]}.json"
    if not path.exists():
        pytest.skip("needs the shared samples")
    ours, theirs = load_model(name).compute, load_model(path).compute
    assert ours is not None
    assert theirs is not None
    told_apart = {"source", "date"}
    assert theirs.model_dump(exclude=told_apart) == ours.model_dump(exclude=told_apart)
    assert theirs.source == "worked out from config.json"


def test_a_shared_indexer_alone_makes_the_difference() -> None:
    """GLM-5.2, some of whose layers use another's indexer: what GLM-5 has, it hasn't."""
    path = SAMPLES / "models" / "zai-org--GLM-5.2.json"
    if not path.exists():
        pytest.skip("needs the shared samples")
    assert load_model(path).compute is None
    config = json.loads(path.read_text())
    kept = {key: value for key, value in config.items() if key not in SHARING}
    ours = load_model("glm-5").compute
    read = compute_of("glm_moe_dsa", kept)
    assert ours is not None
    assert read is not None
    assert read["active_parameters"] == ours.active_parameters


def test_a_small_config_by_hand(tmp_path: Path) -> None:
    """Two layers: queries, keys, values and outputs of 16, and a gated feed-forward of 128."""
    path = tmp_path / "config.json"
    path.write_text(json.dumps(DENSE))
    compute = load_model(path).compute
    assert compute is not None
    attention = 64 * 4 * 16 + 2 * 64 * 2 * 16 + 4 * 16 * 64
    assert compute.active_parameters == 2 * (attention + 3 * 64 * 128)
    assert (compute.query_heads, compute.head_dim, compute.v_head_dim) == (4, 16, 16)


@pytest.mark.parametrize(
    "change",
    [
        {"model_type": "falcon_h1"}, {"intermediate_size": None}, {"num_attention_heads": "4"},
        {"model_type": "qwen3_moe", "num_experts": 8, "num_experts_per_tok": 2,
         "moe_intermediate_size": 32, "decoder_sparse_step": 2},
        {"model_type": "glm4_moe", "moe_layer_freq": 2},
        {"model_type": "glm_moe_dsa", "indexer_types": ["full", "shared"]}, {"hidden_size": 0},
        {"num_attention_heads": 1 << 30, "head_dim": 1 << 30},
    ],
    ids=["type", "no width", "word", "every second layer", "schedule", "shared indexers", "nothing",
         "no model's"],
)  # fmt: skip
def test_what_is_not_understood_has_none(change: dict[str, object]) -> None:
    """Another kind of layer, or a key that is missing: no parameters rather than wrong ones."""
    config = DENSE | change
    assert compute_of(str(config["model_type"]), config) is None


def test_the_header_of_a_trace_keeps_its_geometry_alone(busy: Path) -> None:
    """A trace says nothing of what its model computes, so that its content stays what it was."""
    import kvtrace

    with kvtrace.open(busy) as trace:
        assert trace.header.model is not None
        assert "compute" not in trace.header.model


@pytest.fixture
def busy(small_trace: Path) -> Path:
    """A recorded trace."""
    return small_trace
