"""Loads of each combination against recomputing: those of a trace that was recorded so."""

from __future__ import annotations

import csv
import json
from typing import TYPE_CHECKING

import polars as pl
import pytest
import yaml

import kvtrace
from kvtrace.errors import UsageError
from kvtrace.recording.config import load_config
from kvtrace.recording.pipeline import record

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.command import Outcome

    Cli = Callable[..., Outcome]

CONFIG = {
    "model": "tiny-1b", "block_tokens": 64, "duration": "20s", "seed": 4,
    "source": {"users": 14},
    "tiers": {"gpu": {"capacity": "96MiB"}, "cpu": {"capacity": "256MiB"},
              "nvme": {"capacity": "8GiB"}},
}  # fmt: skip
ASKED = ("--gpu", "l4", "--mfu", "0.4", "--drive-bandwidth", "2GB/s")


@pytest.mark.parametrize(
    "change",
    [{}, {"tensor_parallel": 2}, {"layout": "request", "block_tokens": None}],
    ids=["", "two ranks", "turns"],
)
def test_a_combination_is_what_its_trace_gives(
    tmp_path: Path, cli: Cli, change: dict[str, object]
) -> None:
    """Loads, bytes, needs and GPU-seconds are those of `breakeven` of the recorded trace."""
    config = tmp_path / "c.yaml"
    config.write_text(yaml.safe_dump(CONFIG | change | {"ranks": "all"}))
    record(load_config(config), tmp_path / "t.parquet")
    outcome = cli("whatif", "--config", config, *ASKED, "--json")
    assert (outcome.code, outcome.err) == (0, "")
    [one] = json.loads(outcome.out)["combinations"]
    whole = kvtrace.breakeven(
        tmp_path / "t.parquet", gpu="l4", mfu=0.4, drive_bandwidth="2GB/s"
    ).document()
    assert one["breakeven"]["tier"] == "nvme"
    assert one["breakeven"]["requests"] == whole["requests"] > 5
    for name in ("bytes", "flip_bytes_per_s", "recomputed_gpu_s", "gpu_s_saved", "gpu_s_wasted"):
        assert one["breakeven"][name] == pytest.approx(whole[name], rel=1e-6), name
    assert one["breakeven"]["needed_bytes_per_s"] == pytest.approx(whole["needed_bytes_per_s"])


@pytest.mark.parametrize("model", ["qwen3-next-80b", "gpt-oss-20b"])
def test_checkpoints_of_hybrid_models_are_loaded_and_computed_with_their_blocks(
    tmp_path: Path, cli: Cli, model: str
) -> None:
    """Bytes are those of the recorded reads, states among them; tokens are those of the blocks."""
    config = tmp_path / "c.yaml"
    sizes = {"gpu": "1GiB", "cpu": "2GiB", "nvme": "800GiB"}
    tiers = {name: {"capacity": size} for name, size in sizes.items()}
    changed = CONFIG | {"model": model, "duration": "60s", "tiers": tiers, "ranks": "all"}
    config.write_text(yaml.safe_dump(changed))
    record(load_config(config), tmp_path / "t.parquet")
    rows = pl.read_parquet(tmp_path / "t.parquet").with_columns(
        pl.col("op", "tier", "phase").cast(pl.String)
    )
    loads = rows.filter(tier="nvme", op="read", phase="decode", step=1)
    blocks = loads.filter(pl.col("size") == loads["size"].min())
    states = loads.filter(pl.col("size") > loads["size"].min())
    assert len(states) > 5
    [one] = json.loads(cli("whatif", "--config", config, *ASKED, "--json").out)["combinations"]
    assert (
        one["breakeven"]["bytes"]
        == loads["size"].sum()
        == blocks["size"].sum() + states["size"].sum()
    )
    assert one["breakeven"]["requests"] == loads["request"].n_unique()
    tokens = loads.join(blocks.group_by("request").agg(n=64.0 * pl.len()), "request", "left")
    each = tokens.group_by("request").agg(pl.col("n").first().fill_null(0.0))["n"]
    assert one["breakeven"]["tokens"]["p50"] == pytest.approx(each.median())
    refused = cli("breakeven", tmp_path / "t.parquet", "--gpu", "h100")
    assert (refused.code, "checkpoints can't be told from blocks" in refused.error) == (3, True)


def test_from_python(small_trace: Path, tmp_path: Path, cli: Cli) -> None:
    """The function has the command's arguments and answers; a row without loads has none."""
    capacities = ["32MiB", "100GiB"]
    asked = kvtrace.whatif(
        small_trace, {"tiers.cpu.capacity": capacities}, gpu="l4", mfu=0.4, drive_bandwidth=2e9
    )
    command = cli("whatif", small_trace, "--cpu-mem", ",".join(capacities), *ASKED, "--json")
    assert asked.document()["combinations"] == json.loads(command.out)["combinations"]
    assert asked.table()["breakeven_tier"].to_list() == ["nvme", "cpu"]
    assert asked.table()["gpu_s_saved"][0] > 0
    many = [*["100GiB"] * 101, "2MiB"]
    sizes = {"tiers.gpu.capacity": many, "tiers.cpu.capacity": 0, "tiers.nvme.capacity": "1GiB"}
    loads = kvtrace.whatif(small_trace, sizes, flops="100T", gpus=2).table()["loads"].to_list()
    assert loads[:101] == [None] * 101
    assert loads[101] > 0
    config = load_config(None, {"model": "tiny-1b", "duration": "5s", "tiers.gpu.capacity": "8MiB"})
    [one] = kvtrace.whatif(config, flops=1e14).document()["combinations"]
    assert one["breakeven"]["kind"] == "workload"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"drive_bandwidth": "2GB/s"}, "how fast recomputing is isn't known"),
        ({"gpu": 1}, "gpu: not accepted"),
        ({"gpu": "h101"}, "unknown GPU"),
        ({"gpu": "h100", "gpus": "2"}, "gpus: not accepted"),
        ({"gpu": "h100", "gpus": 0}, "--gpus: out of range"),
        ({"gpu": "h100", "mfu": float("nan")}, "mfu: not accepted"),
        ({"gpu": "h100", "mfu": True}, "mfu: not accepted"),
        ({"flops": True}, "--flops"),
        ({"gpu": "h100", "drive_bandwidth": 0}, "drive_bandwidth: not accepted"),
        ({"gpu": "h100", "drive_bandwidth": "16Gb/s"}, "a small b is a bit"),
        ({"gpu": "h100", "drive_bandwidth": "16gb"}, "a small b is a bit"),
    ],
)
def test_refusals_from_python(small_trace: Path, arguments: dict[str, object], text: str) -> None:
    """Arguments are checked like the others."""
    with pytest.raises(UsageError, match=text):
        kvtrace.whatif(small_trace, **arguments)


@pytest.mark.slow
def test_of_a_trace(tmp_path: Path, cli: Cli, small_trace: Path) -> None:
    """A row per combination in the CSV, the terminal in 80 columns, a sheet, a section."""
    openpyxl = pytest.importorskip("openpyxl")
    paths = {kind: tmp_path / f"w.{kind}" for kind in ("csv", "html", "xlsx")}
    outcome = cli(
        "whatif", small_trace, "--cpu-mem", "32MiB,100GiB", *ASKED, "--csv", paths["csv"],
        "--report", paths["html"], "--report", paths["xlsx"],
    )  # fmt: skip
    assert (outcome.code, outcome.err) == (0, "")
    for word in ("loads against recomputing", "need P50", "flips at", "saved", "wasted",
                 "assumed: MFU: 0.4 (given)", "assumed: precision: bf16 (default)"):  # fmt: skip
        assert word in " ".join(outcome.out.split())
    rows = list(csv.DictReader(paths["csv"].read_text().splitlines()))
    assert [row["breakeven_tier"] for row in rows] == ["nvme", "cpu"]
    assert float(rows[0]["gpu_s_saved"]) > 0
    assert "Loads against recomputing" in paths["html"].read_text()
    book = openpyxl.load_workbook(paths["xlsx"])
    heads = [cell.value for cell in book["Break-even"][1]]
    assert heads[-2:] == ["GPU-seconds saved", "GPU-seconds wasted"]
    assert book["Break-even"]["F2"].value == pytest.approx(float(rows[0]["gpu_s_wasted"]))


def test_what_is_not_asked_changes_nothing(cli: Cli, small_trace: Path) -> None:
    """Without a GPU there is no comparison; hits and bytes are the same either way."""
    plain, asked = (
        json.loads(cli("whatif", small_trace, *words, "--json").out)["combinations"][0]
        for words in ((), ("--gpu", "h100"))
    )
    assert "breakeven" not in plain
    assert asked.pop("breakeven")["kind"] == "workload"
    assert asked == plain


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("--drive-bandwidth", "2GB/s"), "how fast recomputing is isn't known"),
        (("--gpu", "h100", "--drive-bandwidth", "fast"), "--drive-bandwidth"),
        (("--gpu", "h101"), "unknown GPU"),
        (("--gpu", "h100", "--mfu", "2"), "--mfu"),
        (("--gpu", "h100", "--gpus", "0"), "--gpus"),
        (("--flops", "x"), "--flops"),
    ],
)
def test_refusals(cli: Cli, small_trace: Path, words: tuple[str, ...], text: str) -> None:
    """A bandwidth without a GPU, and values that aren't accepted."""
    outcome = cli("whatif", small_trace, *words)
    assert outcome.code == 2
    assert text in outcome.error
