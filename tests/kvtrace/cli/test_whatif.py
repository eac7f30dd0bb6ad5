"""`kvtrace whatif` as a command: tables, JSON, CSV, charts, and what it refuses."""

from __future__ import annotations

import csv
import json
import sys
from typing import TYPE_CHECKING

import pytest

from tests.support.browser import opened, undrawn

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.command import Outcome

    Cli = Callable[..., Outcome]

REQUESTS = ("--rate", "1/s", "--model", "tiny-1b", "--block-tokens", 64, "--duration", "10s",
            "--seed", 3)  # fmt: skip
TRIED = ("--gpu-mem", "64MiB", "--cpu-mem", "128MiB,256MiB", "--nvme-capacity", "300MiB,1GiB",
         "--eviction", "lru,sieve")  # fmt: skip


@pytest.mark.slow
def test_json_equals_a_dry_run(tmp_path: Path, cli: Cli) -> None:
    """Each combination's figures are those of `record --dry-run --json` with the same options."""
    outcome = cli("whatif", *REQUESTS, *TRIED, "--json")
    assert (outcome.code, outcome.err) == (0, "")
    found = json.loads(outcome.out)["combinations"]
    assert len(found) == 8
    for each in found:
        options = each["options"]
        dry = json.loads(
            cli(
                "record", tmp_path / "t.parquet", *REQUESTS, "--dry-run", "--json",
                "--gpu-mem", options["tiers.gpu.capacity"],
                "--cpu-mem", options["tiers.cpu.capacity"],
                "--nvme-capacity", options["tiers.nvme.capacity"],
                "--eviction", options["eviction"],
            ).out
        )  # fmt: skip
        for name in ("hit_ratio", "cells", "requests", "blocks", "duration_s"):
            assert each[name] == dry[name], (options, name)
        assert each["total_hit_ratio"] <= each["optimal_hit_ratio"]


@pytest.mark.slow
def test_tables_fit_a_terminal(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tables name all that is asked, in 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")
    out = cli("whatif", *REQUESTS, *TRIED, "--curve").out
    for word in ("OPT", "DWPD", "GiB/day", "r:w", "of the node", "sieve", "256MiB", "miss ratio"):
        assert word in out
    assert max(len(line) for line in out.splitlines()) <= 80


def test_a_trace_in_csv_out(tmp_path: Path, cli: Cli, small_trace: Path) -> None:
    """A trace's requests under other tiers, one row per combination in a CSV."""
    path = tmp_path / "w.csv"
    outcome = cli("whatif", small_trace, "--cpu-mem", "64MiB,1GiB", "--csv", path)
    assert outcome.code == 0
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert [row["tiers.cpu.capacity"] for row in rows] == ["64MiB", "1GiB"]
    assert float(rows[0]["hit_ratio"]) < float(rows[1]["hit_ratio"])
    assert float(rows[0]["drive_writes_per_day"]) > 0
    again = cli("whatif", small_trace, "--csv", path)
    assert again.code == 4
    assert "exists already" in again.error
    assert cli("whatif", small_trace, "--csv", path, "--force").code == 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["html", "svg", "png"])
def test_charts(tmp_path: Path, cli: Cli, kind: str) -> None:
    """A chart is made of each kind, whole, with nothing else beside it."""
    pytest.importorskip("altair")
    pytest.importorskip("vl_convert")
    path = tmp_path / f"w.{kind}"
    outcome = cli("whatif", *REQUESTS, *TRIED, "--curve", "--plot", path)
    assert outcome.code == 0, outcome
    start = {"html": b"<!doctype html>", "svg": b"<svg", "png": b"\x89PNG"}[kind]
    assert path.read_bytes().lstrip().startswith(start)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.slow
def test_a_report_is_the_table_in_three_forms(tmp_path: Path, cli: Cli) -> None:
    """A row per combination, units in the heads, figures as JSON has them; nothing overwritten."""
    openpyxl = pytest.importorskip("openpyxl")
    forms = [tmp_path / f"w.{kind}" for kind in ("html", "json", "xlsx")]
    words = [word for path in forms for word in ("--report", path)]
    outcome = cli("whatif", *REQUESTS, *TRIED, "--curve", *words)
    assert (outcome.code, outcome.err) == (0, "")
    page, document = forms[0].read_text(), json.loads(forms[1].read_text())
    assert len(document["combinations"]) == 8
    book = openpyxl.load_workbook(forms[2])
    assert book.sheetnames == ["Summary", "Hit ratios", "Bytes", "Miss ratio"]
    for sheet, name, figure, form in (
        ("Hit ratios", "all tiers hit ratio", lambda each: each["total_hit_ratio"], "0.0%"),
        ("Bytes", "nvme written (GiB)",
         lambda each: each["tiers"]["nvme"]["write_bytes"] / (1 << 30), "#,##0.000"),
        ("Bytes", "drive writes per day", lambda each: each["drive_writes_per_day"], None),
    ):  # fmt: skip
        heads = [cell.value for cell in book[sheet][1]]
        assert heads[:3] == ["cpu", "nvme", "eviction"]
        cells = [row[heads.index(name)] for row in book[sheet].iter_rows(min_row=2)]
        expected = [figure(each) for each in document["combinations"]]
        assert [cell.value for cell in cells] == pytest.approx(expected)
        assert form in (None, cells[0].number_format)
        assert name in page
    best = max(each["total_hit_ratio"] for each in document["combinations"])
    [first] = [line for line in page.splitlines() if "<h1>" in line]
    assert f"to {best:.1%} (cpu 256MiB, nvme 1GiB, eviction " in first
    again = cli("whatif", *REQUESTS, "--report", forms[0])
    assert again.code == 4
    assert "exists already" in again.error


@pytest.mark.slow
def test_the_page_is_drawn_and_fits_a_phone(tmp_path: Path, cli: Cli) -> None:
    """Hit ratios, bytes per tier, curves: titles with units, legends, axes; at 1,280 and 390 px."""
    path = tmp_path / "w.html"
    assert cli("whatif", *REQUESTS, *TRIED, "--curve", "--report", path).code == 0
    moved = [f"Tier {tier}: GiB {past} by the node"
             for tier in ("gpu", "cpu", "nvme") for past in ("read", "written")]  # fmt: skip
    with opened(path) as driver:
        drawn = {chart["name"]: chart for chart in driver.execute_script(_CHARTS)}
        hits = "Hit ratio: share of the blocks asked for that some tier has"
        assert list(drawn) == [hits, *moved, "Miss ratio of one tier"]
        assert drawn[hits]["axes"] == ["capacity of tier nvme", "of blocks"]
        assert drawn[hits]["legend"][0] == "cpu 128MiB, lru"
        assert "optimum cpu 256MiB" in drawn[hits]["legend"]
        assert undrawn(driver) == []
        assert driver.get_log("browser") == []
        over = "return [...document.querySelectorAll('.scroll')].map((d) => d.scrollWidth - "
        size = {"width": 1280, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        assert max(driver.execute_script(f"{over} d.clientWidth)")) <= 0
    with opened(path, phone=True) as driver:
        assert driver.execute_script("return document.documentElement.scrollWidth") <= 390
        assert undrawn(driver) == []


_CHARTS = """
return [...document.querySelectorAll(".chart")].map((place) => ({
  name: place.getAttribute("aria-label"),
  legend: [...place.querySelectorAll(".role-legend-label text")].map((text) => text.textContent),
  axes: [...place.querySelectorAll(".role-axis-title text")].map((text) => text.textContent),
}));
"""


@pytest.mark.slow
def test_without_a_capacity_there_are_bars(tmp_path: Path, cli: Cli) -> None:
    """Policies alone are compared by bars that can be seen."""
    path = tmp_path / "w.html"
    small = ("--gpu-mem", "64MiB", "--cpu-mem", "128MiB", "--nvme-capacity", "1GiB")
    outcome = cli("whatif", *REQUESTS, *small, "--eviction", "lru,sieve", "--plot", path)
    assert outcome.code == 0, outcome
    with opened(path) as driver:
        bars = driver.execute_script(
            "return [...document.querySelectorAll('.chart')].map((place) => "
            "[...place.querySelectorAll('.mark-rect path')].map((bar) => bar.getBBox().width))"
        )
        assert len(bars[0]) >= 2
        assert all(width > 5 for widths in bars for width in widths)
        assert driver.get_log("browser") == []


def test_charts_without_their_packages(
    tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without altair it is said at once what to install."""
    monkeypatch.setitem(sys.modules, "altair", None)
    outcome = cli("whatif", *REQUESTS, "--plot", tmp_path / "w.svg")
    assert outcome.code == 4
    assert "pip install kvtrace[plot]" in outcome.error


def test_policies_without_libcachesim(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without libCacheSim it is said what to install."""
    monkeypatch.setitem(sys.modules, "libcachesim", None)
    outcome = cli("whatif", *REQUESTS, "--policies", "arc")
    assert outcome.code == 4
    assert "pip install kvtrace[whatif]" in outcome.error


REFUSED = {
    "policy": (("--policies", "arcc"), "did you mean arc or"),
    "eviction": (("--eviction", "lru,lfru"), "got 'lfru'"),
    "size": (("--cpu-mem", "1GiB,many"), "not a size"),
    "empty": (("--cpu-mem", "1GiB,,2GiB"), "not a list"),
    "chart": (("--plot", "w.gif"), "unknown kind of chart"),
    "report": (("--report", "w.pdf"), "unknown form of report"),
    "cold": (("--curve", "--set", "warmup=2s"), "don't begin empty"),
    "restart": (("--curve", "--set", "restart_at=2s"), "are emptied by a restart"),
}


@pytest.mark.slow
@pytest.mark.parametrize(("options", "message"), REFUSED.values(), ids=REFUSED)
def test_refused(cli: Cli, options: tuple[str, ...], message: str) -> None:
    """What isn't accepted is told in one line with exit 2."""
    outcome = cli("whatif", *REQUESTS, *options)
    assert outcome.code == 2
    assert message in outcome.error


def test_a_trace_has_its_requests_already(cli: Cli, small_trace: Path) -> None:
    """Options of a source make no sense beside a trace."""
    outcome = cli("whatif", small_trace, "--rate", "1/s")
    assert outcome.code == 2
    assert "has its requests already" in outcome.error


def test_nothing_happens(cli: Cli) -> None:
    """Requests without a full block are an error."""
    outcome = cli("whatif", "--requests", 1, "--model", "tiny-1b", "--block-tokens", 100_000)
    assert outcome.code == 2
    assert "nothing happens" in outcome.error
