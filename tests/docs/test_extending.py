"""What docs/extending.md shows works: its files, put into their folders, do what it says."""

from __future__ import annotations

import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest

import kvtrace
from kvtrace.cli.listing import KINDS
from kvtrace.models import load_model
from kvtrace.trace.check import check
from kvtrace.trace.schema import Tier
from replay import TargetSpec, targets
from tests.support import places
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


@pytest.mark.slow
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


@pytest.mark.slow
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


def compiled(policies: Path, name: str) -> None:
    """Run the page's command that compiles the policy, for policy `name`."""
    command = re.search(r"^```sh\ncd plugins/policies\n(cc .*)$", PAGE, re.MULTILINE)
    assert command is not None
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(
        ["sh", "-c", command[1].replace("mru", name)],
        cwd=policies,
        env=os.environ | {"PATH": path},
        check=True,
    )


def recorded(folder: Path, cli: Callable[..., Outcome], policy: str) -> pl.DataFrame:
    """Return the rows of a trace that a policy decided."""
    words = ("--model", "tiny-1b", "--duration", "20s", "--gpu-mem", "64MiB", "--cpu-mem", "128MiB")
    made = cli("record", folder / f"{policy}.parquet", *words, "--eviction", policy)
    assert made.code == 0, made.err
    with kvtrace.open(folder / f"{policy}.parquet") as trace:
        assert check(trace).ok
        return trace.lazy().collect()


@pytest.mark.slow
def test_the_policy(folder: Path, cli: Callable[..., Outcome]) -> None:
    """By the page's commands it decides what leaves; one like ours does what ours does."""
    policies = folder / "plugins" / "policies"
    compiled(policies, "mru")
    source, face = (FILES[f"plugins/policies/mru{suffix}"] for suffix in (".c", ".py"))
    source = source.replace("\t.touch = touch,\n", "").replace("blocks.newest", "blocks.oldest")
    source = '#pragma GCC diagnostic ignored "-Wunused-function"\n' + source
    (policies / "queue.c").write_text(source.replace("mru", "queue"))
    (policies / "queue.py").write_text(face.replace("mru", "queue"))
    compiled(policies, "queue")
    rows = {name: recorded(folder, cli, name) for name in ("mru", "queue", "fifo")}
    assert rows["queue"].equals(rows["fifo"])
    assert not rows["mru"].equals(rows["fifo"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (None, "mru.so: the policy's library can't be used: got "),
        (("mru_policy =", "another ="), "undefined symbol: mru_policy"),
        (("KV_POLICY_ABI,", "99,"), "mru.so: the policy was compiled for another policy.h: got"),
    ],
)
def test_a_policy_that_cant_be_used(
    folder: Path, cli: Callable[..., Outcome], change: tuple[str, str] | None, message: str
) -> None:
    """Not compiled, without its table, of another version: refused by its library."""
    policies = folder / "plugins" / "policies"
    if change is not None:
        source = policies / "mru.c"
        source.write_text(source.read_text().replace(*change))
        compiled(policies, "mru")
    refused = cli("record", folder / "t.parquet", "--model", "tiny-1b", "--eviction", "mru")
    assert refused.code == 2
    assert message in refused.error


def test_a_policy_that_is_broken(folder: Path, cli: Callable[..., Outcome]) -> None:
    """It changes nothing, and is refused by its name."""
    policies = folder / "plugins" / "policies"
    (policies / "broken.py").write_text("def policy(:\n")
    assert len(recorded(folder, cli, "fifo"))
    refused = cli("record", folder / "t.parquet", "--model", "tiny-1b", "--eviction", "broken")
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


@pytest.mark.slow
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
