"""A replay that is killed: what it had found up to its last flush can be brought back."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from kvtrace.cli.main import app
from kvtrace.errors import UsageError
from kvtrace.files.drafts import drafts_of
from kvtrace.trace.reader import open_trace
from replay.execution.output import left_parts
from tests.support.traces import simple_rows, write_trace

if TYPE_CHECKING:
    from pathlib import Path

_RUN = """
import sys
import replay.execution.measurement, replay.execution.output
replay.execution.measurement._FLUSH_NS = replay.execution.output._FLUSH_NS = 0
from kvtrace.cli.main import main
sys.argv = ["kvtrace", *sys.argv[1:]]
main()
"""


def kill_when_parts_are_there(command: list[str], out: Path, report: Path) -> tuple[Path, Path]:
    """Start a replay and kill it once it has flushed something; return parts and report so far."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(1200):
            parts = list(out.parent.glob(f".{out.name}.*.parts/part-*.parquet"))
            so_far = [path for path in drafts_of(report) if path.stat().st_size]
            if parts and so_far:
                return parts[0].parent, so_far[0]
            assert process.poll() is None, "ended before anything was flushed"
            time.sleep(0.05)
        raise AssertionError("nothing was flushed")
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


@pytest.mark.slow
def test_a_killed_replay_loses_no_more_than_the_last_interval(tmp_path: Path) -> None:
    """Parts are traces, `recover` joins them, a report says INVALID, a new run works."""
    trace = write_trace(tmp_path / "t.parquet", simple_rows(200, gap_ns=100_000_000))
    out, report = tmp_path / "out.parquet", tmp_path / "report.json"
    words = [
        "replay", str(trace), "--target", "null", "--arena", "16MiB",
        "--out", str(out), "--report", str(report),
    ]  # fmt: skip
    command = [sys.executable, "-c", _RUN, *words]
    parts, partial = kill_when_parts_are_there(command, out, report)
    assert not out.exists()
    said = json.loads(partial.read_text())
    assert said["verdict"] == "INVALID"
    assert "interrupted" in {reason["code"] for reason in said["reasons"]}
    recovered = tmp_path / "recovered.parquet"
    assert left_parts(out) == left_parts(parts) == parts
    assert CliRunner().invoke(app, ["recover", str(out), str(recovered)]).exit_code == 0
    with open_trace(recovered) as found:
        assert found.rows > 0
        frame = found.lazy().collect()
        assert (frame["complete"] >= frame["submit"]).all()
        assert found.header.statistics["replay"]["verdict"] == "INVALID"  # type: ignore[index]
    again = CliRunner().invoke(app, [*words, "--mode", "max"])
    assert again.exception is None or isinstance(again.exception, SystemExit), again.output
    assert "an earlier run was killed" in again.output
    assert out.exists()
    assert report.exists()
    assert list(parts.glob("part-*.parquet"))


def test_a_folder_without_parts_is_refused(tmp_path: Path) -> None:
    """There is nothing to recover: said in one line, and nothing is made."""
    found = CliRunner().invoke(app, ["recover", str(tmp_path), str(tmp_path / "x.parquet")])
    assert isinstance(found.exception, UsageError)
    assert "no parts of a result trace" in str(found.exception)
    with pytest.raises(FileNotFoundError):
        (tmp_path / "x.parquet").stat()
