"""Formulas of break-even: published answers, lines through tables, meeting from both ends."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import kvtrace
from kvtrace.breakeven.curve import meeting_s
from kvtrace.breakeven.gpus import gpus
from kvtrace.breakeven.recompute import ByParameters, ByTable, needed_bytes_per_s
from kvtrace.breakeven.settings import Settings, basis
from kvtrace.models import load_model


@pytest.mark.parametrize(("gpu", "needed"), [("a800", 5.86), ("h800", 18.57)])
def test_mooncake(gpu: str, needed: float) -> None:
    """LLaMA3-70B at 8,192 tokens on 8 GPUs: the bandwidths of the paper, to its digits."""
    table = kvtrace.breakeven(
        model="llama3.1-70b", gpu=gpu, gpus=8, mfu=1.0, formula="mooncake"
    ).table()
    [row] = table.filter(table["tokens"] == 8192).to_dicts()
    assert round(row["needed_bytes_per_s"] / 1e9, 2) == needed


@pytest.mark.parametrize(
    ("tokens", "missed_s", "hbm_s", "needed"),
    [(65_536, 15.9, 0.8, 0.427), (1_024, 0.047, 0.011, 2.796)],
)
def test_measured_miss_less_the_hbm_hit(
    tokens: int, missed_s: float, hbm_s: float, needed: float
) -> None:
    """Qwen3-Coder-30B-A3B, 98,304 B per token: the time of a hit in HBM is taken off a miss's."""
    rows = [(tokens / 2, missed_s / 2, hbm_s / 2), (tokens, missed_s, hbm_s)]
    model = load_model("qwen3-30b-a3b")
    found = basis(Settings(prefill_table=rows), model).seconds(np.array([float(tokens)]))
    moved = np.array([tokens * 98_304.0])
    assert model.rank_bytes_per_token() == 98_304
    assert float(needed_bytes_per_s(moved, found)[0]) / 1e9 == pytest.approx(needed, rel=1e-3)


@pytest.mark.parametrize(
    ("table", "text"),
    [
        # Long prefixes cost hardly more than short ones: only the short ones' loads are faster.
        ([(1024, 0.5), (65_536, 0.6)], "from 512 to 16,384 tokens."),
        # Nothing below 4,096 tokens, dear up to 8,192, for nothing more beyond.
        ([(2048, 0), (4096, 1), (131_072, 1.01)], "from 4,096 to 32,768 tokens."),
        ([(512, 0.1), (1024, 0.1), (16_384, 0.1), (32_768, 9)],
         "from 512 to 4,096 tokens and from 32,768 tokens on."),
        ([(512, 0.1), (513, 0.1), (131_072, 0.11)], "from 512 to 4,096 tokens."),
        ([(1024, 0.023), (131_072, 0.04)], "from 512 to 1,024 tokens."),
        ([(512, 0.012), (131_072, 0.02)], "at 512 tokens."),
    ],
)  # fmt: skip
def test_the_curves_sentence_is_true_of_each_length(
    table: list[tuple[float, float]], text: str
) -> None:
    """Where loading pays at some lengths only, those: measured times may rise as they like."""
    answered = kvtrace.breakeven(model="llama3.1-8b", prefill_table=table, drive_bandwidth="6GB/s")
    rows = answered.table()
    pays = rows.filter(rows["load_s"] < rows["recompute_s"])["tokens"].to_list()
    assert answered.sentence().endswith(f"at 6.00 GB/s it pays {text}")
    named = [int(word) for word in text.replace(",", "").rstrip(".").split() if word.isdigit()]
    assert set(named) <= set(pays)
    assert ("on." in text) == (131_072 in pays)


def test_what_takes_no_time_is_loaded_at_no_bandwidth() -> None:
    """A floor as high as the prefill leaves nothing to win: no `inf` in a sentence or table."""
    answered = kvtrace.breakeven(model="llama3.1-8b", prefill_rate=40_000, hbm_floor="1h")
    assert "pays at no bandwidth, for recomputing it takes no time (" in answered.sentence()
    assert "inf" not in str(answered.document())


def test_flops_of_a_dense_model_by_hand() -> None:
    """2 per parameter and token, and per layer 2 per multiplied value of each causal pair."""
    model = load_model("llama3.1-8b")
    assert model.compute is not None
    parameters = 32 * (2 * 4096 * 128 * (32 + 8) + 3 * 4096 * 14336)
    tokens = 1000.0
    attention = 32 * 2 * 32 * (128 + 128) * tokens * tokens / 2
    flops = ByParameters(model, model.compute, 1.0).flops(np.array([tokens]))[0]
    assert flops == 2 * parameters * tokens + attention


def test_flops_of_windows_latents_and_indexers_by_hand() -> None:
    """A window's tokens see as many; an indexer scores all, and attention takes what it chose."""
    tokens = np.array([4096.0])
    oss = load_model("gpt-oss-20b")
    assert oss.compute is not None
    full, window = tokens**2 / 2, 128 * 128 / 2 + (tokens - 128) * 128
    expected = 12 * 2 * 64 * (64 + 64) * (full + window)
    assert oss.compute.attention_flops(oss.attention, tokens) == expected
    sparse = load_model("deepseek-v3.2")
    assert sparse.compute is not None
    chosen = 2048 * 2048 / 2 + (tokens - 2048) * 2048
    expected = 61 * (2 * 64 * 128 * full + 2 * 128 * (576 + 512) * chosen)
    assert sparse.compute.attention_flops(sparse.attention, tokens) == expected
    latent = load_model("deepseek-v3")
    assert latent.compute is not None
    expected = 61 * 2 * 128 * (192 + 128) * full
    assert latent.compute.attention_flops(latent.attention, tokens) == expected
    hybrid = load_model("qwen3-next-80b")
    assert hybrid.compute is not None
    expected = 12 * 2 * 16 * (256 + 256) * full
    assert hybrid.compute.attention_flops(hybrid.attention, tokens) == expected


def test_tables_are_lines() -> None:
    """Between lengths, before the first one from nothing, beyond the last as the last two."""
    table = ByTable(np.array([100.0, 200.0]), np.array([1.0, 3.0]))
    assert table.seconds(np.array([0.0, 50, 100, 150, 200, 300])).tolist() == [0, 0.5, 1, 2, 3, 5]


@given(st.integers(1, 1 << 20), st.floats(1e-6, 1e3))
def test_both_ends_meet(tokens: int, load_s: float) -> None:
    """Where they meet, computing the head takes as long as loading the rest; sooner than either."""
    ground = basis(Settings(gpu="h100"), load_model("llama3.1-8b"))
    met_s = meeting_s(ground, tokens, load_s)
    whole_s = float(ground.seconds(np.array([float(tokens)]))[0])
    assert met_s <= min(load_s, whole_s) * (1 + 1e-9)
    head = tokens * (1 - met_s / load_s)
    assert float(ground.seconds(np.array([head]))[0]) == pytest.approx(met_s, rel=1e-6, abs=1e-12)


def test_gpus_say_where_they_are_from() -> None:
    """Each has a bf16 peak of its kind, twice as much in fp8 where it has that, and a source."""
    for gpu in gpus().values():
        assert 1e14 < gpu.bf16_per_s < 1e16
        assert gpu.fp8_per_s is None or gpu.fp8_per_s == pytest.approx(2 * gpu.bf16_per_s, rel=0.02)
        assert gpu.source
        assert gpu.also != gpu.source
    assert gpus()["h20"].fp8_per_s == 296e12


def test_a_curve_falls_with_the_length() -> None:
    """Attention makes later tokens dearer, so that longer prefixes need less bandwidth."""
    table = kvtrace.breakeven(model="llama3.1-70b", gpu="h100", gpus=8).table()
    assert table["needed_bytes_per_s"].is_sorted(descending=True)
    halved = kvtrace.breakeven(model="llama3.1-70b", gpu="h100", gpus=8, dtype="fp8").table()
    ratio = table["needed_bytes_per_s"] / halved["needed_bytes_per_s"]
    assert ratio.to_list() == pytest.approx([2.0] * len(table))


def test_fp8_halves_the_time() -> None:
    """In fp8 a GPU computes twice as fast, and loads need twice the bandwidth."""
    slow = kvtrace.breakeven(model="llama3.1-8b", gpu="h100").table()
    fast = kvtrace.breakeven(model="llama3.1-8b", gpu="h100", precision="fp8").table()
    ratio = fast["needed_bytes_per_s"] / slow["needed_bytes_per_s"]
    assert ratio.to_list() == pytest.approx([2.0] * len(slow))
