"""What the commands print: tables for people, JSON for programs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from kvtrace.cli.listing import KINDS
from kvtrace.trace.schema import Op, Phase, Tier
from kvtrace.trace.writer import file_sha256
from kvtrace.units import format_bytes, format_count
from tests.support.command import kvtrace
from tests.support.making import write_rows

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.command import Outcome

    Cli = Callable[..., Outcome]

RECORD = ("--users", 4, "--model", "tiny-1b", "--block-tokens", 64, "--duration", "10s",
          "--gpu-mem", "64MiB", "--cpu-mem", "128MiB", "--nvme-capacity", "1GiB")  # fmt: skip
JSON_KEYS = {
    "rows", "objects", "bytes", "cells", "hit_ratio", "requests", "blocks", "unique_blocks",
    "ideal_prefix_hit", "duration_s", "sha256", "content_sha256",
}  # fmt: skip


def test_record_json(tmp_path: Path, cli: Cli) -> None:
    """`record --json` has the agreed keys, equal to those of `info --json`."""
    path = tmp_path / "t.parquet"
    outcome = cli("record", path, *RECORD, "--json")
    assert (outcome.code, outcome.err) == (0, "")
    recorded = json.loads(outcome.out)
    info = json.loads(cli("info", path, "--json").out)
    assert set(recorded) >= JSON_KEYS
    for key in JSON_KEYS - {"cells"}:
        assert recorded[key] == info[key], key
    cells = [
        {k: cell[k] for k in ("tier", "phase", "op", "ops", "bytes")} for cell in info["cells"]
    ]
    by_name = lambda cell: (cell["tier"], cell["phase"], cell["op"])  # noqa: E731
    assert sorted(recorded["cells"], key=by_name) == sorted(cells, key=by_name)
    assert recorded["sha256"] == file_sha256(path)


def test_record_summary(tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """The summary names rows, rates, hit ratio and read:write per tier, in 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")
    outcome = cli("record", tmp_path / "t.parquet", *RECORD)
    assert outcome.code == 0
    for word in ("rows", "rows/s", "ops/s", "hit ratio", "read:write", "gpu", "cpu", "nvme"):
        assert word in outcome.out
    assert max(len(line) for line in outcome.out.splitlines()) <= 80


def test_unlimited_last_tier_is_said(tmp_path: Path, cli: Cli) -> None:
    """A tier that never deletes is named, with the bytes written per day."""
    options = [*RECORD[:-1], "unlimited"]
    outcome = cli("record", tmp_path / "t.parquet", *options)
    assert "nvme is unlimited: nothing is deleted from it" in " ".join(outcome.out.split())
    assert "per day" in outcome.out


def test_show_config(tmp_path: Path, cli: Cli) -> None:
    """`--show-config` prints what was resolved, and records nothing."""
    outcome = cli("record", tmp_path / "t.parquet", *RECORD, "--show-config")
    assert "users: 4" in outcome.out
    assert not list(tmp_path.iterdir())
    config = tmp_path / "c.yaml"
    config.write_text(outcome.out)
    first = cli("record", tmp_path / "a.parquet", *RECORD, "--json")
    again = cli("record", tmp_path / "b.parquet", "--config", config, "--json")
    assert json.loads(first.out)["sha256"] == json.loads(again.out)["sha256"]


def test_dry_run(tmp_path: Path, cli: Cli) -> None:
    """`--dry-run` counts what a recording would, and writes nothing."""
    path = tmp_path / "t.parquet"
    dry = json.loads(cli("record", path, *RECORD, "--dry-run", "--json").out)
    assert not list(tmp_path.iterdir())
    real = json.loads(cli("record", path, *RECORD, "--json").out)
    assert real["sha256"]
    space = dry.pop("space")
    unknown = {"sha256": None, "content_sha256": None}
    assert dry | unknown == real | unknown
    found = json.loads(cli("info", path, "--json").out)["tiers"]
    for tier, figures in space.items():
        assert figures == {name: found[tier][name] for name in figures}
        assert 0 < figures["live_bytes_max"] <= real["peak_bytes"][tier]


def test_live_set_and_space_are_told_apart(cli: Cli, small_trace: Path) -> None:
    """`info` prints both per tier; `--no-space` leaves them out."""
    tiers = json.loads(cli("info", small_trace, "--json").out)["tiers"]
    text = cli("info", small_trace).out
    for name, tier in tiers.items():
        ratio = tier["space_needed_bytes"] / tier["live_bytes_max"]
        assert 1 <= ratio <= 1.15
        assert f"{name}: live at most" in text
        assert f"space needed {format_bytes(tier['space_needed_bytes'])} ({ratio:.2f} x)" in text
    assert "space needed" not in cli("info", small_trace, "--no-space").out


def test_info_of_a_trace_that_reads_what_it_deleted(cli: Cli, tmp_path: Path) -> None:
    """Its space isn't known: null, and no line."""
    rows = [
        (0, Op.WRITE, 4096, Tier.NVME, 5, Phase.EVICT),
        (1, Op.DELETE, 4096, Tier.NVME, 5, Phase.EVICT),
        (2, Op.READ, 4096, Tier.NVME, 5, Phase.DECODE),
    ]
    path = write_rows(tmp_path / "t.parquet", rows)
    assert json.loads(cli("info", path, "--json").out)["tiers"]["nvme"]["space"] is None
    assert "space needed" not in cli("info", path).out


def test_info_tells_drive_writes(cli: Cli, small_trace: Path) -> None:
    """`info --drive` gives drive writes per day, computed from the rows."""
    found = json.loads(cli("info", small_trace, "--drive", "1TB", "--json").out)
    nvme = found["tiers"]["nvme"]
    days = found["duration_s"] / 86_400
    assert nvme["drive_writes_per_day"] == pytest.approx(nvme["write_bytes"] / days / 1e12)
    assert nvme["read_write_ratio"] == nvme["read_bytes"] / nvme["write_bytes"]
    assert found["tiers"]["gpu"]["drive_writes_per_day"] is None


def test_info_fits_a_terminal(cli: Cli, small_trace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`info` fits into 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")
    out = cli("info", small_trace).out
    assert "tiny-1b" in out
    tiers = [line for line in out.splitlines() if line.startswith(("tier ", "gpu ", "nvme "))]
    assert len(tiers) > 4
    assert all(len(line) <= 80 for line in out.splitlines())
    assert "…" not in out


def test_head(cli: Cli, small_trace: Path) -> None:
    """`head` shows as many rows as asked for."""
    assert len(json.loads(cli("head", small_trace, "-n", 3, "--json").out)) == 3
    assert cli("head", small_trace, "-n", 2).out.count("│ write │") == 2


def test_check_json(cli: Cli, small_trace: Path) -> None:
    """`check --json` says that nothing was broken, and how much each tier held at most."""
    found = json.loads(cli("check", small_trace, "--json").out)
    assert found["ok"] is True
    assert found["violations"] == []
    assert set(found["peak_bytes"]) == {"gpu", "cpu", "nvme"}
    assert "fine" in cli("check", small_trace).out


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_list(cli: Cli, kind: str) -> None:
    """`list` names each plug-in with availability and what it is."""
    entries = json.loads(cli("list", kind, "--json").out)[kind]
    assert entries
    text = cli("list", kind).out
    for entry in entries:
        assert entry["name"] in text
        assert entry["available"]
        assert entry["what"]


def test_list_of_nothing_known(cli: Cli) -> None:
    """A kind that isn't there is refused with the nearest."""
    outcome = cli("list", "model")
    assert outcome.code == 2
    assert "did you mean models" in outcome.error


def test_version_and_help(cli: Cli) -> None:
    """`--version` and `--help` of each command work."""
    assert cli("--version").out.startswith("kvtrace 0.")
    for command in (
        "record", "info", "check", "head", "import", "export", "replay", "list", "whatif",
        "breakeven", "slice", "merge", "scale", "diff", "anonymise",
    ):  # fmt: skip
        assert "Usage" in cli(command, "--help").out


def test_a_bug_is_called_one(cli: Cli, small_trace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What nobody foresaw exits 70 with its traceback, never with a code that means something."""
    monkeypatch.setattr("kvtrace.tools.stats.summarise", lambda *_, **__: 1 / 0)
    outcome = cli("info", small_trace)
    assert outcome.code == 70
    assert "ZeroDivisionError" in outcome.err
    assert "this is a bug" in outcome.err


SHOWN = {
    ("--eviction", "sieve"): "eviction: sieve",
    ("--eviction", "nvme=s3-fifo"): "eviction: s3-fifo",
    ("--admission", "second-use"): "admission: second-use",
    ("--prefill-only",): "role: prefill",
    ("--decode-only",): "role: decode",
    ("--warmup", "5s"): "warmup: 5s",
    ("--restart-at", "5s"): "restart_at: 5000000000",
    ("--lookups",): "lookups: true",
    ("--model", "gpt-oss-20b", "--state-interval", "512"): "state_interval: 512",
    ("--no-prefix-caching",): "prefix_caching: false",
    ("--nodes", "2"): "nodes: 2",
}


@pytest.mark.slow
@pytest.mark.parametrize("options", SHOWN)
def test_options_reach_the_configuration(
    tmp_path: Path, cli: Cli, options: tuple[str, ...]
) -> None:
    """Each option sets its key, and is named as where the value is from."""
    outcome = cli("record", tmp_path / "t.parquet", *RECORD, *options, "--show-config")
    assert f"{SHOWN[options]}  # option" in outcome.out


def test_rag_on_the_command_line(tmp_path: Path, cli: Cli) -> None:
    """`--rag` turns documents on with their defaults."""
    outcome = cli("record", tmp_path / "t.parquet", *RECORD, "--rag", "--show-config")
    assert "chunk_tokens: 512  # default" in outcome.out


def test_a_preset_on_the_command_line(tmp_path: Path, cli: Cli) -> None:
    """A preset is taken, an option stands over it; an unknown one is told with the nearest."""
    shown = ("--show-config", "--preset")
    outcome = cli("record", tmp_path / "t.parquet", *shown, "long-context", "--seed", "3")
    assert "tensor_parallel: 4  # preset long-context" in outcome.out
    assert "seed: 3  # option" in outcome.out
    refused = cli("record", tmp_path / "t.parquet", *shown, "long")
    assert refused.code == 2
    assert "did you mean long-context" in refused.err
    assert "mlperf-storage-8b" in cli("list", "presets").out


def test_both_roles_are_refused(tmp_path: Path, cli: Cli) -> None:
    """A node is one half of a disaggregated service, not both halves."""
    outcome = cli("record", tmp_path / "t.parquet", *RECORD, "--prefill-only", "--decode-only")
    assert outcome.code == 2
    assert "exclude each other" in outcome.err


def test_a_bad_tier_of_an_eviction_is_refused(tmp_path: Path, cli: Cli) -> None:
    """The option and the tiers that there are are named."""
    outcome = cli("record", tmp_path / "t.parquet", *RECORD, "--eviction", "ssd=lru")
    assert outcome.code == 2
    assert "--eviction" in outcome.err
    assert "gpu, cpu, nvme, object" in outcome.err


def test_nodes_and_parts_on_the_command_line(tmp_path: Path, cli: Cli) -> None:
    """A directory of parts of two nodes: recorded, checked and shown."""
    made = cli("record", tmp_path / "t", *RECORD, "--nodes", "2", "--json")
    assert json.loads(made.out)["sha256"]
    assert cli("check", tmp_path / "t").code == 0
    assert "2, each with these tiers" in cli("info", tmp_path / "t").out


def test_users_auto_tells_its_trials(tmp_path: Path, cli: Cli) -> None:
    """Each number that is tried is told with its figures."""
    options = ("--users", "auto", "--requests", "20", "--set", "sizing.max_users=2")
    outcome = cli("record", tmp_path / "t.parquet", *RECORD[2:], *options, "--dry-run")
    assert "2 users: P95 of loads interactive" in outcome.err


@pytest.mark.slow
@pytest.mark.parametrize("ranks", ["one", "all"])
def test_rates_are_of_the_node(cli: Cli, tmp_path: Path, ranks: str) -> None:
    """record, info and whatif agree on the bytes of the node, whichever ranks the rows show."""
    path, config = tmp_path / "t.parquet", tmp_path / "c.yaml"
    config.write_text(
        "model: llama3.1-8b\ntensor_parallel: 4\nduration: 10s\nsource: {users: 4}\n"
        "tiers: {gpu: {capacity: 64MiB}, cpu: {capacity: 0}, nvme: {capacity: 2GB}}\n"
        f"ranks: {ranks}\n"
    )
    shown = cli("record", path, "--config", config).out
    assert ("all 4 ranks" in shown) == ("of one rank" in shown) == (ranks == "one")
    told = json.loads(cli("info", path, "--drive", "2GB", "--json").out)["tiers"]["nvme"]
    answer = json.loads(cli("whatif", "--config", config, "--json").out)["combinations"][0]
    assert told["node_factor"] == (4 if ranks == "one" else 1)
    assert told["write_bytes"] * told["node_factor"] == answer["tiers"]["nvme"]["write_bytes"]
    assert told["drive_writes_per_day"] == pytest.approx(answer["drive_writes_per_day"], rel=0.01)
    written = f"{answer['tiers']['nvme']['write_bytes'] / 2**30:.2f} GiB"
    assert written in shown
    text = cli("info", path).out
    assert "the cold start included" in text
    assert ("the rows are those of one" in text) == (ranks == "one")


@pytest.mark.parametrize(
    ("count", "text"),
    [(9_999_999, "9,999,999"), (121_500_000, "121.5 M"), (-3e10, "-30.0 G"), (0, "0")],
)
def test_long_counts_are_shortened(count: float, text: str) -> None:
    """A count of ten million or more is given in millions, so that no table breaks it."""
    assert format_count(count) == text


def test_words_that_are_missing_or_wrong_are_met_with_help() -> None:
    """Without words the list of commands; else usage as the help has it."""
    alone = kvtrace()
    assert (alone.code, alone.out) == (2, "")
    assert "replay " in alone.err
    missing = kvtrace("replay")
    assert missing.code == 2
    assert "Usage: kvtrace replay [OPTIONS] TRACE\n" in missing.err
