"""`kvtrace whatif` as a command: tables, JSON, CSV, charts, and what it refuses."""

from __future__ import annotations

import csv
import json
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.cli.conftest import Outcome

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
    start = {"html": b"<!DOCTYPE html>", "svg": b"<svg", "png": b"\x89PNG"}[kind]
    assert path.read_bytes().lstrip().startswith(start)
    assert list(tmp_path.iterdir()) == [path]


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
    "cold": (("--curve", "--set", "warmup=2s"), "don't begin empty"),
}


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
