"""`kvtrace breakeven` as a command: tables, JSON, CSV, pages, the export, and refusals."""

from __future__ import annotations

import csv
import json
from typing import TYPE_CHECKING

import pytest
import yaml

from kvtrace.breakeven.aisimulate import fit
from tests.support.browser import opened, undrawn
from tests.support.making import make
from tests.support.measured import measured
from tests.support.places import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.command import Outcome

    Cli = Callable[..., Outcome]

CURVE = ("--model", "llama3.1-70b", "--gpu", "h100", "--gpus", "8")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A trace whose requests load from nvme, and a result of it."""
    folder = tmp_path_factory.mktemp("breakeven")
    trace = folder / "t.parquet"
    make(trace, source__users=14, duration="40s", tiers__gpu__capacity="96MiB",
         tiers__cpu__capacity="256MiB", tiers__nvme__capacity="8GiB", seed=4)  # fmt: skip
    return trace, measured(trace, folder / "r.parquet")


@pytest.mark.parametrize("kind", ["curve", "curve at a bandwidth", "trace", "result"])
def test_the_sentence_first_and_every_assumption(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, made: tuple[Path, Path], kind: str
) -> None:
    """In 80 columns: the answer, tables, and each default with the answer."""
    monkeypatch.setenv("COLUMNS", "80")
    words, first, texts = {
        "curve": (CURVE, "Loading a prefix of 8,192 tokens of llama3.1-70b pays above 8.78 GB/s",
                  ("131,072", "needed", "KV cache of llama3.1-70b")),
        "curve at a bandwidth": ((*CURVE, "--drive-bandwidth", "6GB/s"), "Loading a prefix",
                                 ("both ends", "load")),
        "trace": ((made[0], "--gpu", "h100"), "Loads from nvme beat recompute above",
                  ("the answer flips at", "bandwidth needed", "model: tiny-1b (the trace)")),
        "result": ((made[1], "--gpu", "h100"), "The nvme tier ",
                   ("recompute only", "load only", "best of both per request", "both ends at once",
                    "GPU-seconds saved", "GPU-seconds wasted", "shortest prefix worth loading",
                    "the answer flips at", "load with lateness", "with lateness",
                    "place of a load: the prompt's start")),
    }[kind]  # fmt: skip
    outcome = cli("breakeven", *words)
    assert (outcome.code, outcome.err) == (0, "")
    lines = outcome.out.splitlines()
    assert " ".join(outcome.out.split()).startswith(first)
    assert max(map(len, lines)) <= 80
    for text in (*texts, "assumed", "MFU: 0.5 (default)", "precision: bf16 (default)"):
        assert text in outcome.out
    assert "peak of h100: 989 TFLOP/s dense bf16" in outcome.out


def test_short(cli: Cli, made: tuple[Path, Path]) -> None:
    """The sentence and what it rests on, without tables: what ends a demonstration."""
    whole = cli("breakeven", made[1], "--gpu", "l4").out
    out = cli("breakeven", made[1], "--gpu", "l4", "--short").out
    assert out.splitlines()[0] == whole.splitlines()[0]
    assert out.splitlines()[0].startswith("The nvme tier ")
    assert out.split("assumed")[1] == whole.split("assumed")[1]
    assert ("recompute only" in whole, "recompute only" in out) == (True, False)


def test_the_demonstration_ends_with_the_sentence() -> None:
    """`make demo` asks of its own result, on a GPU that it names."""
    makefile = (ROOT / "Makefile").read_text()
    demo = makefile.partition("\ndemo:")[2].partition("\n\n")[0]
    last = demo.strip().splitlines()[-1]
    assert last.split()[1:4] == ["breakeven", "demo/result.parquet", "--trace"]
    assert "--gpu" in last


def test_json_and_csv(tmp_path: Path, cli: Cli, made: tuple[Path, Path]) -> None:
    """JSON has the figures; a CSV a row per request or length; nothing is overwritten."""
    path = tmp_path / "b.csv"
    outcome = cli("breakeven", made[1], "--gpu", "l4", "--trace", made[0], "--json", "--csv", path)
    assert (outcome.code, outcome.err) == (0, "")
    document = json.loads(outcome.out)
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert document["kind"] == "measured"
    assert len(rows) == document["requests"]
    assert sum(int(row["bytes"]) for row in rows) == document["bytes"]
    faster = sum(row["faster"] == "True" for row in rows) / len(rows)
    assert document["faster_ratio"] == pytest.approx(faster)
    again = cli("breakeven", made[1], "--gpu", "l4", "--csv", path)
    assert (again.code, "exists already" in again.error) == (4, True)
    lengths = tmp_path / "c.csv"
    assert cli("breakeven", *CURVE, "--csv", lengths).code == 0
    assert [row["tokens"] for row in csv.DictReader(lengths.read_text().splitlines())][:2] == [
        "512", "1024",
    ]  # fmt: skip
    onto = cli("breakeven", made[1], "--gpu", "l4", "--csv", made[1], "--force")
    assert onto.code != 0
    assert "--csv" in onto.error or "input" in onto.error


def test_infinite_figures_are_no_json(cli: Cli, made: tuple[Path, Path]) -> None:
    """Where the floor leaves nothing to compute, no bandwidth is enough, and JSON says null."""
    outcome = cli(
        "breakeven", made[0], "--prefill-rate", "1000000/s", "--hbm-floor", "1h", "--json"
    )
    assert outcome.code == 0, outcome.err
    assert json.loads(outcome.out)["flip_bytes_per_s"] is None


def test_export_for_aisimulate(cli: Cli, made: tuple[Path, Path]) -> None:
    """A block with the keys of that program: latency, bandwidths, blocks of the capacity."""
    outcome = cli("breakeven", made[1], "--gpu", "l4", "--export", "aisimulate")
    assert (outcome.code, outcome.err) == (0, "")
    block = yaml.safe_load(outcome.out)["g3_offload"]
    assert set(block) == {
        "scope", "num_g3_blocks", "latency_to_first_byte_ms", "read_bandwidth_gbps",
        "write_bandwidth_gbps",
    }  # fmt: skip
    assert block["num_g3_blocks"] == (8 << 30) // (64 * 24_576)
    assert block["read_bandwidth_gbps"] > 0
    for words, text in (
        ((made[0], "--gpu", "l4", "--export", "aisimulate"), "needs a replay's result"),
        ((made[1], "--gpu", "l4", "--export", "vidur"), "accepted: aisimulate"),
        ((made[1], "--gpu", "l4", "--export", "aisimulate", "--json"), "print to stdout"),
    ):
        refused = cli("breakeven", *words)
        assert refused.code == 2
        assert text in refused.error


def test_a_line_through_loads() -> None:
    """Latency and bandwidth of made-up loads are got back; without a spread, bandwidth alone."""
    import numpy as np

    moved = np.array([1e6, 2e6, 5e6])
    assert fit(moved, 0.001 + moved / 2e9) == pytest.approx((0.001, 2e9))
    assert fit(moved, moved / 2e9 - 0.0001) == pytest.approx((0, 8e6 / (8e6 / 2e9 - 0.0003)))
    assert fit(np.array([1e6, 1e6]), np.array([0.001, 0.003])) == (0.0, 0.5e9)


@pytest.mark.slow
def test_reports(tmp_path: Path, cli: Cli, made: tuple[Path, Path]) -> None:
    """A page with the sentence as headline, a workbook with a row per request, JSON as printed."""
    openpyxl = pytest.importorskip("openpyxl")
    forms = [tmp_path / f"b.{kind}" for kind in ("html", "json", "xlsx")]
    words = [word for path in forms for word in ("--report", path)]
    outcome = cli("breakeven", made[1], "--gpu", "l4", "--trace", made[0], *words, "--json")
    assert (outcome.code, outcome.err) == (0, "")
    document = json.loads(outcome.out)
    assert json.loads(forms[1].read_text()) == document
    page = forms[0].read_text()
    [first] = [line for line in page.splitlines() if "<h1>" in line]
    assert document["sentence"] in first
    book = openpyxl.load_workbook(forms[2])
    assert book.sheetnames == ["Summary", "Requests", "Assumptions"]
    assert book["Requests"].max_row == document["requests"] + 1
    assert book["Summary"]["B2"].value == document["sentence"]
    names = [row[0].value for row in book["Assumptions"].iter_rows(min_row=2)]
    assert names == [assumption["name"] for assumption in document["assumptions"]]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["curve", "trace", "result"])
def test_pages_are_drawn_and_fit_a_phone(
    tmp_path: Path, cli: Cli, made: tuple[Path, Path], kind: str
) -> None:
    """Charts with titles, in which something is seen, at 1,280 and 390 px."""
    path = tmp_path / "b.html"
    words, charts = {
        "curve": ((*CURVE, "--drive-bandwidth", "6GB/s"), 1),
        "trace": ((made[0], "--gpu", "l4"), 1),
        "result": ((made[1], "--gpu", "l4", "--trace", made[0]), 3),
    }[kind]
    assert cli("breakeven", *words, "--report", path).code == 0
    for phone in (False, True):
        with opened(path, phone=phone) as driver:
            assert undrawn(driver) == []
            assert driver.get_log("browser") == []
            names = driver.execute_script('return document.querySelectorAll(".chart").length')
            assert names == charts
            over = "return document.documentElement.scrollWidth - window.innerWidth"
            assert driver.execute_script(over) <= 0
