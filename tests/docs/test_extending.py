"""What docs/extending.md shows works: its files, put into their folders, do what it says."""

from __future__ import annotations

import json
import re
import runpy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest

import kvtrace
from kvtrace.cli.listing import KINDS
from kvtrace.models import load_model
from kvtrace.policies import fifo
from kvtrace.trace.check import check
from kvtrace.trace.schema import Tier
from replay import TargetSpec, targets
from tests.support import places
from tests.support.command import apart
from tests.support.making import make

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.command import Outcome

PAGE = (places.ROOT / "docs" / "extending.md").read_text()
FILES = dict(re.findall(r'^```\w+ title="([^"]+)"\n(.*?)^```', PAGE, re.MULTILINE | re.DOTALL))


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the page's files, among them a plug-in folder that is in use."""
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setenv("KVTRACE_PLUGINS", str(tmp_path / "plugins"))
    return tmp_path


def test_what_is_added_is_listed(cli: Callable[..., Outcome]) -> None:
    """Each example is found, available, and listed with the first line of its docstring."""
    for kind, name in (
        ("sources", "gateway"),
        ("layouts", "paged"),
        ("policies", "mru"),
        ("exporters", "sizes"),
        ("targets", "ramdisk"),
    ):
        entry = next(entry for entry in KINDS[kind]() if entry[0] == name)
        first = f'"""{entry[2]}'
        assert entry[1] == "yes"
        assert any(text.startswith(first) for text in FILES.values())
        assert name in cli("list", kind).out


def test_the_model(folder: Path) -> None:
    """It loads as what it says that it comes to."""
    model = load_model(str(folder / "plugins/models/example-3b.toml"))
    assert model.rank_bytes_per_token() == 2 * 28 * 8 * 128 * 2 == 114_688


def test_the_source(folder: Path, cli: Callable[..., Outcome]) -> None:
    """By the page's command it gives the file's requests; a bad row is named by its line."""
    log, trace = folder / "log.csv", folder / "t.parquet"
    log.write_text("seconds,prompt,answer\n0.5,600,10\n1.25,300,20\n")
    words = ("--source", "gateway", "--input", log, "--model", "tiny-1b")
    made = cli("record", trace, *words, "--nvme-capacity", "1GiB")
    assert made.code == 0, made.err
    with kvtrace.open(trace) as opened:
        assert opened.header.statistics["requests"] == 2
        assert check(opened).ok
        times = opened.lazy().select("timestamp").collect()["timestamp"]
    assert times.unique().sort().to_list() == [0, 750_000_000]
    log.write_text("seconds,prompt,answer\n0.5,600,10\n1.25,many,20\n")
    refused = cli("record", trace, *words, "--force")
    assert refused.code == 3
    assert f"{log}:3: bad prompt" in refused.err


@pytest.mark.parametrize("ranks", [1, 2])
def test_the_layout(folder: Path, cli: Callable[..., Outcome], ranks: int) -> None:
    """An object of 32 tokens per block and rank; the trace keeps all invariants."""
    path = folder / "t.parquet"
    words = ("--model", "tiny-1b", "--layout", "paged", "--tensor-parallel", ranks)
    made = cli("record", path, *words, "--duration", "5s", "--nvme-capacity", "512MiB")
    assert made.code == 0, made.err
    with kvtrace.open(path) as trace:
        assert check(trace).ok
        assert trace.header.layout is not None
        assert trace.header.layout["block_tokens"] == 32
        moved = trace.lazy().filter(pl.col("op") != "lookup").collect()
    assert moved["size"].unique().to_list() == [32 * 24_576 // ranks]
    assert moved["rank"].n_unique() == ranks


@pytest.mark.slow
def test_the_policy(folder: Path) -> None:
    """By the page's command it decides what leaves; a copy of one of ours does what that does.

    Each in a process of its own, for the simulator is compiled with what is there at its start. A
    broken policy beside them changes nothing, and is refused by its name.
    """
    policies = folder / "plugins" / "policies"
    (policies / "copied.py").write_text(Path(fifo.__file__).read_text())
    (policies / "broken.py").write_text("def insert(slots:\n")
    words = ("--model", "tiny-1b", "--duration", "20s", "--gpu-mem", "64MiB", "--cpu-mem", "128MiB")
    rows = {}
    for name in ("mru", "copied", "fifo"):
        made = apart("record", folder / f"{name}.parquet", *words, "--eviction", name)
        assert made.code == 0, made.err
        with kvtrace.open(folder / f"{name}.parquet") as trace:
            assert check(trace).ok
            rows[name] = trace.lazy().collect()
    assert rows["copied"].equals(rows["fifo"])
    assert not rows["mru"].equals(rows["fifo"])
    refused = apart("record", folder / "t.parquet", *words, "--eviction", "broken")
    assert refused.code == 2
    assert f"{policies / 'broken.py'}" in refused.error
    assert "SyntaxError" in refused.error


def test_the_exporter(folder: Path, cli: Callable[..., Outcome]) -> None:
    """By the page's command: parsed back, the table has the trace's ops and bytes, in order."""
    path, out = folder / "t.parquet", folder / "t.csv"
    make(path, duration="5s")
    done = cli("export", path, out, "--to", "sizes")
    assert done.code == 0, done.err
    assert "loses tier, key and phase" in done.out
    with kvtrace.open(path) as trace:
        rows = trace.lazy().select("timestamp", pl.col("op").cast(pl.String), "size").collect()
    back = pl.read_csv(out).cast({"bytes": pl.UInt64})
    assert back.rows() == rows.rows()


@pytest.mark.slow
def test_the_target(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """The page's script replays on it, with a verdict."""
    make(folder / "t.parquet", duration="5s")
    monkeypatch.chdir(folder)
    runpy.run_path(str(folder / "run_ramdisk.py"))
    assert capsys.readouterr().out.split(maxsplit=1)[1] == "scratch\n"


def test_the_target_by_its_name(folder: Path, cli: Callable[..., Outcome]) -> None:
    """By the page's command it executes its tier, with its option; a command shows that one.

    The loop's own thread copies, and isn't accused of being late for it.
    """
    make(folder / "t.parquet", duration="2s")
    words = ("--mode", "max", "--min-window", "0s", "--arena", "16MiB", "--json")
    done = cli("replay", folder / "t.parquet", "--target", "nvme=ramdisk:label=scratch", *words)
    assert done.code in (0, 5), done.err
    result = json.loads(done.out)
    assert "host_lateness" not in {reason["code"] for reason in result["reasons"]}
    lanes = result["lanes"]
    assert [(lane["tier"], lane["title"]) for lane in lanes] == [("nvme", "scratch")]
    shown = cli("list", "targets", "ramdisk").out
    assert "label=TEXT" in shown
    assert "Name in reports. [default: memory that stands for nvme]" in " ".join(shown.split())


def test_the_target_conforms(folder: Path) -> None:
    """It passes the whole suite, by the page's own test."""
    found = runpy.run_path(str(folder / "test_ramdisk.py"))
    assert isinstance(targets.make(TargetSpec("ramdisk", (Tier.NVME,))), targets.Bookkeeper)
    (mark,) = found["test_ramdisk"].pytestmark
    for number, one in enumerate(mark.args[1]):
        place = folder / f"check{number}"
        place.mkdir()
        found["test_ramdisk"](one, place)
