"""The Python API: what its modules show, and how its values read."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import kvtrace
import replay
from kvtrace.trace.schema import Tier
from kvtrace.whatif.ask import whatif
from tests.support.making import make

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.command import Outcome


def test_modules_show_their_public_names() -> None:
    """dir() gives the public names and nothing else; each of them is there."""
    for module in (kvtrace, replay):
        assert dir(module) == sorted(module.__all__)
        assert all(hasattr(module, name) for name in module.__all__)


def test_values_read_short(tmp_path: Path) -> None:
    """Traces, recordings and results say in one line what they are."""
    path = tmp_path / "t.parquet"
    made = make(path, requests=5)
    rows = made.header.totals.rows
    assert repr(made) == f"<Recorded {path}: {rows:,} rows>"
    with kvtrace.open(str(path)) as trace:
        assert repr(trace) == f"<Trace {path}: {rows:,} rows>"
    options = replay.ReplayOptions(mode="max", warmup_ns=0)
    result = replay.run(str(path), [replay.TargetSpec("null", tuple(Tier))], options)
    assert repr(result).startswith(f"<Result {result.verdict.word}: ")
    assert repr(options) == "ReplayOptions(mode=<Timing.MAX: 'max'>)"
    config = kvtrace.load_config(options={"model": "tiny-1b"})
    assert repr(config) == "RecordConfig(model='tiny-1b')"
    assert repr(kvtrace.load_model("tiny-1b")) == "<Model tiny-1b: 12 layers>"
    assert repr(result.document()) == f"<ResultDocument {result.verdict.word}: {result.ops:,} ops>"
    report = tmp_path / "r.json"
    report.write_text(result.document().model_dump_json())
    assert replay.load(str(report)) == replay.load(report)


def test_what_if_is_what_the_command_prints(tmp_path: Path, cli: Callable[..., Outcome]) -> None:
    """Of a trace and of a configuration: the same engine, as a frame, in one line, as JSON."""
    path, choices = tmp_path / "t.parquet", {"tiers.cpu.capacity": ["8MiB", "64MiB"]}
    make(path, requests=40)
    words = ("--cpu-mem", "8MiB,64MiB", "--eviction", "lru,fifo", "--curve", "--json")
    found = cli("whatif", path, *words)
    assert found.code == 0, found.err
    asked = kvtrace.whatif(str(path), choices | {"eviction": ["lru", "fifo"]}, curves=True)
    assert json.loads(json.dumps(asked.document())) == json.loads(found.out)
    table = asked.table()
    assert table["tiers.cpu.capacity"].to_list() == ["8MiB", "8MiB", "64MiB", "64MiB"]
    best = max(outcome["total_hit_ratio"] for outcome in asked.document()["combinations"])
    assert table["hit_ratio"].max() == best
    assert repr(asked) == f"<WhatIf 4 combinations: hit ratio up to {best:.3f}>"
    assert (len(asked), set(asked.curves()["policy"])) == (4, {"lru", "opt"})
    with kvtrace.open(path) as trace:
        assert kvtrace.whatif(trace).table().height == 1
    config = kvtrace.load_config(
        options={"model": "tiny-1b", "source.users": 3, "requests": 20, "seed": 5}
    )
    configured = kvtrace.whatif(config, {"tiers.gpu.capacity": ["16MiB", 32 << 20]})
    by_command = cli("whatif", "--model", "tiny-1b", "--users", 3, "--requests", 20, "--seed", 5,
                     "--gpu-mem", "16MiB,32MiB", "--json")  # fmt: skip
    theirs = json.loads(by_command.out)["combinations"]
    ours = configured.document()["combinations"]
    assert [each["hit_ratio"] for each in ours] == [each["hit_ratio"] for each in theirs]
    assert [each["cells"] for each in ours] == [each["cells"] for each in theirs]


@pytest.mark.slow
def test_paths_may_be_strings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All functions that take a path take a string, and it means the same."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.yaml").write_text("model: tiny-1b\nrequests: 3\nsource: {users: 2}\n")
    config = kvtrace.load_config("c.yaml")
    assert config == kvtrace.load_config(tmp_path / "c.yaml")
    assert kvtrace.record(config, "t.parquet").path == Path("t.parquet")
    model = Path(kvtrace.__file__).parent / "models" / "tiny-1b.toml"
    assert kvtrace.load_model(str(model)) == kvtrace.load_model(model)
    spec = replay.TargetSpec("dir", "nvme", "folder")
    assert spec == replay.TargetSpec("dir", (Tier.NVME,), Path("folder"))


def test_calls_say_what_they_take() -> None:
    """What is a package underneath reads as a function."""
    asked = list(inspect.signature(kvtrace.whatif).parameters)
    assert asked[:4] == ["requests", "choices", "curves", "gpu"]
    assert asked == list(inspect.signature(whatif).parameters)
    assert (kvtrace.whatif.__doc__ or "").startswith("What-if analysis")
    assert next(iter(inspect.signature(kvtrace.breakeven).parameters)) == "trace"
    assert (kvtrace.breakeven.__doc__ or "").startswith("Break-even")
    answer = kvtrace.breakeven(model="tiny-1b", gpu="h100")
    assert repr(answer) == f"<BreakEven: {answer.sentence()}>"
