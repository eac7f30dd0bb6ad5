"""Layouts: what a prompt becomes on the tiers, exactly."""

from __future__ import annotations

import json
from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pytest

from kvtrace import layouts, plugins
from kvtrace.errors import UsageError
from kvtrace.hierarchy.spec import StateSize
from kvtrace.layouts import Geometry
from kvtrace.models.layers import Held
from kvtrace.trace.check import check
from kvtrace.trace.reader import open_trace
from kvtrace.trace.schema import Tier
from kvtrace.units import UNLIMITED
from tests.support.making import make

if TYPE_CHECKING:
    from pathlib import Path

# A 12,000-token prompt: model, TP, layout, objects written to gpu, bytes of each.
SIZES = [
    ("llama3.1-8b", 1, "lmcache", 46, 33_554_432),
    ("llama3.1-70b", 8, "lmcache", 46 * 8, 10_485_760),
    ("deepseek-v3", 8, "lmcache", 46, 17_989_632),
    ("llama3.1-8b", 1, "lmcache-layerwise", 46 * 32, 1_048_576),
    pytest.param(
        "llama3.1-70b", 8, "lmcache-layerwise", 46 * 80 * 8, 131_072, marks=pytest.mark.slow
    ),
    ("deepseek-v3", 8, "lmcache-layerwise", 46 * 61, 294_912),
    ("llama3.1-8b", 1, "vllm", 750, 2_097_152),
    ("llama3.1-70b", 8, "vllm", 750, 5_242_880),
    ("deepseek-v3", 8, "vllm", 187, 4_497_408),
    ("llama3.1-8b", 1, "sglang", 187, 8_388_608),
    ("llama3.1-70b", 8, "sglang", 187 * 8, 2_621_440),
    ("deepseek-v3", 8, "sglang", 187, 4_497_408),
    ("llama3.1-8b", 1, "mooncake", 374, 4_194_304),
    ("llama3.1-70b", 8, "mooncake", 374 * 8, 1_310_720),
    ("deepseek-v3", 8, "mooncake", 187, 4_497_408),
    ("llama3.1-8b", 1, "request", 1, 1_572_864_000),
    ("llama3.1-70b", 8, "request", 1, 491_520_000),
    ("deepseek-v3", 8, "request", 1, 843_264_000),
]


@pytest.mark.slow
@pytest.mark.parametrize(("model", "parallel", "layout", "objects", "size"), SIZES)
def test_objects_of_a_prompt(
    tmp_path: Path, model: str, parallel: int, layout: str, objects: int, size: int
) -> None:
    """A prompt of 12,000 tokens becomes as many objects, of such size, as its engine writes."""
    template = {"context_tokens": [12_000, 12_000], "generated_tokens": [1, 1], "think_s": [1, 1]}
    path = tmp_path / "t.parquet"
    made = make(
        path,
        model=model,
        layout=layout,
        tensor_parallel=parallel,
        block_tokens=None,
        source__templates={"one": template},
        source__system_prompts__probability=0,
        requests=1,
        tiers__gpu__capacity=1 << 50,
    )
    written = pl.read_parquet(path).filter(pl.col("op") == "write")
    assert written.height == written["key"].n_unique() == objects
    assert written["size"].unique().to_list() == [size]
    several = parallel > 1 and model != "deepseek-v3" and layout not in ("vllm", "request")
    assert sorted(written["rank"].unique()) == list(range(parallel if several else 1))
    assert made.stats.requests == 1


def test_capacity_counts_what_the_node_stores() -> None:
    """Below HBM all ranks' bytes count, MLA once; in HBM its copies count, one per rank."""
    gqa = layouts.create("lmcache", Geometry(Held(own=100), 8, ranks="one"))
    mla = layouts.create("lmcache", Geometry(Held(shared=100), 8))
    assert [gqa.node_token_bytes(tier) for tier in (Tier.GPU, Tier.NVME)] == [800, 800]
    assert [mla.node_token_bytes(tier) for tier in (Tier.GPU, Tier.NVME)] == [800, 100]
    assert gqa.occupancy_factor(Tier.CPU) == 8
    assert (mla.occupancy_factor(Tier.GPU), mla.occupancy_factor(Tier.CPU)) == (8, 1)


def test_ranks_one_filters_what_is_emitted(tmp_path: Path) -> None:
    """`--ranks one` leaves out the other ranks' rows and changes nothing of the simulation."""
    options: dict[str, Any] = {"model": "llama3.1-8b", "tensor_parallel": 4}
    options |= {"tiers__gpu__capacity": "64MiB", "tiers__nvme__capacity": UNLIMITED}
    every = make(tmp_path / "all.parquet", ranks="all", **options)
    one = make(tmp_path / "one.parquet", ranks="one", **options)
    assert one.stats == every.stats
    assert one.header.totals.rows * 4 == every.header.totals.rows


def test_request_layout_rereads_while_generating(tmp_path: Path) -> None:
    """A turn reads its own object once per 32 generated tokens, evenly over generation."""
    template = {"context_tokens": [100, 100], "generated_tokens": [70, 70], "think_s": [1, 1]}
    path = tmp_path / "t.parquet"
    make(path, layout="request", block_tokens=None, source__templates={"one": template},
         source__system_prompts__probability=0, source__users=1, requests=1,
         generation="fast", tiers__gpu__capacity=1 << 40)  # fmt: skip
    rows = pl.read_parquet(path)
    start = rows["timestamp"][0]
    assert rows["op"].to_list() == ["write", "read", "read", "read"]
    assert (rows["timestamp"] - start).to_list() == [0, 0, 23 * 2_000_000, 46 * 2_000_000]
    assert rows["step"].to_list() == [2, 3, 4, 5]


def test_later_turns_read_all_earlier_ones(tmp_path: Path) -> None:
    """Under `request` a turn reads each earlier turn's object once when it arrives."""
    path = tmp_path / "t.parquet"
    make(path, layout="request", block_tokens=None, source__users=1, requests=4,
         source__system_prompts__probability=0,
         source__end_probability=0.01, source__max_context_tokens=1_000_000,
         generation="none", tiers__gpu__capacity=1 << 50)  # fmt: skip
    rows = pl.read_parquet(path).filter(pl.col("step") == 1)
    reads = {r: part["key"].to_list() for (r,), part in rows.group_by("request")}
    assert reads == {1: [0], 2: [1, 0], 3: [2, 1, 0]}


@pytest.mark.parametrize("name", plugins.names(plugins.LAYOUT))
def test_every_layout_lists_itself(name: str) -> None:
    """Each layout is found by its file, says what it is and keeps its name."""
    module = plugins.load(plugins.LAYOUT, name)
    assert plugins.summary(module).endswith(".")
    assert module.create(Geometry(Held(own=64), 2, layers=(Held(own=64),))).name == name


MIXED = Geometry(
    Held(own=10, shared=3),
    4,
    rank_key_bytes=0,
    layers=(Held(own=10), Held(shared=3)),
    rank_state=StateSize(100),
)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("lmcache", [(0, 13), (1, 10), (2, 10), (3, 10)]),
        ("sglang", [(0, 13), (1, 10), (2, 10), (3, 10)]),
        ("mooncake", [(0, 13), (1, 10), (2, 10), (3, 10)]),
        ("lmcache-layerwise", [(0, 10), (1, 10), (2, 10), (3, 10), (0, 3)]),
        ("vllm", [(0, 43)]),
        ("request", [(0, 13)]),
    ],
)
def test_replicated_bytes_are_stored_once(name: str, parts: list[tuple[int, int]]) -> None:
    """What all ranks keep alike is stored with rank 0 only; what is divided, by each rank."""
    layout = layouts.create(name, MIXED)
    assert [(part.rank, part.token_bytes) for part in layout.parts] == parts
    assert [layout.node_token_bytes(tier) for tier in (Tier.GPU, Tier.NVME)] == [52, 43]


def test_states_that_all_ranks_share_are_stored_once() -> None:
    """A state that is the same on all ranks is one object; in HBM each rank has it."""
    geometry = Geometry(Held(shared=8), 4, rank_state=StateSize(100), state_shared=True)
    layout = layouts.create("lmcache", geometry)
    assert layout.state_ranks == (0,)
    assert [layout.node_state(tier).constant_bytes for tier in (Tier.GPU, Tier.NVME)] == [400, 100]
    mixed = layouts.create("lmcache", MIXED)
    assert mixed.state_ranks == (0, 1, 2, 3)
    assert [mixed.node_state(tier).constant_bytes for tier in (Tier.GPU, Tier.NVME)] == [400, 400]


def test_compressed_rows_fill_blocks() -> None:
    """Rows of 4 tokens come to whole bytes per block; other blocks are refused."""
    geometry = Geometry(Held(shared=Fraction(7, 4)), 1, block_tokens=16, row_tokens=8)
    layout = layouts.create("lmcache", geometry)
    assert layout._sizes(np.array([16])).tolist() == [[28]]
    assert layout.node_token_bytes(Tier.NVME) * 16 + layout.padding_bytes(Tier.NVME) == 28
    with pytest.raises(UsageError, match="multiples of 8 tokens"):
        layouts.create("lmcache", replace(geometry, block_tokens=20))
    assert (
        layouts.create("vllm", replace(geometry, block_tokens=None, row_tokens=128)).block_tokens
        == 128
    )
    with pytest.raises(UsageError, match="compressed"):
        layouts.create("request", replace(geometry, block_tokens=None))


@pytest.mark.slow
def test_a_model_without_bytes_per_token(tmp_path: Path) -> None:
    """Windows in all layers keep nothing per token: only the state of sequences is stored."""
    config = tmp_path / "config.json"
    config.write_text(
        json.dumps(
            {
                "model_type": "mistral",
                "dtype": "bfloat16",
                "num_hidden_layers": 2,
                "num_attention_heads": 8,
                "num_key_value_heads": 2,
                "hidden_size": 256,
                "sliding_window": 64,
                "max_position_embeddings": 4096,
            }
        )
    )
    for name in ("lmcache", "vllm", "sglang", "mooncake", "lmcache-layerwise"):
        path = tmp_path / f"{name}.parquet"
        make(path, model=str(config), layout=name, block_tokens=None, requests=5,
             tiers__gpu__capacity="1GiB", tiers__nvme__capacity="1GiB")  # fmt: skip
        with open_trace(path) as trace:
            assert check(trace).ok
            assert trace.header.totals.rows > 0
    with pytest.raises(UsageError, match="nothing to store"):
        make(
            tmp_path / "r.parquet",
            model=str(config),
            layout="request",
            block_tokens=None,
            requests=5,
        )
