"""Recordings: byte-identical by seed, and true to the invariants whatever the configuration."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from kvtrace import plugins
from kvtrace.errors import UsageError
from kvtrace.hierarchy.blocks import HashedBlocks
from kvtrace.hierarchy.hierarchy import Hierarchy
from kvtrace.recording import simulation
from kvtrace.recording.config import RecordConfig, load_config
from kvtrace.trace.check import check
from kvtrace.trace.reader import open_trace
from kvtrace.trace.schema import Tier
from kvtrace.trace.writer import file_sha256
from tests.support import places
from tests.support.examples import examples
from tests.support.making import make

if TYPE_CHECKING:
    from pathlib import Path

MOONCAKE = places.SAMPLES / "mooncake/synthetic_trace.jsonl"
needs_mooncake = pytest.mark.skipif(not MOONCAKE.exists(), reason="the Mooncake sample isn't here")


def sources(draw: st.DrawFn) -> dict[str, Any]:
    """Draw a synthetic source: closed loop or open arrivals."""
    if draw(st.booleans()):
        return {"source__users": draw(st.integers(1, 8))}
    arrival = draw(st.sampled_from(("constant", "poisson", "gamma", "diurnal")))
    return {"source__users": None, "source__rate": 0.5, "source__arrival": arrival}


@st.composite
def configurations(draw: st.DrawFn) -> dict[str, Any]:
    """Configurations in which tiers come out absent, tight, ample or unlimited."""
    parallel = draw(st.sampled_from((1, 2)))
    layout = draw(st.sampled_from(plugins.names(plugins.LAYOUT)))
    sizes = st.sampled_from(("0", "100MiB", "300MiB", "2GiB", "unlimited"))
    capacities = {name: draw(sizes) for name in ("gpu", "cpu", "nvme", "object")}
    if all(size == "0" for size in capacities.values()):
        capacities["nvme"] = "1GiB"
    options: dict[str, Any] = {
        f"tiers__{name}__capacity": size for name, size in capacities.items()
    }
    for name in capacities:
        high = draw(st.sampled_from((1.0, 0.9)))
        options[f"tiers__{name}__high_watermark"] = high
        options[f"tiers__{name}__low_watermark"] = high * draw(st.sampled_from((1.0, 0.5)))
    return options | sources(draw) | {
        "model": draw(st.sampled_from(("tiny-1b", "deepseek-v3", "gpt-oss-20b"))),
        "source__rag": draw(st.sampled_from((None, {"probability": 0.5, "documents": 4}))),
        "source__prefix_caching": draw(st.booleans()),
        "eviction": draw(st.sampled_from(plugins.names(plugins.POLICY))),
        "admission": draw(st.sampled_from(("always", "second-use"))),
        "lookups": draw(st.booleans()),
        "role": draw(st.sampled_from(("both", "prefill"))),
        "warmup": draw(st.sampled_from((None, "2s", "3"))),
        "layout": layout,
        "block_tokens": None if layout == "request" else draw(st.sampled_from((64, 256))),
        "tensor_parallel": parallel,
        "num_gpus": parallel * draw(st.sampled_from((1, 2))),
        "ranks": None if layout == "vllm" else draw(st.sampled_from((None, "all", "one"))),
        "write_policy": draw(st.sampled_from(("waterfall", "write-through"))),
        "promotion": draw(st.sampled_from((None, "none", "on-hit"))),
        "touch_order": draw(st.sampled_from(("tail-first", "in-order"))),
        "store_generated": draw(st.sampled_from(("auto", "no"))),
        "generation": draw(st.sampled_from(("none", "fast", "realistic"))),
        "prefill_rate": draw(st.sampled_from((None, 5_000))),
        "seed": draw(st.integers(0, 1 << 40)),
        "duration": "10s",
    }  # fmt: skip


@pytest.mark.slow
@settings(max_examples=examples(40), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(configurations())
def test_invariants_hold(tmp_path_factory: pytest.TempPathFactory, options: dict[str, Any]) -> None:
    """Occupancy rebuilt from the trace stays within capacity, reads follow writes, time runs on."""
    path = tmp_path_factory.mktemp("t") / "t.parquet"
    try:
        made = make(path, **options)
    except UsageError as refusal:
        assume("came out empty" not in str(refusal))
        assume("end within the warm-up" not in str(refusal))
        raise
    with open_trace(path) as trace:
        found = check(trace)
        assert found.ok, found.violations
        assert found.rows == trace.rows == made.header.totals.rows
        for info in trace.header.tiers:
            tier = Tier[info.name.upper()]
            if info.capacity_bytes is not None:
                assert found.peak_bytes[tier] <= info.capacity_bytes
            # What the trace shows is what the simulation held, MLA's copies and ranks included.
            if options["warmup"] is None:
                assert found.peak_bytes[tier] == made.stats.peak_bytes[tier]
        keys = trace.lazy().select(pl.col("key").unique().sort()).collect()["key"]
        whole = options["ranks"] != "one" or options["layout"] == "request"
        if whole and options["warmup"] is None and not made.stats.unique_states:
            assert keys.to_list() == list(range(len(keys)))
    path.unlink()


def test_one_seed_gives_one_file(tmp_path: Path) -> None:
    """The same configuration and seed give the same bytes; another seed gives other ones."""
    first, again, other = (tmp_path / f"{name}.parquet" for name in "abc")
    make(first)
    make(again)
    make(other, seed=1)
    assert first.read_bytes() == again.read_bytes()
    assert first.read_bytes() != other.read_bytes()


def test_workers_and_batches_dont_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither workers nor the size of internal batches changes a byte."""
    one, two = tmp_path / "one.parquet", tmp_path / "two.parquet"
    make(one, workers=1)
    small = partial(Hierarchy, events_per_call=97)
    monkeypatch.setattr(simulation, "Hierarchy", small)
    make(two, workers=3)
    assert one.read_bytes() == two.read_bytes()


@needs_mooncake
@pytest.mark.slow
def test_workers_dont_show_in_parsing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file parsed by several processes in other pieces gives the same bytes."""
    monkeypatch.setattr("kvtrace.requests.lines.LINES_PER_PIECE", 100)
    options: dict[str, Any] = {"source__name": "mooncake", "source__input": [str(MOONCAKE)]}
    options |= {"source__users": None, "duration": None}
    make(tmp_path / "one.parquet", **options)
    monkeypatch.undo()
    make(tmp_path / "two.parquet", workers=3, **options)
    assert file_sha256(tmp_path / "one.parquet") == file_sha256(tmp_path / "two.parquet")


@pytest.mark.slow
def test_other_processes_give_the_same_file(tmp_path: Path) -> None:
    """A fresh process with another hash seed writes the same bytes."""
    code = (
        "import sys\nfrom pathlib import Path\nfrom tests.support.making import make\n"
        "make(Path(sys.argv[1]))\n"
    )
    digests = set()
    for seed in ("1", "2"):
        path = tmp_path / f"{seed}.parquet"
        environment = os.environ | {"PYTHONHASHSEED": seed}
        subprocess.run([sys.executable, "-c", code, str(path)], check=True, env=environment)
        digests.add(file_sha256(path))
    make(tmp_path / "here.parquet")
    assert digests == {file_sha256(tmp_path / "here.parquet")}


@pytest.mark.slow
@needs_mooncake
def test_mooncake_known_answers(tmp_path: Path) -> None:
    """Mooncake's synthetic trace has the requests, blocks and ideal hits that are known of it."""
    made = make(
        tmp_path / "t.parquet", model="llama3.1-70b", block_tokens=512, duration=None,
        source__name="mooncake", source__input=[str(MOONCAKE)], source__users=None,
        tiers__gpu__capacity="unlimited", tiers__cpu__capacity=0,
    )  # fmt: skip
    statistics = made.header.statistics
    assert statistics["requests"] == 3_993
    # Full blocks only: the last, partial id of each request isn't stored.
    assert statistics["blocks"] == 121_877 - 3_993 + _full_tails()
    assert statistics["hit_ratio"]["gpu"] == statistics["ideal_prefix_hit"]
    assert made.header.totals.duration_ns == 1_022_025 * 10**6
    assert made.header.source is not None
    assert made.header.source.sha256 == [file_sha256(MOONCAKE)]


def _full_tails() -> int:
    frame = pl.read_ndjson(MOONCAKE)
    return int((frame["input_length"] % 512 == 0).sum())


def test_mooncake_splits_its_blocks(tmp_path: Path) -> None:
    """512-token ids become smaller blocks only where these lie wholly inside the prompt."""
    path = tmp_path / "t.jsonl"
    big = (1 << 64) - 1
    path.write_text(
        f'{{"timestamp": 0, "input_length": 900, "output_length": 5, "hash_ids": [{big}, 7]}}\n'
        f'{{"timestamp": 5, "input_length": 600, "output_length": 5, "hash_ids": [{big}, 8]}}\n'
    )
    made = make(
        tmp_path / "t.parquet", block_tokens=256, duration=None, source__name="mooncake",
        source__input=[str(path)], source__users=None, source__speed=0.5,
    )  # fmt: skip
    assert made.header.statistics["blocks"] == 3 + 2
    assert made.header.statistics["unique_blocks"] == 3
    rows = pl.read_parquet(tmp_path / "t.parquet")
    reads = rows.filter(pl.col("phase") == "decode")
    assert reads["key"].to_list() == [1, 2]  # tail first: block 2 of the prompt has key 0
    assert rows["timestamp"].max() == 10_000_000  # half speed
    assert "session" not in rows.columns


def test_grouping_chains_identities() -> None:
    """A group of blocks is the same only if all that came before it is the same."""
    import numpy as np

    from kvtrace.requests.request import Ragged
    from tests.support.reference import Request
    from tests.support.requests import cut

    batch = cut([Request(0, [], input_tokens=64), Request(0, [], input_tokens=64, row=1)]).batch
    ids = Ragged.from_counts(np.array([4, 4]), np.array([1, 2, 3, 4, 9, 2, 3, 4]))
    batch = type(batch)(**{n: getattr(batch, n) for n in batch.__slots__} | {"block_ids": ids})
    groups = HashedBlocks(16, 32).cut(batch).blocks
    first, second = groups.values[:2], groups.values[2:]
    assert len(groups.values) == 4
    assert not set(first) & set(second)


OPTIONS: dict[str, Any] = {
    "source__users": 3,
    "source__multi_turn": False,
    "source__end_probability": 0.9,
    "source__max_turns": 2,
    "source__max_context_tokens": 6000,
    "source__templates": {
        "a": {"context_tokens": [64, 99], "generated_tokens": [1, 9], "think_s": [0, 1]}
    },
    "source__qos_mix": {"interactive": 1, "responsive": 0, "batch": 0},
    "model": "qwen3-8b",
    "dtype": "fp8",
    "layout": "request",
    "block_tokens": 128,
    "tensor_parallel": 2,
    "num_gpus": 2,
    "tiers__gpu__capacity": "32MiB",
    "tiers__cpu__capacity": "64MiB",
    "tiers__nvme__capacity": "128MiB",
    "tiers__object__capacity": "1GiB",
    "tiers__cpu__high_watermark": 0.5,
    "tiers__nvme__low_watermark": 0.5,
    "write_policy": "write-through",
    "promotion": "on-hit",
    "touch_order": "in-order",
    "store_generated": "no",
    "duration": "5s",
    "requests": 3,
    "generation": "fast",
    "decode_rate": 100,
    "prefill_rate": 1000,
    "seed": 9,
}
OPEN: dict[str, Any] = {"source__rate": 2.0, "source__arrival": "gamma", "source__gamma_shape": 0.1}


@pytest.fixture(scope="module")
def plain_rows(tmp_path_factory: pytest.TempPathFactory) -> pl.DataFrame:
    path = tmp_path_factory.mktemp("plain") / "t.parquet"
    make(path)
    return pl.read_parquet(path)


@pytest.mark.slow
@pytest.mark.parametrize("key", OPTIONS)
def test_every_key_changes_the_trace(tmp_path: Path, plain_rows: pl.DataFrame, key: str) -> None:
    """No key is without effect on the rows."""
    options = {key: OPTIONS[key]}
    if key == "layout":
        options["block_tokens"] = None
    if key == "tiers__cpu__high_watermark":
        options["tiers__cpu__low_watermark"] = 0.5
    make(tmp_path / "t.parquet", **options)
    assert not pl.read_parquet(tmp_path / "t.parquet").equals(plain_rows)


@pytest.mark.slow
def test_every_arrival_key_changes_the_trace(tmp_path: Path) -> None:
    """Nor is one of the open arrivals'."""
    base: dict[str, Any] = {"source__users": None, "source__rate": 1.0, "source__arrival": "gamma"}
    make(tmp_path / "base.parquet", **base)
    rows = pl.read_parquet(tmp_path / "base.parquet")
    for key, value in (OPEN | {"source__arrival": "constant"}).items():
        make(tmp_path / f"{key}.parquet", **base | {key: value})
        assert not pl.read_parquet(tmp_path / f"{key}.parquet").equals(rows), key


@pytest.mark.slow
def test_open_arrivals_keep_their_rate(tmp_path: Path) -> None:
    """Requests come at the rate that was asked for, though sessions have several turns."""
    made = make(
        tmp_path / "t.parquet", source__users=None, source__rate=20.0, duration="10min",
        generation="none", model="tiny-1b", block_tokens=256,
    )  # fmt: skip
    assert made.stats.requests == pytest.approx(20 * 600, rel=0.05)


def test_closed_loop_waits_for_answer_and_thought(tmp_path: Path) -> None:
    """A user's next request comes a think time after the end of the one before it."""
    template = {"context_tokens": [256, 256], "generated_tokens": [10, 10], "think_s": [2, 2]}
    make(
        tmp_path / "t.parquet", source__users=1, requests=4, block_tokens=64,
        source__templates={"one": template}, decode_rate=10, prefill_rate=256,
        source__multi_turn=False, duration=None, tiers__gpu__capacity=1 << 40,
        source__system_prompts__probability=0,
    )  # fmt: skip
    stores = pl.read_parquet(tmp_path / "t.parquet").filter(pl.col("step") == 2)
    times = stores.group_by("request").agg(pl.col("timestamp").min()).sort("request")["timestamp"]
    # Prefill 1 s, 10 tokens 1 s, thought 2 s.
    assert times.diff().drop_nulls().to_list() == [4 * 10**9] * 3


def test_config_file_and_set(tmp_path: Path) -> None:
    """An option wins over --set, that over the file, that over the default."""
    path = tmp_path / "c.yaml"
    path.write_text("model: qwen3-8b\nsource: {users: 4}\nseed: 5\n")
    config = load_config(path, {"seed": 7}, ["source.users=9"])
    assert (config.model, config.source.users, config.seed) == ("qwen3-8b", 9, 7)
    assert config.layout == RecordConfig().layout
