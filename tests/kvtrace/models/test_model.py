"""KV geometry: every size of docs/workload.md, exactly."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from kvtrace.errors import TraceError, UsageError
from kvtrace.models import Model, load_model, model_names, models
from kvtrace.models.layers import Cache, FullAttention, Held, LinearAttention, check_parallel

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
REPLICATED = {"deepseek-v3", "deepseek-r1", "kimi-k2", "deepseek-v3.2", "glm-5", "kimi-k3"}


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
    assert (llama.token(8).shared, deepseek.token(8).own) == (0, 0)


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


@pytest.mark.parametrize("text", ["[]", "{", '"x"'])
def test_what_is_no_configuration_is_refused(tmp_path: Path, text: str) -> None:
    """A file that isn't a JSON object says so, with its name."""
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(TraceError, match=r"config\.json: not"):
        load_model(str(path))


def test_tensor_parallelism_is_by_group() -> None:
    """Latents are kept once, states of heads by each rank: Kimi K3 writes its latents once."""
    kimi = load_model("kimi-k3")
    assert kimi.token(8) == Held(own=0, shared=27_648)
    constant, window, tokens = kimi.state(8)
    assert (constant.own * 8, constant.shared, window.total, tokens) == (449_372_160, 0, 0, 0)
    assert kimi.replicated


@pytest.mark.parametrize(
    ("heads", "ranks", "copies"), [(8, 8, 1), (8, 4, 1), (2, 8, 4), (4, 16, 4), (1, 3, 3)]
)
def test_heads_are_divided_or_copied(heads: int, ranks: int, copies: int) -> None:
    """Ranks divide the KV heads evenly, or each head lies on a whole number of ranks."""
    group = FullAttention(kind="full", layers=1, kv_heads=heads, head_dim=64)
    assert check_parallel(group, ranks, "m") == copies
    notes = built(group).check_parallel(ranks)
    assert bool(notes) == (copies > 1)
    assert not notes or f"kept {copies} times" in notes[0]


@pytest.mark.parametrize(("heads", "ranks"), [(8, 3), (8, 12), (10, 4), (2, 3)])
def test_ranks_that_engines_refuse(heads: int, ranks: int) -> None:
    """Heads that can't be divided evenly are refused as engines do, with what is possible."""
    model = built(FullAttention(kind="full", layers=1, kv_heads=heads, head_dim=64))
    with pytest.raises(UsageError, match="KV heads") as caught:
        model.check_parallel(ranks)
    assert str(heads) in str(caught.value)


def test_states_are_divided_by_whole_heads_only() -> None:
    """The heads of a recurrent state are never copied; Mamba's groups are, one per rank."""
    group = LinearAttention(
        kind="linear", layers=1, state_values=64, heads=8, groups=2, group_values=3
    )
    cache = Cache(2, 2)
    assert [group.state(cache, ranks).own for ranks in (1, 2, 4)] == [140, 70, 38]
    assert check_parallel(group, 8, "m") == 1
    with pytest.raises(UsageError, match="state heads"):
        check_parallel(group, 16, "m")


def built(*layers: Any) -> Model:
    return Model(name="m", source="s", date="d", attention=layers)
