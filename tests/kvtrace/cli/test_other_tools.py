"""`kvtrace export` and `kvtrace import` of other tools' formats: flags, messages, what is there."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import polars as pl
import pytest

from kvtrace.errors import EXIT_TARGET, EXIT_USAGE

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.command import Outcome

OUTS = {
    "warp": "t.csv.zst",
    "sai3": "t.tsv",
    "oracle": "t.oracleGeneral",
    "lmcache": "t.lct",
    "perfetto": "t.json",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", OUTS)
def test_an_export_says_what_it_loses(
    tmp_path: Path, small_trace: Path, cli: Callable[..., Outcome], name: str
) -> None:
    """Rows, rows left out, files beside it and each loss are printed, and are there as JSON."""
    out = tmp_path / OUTS[name]
    outcome = cli("export", small_trace, out, "--to", name)
    assert outcome.code == 0
    assert outcome.out.startswith(f"{out}: ")
    assert "  loses the header" in outcome.out
    again = cli("export", small_trace, out, "--to", name, "--json", "--force")
    told = json.loads(again.out)
    assert told["rows"] > 0
    assert len(told["loses"]) == outcome.out.count("  loses ")
    assert {tmp_path / path for path in told["beside"]} == set(tmp_path.iterdir()) - {out}


@pytest.mark.parametrize("name", OUTS)
def test_nothing_is_replaced_without_force(
    tmp_path: Path, small_trace: Path, cli: Callable[..., Outcome], name: str
) -> None:
    """An export that is there already stays as it is."""
    out = tmp_path / OUTS[name]
    out.write_text("before")
    outcome = cli("export", small_trace, out, "--to", name)
    assert outcome.code == EXIT_TARGET
    assert "exists already" in outcome.error
    assert out.read_text() == "before"
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["warp", "sai3", "oracle", "lmcache"])
def test_an_import_recognises_what_was_exported(
    tmp_path: Path, small_trace: Path, cli: Callable[..., Outcome], name: str
) -> None:
    """A file comes back without its format being named, and passes `check`."""
    out, back = tmp_path / OUTS[name], tmp_path / "back.parquet"
    cli("export", small_trace, out, "--to", name)
    assert cli("import", out, back).code == 0
    assert cli("check", back).code == 0


def test_flags_reach_the_formats(
    tmp_path: Path, small_trace: Path, cli: Callable[..., Outcome]
) -> None:
    """--tiers, --endpoint, --prefix, --bucket, --with-cat and --tier do what their help says."""
    out = tmp_path / "t.tsv"
    place = ("--endpoint", "http://h:1", "--prefix", "p/")
    cli("export", small_trace, out, "--to", "warp", "--tiers", "cpu", *place, "--with-cat")
    frame = pl.read_csv(out, separator="\t")
    assert frame["file"].str.starts_with("p/cpu/").all()
    assert set(frame["endpoint"]) == {"http://h:1"}
    assert "cat" in frame.columns
    cli("export", small_trace, out, "--to", "sai3", "--bucket", "b", "--force")
    assert set(pl.read_csv(out, separator="\t")["endpoint"]) == {"s3://b/"}
    cli("export", small_trace, tmp_path / "o.oracleGeneral", "--to", "oracle")
    cli("import", tmp_path / "o.oracleGeneral", tmp_path / "o.parquet", "--tier", "object")
    tiers = pl.read_parquet(tmp_path / "o.parquet")["tier"].cast(pl.String)
    assert set(tiers) == {"object"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--to", "warp", "--tiers", "disk"), "--tiers: unknown tier: got 'disk'"),
        (("--to", "mooncake", "--tiers", "gpu"), "format mooncake has no option --tiers"),
        (("--to", "oracle", "--prefix", "x"), "format oracle has no option --prefix"),
        (("--to", "perfeto"), "did you mean perfetto"),
    ],
)
def test_what_means_nothing_is_refused(
    tmp_path: Path,
    small_trace: Path,
    cli: Callable[..., Outcome],
    arguments: tuple[str, ...],
    message: str,
) -> None:
    """An unknown tier or format, or an option without effect, is an error of one line."""
    outcome = cli("export", small_trace, tmp_path / "t.tsv", *arguments)
    assert outcome.code == EXIT_USAGE
    assert message in outcome.error
    assert not list(tmp_path.iterdir())


def test_a_missing_package_is_named(
    tmp_path: Path, small_trace: Path, cli: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without msgpack LMCache's format says how to get it, both ways; nothing is left behind."""
    out = tmp_path / "t.lct"
    cli("export", small_trace, out, "--to", "lmcache")
    monkeypatch.setitem(sys.modules, "msgpack", None)
    for arguments in (
        ("export", small_trace, tmp_path / "2.lct", "--to", "lmcache"),
        ("import", out, tmp_path / "t.parquet"),
    ):
        outcome = cli(*arguments)
        assert outcome.code == EXIT_USAGE
        assert "needs the package msgpack" in outcome.error
        assert "kvtrace[lmcache]" in outcome.error
    assert list(tmp_path.iterdir()) == [out]
