"""What a workload must get right: sharing, history, state, roles, warm-up; keys have effects."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pytest

from kvtrace.errors import UsageError
from kvtrace.recording.config import load_config
from kvtrace.recording.pipeline import record
from kvtrace.trace.check import check
from kvtrace.trace.reader import open_trace
from kvtrace.trace.schema import Tier
from tests.support.making import make

if TYPE_CHECKING:
    from pathlib import Path

ONE = {"context_tokens": [640, 640], "generated_tokens": [64, 64], "think_s": [1, 1]}
PLAIN: dict[str, Any] = {
    "source__templates": {"one": ONE},
    "source__system_prompts__probability": 0,
    "tiers__gpu__capacity": 1 << 50,
    "tiers__cpu__capacity": 0,
    "tiers__nvme__capacity": 0,
}
"""Turns of ten blocks and one generated, nothing evicted."""

KEYS: dict[str, dict[str, Any]] = {
    "users": {"source__users": 7},
    "multi_turn": {"source__multi_turn": False},
    "end_probability": {"source__end_probability": 0.9},
    "max_turns": {"source__max_turns": 1},
    "max_context_tokens": {"source__max_context_tokens": 4000},
    "templates": {"source__templates": {"one": ONE}},
    "qos_mix": {"source__qos_mix": {"interactive": 1.0, "responsive": 0.0, "batch": 0.0}},
    "system_prompts.probability": {"source__system_prompts__probability": 1},
    "system_prompts.count": {"source__system_prompts__count": 1},
    "system_prompts.tokens": {"source__system_prompts__tokens": [64, 64]},
    "rag": {"source__rag": {}},
    "seed": {"seed": 1},
    "model": {"model": "gpt-oss-20b"},
    "dtype": {"dtype": "fp8"},
    "layout": {"layout": "vllm"},
    "block_tokens": {"block_tokens": 32},
    "tensor_parallel": {"tensor_parallel": 2},
    "tiers.gpu.capacity": {"tiers__gpu__capacity": "32MiB"},
    "tiers.nvme.high_watermark": {
        "tiers__nvme__high_watermark": 0.5,
        "tiers__nvme__low_watermark": 0.5,
    },
    "tiers.nvme.low_watermark": {"tiers__nvme__low_watermark": 0.5},
    "eviction": {"eviction": "fifo"},
    "tiers.gpu.eviction": {"tiers__gpu__eviction": "s3-fifo"},
    "admission": {"admission": "second-use"},
    "write_policy": {"write_policy": "write-through"},
    "promotion": {"promotion": "on-hit"},
    "touch_order": {"touch_order": "in-order"},
    "store_generated": {"store_generated": "no"},
    "lookups": {"lookups": True},
    "role": {"role": "prefill"},
    "warmup": {"warmup": "5s"},
    "restart_at": {"restart_at": "5s"},
    "duration": {"duration": "10s"},
    "requests": {"requests": 5},
    "generation": {"generation": "fast"},
    "decode_rate": {"decode_rate": 100},
    "prefill_rate": {"prefill_rate": 10_000},
}
RAG = {"probability": 0.5, "documents": 5, "document_tokens": [2048, 4096], "top_k": 3}
RAG_KEYS: dict[str, Any] = {
    "probability": 0.9,
    "documents": 20,
    "document_tokens": [4096, 8192],
    "chunk_tokens": 256,
    "top_k": 1,
    "popularity": "uniform",
    "zipf_exponent": 2.0,
}


def rows_of(path: Path, **options: Any) -> pl.DataFrame:
    """Record; return the rows."""
    make(path, **options)
    return pl.read_parquet(path)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> pl.DataFrame:
    """The rows of the small recording."""
    return rows_of(tmp_path_factory.mktemp("base") / "t.parquet")


@pytest.mark.slow
@pytest.mark.parametrize("key", KEYS)
def test_every_key_changes_the_trace(tmp_path: Path, base: pl.DataFrame, key: str) -> None:
    """A key that changes nothing would be a key without effect."""
    assert not rows_of(tmp_path / "t.parquet", **KEYS[key]).equals(base)


@pytest.mark.slow
@pytest.mark.parametrize("key", RAG_KEYS)
def test_every_key_of_rag_changes_the_trace(tmp_path: Path, key: str) -> None:
    """So do those of the documents."""
    before = rows_of(tmp_path / "a.parquet", source__rag=RAG)
    after = rows_of(tmp_path / "b.parquet", source__rag=RAG | {key: RAG_KEYS[key]})
    assert not after.equals(before)


def sessions_of_keys(rows: pl.DataFrame) -> pl.DataFrame:
    """How many sessions touch each key."""
    return rows.group_by("key").agg(pl.col("session").n_unique().alias("sessions"))


def test_system_prompts_are_stored_once_and_read_by_all(tmp_path: Path) -> None:
    """One prompt of 32 blocks: written at first sight, read by every later session, no miss."""
    shared = {"probability": 1, "count": 1, "tokens": [2048, 2048]}
    options = PLAIN | {"source__system_prompts": shared, "source__multi_turn": False}
    rows = rows_of(tmp_path / "t.parquet", **options)
    common = sessions_of_keys(rows).filter(pl.col("sessions") > 1)["key"]
    assert len(common) == 2048 // 64
    of_prompt = rows.filter(pl.col("key").is_in(common.to_list()))
    assert of_prompt.filter(pl.col("op") == "write").height == 32
    reads = of_prompt.filter(pl.col("op") == "read").group_by("session").len()["len"]
    assert set(reads) == {32}
    assert len(reads) == rows["session"].n_unique() - 1


def test_without_prefix_caching_nothing_is_shared(tmp_path: Path) -> None:
    """The same prompts, but each session's own."""
    options = PLAIN | {"source__system_prompts__probability": 1, "source__prefix_caching": False}
    assert sessions_of_keys(rows_of(tmp_path / "t.parquet", **options))["sessions"].max() == 1


def test_documents_are_shared_bounded_and_evicted(tmp_path: Path) -> None:
    """Chunks are read by other sessions; there are no more than the documents have; they leave."""
    rag = RAG | {"documents": 4, "document_tokens": [2048, 2048], "probability": 1}
    options = PLAIN | {"source__rag": rag}
    rows = rows_of(tmp_path / "t.parquet", **options)
    shared = sessions_of_keys(rows).filter(pl.col("sessions") > 1)["key"].to_list()
    assert 0 < len(shared) <= 4 * 2048 // 64
    tight = rows_of(tmp_path / "tight.parquet", **options | {"tiers__gpu__capacity": "24MiB"})
    shared = sessions_of_keys(tight).filter(pl.col("sessions") > 1)["key"].to_list()
    left = tight.filter((pl.col("op") == "delete") & pl.col("key").is_in(shared))
    assert left.height > 0


def test_a_chunk_smaller_than_a_block_is_refused(tmp_path: Path) -> None:
    """It could never be stored."""
    with pytest.raises(UsageError, match="chunk is smaller than a block"):
        make(tmp_path / "t.parquet", source__rag=RAG | {"chunk_tokens": 32})


def test_generated_blocks_are_stored_and_read_by_the_next_turn(tmp_path: Path) -> None:
    """Turn 2 reads all of turn 1: ten blocks of its prompt and the one that it generated."""
    options = PLAIN | {"source__users": 1, "requests": 2, "source__end_probability": 0.01}
    rows = rows_of(tmp_path / "t.parquet", **options, duration="1h")
    generated = rows.filter((pl.col("phase") == "decode") & (pl.col("op") == "write"))
    second = rows.filter((pl.col("request") == 1) & (pl.col("step") == 1))
    assert second.height == 11
    assert generated["key"][0] in second["key"].to_list()


def test_the_longest_prompts_are_read_too(tmp_path: Path) -> None:
    """However long a context is, its next turn reads it."""
    long = ONE | {"context_tokens": [20_000, 20_000]}
    options = PLAIN | {"source__templates": {"long": long}, "source__users": 1, "requests": 2}
    options |= {"source__end_probability": 0.01, "duration": "1h"}
    rows = rows_of(tmp_path / "t.parquet", **options)
    reads = rows.filter((pl.col("request") == 1) & (pl.col("step") == 1))
    assert reads.height == (20_000 + 64) // 64


def test_hybrid_state_is_kept_at_the_end_of_each_prompt(tmp_path: Path) -> None:
    """gpt-oss-20b: 640 tokens are ten blocks and a state of its full windows; a turn reads it."""
    options = PLAIN | {"model": "gpt-oss-20b", "source__users": 1, "requests": 2}
    options |= {"source__end_probability": 0.01, "duration": "1h"}
    rows = rows_of(tmp_path / "t.parquet", **options)
    first = rows.filter((pl.col("request") == 0) & (pl.col("step") == 2))
    assert sorted(first["size"]) == [64 * 24_576] * 10 + [3_145_728]
    # The generated block has no checkpoint: the hit ends with the prompt of the turn before.
    second = rows.filter((pl.col("request") == 1) & (pl.col("step") == 1))
    assert sorted(second["size"]) == [64 * 24_576] * 10 + [3_145_728]


def test_state_interval_keeps_states_in_between(tmp_path: Path) -> None:
    """Every 256 tokens: after blocks 4 and 8 of ten, and at the end; windows of 128 are full."""
    options = PLAIN | {"model": "gpt-oss-20b", "source__users": 1, "requests": 1}
    rows = rows_of(tmp_path / "t.parquet", **options, state_interval=256, layout="lmcache")
    assert rows.filter((pl.col("size") == 3_145_728) & (pl.col("step") == 2)).height == 3
    with pytest.raises(UsageError, match="no state to keep"):
        make(tmp_path / "no.parquet", **PLAIN, state_interval=256)


def test_a_window_that_isnt_full_is_as_long_as_the_context(tmp_path: Path) -> None:
    """gemma3-27b's window of 1,024 after 640 tokens: 640 / 1,024 of its state."""
    options = PLAIN | {"model": "gemma3-27b", "source__users": 1, "requests": 1}
    rows = rows_of(tmp_path / "t.parquet", **options)
    assert rows["size"].max() == 436_207_616 * 640 // 1024


def test_lookups_come_first(tmp_path: Path) -> None:
    """One look-up per key of the prompt, step 0, size 0, before any read or write of it."""
    rows = rows_of(tmp_path / "t.parquet", **PLAIN, lookups=True, source__users=1)
    per_request = rows.group_by("request").agg(
        (pl.col("op") == "lookup").sum().alias("asked"),
        pl.col("step").is_in([1, 2]).sum().alias("moved"),
        pl.col("step").is_sorted().alias("ordered"),
    )
    assert per_request["asked"].equals(per_request["moved"], check_names=False)
    assert per_request["ordered"].all()
    assert set(rows.filter(pl.col("op") == "lookup")["size"]) == {0}


def test_admission_at_second_use(tmp_path: Path) -> None:
    """Nvme gets only what was asked for again: no block of a session of one turn."""
    options = {"source__multi_turn": False, "source__system_prompts__probability": 0}
    always = rows_of(tmp_path / "a.parquet", **options)
    second = rows_of(tmp_path / "b.parquet", **options, admission="second-use")
    assert always.filter(pl.col("tier") == "nvme").height > 0
    assert second.filter(pl.col("tier") == "nvme").height == 0


def test_a_prefill_only_node_generates_nothing(tmp_path: Path) -> None:
    """No decode steps, no generated block; prompts as before."""
    both = rows_of(tmp_path / "a.parquet", **PLAIN)
    half = rows_of(tmp_path / "b.parquet", **PLAIN, role="prefill")
    assert both["step"].max() == 3
    assert half["step"].max() == 2
    assert half["request"].n_unique() == both["request"].n_unique()


def test_a_decode_only_node_has_its_prompts(tmp_path: Path) -> None:
    """All that it reads is resident at the start or generated by itself; nothing is prefilled."""
    options: dict[str, Any] = {"role": "decode", "tiers__nvme__capacity": "unlimited"}
    rows = rows_of(tmp_path / "t.parquet", **options)
    assert rows.filter(pl.col("phase") == "prefill").height == 0
    with open_trace(tmp_path / "t.parquet") as trace:
        assert check(trace).ok
        resident = trace.resident()
        assert set(resident["tier"]) == {Tier.NVME}
        # No more than is asked for: each of them is read.
        read = set(rows.filter(pl.col("op") == "read")["key"])
        assert set(resident["key"].tolist()) <= read
    with pytest.raises(UsageError, match=r"doesn't fit its slowest tier.*GiB of prompts"):
        make(tmp_path / "no.parquet", role="decode", tiers__nvme__capacity="16MiB")


@pytest.mark.slow
@pytest.mark.parametrize("warmup", ["8s", "20", "steady"])
def test_after_a_warmup_comes_what_would_have_come(tmp_path: Path, warmup: str) -> None:
    """The trace is the tail of the whole one; what the tiers held at the cut is declared."""
    whole = rows_of(tmp_path / "a.parquet", duration="40s")
    warm = rows_of(tmp_path / "b.parquet", warmup=warmup, duration="12s")
    tail = whole.slice(np.flatnonzero(_begins(whole, warm))[0]).head(warm.height)
    cut_ns = tail["timestamp"][0] - warm["timestamp"][0]
    shifted = tail.with_columns(pl.col("timestamp") - cut_ns)
    # Requests that arrive late in the whole trace have no counterpart in the shorter one.
    same = int(((shifted != warm).sum_horizontal() > 0).arg_max() or warm.height)
    assert same > warm.height // 2
    if warmup == "8s":
        assert cut_ns == 8 * 10**9
    with open_trace(tmp_path / "b.parquet") as trace:
        assert check(trace).ok
        assert len(trace.resident()) > 0


def _begins(whole: pl.DataFrame, warm: pl.DataFrame) -> np.ndarray:
    """Return which rows of the whole trace are the first of the other one."""
    first = warm.row(0, named=True)
    same = [pl.col(name) == first[name] for name in ("op", "tier", "key", "request", "step")]
    return whole.select(pl.all_horizontal(same))[:, 0].to_numpy()


def test_a_warmup_that_takes_all_requests_is_refused(tmp_path: Path) -> None:
    """Nothing would be left."""
    requests = tmp_path / "requests.jsonl"
    line = '{"timestamp": 0, "input_length": 512, "output_length": 1, "hash_ids": [1]}'
    requests.write_text(f"{line}\n" * 3)
    with pytest.raises(UsageError, match="end within the warm-up"):
        make(tmp_path / "t.parquet", warmup="10", source__users=None, duration=None,
             source__name="mooncake", source__input=[str(requests)])  # fmt: skip
    with pytest.raises(UsageError, match="never gets steady"):
        make(tmp_path / "t.parquet", warmup="steady", **PLAIN | {
            "tiers__gpu__capacity": "unlimited"})  # fmt: skip


def test_a_day_has_its_waves(tmp_path: Path) -> None:
    """Half a period at amplitude 0.8 brings (1 + 1.6 / π) / (1 − 1.6 / π) of the other half's."""
    options = PLAIN | {"source__users": None, "source__rate": 40, "source__arrival": "diurnal"}
    options |= {"source__diurnal_amplitude": 0.8, "source__diurnal_period": "100s"}
    rows = rows_of(tmp_path / "t.parquet", **options, source__multi_turn=False, duration="100s")
    arrivals = rows.group_by("request").agg(pl.col("timestamp").min())["timestamp"].to_numpy()
    high, low = (arrivals < 50e9).sum(), (arrivals >= 50e9).sum()
    expected = (1 + 1.6 / np.pi) / (1 - 1.6 / np.pi)
    assert high / low == pytest.approx(expected, rel=0.15)
    assert len(arrivals) == pytest.approx(4000, rel=0.1)


GPUS = {"8xh200-70b-tp8": 8, "agentic-coding": 1, "disaggregated-prefill": 4,
        "disaggregated-decode": 4, "long-context": 4}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("preset", sorted(GPUS))
def test_presets_are_plausible_for_their_hardware(tmp_path: Path, preset: str) -> None:
    """No preset computes more than its node can, and none asks more of storage than drives give."""
    config = load_config(None, {}, preset=preset)
    assert config.gpus == GPUS[preset]
    made = record(config, tmp_path / "t.parquet", dry_run=True)
    seconds = made.header.totals.duration_ns / 1e9
    moved = {(cell.tier, cell.op): cell.bytes / seconds / 1e9 for cell in made.header.totals.cells}
    assert moved["nvme", "read"] + moved["nvme", "write"] < 28  # two drives' worth of PCIe 5
    assert max(moved[tier, op] for tier, op in moved if tier != "gpu") / config.gpus < 14
    if config.prefill_rate is None:
        return
    served = made.header.statistics["service"]
    assert 0.3 * config.prefill_rate < served["prefill_tokens_per_s"] < 0.85 * config.prefill_rate
    assert 0.3 < served["prefill_busy_ratio"] < 0.85
    assert served["prefill_wait_ns"]["p50"] < 15e9


def test_a_node_computes_no_more_than_it_can(tmp_path: Path) -> None:
    """Requests queue for prefill: the busy time is at most all, and the rate at most the node's."""
    path = tmp_path / "t.parquet"
    made = make(path, prefill_rate=1000, source__users=None, source__rate=5)
    served = made.header.statistics["service"]
    assert 900 < served["prefill_tokens_per_s"] <= 1000.001
    assert 0.9 < served["prefill_busy_ratio"] <= 1.000001
    assert served["prefill_tokens"] == made.stats.prompt_tokens - made.stats.hit_tokens
    first, wait = served["first_token_ns"], served["prefill_wait_ns"]
    assert 1e9 < wait["p50"] < wait["p90"] <= wait["p99"]
    assert all(first[name] >= wait[name] for name in first)
    shared = make(tmp_path / "s.parquet", prefill_rate=1000, prefill_slots=4, source__users=None,
                  source__rate=5)  # fmt: skip
    assert shared.header.statistics["service"]["prefill_wait_ns"]["p50"] < wait["p50"]


def test_requests_wait_for_a_place_in_the_batch(tmp_path: Path) -> None:
    """With a decode batch no more requests than that generate at once; the others wait."""
    options: dict[str, Any] = {"source__users": 8, "generation": "realistic"}
    free = make(tmp_path / "free.parquet", decode_batch=8, **options)
    held = make(tmp_path / "held.parquet", decode_batch=1, **options)
    waits = [m.header.statistics["service"]["decode_wait_ns_mean"] for m in (free, held)]
    assert waits[0] == 0
    assert waits[1] > 1e9


@pytest.mark.parametrize(
    ("options", "named"),
    [({"prefill_slots": 4}, "prefill_rate"), ({"decode_batch": 4, "generation": "none"}, "batch")],
)
def test_queues_without_rates_are_refused(options: dict[str, Any], named: str) -> None:
    """An option that would change nothing is refused."""
    with pytest.raises(UsageError, match=named):
        load_config(None, options | {"model": "tiny-1b"})
