"""What --warmup, --limit and --speed change, through the command; the engine that is taken."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from kvtrace.trace.schema import Op, Phase, Tier
from replay import TargetSpec
from replay.engine import native
from replay.targets.support.simulated import stall_target
from tests.support.runs import simulated
from tests.support.seccomp import FORBID_URING
from tests.support.traces import Row, simple_rows, write_trace
from tests.support.whole import QUICK, Command

if TYPE_CHECKING:
    from pathlib import Path

NVME = Tier.NVME
GAP_NS, SERVICE_NS, STALL_NS = 10_000_000, 1_000_000, 500_000_000


@pytest.fixture
def command(cli: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Command:
    """`kvtrace replay` on ready-made targets."""
    return Command(cli, monkeypatch, tmp_path)


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """Two seconds of reads, one every 10 ms."""
    rows: list[Row] = [(i * GAP_NS, Op.READ, NVME, i, Phase.DECODE, 4096) for i in range(200)]
    return write_trace(tmp_path / "t.parquet", rows)


def replayed(command: Command, trace: Path, *words: object) -> dict[str, Any]:
    """Return the report of a run, in no time, on a device that stands still for its first 0.5 s."""
    target = simulated(stall_target(SERVICE_NS, 0, STALL_NS), virtual=True)
    unwritten = ("--populate", "none", "--accept", "unwritten")
    outcome, found = command(trace, [target], *unwritten, *words)
    assert outcome.code == 0
    return found


@pytest.mark.slow
def test_warmup_leaves_out_what_a_device_does_at_first(command: Command, trace: Path) -> None:
    """With it the stall is in no percentile, and the window begins later; without it it is."""
    whole = replayed(command, trace)
    warm = replayed(command, trace, "--warmup", "1s")
    assert whole["response_ns"]["max"] == STALL_NS + SERVICE_NS
    assert warm["response_ns"]["max"] == warm["service_ns"]["max"] == SERVICE_NS
    assert (whole["ops"], warm["ops"]) == (200, 100)
    assert (whole["window_s"], warm["window_s"]) == (1.99, 0.99)
    assert warm["lanes"][0]["warmup_ops"] == 100
    assert whole["lanes"][0]["warmup_ops"] == 0


@pytest.mark.slow
def test_limit_ends_a_run_by_rows_or_by_time(command: Command, trace: Path) -> None:
    """Only so many rows are replayed, and the report says how many of how many."""
    for limit, rows in (("7", 7), ("1s", 100), (None, 200)):
        words = ("--limit", limit) if limit else ()
        found = replayed(command, trace, *words)
        assert found["ops"] == rows
        assert (found["trace"]["rows_replayed"], found["trace"]["rows"]) == (rows, 200)


@pytest.mark.slow
def test_speed_divides_the_schedule(command: Command, trace: Path) -> None:
    """Four times as fast: a quarter of the window for the same ops; all of them meet the stall."""
    plain, fast = (replayed(command, trace, "--speed", speed) for speed in (1, 4))
    assert plain["window_s"] == 4 * fast["window_s"] == 1.99
    assert (plain["ops"], fast["ops"]) == (200, 200)
    late = [found["response_ns"]["p50"] > SERVICE_NS * 1.01 for found in (plain, fast)]
    assert late == [False, True]


@pytest.mark.slow
def test_only_an_accepted_reason_is_excused(command: Command, trace: Path) -> None:
    """Another one keeps its exit code; both stay in the report, and which was accepted."""
    null = [TargetSpec("null", (NVME,))]
    words = ("--min-window", "1h", "--speed", 100, "--accept", "host_lateness")
    others = ("--populate", "none")
    for more, accepted, code in (
        ((), set(), 5),
        (("--accept", "short_window"), {"short_window"}, 5),
        (("--accept", "short_window", "--accept", "unwritten"), {"short_window", "unwritten"}, 0),
    ):
        outcome, found = command(trace, null, *words, *others, *more)
        said = {reason["code"]: reason["accepted"] for reason in found["reasons"]}
        said.pop("host_lateness", None)
        assert outcome.code == code
        assert said == {name: name in accepted for name in ("short_window", "unwritten")}
        assert found["verdict"] == "INVALID"


_FORBID = (
    FORBID_URING
    + """
from kvtrace.cli.main import main
sys.argv = ["kvtrace", "replay", *sys.argv[1:]]
main()
"""
)


def run_without_io_uring(*words: object) -> subprocess.CompletedProcess[str]:
    """Run `kvtrace replay` where a filter forbids io_uring."""
    command = [sys.executable, "-c", _FORBID, *map(str, words), *QUICK]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 77:
        pytest.skip("no seccomp filters here")
    return done


@pytest.mark.slow
@pytest.mark.skipif(native.threads.available() is not None, reason="no compiled engine")
def test_a_result_says_why_its_engine_is_not_the_fastest(direct_path: Path) -> None:
    """Without io_uring `auto` takes threads, in print and as JSON; `uring` is refused."""
    trace = write_trace(direct_path / "t.parquet", simple_rows(20, 4096))
    accept = ("--accept", "host_lateness", "--accept", "device_shared")
    report = direct_path / "report.json"
    words = (trace, "--device", direct_path / "target", *accept, "--verify", "full")
    done = run_without_io_uring(*words, "--full", "--report", report)
    assert done.returncode == 0, done.stderr
    tool = json.loads(report.read_text())["tool"]
    assert tool["engine"] == "threads"
    assert tool["engine_note"].startswith("not uring: ")
    assert "Operation not permitted" in tool["engine_note"]
    assert "engine threads (not uring:" in " ".join(done.stdout.split())
    refused = run_without_io_uring(*words, "--engine", "uring")
    assert refused.returncode == 4
    assert "Operation not permitted" in refused.stderr.splitlines()[-1]
