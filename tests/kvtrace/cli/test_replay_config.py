"""`--config`, `--set` and `--show-config` of a replay: one set of keys, merged in order."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from kvtrace.cli.replay_options import understood
from kvtrace.options.described import describe
from kvtrace.trace.schema import Op, Phase, Tier
from replay import ReplayOptions, TargetSpec
from replay.compare.folder import result_path
from tests.support.making import write_rows

if TYPE_CHECKING:
    from pathlib import Path

Cli = "Callable[..., Outcome]"
OTHER = {
    "mode": "max", "speed": "2.5", "queue_depth": "7", "io_size": "64KiB", "slack": "0.2",
    "engine": "threads", "spin": "on", "arena": "32MiB", "run_id": "9", "tiers": "cpu,nvme",
    "populate": "all", "settle": "1500ms", "verify": "full", "threads": "2", "priority": "nice",
    "warmup": "3s", "run_time": "1min", "loop": True, "sync_stores": True,
    "reuse_populated": True, "payload": "fresh", "dedup_ratio": "2", "compress_ratio": "3",
    "min_window": "0s", "limit": "90s", "with_failed": True, "bpf": True,
    "accept": ["short_window", "failed_ops"],
}  # fmt: skip
"""A value for each option that isn't its default, as a flag has it."""


def flags(given: dict[str, Any]) -> list[str]:
    """Return options by key as words of a command line."""
    words: list[str] = []
    for key, value in given.items():
        flag = f"--{key.replace('_', '-')}"
        values = value if isinstance(value, list) else [value]
        words += [word for each in values for word in ([flag] if each is True else [flag, each])]
    return words


def run_of(path: Path) -> tuple[tuple[TargetSpec, ...], ReplayOptions]:
    """Return what a configuration alone asks for."""
    return understood({"config": path, "set_": None})


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """A trace of twenty reads on nvme."""
    rows = [(at * 1000, Op.READ, 4096, Tier.NVME, at, Phase.DECODE) for at in range(20)]
    return write_rows(tmp_path / "t.parquet", rows)


def test_what_is_shown_gives_the_same_run(tmp_path: Path, cli: Cli) -> None:
    """Every option and target that flags give comes back from what `--show-config` prints."""
    assert set(OTHER) == {option.key for option in describe(ReplayOptions)}
    targets = ["--target", f"nvme=file:path={tmp_path}/a,,b: c,size=8MiB,trim=yes,"
               "allow-signature=ext4,allow-signature=null", "--cpu", "memory", "--gpu", "cuda:3",
               "--extent-align", "64KiB", "--allow-destroy", "0123"]  # fmt: skip
    shown = cli("replay", "t", *targets, *flags(OTHER), "--show-config")
    assert shown.code == 0, shown.err
    path = tmp_path / "c.yaml"
    path.write_text(shown.out)
    specs, options = run_of(path)
    plain = ReplayOptions()
    same = [
        name
        for name in ReplayOptions.model_fields
        if getattr(options, name) == getattr(plain, name)
    ]
    assert same == ["fsync", "limit_rows"]
    assert (options.limit_ns, options.settle_ns) == (90 * 10**9, 1_500_000_000)
    align = 1 << 16
    assert specs == (
        TargetSpec("cuda", "gpu", unit="cuda:3", extent_align_bytes=align),
        TargetSpec("memory", "cpu", extent_align_bytes=align),
        TargetSpec(
            "file",
            "nvme",
            f"{tmp_path}/a,b: c",
            8 << 20,
            align,
            "0123",
            ("ext4", "null"),
            trim=True,
        ),
    )
    again = cli("replay", "t", "--config", path, "--show-config").out
    assert yaml.safe_load(again) == yaml.safe_load(shown.out)
    assert again.count(f"# {path}") == shown.out.count("# ") == 40


def test_defaults_come_back_too(tmp_path: Path, cli: Cli) -> None:
    """With nothing but a target; `--target null` is each tier's."""
    shown = cli("replay", "t", "--target", "null", "--show-config").out
    assert "settle: 10s  # default\n" in shown
    assert "targets:\n  gpu:\n    target: 'null'  # --target\n" in shown
    (tmp_path / "c.yaml").write_text(shown)
    specs, options = run_of(tmp_path / "c.yaml")
    assert options == ReplayOptions()
    assert [(spec.name, spec.tiers) for spec in specs] == [("null", (tier,)) for tier in Tier]


def test_a_file_then_set_then_flags(tmp_path: Path, cli: Cli) -> None:
    """Each later one overrides, key by key, and the origin is shown."""
    path = tmp_path / "c.yaml"
    path.write_text(
        "queue-depth: 1\nthreads: 2\nspin: on\nloop: yes\nrun_time: 5min\nwarmup: 3\n"
        "targets:\n  nvme: {target: file, path: /a, size: 1048576, trim: true}\n  cpu: memory\n"
    )
    words = ("--set", "threads=3", "--set", "targets.nvme.size=2MiB", "--set", "arena=64MiB",
             "--arena", "16MiB", "--no-loop", "--no-trim", "--cpu", "none")  # fmt: skip
    shown = cli("replay", "t", "--config", path, *words, "--show-config")
    assert shown.code == 0, shown.err
    for line in (
        f"queue_depth: 1  # {path}", "threads: 3  # --set", "arena: 16MiB  # option",
        "loop: false  # option", f"spin: 'on'  # {path}", f"warmup: 3s  # {path}",
        "speed: 1.0  # default", f"    target: file  # {path}", "    size: 2MiB  # --set",
        "    trim: false  # option",
    ):  # fmt: skip
        assert f"{line}\n" in shown.out, line
    assert "cpu:" not in shown.out


def test_a_flag_replaces_a_tiers_target(tmp_path: Path, cli: Cli) -> None:
    """Whole, with its options; what stands beside it is added to what a file names."""
    path = tmp_path / "c.yaml"
    path.write_text(
        "targets: {nvme: {target: file, path: /a, size: 1MiB}, cpu: {target: memory}}\n"
    )

    def targets(*words: object) -> dict[str, Any]:
        shown = cli("replay", "t", "--config", path, *words, "--show-config")
        assert shown.code == 0, shown.err
        return dict(yaml.safe_load(shown.out)["targets"])

    kept = targets("--allow-destroy", "S1")
    assert (kept["nvme"]["path"], kept["nvme"]["allow_destroy"]) == ("/a", "S1")
    replaced = targets("--device", "/b")
    assert (replaced["nvme"]["path"], replaced["nvme"]["size"]) == ("/b", None)
    assert replaced["cpu"]["target"] == "memory"
    assert {each["target"] for each in targets("--target", "null").values()} == {"null"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("quue_depth: 1", "{path}: unknown key: got 'quue_depth'"),
        ("quue_depth: 1", "did you mean queue_depth"),
        ("trim: yes", "unknown key: got 'trim'"),
        ("warmup_ns: 1", "unknown key: got 'warmup_ns'"),
        ("queue_depth: 0", "{path}: queue_depth: Input should be greater than 0: got 0"),
        ("threads: yes", "{path}: threads: isn't yes or no: got True; accepted: N"),
        ("limit: yes", "{path}: limit: isn't yes or no"),
        ("targets: {cpu: {target: memory, extent-align: yes}}", "isn't yes or no: got True"),
        ("warmup: soon", "{path}: warmup: not a duration: got 'soon'; accepted: e.g."),
        ("accept: [short]", "{path}: accept: unknown reason: got 'short'"),
        ("loop: true", "--loop needs --run-time"),
        ("targets: 3", "{path}: targets: not a mapping from tiers to targets: got 3; accepted: {{"),
        ("targets: {nvme: null}", "{path}: targets.nvme: names no target: got nothing, which is"),
        ("limit: soon", "{path}: limit: neither rows nor a time: got 'soon'; accepted: e.g. 1000"),
        ("targets: {nmve: memory}", "unknown tier: got 'nmve'"),
        ("targets: {nvme: {path: /a}}", "{path}: targets.nvme: names no target"),
        ("targets: {cpu: {target: mrmory}}", "{path}: targets.cpu: unknown target: got 'mrmory'"),
        ("targets: {cpu: {target: file, path: /a}}", "can't stand for tier cpu"),
        ("targets: {nvme: {target: file, pth: /a}}", "did you mean path?"),
        ("targets: {nvme: {target: file, path: /a, size: big}}", "target file: size: not a size"),
        ("- a list", "{path}: not a configuration"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, cli: Cli, text: str, message: str) -> None:
    """File, key, what was given, what is accepted."""
    path = tmp_path / "c.yaml"
    path.write_text(f"{text}\n")
    target = () if "target" in text else ("--target", "null")
    refused = cli("replay", "t", "--config", path, *target)
    assert refused.code == 2
    assert message.format(path=path) in refused.error


def test_a_wrong_setting_is_named(cli: Cli) -> None:
    """`--set` without a value, and of a key that isn't known."""
    for text, message in (
        ("mode", "--set: not key=value: got 'mode'; accepted: key=value"),
        ("mood=max", "--set: unknown key: got 'mood'"),
        ("mode=maximal", "--set: mode: Input should be 'open', 'closed' or 'max'"),
        ("targets.nvme.target=mrmory", "did you mean memory"),
    ):
        refused = cli("replay", "t", "--target", "cpu=memory", "--set", text)
        assert (refused.code, message in refused.error) == (2, True), refused.err


def test_a_run_by_a_file(tmp_path: Path, cli: Cli, trace: Path) -> None:
    """A whole run needs nothing else, and its report has the options."""
    path = tmp_path / "c.yaml"
    path.write_text(
        "mode: max\nmin_window: 0s\narena: 16MiB\nsettle: 0s\nlimit: 10\n"
        "targets: {nvme: {target: null}}\n"
    )
    done = cli("replay", trace, "--config", path, "--json")
    assert done.code in (0, 5), done.err
    document = json.loads(done.out)
    assert (document["config"]["mode"], document["config"]["limit_rows"]) == ("max", 10)
    assert document["ops"] == 10


def test_a_configuration_is_an_input(tmp_path: Path, cli: Cli, trace: Path) -> None:
    """No output may be the file."""
    path = tmp_path / "c.json"
    path.write_text("mode: max\n")
    words = ("--config", path, "--target", "null", "--report", path, "--force")
    refused = cli("replay", trace, *words)
    assert "is an input too" in refused.error
    assert path.read_text() == "mode: max\n"


@pytest.mark.slow
def test_a_bench_takes_one(tmp_path: Path, cli: Cli, trace: Path) -> None:
    """Its trials have the file's options, the shortest window too; it shows none."""
    path, folder = tmp_path / "c.yaml", tmp_path / "b"
    path.write_text("mode: max\nmin_window: 0s\narena: 16MiB\ntargets: {nvme: {target: null}}\n")
    words = ("bench", "--trace", trace, "--folder", folder, "--trials", "1", "--config", path)
    refused = cli(*words, "--show-config")
    assert "--show-config: is set by the bench" in refused.error
    done = cli(*words)
    assert done.code in (0, 5), done.err
    report = result_path(folder, 1, ".json")
    assert json.loads(report.read_text())["config"]["min_window_ns"] == 0
