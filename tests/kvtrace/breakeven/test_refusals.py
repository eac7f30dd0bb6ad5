"""Bad input of each option of a break-even: refused in one line that names it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import kvtrace
from kvtrace.errors import KvtraceError
from kvtrace.trace.header import Header
from kvtrace.trace.schema import Op, Phase, Tier
from tests.support.making import write_rows
from tests.support.measured import measured

if TYPE_CHECKING:
    from pathlib import Path

MODEL = {"model": "llama3.1-8b"}
TABLE = [(100, 1.0), (200, 2.0)]
OPTIONS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "nothing": ({}, ("nothing to compare", "--model NAME")),
    "no speed": (MODEL, ("isn't known", "--gpu NAME", "known GPUs: a100")),
    "unknown GPU": (MODEL | {"gpu": "h101"}, ("unknown GPU", "'h101'", "h100", "--flops")),
    "unknown GPU beside a rate": (MODEL | {"gpu": "x", "prefill_rate": 1.0}, ("unknown GPU",)),
    "GPUs": (MODEL | {"gpu": "h100", "gpus": 0}, ("--gpus", "1 to 16,384")),
    "precision": (MODEL | {"gpu": "h100", "precision": "fp4"}, ("--precision", "bf16, fp8")),
    "no fp8": (MODEL | {"gpu": "a100", "precision": "fp8"}, ("no fp8 figure of a100",)),
    "MFU": (MODEL | {"gpu": "h100", "mfu": 1.5}, ("--mfu", "above 0, up to 1")),
    "no MFU": (MODEL | {"gpu": "h100", "mfu": 0.0}, ("--mfu",)),
    "FLOPS": (MODEL | {"flops": "many"}, ("--flops", "989T")),
    "few FLOPS": (MODEL | {"flops": 989}, ("--flops", "1e9 to 1e18")),
    "FLOPS twice": (MODEL | {"flops": "1T", "gpu": "h100"}, ("--gpu", "with --flops")),
    "formula": (MODEL | {"gpu": "h100", "formula": "x"}, ("--formula", "mooncake, parameters")),
    "formula of MoE": (
        {"model": "qwen3-30b-a3b", "gpu": "h100", "formula": "mooncake"},
        ("mooncake of qwen3-30b-a3b", "accepted: parameters"),
    ),
    "rate": (MODEL | {"prefill_rate": "fast"}, ("--prefill-rate", "40000/s")),
    "negative rate": (MODEL | {"prefill_rate": -1.0}, ("--prefill-rate",)),
    "rate and MFU": (MODEL | {"prefill_rate": 1.0, "mfu": 0.5}, ("--mfu", "--prefill-rate")),
    "rate and table": (
        MODEL | {"prefill_rate": 1.0, "prefill_table": TABLE}, ("--prefill-table",),
    ),
    "table": (MODEL | {"prefill_table": [(1,), (2,)]}, ("prefill_table", "2 or 3 numbers")),
    "no table": (MODEL | {"prefill_table": [(1, 1)]}, ("at least 2 rows",)),
    "table of words": (MODEL | {"prefill_table": ["ab", "cd"]}, ("prefill_table",)),
    "table that falls": (MODEL | {"prefill_table": [(1, 2), (2, 1)]}, ("falls", "1 s at 2 tok")),
    "table below the floor": (
        MODEL | {"prefill_table": TABLE, "hbm_floor": "1500ms"}, ("falls", "-0.5 s at 100"),
    ),
    "table out of order": (MODEL | {"prefill_table": [(2, 1), (1, 2)]}, ("tokens must rise",)),
    "table with a negative": (MODEL | {"prefill_table": [(1, -1), (2, 1)]}, ("negative",)),
    "floor": (MODEL | {"prefill_rate": 1.0, "hbm_floor": "x"}, ("--hbm-floor", "30ms")),
    "floor of a formula": (
        MODEL | {"gpu": "h100", "hbm_floor": "1s"}, ("--hbm-floor", "--prefill-rate"),
    ),
    "two floors": (
        MODEL | {"prefill_table": [(1, 1, 1), (2, 2, 1)], "hbm_floor": "1s"}, ("--hbm-floor",),
    ),
    "bandwidth": (
        MODEL | {"gpu": "h100", "drive_bandwidth": "fast"}, ("--drive-bandwidth", "6GB/s"),
    ),
    "bandwidth per hour": (
        MODEL | {"gpu": "h100", "drive_bandwidth": "6GB/h"}, ("--drive-bandwidth",),
    ),
    "no bandwidth": (MODEL | {"gpu": "h100", "drive_bandwidth": "0"}, ("--drive-bandwidth",)),
    "tier of a curve": (MODEL | {"gpu": "h100", "tier": "nvme"}, ("--tier", "trace")),
    "dtype": (MODEL | {"gpu": "h100", "dtype": "fp5"}, ("dtype", "fp5")),
    "model": ({"model": "llama3.1-9b", "gpu": "h100"}, ("unknown model", "llama3.1-8b")),
}  # fmt: skip


@pytest.mark.parametrize("case", OPTIONS)
def test_options(case: str) -> None:
    """Each option with a value that isn't accepted, or beside one that it doesn't go with."""
    options, words = OPTIONS[case]
    with pytest.raises(KvtraceError) as refused:
        kvtrace.breakeven(**options)
    for word in words:
        assert word in str(refused.value), refused.value


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a,b\n1,2\n", ("not a table", "got a,b", "tokens,seconds")),
        ("tokens,seconds\n1,2\n3,x\n", (":3", "not a row", "got 3,x", "2 numbers")),
        ("tokens,seconds\n1,2,3\n", (":2", "not a row")),
        ("tokens,seconds\n", ("0 rows", "at least 2")),
        ("", ("not a table",)),
    ],
)
def test_table_files(tmp_path: Path, text: str, words: tuple[str, ...]) -> None:
    """A CSV says where it is wrong."""
    path = tmp_path / "prefill.csv"
    path.write_text(text)
    with pytest.raises(KvtraceError) as refused:
        kvtrace.breakeven(model="llama3.1-8b", prefill_table=path)
    for word in (*words, str(path)):
        assert word in str(refused.value), refused.value


def test_a_table_file_is_read(tmp_path: Path) -> None:
    """Tokens, seconds, and what a hit in HBM takes at that length."""
    path = tmp_path / "prefill.csv"
    path.write_text("tokens,seconds,hbm_seconds\n1024,0.5,0.25\n2048,1.0,0.25\n")
    table = kvtrace.breakeven(model="llama3.1-8b", prefill_table=path).table()
    times = dict(zip(table["tokens"], table["recompute_s"], strict=True))
    assert (times[512], times[1024], times[2048], times[4096]) == (0.125, 0.25, 0.75, 1.75)


def test_traces(tmp_path: Path, busy_trace: Path) -> None:
    """A tier without hits, an unknown model, options of other inputs, other traces."""
    result = measured(busy_trace, tmp_path / "r.parquet")
    other = measured(busy_trace, tmp_path / "o.parquet", seed=2)
    bare = write_rows(tmp_path / "bare.parquet", [])
    for options, words in (
        ({"trace": busy_trace, "tier": "object"}, ("no request loads from tier object", "nvme")),
        ({"trace": busy_trace, "tier": "gpu"}, ("unknown tier", "cpu, nvme, object")),
        ({"trace": busy_trace, "dtype": "fp8"}, ("--dtype",)),
        ({"trace": busy_trace, "whole_trace": busy_trace}, ("--trace", "result")),
        ({"trace": result, "drive_bandwidth": "1GB/s"}, ("--drive-bandwidth", "was measured")),
        ({"trace": result, "tier": "cpu"}, ("no request loads from tier cpu", "nvme")),
        ({"trace": result, "whole_trace": other, "tier": "cpu"}, ("no request loads",)),
        ({"trace": result, "whole_trace": result}, ("--trace", "is the result itself")),
        ({"trace": bare}, ("the trace names no model", "--model")),
        ({"trace": bare, "model": "tiny-1b"}, ("has no requests",)),
        ({"trace": tmp_path / "none.parquet"}, ("none.parquet",)),
    ):
        with pytest.raises(KvtraceError) as refused:
            kvtrace.breakeven(gpu="h100", **options)
        for word in words:
            assert word in str(refused.value), (options, refused.value)


@pytest.mark.parametrize("attention", [3, [3], [{"kind": [1]}], None])
def test_headers_hold_anything(tmp_path: Path, attention: object) -> None:
    """A header's model may be written by others: it is no bug of ours."""
    header = Header(model={"name": "tiny-1b", "attention": attention})
    rows = [(0, Op.READ, 4096, Tier.NVME, 1, Phase.DECODE)]
    more = {"request": np.zeros(1, "u8"), "step": np.ones(1, "u2")}
    path = write_rows(tmp_path / "t.parquet", rows, header, **more)
    document = kvtrace.breakeven(path, gpu="h100").document()
    assert document["requests"] == 1
    [tokens] = [each for each in document["assumptions"] if each["name"] == "tokens of a block"]
    assert tokens["value"] == "its bytes / 24,576"
    assert tokens["from"] == "the model, for the trace states no layout"


def test_a_result_without_requests(tmp_path: Path, busy_trace: Path) -> None:
    """Ops of a tool that names no requests can't be compared, with or without the trace."""
    rows = [(0, Op.READ, 4096, Tier.NVME, 1, Phase.DECODE)]
    times = {"submit": np.zeros(1, "i8"), "complete": np.ones(1, "i8")}
    path = write_rows(tmp_path / "t.parquet", rows, **times)
    for whole in (None, busy_trace):
        with pytest.raises(KvtraceError) as refused:
            kvtrace.breakeven(path, model="tiny-1b", gpu="h100", whole_trace=whole)
        assert "has no requests" in str(refused.value)


def test_another_trace_is_noticed(tmp_path: Path, busy_trace: Path) -> None:
    """A trace whose requests load other bytes than were measured is refused."""
    from tests.support.making import make

    result = measured(busy_trace, tmp_path / "r.parquet")
    make(tmp_path / "other.parquet", source__users=14, duration="40s", seed=99,
         tiers__gpu__capacity="96MiB", tiers__nvme__capacity="8GiB")  # fmt: skip
    with pytest.raises(KvtraceError) as refused:
        kvtrace.breakeven(result, gpu="h100", whole_trace=tmp_path / "other.parquet")
    assert "is not the trace that was replayed" in str(refused.value)


def test_models_without_dimensions(tmp_path: Path) -> None:
    """A config.json of layers that aren't understood has no parameters; measured times do."""
    path = tmp_path / "mine.toml"
    path.write_text(
        'name = "mine"\nsource = "made up"\ndate = "2026"\n\n[[attention]]\nkind = "full"\n'
        "layers = 2\nkv_heads = 2\nhead_dim = 64\n"
    )
    with pytest.raises(KvtraceError) as refused:
        kvtrace.breakeven(model=path, gpu="h100")
    assert "what mine computes per token isn't known" in str(refused.value)
    assert "--prefill-rate" in str(refused.value)
    table = kvtrace.breakeven(model=path, prefill_rate="1000/s").table()
    assert table["recompute_s"].to_list() == [n / 1000 for n in table["tokens"]]
