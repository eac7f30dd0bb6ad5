"""Wrong arguments of the Python API: each is a KvtraceError that says what, whatever it is."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import kvtrace
import replay
from kvtrace.errors import KvtraceError
from kvtrace.trace.schema import Tier
from replay.options import ReplayOptions
from replay.targets.null import make as make_null
from tests.support.making import make

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

WRONG: tuple[Any, ...] = (
    None, True, 0, -1, 1.5, math.nan, math.inf, 1 << 70, "", "nope", "\0", "é" * 5000, b"x",
    object(), [], [None], ["x"], [["x"]], {}, {"x": 1}, {1: 2}, {"x": {"x": []}},
    Path("/none/of/this"), range(3), frozenset({1}),
)  # fmt: skip
KEYS = (
    "model", "source.users", "source.input", "source.name", "source.templates", "source.qos_mix",
    "tiers", "tiers.cpu", "tiers.cpu.capacity", "eviction", "duration", "requests", "seed",
    "warmup", "prefill_rate", "nope", "tiers.nope", "", ".", "model.x",
)  # fmt: skip


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small trace."""
    path = tmp_path_factory.mktemp("wrong") / "t.parquet"
    make(path, requests=3)
    return path


def refused(call: Callable[..., object], arguments: dict[str, Any], **more: object) -> str:
    """Return what a call is refused with, "" if it isn't; any other error is a failure."""
    try:
        answer = call(**arguments)
        if more.get("used"):
            list(answer)  # type: ignore[call-overload]
    except KvtraceError as error:
        return str(error)
    return ""


def each_wrong(good: dict[str, Any], names: set[str] | None = None) -> Iterator[dict[str, Any]]:
    """Yield arguments of which one is wrong."""
    for name in good:
        if names is None or name in names:
            for value in WRONG:
                yield good | {name: value}


def config(**options: Any) -> kvtrace.RecordConfig:
    """Return the configuration of a small recording."""
    small = {"source.users": 2, "model": "tiny-1b", "requests": 3, "tiers.gpu.capacity": "32MiB"}
    return kvtrace.load_config(None, small | options)


def test_reading() -> None:
    """Traces, models, results: by a wrong path or a wrong kind of thing."""
    for call, name in (
        (kvtrace.open, "path"), (kvtrace.load_model, "name"), (replay.load, "path"),
    ):  # fmt: skip
        messages = [refused(call, arguments) for arguments in each_wrong({name: ""})]
        assert all(messages), "none of these is a file"
    for arguments in each_wrong({"path": "/none.json", "from_ops": False}, {"from_ops"}):
        assert refused(replay.load, arguments)


@pytest.mark.slow
def test_methods_of_traces_and_models(trace: Path) -> None:
    """Their arguments too."""
    with kvtrace.open(str(trace)) as opened:
        good: dict[str, Any] = {"columns": ["op"], "batch_rows": 10, "nulls": False}
        for arguments in each_wrong(good):
            refused(opened.batches, arguments, used=True)
        assert "unknown column" in refused(opened.batches, {"columns": ["nope"]}, used=True)
        assert refused(opened.batches, {"columns": "op"}, used=True)
        for value in WRONG:
            refused(opened.beside, {"key": value})
            assert refused(opened.collect, {"frame": value})
    model = kvtrace.load_model("tiny-1b")
    for arguments in each_wrong({"ranks": 1, "dtype": "bf16"}):
        refused(model.rank_bytes_per_token, arguments)
        refused(model.token, arguments)
    for name in kvtrace.Model.model_fields:
        for value in WRONG:
            refused(kvtrace.Model, model.model_dump() | {name: value})


def test_configurations() -> None:
    """load_config by each argument and key, RecordConfig by each field."""
    good: dict[str, Any] = {"file": None, "options": {}, "sets": (), "preset": None}
    for arguments in each_wrong(good):
        refused(kvtrace.load_config, arguments)
    for key in KEYS:
        for value in WRONG:
            refused(kvtrace.load_config, {"options": {key: value}})
    for name in (*kvtrace.RecordConfig.model_fields, "nope"):
        for value in WRONG:
            refused(kvtrace.RecordConfig, {name: value})
    assert "unknown" in refused(kvtrace.RecordConfig, {"nope": 1})
    assert "RecordConfig: model" in refused(kvtrace.RecordConfig, {"model": 3})


def test_recording(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is written by a call that is refused."""
    monkeypatch.chdir(tmp_path)
    good: dict[str, Any] = {"config": config(), "out": "t.parquet", "workers": 1, "force": True,
                            "dry_run": True, "progress": None, "told": None}  # fmt: skip
    for arguments in each_wrong(good):
        refused(kvtrace.record, arguments)
    for name in ("config", "workers", "force", "dry_run", "progress", "told"):
        assert refused(kvtrace.record, good | {name: object()}), name
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_what_if(trace: Path) -> None:
    """By each argument, each key and values of all kinds."""
    good: dict[str, Any] = {"requests": trace, "choices": {"eviction": "lru"}, "curves": False}
    for arguments in each_wrong(good):
        refused(kvtrace.whatif, arguments)
    for key in ("eviction", "tiers.cpu.capacity", "nope", "model"):
        for value in WRONG:
            for requests in (trace, config()):
                refused(kvtrace.whatif, {"requests": requests, "choices": {key: value}})
    assert "did you mean" in refused(kvtrace.whatif, good | {"choices": {"evictio": ["lru"]}})


@pytest.mark.slow
def test_break_even(trace: Path) -> None:
    """By each argument, of a curve and of a trace."""
    good: dict[str, Any] = {"model": "tiny-1b", "gpu": "h100"}
    assert "unknown GPU" in refused(kvtrace.breakeven, good | {"gpu": "h1"})
    for name in (
        "trace", "model", "gpu", "gpus", "precision", "flops", "mfu", "formula", "prefill_rate",
        "prefill_table", "hbm_floor", "dtype", "tier", "drive_bandwidth", "whole_trace",
    ):  # fmt: skip
        for value in WRONG:
            refused(kvtrace.breakeven, good | {name: value})
            refused(kvtrace.breakeven, {"trace": trace, "gpu": "h100"} | {name: value})
        assert refused(kvtrace.breakeven, good | {name: object()}), name


def test_options_of_a_replay() -> None:
    """Each field, and names that aren't any."""
    for name in (*ReplayOptions.model_fields, "nope"):
        for value in WRONG:
            refused(ReplayOptions, {name: value})
    assert "mode" in refused(ReplayOptions, {"mode": "nope"})
    assert "unknown option" in refused(ReplayOptions, {"nope": 1})


def test_target_specs() -> None:
    """Each field; names of tiers and strings for paths are fine."""
    good: dict[str, Any] = {
        "name": "null", "tiers": (Tier.NVME,), "path": "p", "size_bytes": 4096,
        "extent_align_bytes": 4096, "allow_destroy": "x", "allow_signature": ("x",), "unit": "",
        "trim": False, "fsync": replay.TargetSpec("null", "nvme").fsync,
    }  # fmt: skip
    for arguments in each_wrong(good):
        refused(replay.TargetSpec, arguments)
    spec = replay.TargetSpec("file", ["cpu", Tier.NVME], "p")
    assert (spec.tiers, spec.path) == ((Tier.CPU, Tier.NVME), Path("p"))
    for name in good:
        assert refused(replay.TargetSpec, good | {name: object()}), name
    assert "unknown tier" in refused(replay.TargetSpec, good | {"tiers": "nvm"})


@pytest.mark.slow
def test_a_run(trace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By each argument; targets that can't be made of what they are told."""
    monkeypatch.chdir(tmp_path)
    options = ReplayOptions(mode="max", limit_rows=5, settle_ns=0, arena_bytes=1 << 20)  # type: ignore[arg-type]
    good: dict[str, Any] = {
        "trace": trace, "targets": [replay.TargetSpec("null", list(Tier))], "options": options,
        "watcher": None, "stop": None, "journal": None,
    }  # fmt: skip
    for arguments in each_wrong(good):
        refused(replay.run, arguments)
    for name in good:
        assert refused(replay.run, good | {name: object()}), name
    for spec in (
        replay.TargetSpec("nope", "nvme"), replay.TargetSpec("file", "nvme"),
        replay.TargetSpec("dir", "nvme"), replay.TargetSpec("memory", "nvme"),
        replay.TargetSpec("cuda", "gpu", unit="nope"), replay.TargetSpec("file", "gpu", "x"),
        replay.TargetSpec("file", "nvme", "x", size_bytes=1),
        replay.TargetSpec("file", "nvme", "/none/x", extent_align_bytes=3),
    ):  # fmt: skip
        assert refused(replay.run, good | {"targets": [spec]}), spec
    both = [make_null(replay.TargetSpec("null", ["cpu", "nvme"]))]
    assert refused(replay.run, good | {"targets": both}), "a ready-made target executes one tier"
    assert refused(replay.run, good | {"options": options.model_copy(update={"engine": "nope"})})


def test_every_public_name_is_tried() -> None:
    """A function that is added must be tried here too."""
    tried = {
        "open",
        "load_model",
        "load_config",
        "record",
        "whatif",
        "breakeven",
        "RecordConfig",
        "Model",
    }
    values = {"BreakEven", "KvtraceError", "Recorded", "Trace", "WhatIf", "__version__"}
    assert set(kvtrace.__all__) == tried | values
    tried = {"load", "run", "ReplayOptions", "TargetSpec"}
    assert set(replay.__all__) == tried | {"Result", "Stop", "Watcher"}
