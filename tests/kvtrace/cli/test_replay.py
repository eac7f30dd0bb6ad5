"""`kvtrace replay`: exit codes, bad input in one line, reports and their keys."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from kvtrace.trace.reader import open_trace
from kvtrace.trace.schema import Op, Phase, Tier
from tests.support.traces import Row, simple_rows, write_trace

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.command import Outcome

Run = Callable[..., "Answer"]
ACCEPT = ("--accept", "host_lateness", "--accept", "device_shared")
"""What a busy test machine may give."""


class Answer:
    """What a command left: exit code, outputs, error in one line."""

    def __init__(self, code: int, stdout: str, stderr: str, error: str) -> None:
        self.code, self.stdout, self.stderr, self.error = code, stdout, stderr, error


@pytest.fixture
def run(cli: Callable[..., Outcome]) -> Run:
    """Runs `replay` with these arguments."""

    def call(*words: object) -> Answer:
        found = cli("replay", *words)
        error = found.err.removeprefix("kvtrace: error: ").rstrip("\n")
        return Answer(found.code, found.out, found.err, error)

    return call


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """A small trace that writes, reads and deletes."""
    return write_trace(tmp_path / "trace.parquet", simple_rows(4))


QUICK = ("--arena", "16MiB", "--settle", "0s", "--min-window", "0s", *ACCEPT)


def test_a_run_prints_its_report_in_80_columns(run: Run, trace: Path, direct_path: Path) -> None:
    """Exit 0; the report is on stdout and fits; messages go to stderr."""
    found = run(trace, "--device", direct_path / "target", *QUICK, "--full")
    assert found.code == 0
    assert "VALID" in found.stdout.splitlines()[0]
    assert all(len(line) <= 80 for line in found.stdout.splitlines())
    for word in ("Tier nvme", "throughput", "P99.99", "lateness", "host", "verified"):
        assert word in found.stdout
    assert "populating" not in found.stdout
    assert "payload" in found.stderr


TOP_KEYS = {
    "schema_version",
    "verdict",
    "reasons",
    "window_s",
    "ops",
    "bytes",
    "throughput_bytes_per_s",
    "ops_per_s",
    "storage_throughput_tokens_per_sec",
    "errors",
    "lateness_ns",
    "service_ns",
    "response_ns",
    "groups",
    "fidelity",
    "payload",
    "tool",
    "environment",
    "trace",
    "config",
}
PERCENTILES = {"p50", "p90", "p95", "p99", "p999", "p9999", "max", "count"}


def test_the_json_report_has_its_keys(
    run: Run, trace: Path, direct_path: Path, tmp_path: Path
) -> None:
    """The keys that are promised, with numbers that agree with each other."""
    report, out = tmp_path / "r.json", tmp_path / "r.parquet"
    words = ("--device", direct_path / "target", "--report", report, "--out", out)
    assert run(trace, *words, *QUICK).code == 0
    found: dict[str, Any] = json.loads(report.read_text())
    assert set(found) >= TOP_KEYS
    assert found["verdict"] in ("VALID", "INVALID")
    assert {"dependency_wait_ns", "slot_wait_ns", "host_lateness_ns"} <= set(found["lateness_ns"])
    for name in ("service_ns", "response_ns", "lateness_ns"):
        assert set(found[name]) >= PERCENTILES
    assert found["ops"] == 16 == sum(group["ops"] for group in found["groups"])
    assert found["bytes"] == 12 * 65_536 == sum(group["bytes"] for group in found["groups"])
    for group in found["groups"]:
        assert {"tier", "phase", "op", "service_ns", "response_ns"} <= set(group)
    assert {"cpu_s", "cpu_s_per_gb", "engine", "page_size"} <= set(found["tool"])
    assert found["trace"]["sha256"] == open_trace(trace).sha256()
    assert found["trace"]["rows"] == 16
    assert found["fidelity"]["order_violations"] == 0
    assert found["config"]["mode"] == "open"
    with open_trace(out) as result:
        assert result.rows == 16


def test_json_on_stdout_is_the_report(run: Run, trace: Path) -> None:
    """--json prints only the document."""
    found = run(trace, "--target", "null", "--json", "--mode", "max", *QUICK)
    document = json.loads(found.stdout)
    assert set(document) >= TOP_KEYS
    assert document["response_ns"] is None


def test_an_invalid_run_exits_5_and_accepting_exits_0(run: Run, trace: Path) -> None:
    """The reason stays visible either way."""
    words = (trace, "--target", "null", "--min-window", "1h", *ACCEPT)
    found = run(*words)
    assert found.code == 5
    assert "INVALID" in found.stdout
    assert "short_window" in found.stdout
    accepted = run(*words, "--accept", "short_window")
    assert accepted.code == 0
    assert "INVALID" in accepted.stdout
    assert "accepted" in accepted.stdout


@pytest.mark.slow
def test_nothing_is_overwritten_without_force(run: Run, trace: Path, tmp_path: Path) -> None:
    """An existing output stops the run before it begins; --force replaces it."""
    for option, name in (("--out", "x.parquet"), ("--report", "x.json")):
        path = tmp_path / name
        path.write_text("mine")
        found = run(trace, "--target", "null", option, path, *QUICK)
        assert found.code == 4
        assert "exists already" in found.error
        assert path.read_text() == "mine"
        assert run(trace, "--target", "null", option, path, "--force", *QUICK).code == 0
        assert path.read_bytes() != b"mine"


@pytest.mark.slow
def test_bad_usage(run: Run, trace: Path, direct_path: Path, tmp_path: Path) -> None:
    """Each wrong option is refused with exit code 2, one line that says what is accepted."""
    device, null = ("--device", direct_path / "t"), ("--target", "null")
    cases: list[tuple[tuple[object, ...], str]] = [
        ((), "no target"),
        ((*device, *null), "--target null stands for all tiers"),
        ((*null, "--cpu", "memory"), "--target null stands for all tiers"),
        (("--target", "memroy"), "unknown target"),
        (("--cpu", "disk"), "unknown target of tier cpu"),
        ((*null, "--size", "1GiB"), "--size is the size of --device"),
        ((*device, "--size", "0"), "--size: Input should be greater than 0"),
        ((*device, "--size", "many"), "--size: not a size"),
        ((*null, "--mode", "closedd"), "--mode"),
        ((*null, "--speed", "0"), "--speed"),
        ((*null, "--speed", "nan"), "--speed"),
        ((*null, "--queue-depth", "0"), "--queue-depth"),
        ((*null, "--io-size", "1000"), "--io-size"),
        ((*null, "--slack", "-1"), "--slack"),
        ((*null, "--run-id", "65536"), "--run-id"),
        ((*null, "--populate", "some"), "--populate"),
        ((*null, "--verify", "all"), "--verify"),
        ((*null, "--spin", "maybe"), "--spin"),
        ((*null, "--engine", "urin"), "did you mean uring"),
        ((*null, "--tiers", "nvme,ram"), "unknown tier"),
        ((*null, "--limit", "0"), "--limit"),
        ((*null, "--limit", "soon"), "--limit: neither rows nor a time"),
        ((*null, "--accept", "short_windo"), "did you mean short_window"),
        ((*null, "--extent-align", "5000"), "power of two"),
        ((*device, "--arena", "1MiB"), "at least --io-size"),
        ((*device, "--extent-align", "8MiB"), "--io-size: isn't a multiple"),
        (
            (*null, "--report", tmp_path / "r.doc"),
            "accepted: .csv, .html, .json, .mlperf.json, .xlsx",
        ),
        ((*null, "--out", tmp_path / "r.csv"), "accepted: .parquet"),
        ((*null, "--out", tmp_path / "a.parquet", "--report", trace), "unknown form"),
        ((*null, "--out", trace, "--force"), "is an input too"),
    ]
    for words, expected in cases:
        found = run(trace, *words)
        assert (found.code, expected in found.error) == (2, True), (words, found.error)
        assert len(found.error.splitlines()) == 1
        assert found.stdout == ""
    assert not (direct_path / "t").exists()


def test_bad_traces_exit_3(run: Run, tmp_path: Path) -> None:
    """A file that isn't a trace, is empty, or has no rows."""
    text = tmp_path / "text.parquet"
    text.write_text("hello")
    nothing = tmp_path / "nothing.parquet"
    nothing.write_bytes(b"")
    rowless = write_trace(tmp_path / "rowless.parquet", [])
    for path in (text, nothing, rowless, tmp_path / "missing.parquet", tmp_path):
        found = run(path, "--target", "null")
        assert found.code == 3
        assert str(path) in found.error
        assert len(found.error.splitlines()) == 1


def test_bad_places_exit_4(run: Run, trace: Path, direct_path: Path, tmp_path: Path) -> None:
    """Targets and outputs that can't be: told in one line, before anything ran."""
    cases: list[tuple[tuple[object, ...], str]] = [
        (("--device", direct_path), "is a directory"),
        (("--device", direct_path / "no" / "file"), "no such directory"),
        (("--target", "null", "--out", tmp_path / "no" / "r.parquet"), "no such directory"),
        (("--target", "null", "--report", "/proc/r.json"), "/proc"),
    ]
    for words, expected in cases:
        found = run(trace, *words, *QUICK)
        assert (found.code, expected in found.error) == (4, True), (words, found.error)
        assert len(found.error.splitlines()) == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.slow
def test_a_signal_ends_a_run_in_good_order(
    tmp_path: Path, direct_path: Path, number: signal.Signals
) -> None:
    """Drains, writes the partial result, INVALID (interrupted), exit 5."""
    rows: list[Row] = [(i * 10**9, Op.WRITE, Tier.NVME, i, Phase.PREFILL, 4096) for i in range(60)]
    trace = write_trace(tmp_path / "long.parquet", rows)
    out, report = tmp_path / "r.parquet", tmp_path / "r.json"
    words = [
        sys.executable, "-c", "from kvtrace.cli.main import main; main()", "replay", str(trace),
        "--device", str(direct_path / "t"),
        "--out", str(out), "--report", str(report), *QUICK,
    ]  # fmt: skip
    with subprocess.Popen(words, stderr=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        # A filled target's marker comes just before the run; if the signal comes before that,
        # nothing was measured: the exit code is 5 either way.
        while process.poll() is None and not _filled(direct_path / "t"):
            os.sched_yield()
        process.send_signal(number)
        _, errors = process.communicate()
    assert process.returncode == 5, errors
    if report.exists():
        found = json.loads(report.read_text())
        assert "interrupted" in {reason["code"] for reason in found["reasons"]}
        with open_trace(out) as result:
            assert result.rows == 60


def _filled(path: Path) -> bool:
    from replay.safety.marker import Marker

    if not path.exists():
        return False
    with path.open("rb") as file:
        marker = Marker.unpack(file.read(4096))
    return marker is not None and marker.written_bytes > 0
