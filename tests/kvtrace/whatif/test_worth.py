"""Loads of each combination against recomputing: those of a trace that was recorded so."""

from __future__ import annotations

import csv
import json
from typing import TYPE_CHECKING

import pytest
import yaml

import kvtrace
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
