"""The tools as commands: what they print, refuse and leave behind."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import polars as pl
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.command import Outcome

    Cli = Callable[..., Outcome]


def rows(path: Path) -> int:
    return int(pl.scan_parquet(path).select(pl.len()).collect().item())


@pytest.mark.slow
def test_slice(tmp_path: Path, cli: Cli, small_trace: Path) -> None:
    """Each option of `slice` keeps less, and `check` is content."""
    before = rows(small_trace)
    for at, options in enumerate(
        (
            ("--from", "5s"), ("--to", "9s"), ("--rows", "100:900"), ("--rows", ":900"),
            ("--tier", "nvme"), ("--tier", "gpu", "--tier", "cpu"), ("--sessions", "3"),
            ("--sessions", "50%"), ("--sessions", "0.5", "--seed", 7),
        )
    ):  # fmt: skip
        out = tmp_path / f"{at}.parquet"
        found = json.loads(cli("slice", small_trace, out, *options, "--json").out)
        assert found["rows"] == rows(out) < before
        assert cli("check", out).code == 0
    found = [pl.read_parquet(tmp_path / f"{at}.parquet") for at in (7, 8)]
    assert not found[0].equals(found[1])


def test_slice_keeps_time_if_asked(tmp_path: Path, cli: Cli, small_trace: Path) -> None:
    """Times begin at 0, or stay."""
    for options, least in (((), 0), (("--keep-time",), 5_000_000_000)):
        cli("slice", small_trace, tmp_path / "s.parquet", "--from", "5s", "--force", *options)
        found = pl.read_parquet(tmp_path / "s.parquet")["timestamp"].min()
        assert found == 0 if least == 0 else found >= least


def test_info_tells_what_was_done(tmp_path: Path, cli: Cli, small_trace: Path) -> None:
    """`info` names the tools that made a trace, its JSON what they were told."""
    cli("slice", small_trace, tmp_path / "a.parquet", "--to", "9s")
    cli("scale", tmp_path / "a.parquet", tmp_path / "b.parquet", "--time", 2)
    assert "slice, scale" in cli("info", tmp_path / "b.parquet").out
    header = json.loads(cli("info", tmp_path / "b.parquet", "--json").out)["header"]
    assert [step["tool"] for step in header["history"]] == ["slice", "scale"]
    assert (header["history"][0]["end_ns"], header["history"][1]["time"]) == (9 * 10**9, 2.0)


def test_nothing_left_is_an_error(tmp_path: Path, cli: Cli, small_trace: Path) -> None:
    """A choice that keeps no row makes no file."""
    out = tmp_path / "s.parquet"
    outcome = cli("slice", small_trace, out, "--from", "99h")
    assert outcome.code == 2
    assert "came out empty" in outcome.error
    assert not list(tmp_path.iterdir())


REFUSED = {
    "rows": (("slice", "IN", "OUT", "--rows", "7"), "--rows: not a range: got '7'"),
    "backwards": (("slice", "IN", "OUT", "--rows", "9:7"), "range of rows is empty: got 9 to 7"),
    "times": (
        ("slice", "IN", "OUT", "--from", "9s", "--to", "1s"),
        "time range is empty: got 9.000 s to 1.000 s",
    ),
    "tier": (("slice", "IN", "OUT", "--tier", "nvm"), "did you mean nvme?"),
    "sessions": (("slice", "IN", "OUT", "--sessions", "150%"), "--sessions: not a part"),
    "no share": (("slice", "IN", "OUT", "--sessions", "some"), "--sessions: not a part"),
    "kind": (("slice", "IN", "OUT.txt"), "unknown kind of output"),
    "itself": (("slice", "IN", "IN", "--force"), "is an input too"),
    "scale nothing": (("scale", "IN", "OUT"), "nothing to scale"),
    "scale by 0": (("scale", "IN", "OUT", "--time", "0"), "--time: factor out of range"),
    "scale by much": (("scale", "IN", "OUT", "--sessions", "2000"), "--sessions: factor out"),
    "no key": (("anonymise", "IN", "OUT", "--key-file", "absent"), "can't read the key"),
}


@pytest.mark.parametrize(("arguments", "message"), REFUSED.values(), ids=REFUSED)
def test_refused(
    tmp_path: Path, cli: Cli, small_trace: Path, arguments: tuple[str, ...], message: str
) -> None:
    """Bad options: one line, exit 2, nothing made."""
    places = {"IN": small_trace, "OUT": tmp_path / "o.parquet", "OUT.txt": tmp_path / "o.txt"}
    outcome = cli(*(places.get(each, each) for each in arguments))
    assert outcome.code == 2
    assert message in outcome.error
    assert not list(tmp_path.iterdir())


def test_what_exists_stays(tmp_path: Path, cli: Cli, small_trace: Path) -> None:
    """No tool replaces a file without --force."""
    out, key = tmp_path / "o.parquet", tmp_path / "key"
    key.write_bytes(b"k" * 32)
    for arguments in (
        ("slice", small_trace, out, "--to", "5s"),
        ("merge", out, small_trace, small_trace),
        ("scale", small_trace, out, "--time", 2),
        ("anonymise", small_trace, out, "--key-file", key),
    ):
        out.write_text("mine")
        outcome = cli(*arguments)
        assert (outcome.code, out.read_text()) == (4, "mine"), arguments
        assert "exists already" in outcome.error
        assert cli(*arguments, "--force").code == 0
        assert cli("check", out).code == 0


def test_sessions_must_be_known(tmp_path: Path, cli: Cli, small_trace: Path) -> None:
    """A trace without sessions can't be sampled or cloned in part."""
    bare = tmp_path / "bare.parquet"
    pl.read_parquet(small_trace).drop("session").write_parquet(bare)
    for arguments in (
        ("slice", bare, tmp_path / "o.parquet", "--sessions", "3"),
        ("scale", bare, tmp_path / "o.parquet", "--sessions", "1.5"),
    ):
        outcome = cli(*arguments)
        assert outcome.code == 2
        assert "--sessions: the trace has no sessions" in outcome.error


def test_a_short_key_is_refused(tmp_path: Path, cli: Cli, small_trace: Path) -> None:
    """A key that can be guessed is none, and it is said how to make one."""
    key = tmp_path / "key"
    key.write_bytes(b"short")
    outcome = cli("anonymise", small_trace, tmp_path / "o.parquet", "--key-file", key)
    assert outcome.code == 2
    assert "got 5 bytes; accepted: 16 to 64 bytes" in outcome.error


def test_a_broken_input_leaves_nothing(tmp_path: Path, cli: Cli, small_trace: Path) -> None:
    """An input that ends in the middle is told, and no output is there."""
    broken = tmp_path / "b.parquet"
    broken.write_bytes(small_trace.read_bytes()[:-100])
    outcome = cli("merge", tmp_path / "o.parquet", small_trace, broken)
    assert outcome.code == 3
    assert "truncated or damaged" in outcome.error
    assert list(tmp_path.iterdir()) == [broken]


def test_diff(tmp_path: Path, cli: Cli, small_trace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`diff` prints a table of 80 columns or JSON; it fails only above a distance that is given."""
    monkeypatch.setenv("COLUMNS", "80")
    other = tmp_path / "o.parquet"
    cli("scale", small_trace, other, "--time", 3)
    outcome = cli("diff", small_trace, other)
    assert outcome.code == 0
    assert max(len(line) for line in outcome.out.splitlines()) <= 80
    found = json.loads(cli("diff", small_trace, other, "--json").out)
    by_name = {(d["tier"], d["quantity"]): d for d in found["differences"]}
    assert by_name["nvme", "size"]["ks"] == by_name["nvme", "reuse_distance"]["ks"] == 0
    assert by_name["nvme", "gap"]["ks"] > 0
    assert by_name["nvme", "gap"]["b"]["mean"] == pytest.approx(
        3 * by_name["nvme", "gap"]["a"]["mean"], rel=0.01
    )
    assert found["largest"] == max(d["ks"] for d in found["differences"])
    assert cli("diff", small_trace, other, "--fail-above", "0.0").code == 5
    assert cli("diff", small_trace, other, "--fail-above", "1.0").code == 0
    assert cli("diff", small_trace, small_trace, "--fail-above", "0").code == 0


def test_csv_out_says_what_is_lost(tmp_path: Path, cli: Cli, small_trace: Path) -> None:
    """A CSV has neither deletes nor residents, and the tool says so."""
    out = tmp_path / "o.csv"
    outcome = cli("slice", small_trace, out, "--from", "5s")
    assert "have no word in the CSV" in outcome.out
    assert "a CSV doesn't list resident objects" in outcome.out
    assert cli("slice", out, tmp_path / "p.parquet", "--from", "1s").code == 0
    assert cli("check", tmp_path / "p.parquet").code == 0


def test_spread_and_shared_keys(tmp_path: Path, cli: Cli, small_trace: Path) -> None:
    """Copies begin together with --spread 0; parts of a trace merge with --shared-keys."""
    cli("scale", small_trace, tmp_path / "s.parquet", "--sessions", 2, "--spread", 0)
    doubled = pl.read_parquet(tmp_path / "s.parquet")["timestamp"]
    once = pl.read_parquet(small_trace)["timestamp"]
    assert doubled.to_list() == sorted(once.to_list() * 2)
    for tier in ("cpu", "nvme"):
        cli("slice", small_trace, tmp_path / f"{tier}.parquet", "--tier", tier, "--keep-time")
    parts = [tmp_path / "cpu.parquet", tmp_path / "nvme.parquet"]
    assert cli("merge", tmp_path / "m.parquet", *parts, "--shared-keys").code == 0
    assert pl.read_parquet(tmp_path / "m.parquet")["key"].max() < 1 << 48
