"""`kvtrace export` and `kvtrace import` as a user calls them: options reach their formats."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest

from kvtrace.errors import EXIT_OK, EXIT_USAGE
from kvtrace.trace.schema import Op, Phase, Tier
from tests.support.making import write_rows

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MIB = 1 << 20


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    rows = [
        (0, Op.WRITE, 3 * MIB, Tier.NVME, 1, Phase.PREFILL),
        (1_000, Op.DELETE, 3 * MIB, Tier.NVME, 1, Phase.EVICT),
        (2_000, Op.WRITE, MIB, Tier.CPU, 2, Phase.PREFILL),
    ]
    return write_rows(tmp_path / "t.parquet", rows)


def test_options_of_fio(cli: Callable[..., Any], tmp_path: Path, trace: Path) -> None:
    """Each option of the command changes what is written."""
    log = tmp_path / "t.log"
    base = ["export", trace, log, "--to", "fio", "--fio-version", "3.34", "--json"]
    more = [
        "--tiers", "nvme,cpu", "--device", "/dev/none", "--size", "64MiB",
        "--extent-align", "64KiB", "--io-size", "1MiB", "--no-stall", "--queue-depth", "5",
    ]  # fmt: skip
    outcome = cli(*base, *more)
    assert outcome.code == EXIT_OK
    made = json.loads(outcome.out)
    assert (made["rows"], made["dropped_rows"]) == (3, 0)
    beside = [str(tmp_path / f"t.{end}") for end in ("log.map.parquet", "fio", "fill.fio")]
    assert made["beside"] == beside
    assert "loses" in made
    ops = [line.split()[2:] for line in log.read_text().splitlines()[3:-1]]
    assert [op[0] for op in ops] == ["write"] * 3 + ["trim"] * 3 + ["write"]
    assert {op[2] for op in ops} == {str(MIB)}
    job = (tmp_path / "t.fio").read_text()
    assert "replay_no_stall=1" in job
    assert "iodepth=5" in job
    assert "filename=/dev/none" in job
    assert cli(*base, "--filename", "kv", "--file-per-key", "--force").code == EXIT_OK
    assert "1 kv/0000000000000001 write 0 3145728" in log.read_text()


def test_a_log_comes_back_with_its_map(
    cli: Callable[..., Any], tmp_path: Path, trace: Path
) -> None:
    """--map gives rows the keys, tiers and phases that they had; other formats refuse it."""
    log, back, beside = (tmp_path / name for name in ("t.log", "b.parquet", "t.log.map.parquet"))
    base = ["export", trace, log, "--to", "fio", "--fio-version", "3.34", "--device", "/dev/none"]
    assert cli(*base, "--tiers", "nvme,cpu").code == EXIT_OK
    assert cli("import", log, back, "--map", beside).code == EXIT_OK
    names = ["op", "tier", "key", "phase"]
    found, expected = (pl.read_parquet(path).select(names) for path in (back, trace))
    assert found.equals(expected)
    refused = cli("import", log, back, "--format", "oracle", "--map", beside, "--force")
    assert (refused.code, "format oracle has no option --map" in refused.err) == (EXIT_USAGE, True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--to", "mlperf-csv", "--device", "x"], "format mlperf-csv has no option --device"),
        (["--to", "fio", "--with-deletes"], "format fio has no option --with-deletes"),
        (["--to", "fio", "--tiers", "disk"], "--tiers: unknown tier"),
        (["--to", "fio", "--size", "much"], "--size: not a size"),
        (["--to", "fio", "--extent-align", "5000"], "--extent-align: not accepted"),
    ],
)
def test_options_that_mean_nothing(
    cli: Callable[..., Any], tmp_path: Path, trace: Path, arguments: list[str], message: str
) -> None:
    """An option that isn't of the format, or isn't understood, is refused in one line."""
    outcome = cli("export", trace, tmp_path / "t.csv", *arguments)
    assert outcome.code == EXIT_USAGE
    assert message in outcome.error


def test_capacity_on_import(cli: Callable[..., Any], tmp_path: Path) -> None:
    """--nvme-capacity infers deletes, and is of one format only."""
    path = tmp_path / "t.csv"
    rows = "".join(f"{at}.0,Write,8,Tier-2,k{at},Prefill\n" for at in range(3))
    path.write_text(f"Timestamp,Operation,Object_Size_Bytes,Tier,Key,Phase\n{rows}")
    outcome = cli("import", path, tmp_path / "b.parquet", "--nvme-capacity", "16B")
    assert "1 deletes added for room on nvme; 2 objects live" in outcome.out
    (tmp_path / "x.log").write_text("fio version 3 iolog\n0 f read 0 512\n")
    refused = cli("import", tmp_path / "x.log", tmp_path / "x.parquet", "--nvme-capacity", "16B")
    assert refused.code == EXIT_USAGE
    assert "format fio has no option --nvme-capacity" in refused.error


def test_several_files_are_recognised(cli: Callable[..., Any], tmp_path: Path) -> None:
    """Logs of several jobs come in by their names alone."""
    for name in ("a.log", "b.log"):
        (tmp_path / name).write_text("fio version 3 iolog\n0 f read 0 512\n")
    outcome = cli("import", tmp_path / "a.log", tmp_path / "b.log", tmp_path / "t.parquet")
    assert outcome.code == EXIT_OK
    assert len(pl.read_parquet(tmp_path / "t.parquet")) == 2


def test_losses_are_those_of_the_options(
    cli: Callable[..., Any], tmp_path: Path, trace: Path
) -> None:
    """Deletes that `--with-deletes` keeps aren't among what the CSV loses."""
    lost = cli("export", trace, tmp_path / "a.csv", "--to", "mlperf-csv").out
    kept = cli("export", trace, tmp_path / "b.csv", "--to", "mlperf-csv", "--with-deletes").out
    assert "loses delete rows, which --with-deletes keeps" in lost
    assert "delete rows" not in kept
    assert "loses lookup rows" in kept
