"""Loads of a replay against recomputing, once more by polars from the rows alone."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest

import kvtrace
from tests.support.command import apart
from tests.support.command import kvtrace as command
from tests.support.measured import measured

if TYPE_CHECKING:
    from pathlib import Path

BLOCK, GPUS = 64, 2
READS = (pl.col("op") == "read") & (pl.col("phase") == "decode") & (pl.col("step") == 1)


def seconds(tokens: pl.Expr) -> pl.Expr:
    """Seconds of prompts of tiny-1b on 2 GPUs of 100 TFLOP/s at half their peak, by hand."""
    parameters = 12 * (2 * 2048 * 128 * (16 + 4) + 3 * 2048 * 8192)
    attention = 12 * 2 * 16 * (128 + 128) * tokens**2 / 2
    return (2 * parameters * tokens + attention) / 100e12


def words(rows: pl.DataFrame) -> pl.DataFrame:
    """Return rows whose words are strings."""
    return rows.with_columns(pl.col("op", "tier", "phase").cast(pl.String))


def expected(trace: pl.DataFrame, result: pl.DataFrame) -> pl.DataFrame:
    """Return a row per request that loads from nvme: bytes, tokens, seconds each way."""
    prompt = words(trace).with_row_index("at").filter(
        READS | ((pl.col("op") == "write") & (pl.col("phase") == "prefill") & (pl.col("step") == 2))
    )  # fmt: skip
    blocks = (
        prompt.unique(["request", "block"], keep="first", maintain_order=True)
        .with_columns(computed=pl.col("op") == "write")
        .sort("request", "computed", pl.col("at"), descending=[False, False, True])
        .with_columns(place=pl.int_range(pl.len()).over("request") * BLOCK)
        .with_columns(cost=seconds(pl.col("place") + BLOCK) - seconds(pl.col("place")))
    )
    hit = (pl.col("tier") == "nvme") & ~pl.col("computed")
    costs = blocks.group_by("request").agg(
        recompute_s=pl.col("cost").filter(hit).sum(),
        missed_s=pl.col("cost").filter("computed").sum(),
        costs=pl.col("cost").filter(hit),
    )
    loads = words(result).filter(READS & (pl.col("tier") == "nvme"))
    bad = loads.filter(pl.col("error") != 0)["request"].unique().to_list()
    times = loads.filter(~pl.col("request").is_in(bad)).group_by("request").agg(
        bytes=pl.col("size").sum(), tokens=pl.col("block").n_unique() * BLOCK,
        load_s=(pl.col("complete").max() - pl.col("submit").min()) / 1e9,
        response_s=(pl.col("complete").max() - pl.col("due").min()) / 1e9,
    )  # fmt: skip
    return times.join(costs, "request").sort("request").with_columns(
        both_ends_s=pl.struct("costs", "load_s").map_elements(_meeting, pl.Float64)
    )  # fmt: skip


def _meeting(row: dict[str, Any]) -> float:
    """Return when the head's blocks are computed and the tail's loaded, tried block by block."""
    costs, load_s = row["costs"], row["load_s"]
    return min(max(sum(costs[:at]), load_s * (1 - at / len(costs))) for at in range(len(costs) + 1))


def check(document: dict[str, Any], table: pl.DataFrame, rows: pl.DataFrame) -> None:
    """Compare an answer with the rows computed apart."""
    table = table.sort("request")
    assert table["request"].to_list() == rows["request"].to_list()
    for name in ("bytes", "tokens"):
        assert table[name].to_list() == rows[name].to_list()
    for name in ("recompute_s", "missed_s", "load_s", "response_s", "both_ends_s"):
        assert table[name].to_list() == pytest.approx(rows[name].to_list(), rel=1e-9), name
    faster = rows["load_s"] < rows["recompute_s"]
    assert document["faster_ratio"] == pytest.approx(faster.mean())
    gained = rows["recompute_s"] - rows["load_s"]
    assert document["gpu_s_saved"] == pytest.approx(gained.clip(lower_bound=0).sum() * GPUS)
    assert document["gpu_s_wasted"] == pytest.approx(-gained.clip(upper_bound=0).sum() * GPUS)
    assert document["pays"] == (gained.sum() > 0)
    late = rows["recompute_s"] - rows["response_s"]
    saved = document["with_lateness"]["gpu_s_saved"]
    assert saved == pytest.approx(late.clip(lower_bound=0).sum() * GPUS)
    flip = rows["bytes"].sum() / rows["recompute_s"].sum()
    assert document["flip_bytes_per_s"] == pytest.approx(flip)
    pairs = zip(rows["recompute_s"], rows["load_s"], strict=True)
    ways = {
        "recompute": rows["recompute_s"], "load": rows["load_s"], "both_ends": rows["both_ends_s"],
        "best": pl.Series([min(pair) for pair in pairs]),
    }  # fmt: skip
    for way, times in ways.items():
        for percent in (50, 95, 99):
            value = (times + rows["missed_s"]).quantile(percent / 100, "linear")
            assert document["ttft_s"][way][f"p{percent}"] == pytest.approx(value), (way, percent)
    best = {n: gained.filter(rows["tokens"] >= n).sum() for n in set(rows["tokens"])}
    most = max(best.values())
    shortest = min(n for n, value in best.items() if value == pytest.approx(most))
    assert document["shortest_tokens"] == (shortest if most > 0 else None)


def test_recomputed_from_the_rows(tmp_path: Path, busy_trace: Path) -> None:
    """Every figure of the answer is that of a query of the trace's and the result's rows."""
    path = measured(busy_trace, tmp_path / "r.parquet", failed=3)
    answer = kvtrace.breakeven(path, flops="100T", gpus=GPUS, whole_trace=busy_trace)
    rows = expected(pl.read_parquet(busy_trace), pl.read_parquet(path))
    assert rows.height > 20
    assert 0.1 < (rows["load_s"] < rows["recompute_s"]).mean() < 0.9
    check(answer.document(), answer.table(), rows)
    assert answer.document()["failed_requests"] >= 1


def test_without_the_trace_loads_begin_the_prompt(tmp_path: Path, busy_trace: Path) -> None:
    """A result alone knows only what was replayed: it is placed at the start, and that is said."""
    path = measured(busy_trace, tmp_path / "r.parquet")
    answer = kvtrace.breakeven(path, flops="100T", gpus=GPUS)
    table = answer.table()
    tokens = pl.DataFrame({"tokens": table["tokens"]}).select(seconds(pl.col("tokens")))
    assert table["recompute_s"].to_list() == pytest.approx(tokens.to_series().to_list())
    assert set(table["missed_s"]) == {0.0}
    places = {row["name"]: row["from"] for row in answer.document()["assumptions"]}
    assert places["place of a load"].startswith("default")
    assert places["tokens of a block"] == "the trace's layout"
    assert (places["MFU"], places["tier"]) == ("default", "default: the slowest with hits")


def test_requests_that_the_trace_lacks_are_told(tmp_path: Path, busy_trace: Path) -> None:
    """A part of a trace answers for its own requests, and the others are counted."""
    path, part = measured(busy_trace, tmp_path / "r.parquet"), tmp_path / "part.parquet"
    assert command("slice", busy_trace, part, "--sessions", "50%").code == 0
    whole = kvtrace.breakeven(path, gpu="l4", whole_trace=busy_trace).document()
    some = kvtrace.breakeven(path, gpu="l4", whole_trace=part).document()
    [left] = [each for each in some["assumptions"] if each["name"] == "left out"]
    assert left["value"] == f"{whole['requests'] - some['requests']} requests of the result"
    assert 0 < some["requests"] < whole["requests"]
    assert "left out" not in [each["name"] for each in whole["assumptions"]]


def test_a_trace_at_a_bandwidth(busy_trace: Path) -> None:
    """Each load takes its bytes over the bandwidth; where it is what all need, nothing is won."""
    needs = kvtrace.breakeven(busy_trace, gpu="l4")
    document = needs.document()
    assert document["kind"] == "workload"
    at = kvtrace.breakeven(busy_trace, gpu="l4", drive_bandwidth=document["flip_bytes_per_s"])
    table = at.table()
    rate = document["flip_bytes_per_s"]
    assert table["load_s"].to_list() == pytest.approx((table["bytes"] / rate).to_list())
    even = at.document()
    assert even["gpu_s_saved"] == pytest.approx(even["gpu_s_wasted"])
    assert even["with_lateness"] is None
    twice = kvtrace.breakeven(busy_trace, gpu="l4", drive_bandwidth=2 * rate).document()
    assert (twice["pays"], twice["faster_ratio"]) == (True, pytest.approx(0.9, abs=0.1))
    won = twice["gpu_s_saved"] - twice["gpu_s_wasted"]
    assert won == pytest.approx(document["recomputed_gpu_s"] / 2)


def test_sentences(tmp_path: Path, busy_trace: Path) -> None:
    """The answer comes first: whether it pays, by how much, and from when reads were due."""
    path = measured(busy_trace, tmp_path / "r.parquet")
    slow = kvtrace.breakeven(path, flops="50G").sentence()
    assert slow.startswith("The nvme tier pays: ")
    fast = kvtrace.breakeven(path, gpu="b200").sentence()
    assert fast.startswith("The nvme tier does not pay: ")
    assert " GPU-s saved and " in fast
    assert "at P50 of" in fast


def test_a_tail_that_decides_is_told(tmp_path: Path, busy_trace: Path) -> None:
    """Where most loads win and the tier still loses, the sentence says why."""
    path = measured(busy_trace, tmp_path / "r.parquet")
    table = kvtrace.breakeven(path, prefill_rate="100000/s").table()
    ratio = table["load_s"] / table["recompute_s"]
    between = (ratio.median() + table["load_s"].sum() / table["recompute_s"].sum()) / 2
    answer = kvtrace.breakeven(path, prefill_rate=100_000 / between)
    won = answer.document()["faster_ratio"] > 0.5
    assert answer.document()["pays"] != won
    last = "slow loads lose more than the fast ones save." if won else "fast loads save more than"
    assert last in answer.sentence()


@pytest.mark.slow
def test_a_replay(tmp_path: Path, busy_trace: Path) -> None:
    """A result that `kvtrace replay` wrote gives the figures of its own rows."""
    path = tmp_path / "r.parquet"
    made = apart("replay", busy_trace, "--target", "nvme=null", "--speed", "20", "--min-window",
                 "0s", "--out", path)  # fmt: skip
    assert made.code in (0, 5), made.err
    asked = apart("breakeven", path, "--trace", busy_trace, "--flops", "100T", "--gpus", GPUS,
                  "--json")  # fmt: skip
    assert asked.code == 0, asked.err
    table = kvtrace.breakeven(path, flops="100T", gpus=GPUS, whole_trace=busy_trace).table()
    rows = expected(pl.read_parquet(busy_trace), pl.read_parquet(path))
    check(json.loads(asked.out), table, rows)
