"""Signals at any step: what was measured is kept, and nothing is left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.loops import tool
from tests.support.processes import all_end, children_of, start, wait_until
from tests.support.traces import simple_rows, write_trace

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.disks import Disks

pytestmark = pytest.mark.slow

NULL = ("--target", "null", "--arena", "16MiB")
SIGNALS = pytest.mark.parametrize(
    "number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP], ids=lambda n: n.name
)


@pytest.fixture
def long_trace(tmp_path: Path) -> Path:
    """A trace that takes two minutes."""
    return write_trace(tmp_path / "t.parquet", simple_rows(300, gap_ns=100_000_000))


@SIGNALS
@pytest.mark.parametrize(
    "ignored", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["", "nohup"]
)
def test_a_run_that_is_stopped_keeps_its_result(
    number: signal.Signals, ignored: bool, long_trace: Path, tmp_path: Path
) -> None:
    """Result trace and report are there and INVALID (interrupted); exit 5."""
    report, out = tmp_path / "r.json", tmp_path / "o.parquet"
    words = (long_trace, *NULL, "--report", report, "--out", out)
    process = start("replay", *words, ignore_sigint=ignored)
    assert process.stderr is not None
    wait_until(lambda: os.get_blocking(process.stderr.fileno()) and _runs(process.pid), process)
    process.send_signal(number)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 5, errors
    found = json.loads(report.read_text())
    assert found["verdict"] == "INVALID"
    assert "interrupted" in [reason["code"] for reason in found["reasons"]]
    assert out.exists()
    assert "interrupted" in output


def _runs(pid: int) -> bool:
    """Return whether a replay's loop threads are there."""
    tasks = Path(f"/proc/{pid}/task")
    try:
        names = [(task / "comm").read_text() for task in tasks.iterdir()]
    except OSError:
        return False
    return any(name.startswith("kv") for name in names)


@pytest.mark.parametrize(
    ("number", "moment"),
    [*((signal.SIGTERM, moment) for moment in range(6)), (signal.SIGINT, 3), (signal.SIGHUP, 4)],
)
def test_a_signal_at_any_step_ends_a_run(
    number: signal.Signals, moment: int, long_trace: Path, tmp_path: Path
) -> None:
    """While it starts, surveys, makes payload, fills a file, runs: no half file, no process."""
    target, report = tmp_path / "target", tmp_path / "r.json"
    words = ("--device", target, "--arena", "256MiB", "--report", report, "--size", "256MiB")
    process = start("replay", long_trace, *words)
    steps: list[Callable[[], object]] = [
        lambda: True,
        lambda: "payload" in _maps(process) or _threads(process) > 2,
        lambda: _threads(process) > 3,
        target.exists,
        lambda: target.exists() and target.stat().st_size,
        lambda: _runs(process.pid),
    ]
    wait_until(steps[moment], process)
    begun = children_of(process.pid)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode in (5, 130, -number), errors
    assert "Traceback" not in errors or process.returncode in (130, -number)
    assert all_end(begun)
    if process.returncode == 5 and report.exists():
        assert json.loads(report.read_text())["verdict"] == "INVALID"


def _maps(process: subprocess.Popen[str]) -> str:
    try:
        return Path(f"/proc/{process.pid}/maps").read_text()
    except OSError:
        return ""


def _threads(process: subprocess.Popen[str]) -> int:
    try:
        return len(list(Path(f"/proc/{process.pid}/task").iterdir()))
    except OSError:
        return 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_the_device_stalls(
    number: signal.Signals, disks: Disks, tmp_path: Path
) -> None:
    """A frozen file system holds writes for seconds: the result waits for them and is kept."""
    image = disks.image(256 << 20)
    disks.ext4(image)
    point = tmp_path / "point"
    point.mkdir()
    tool("mount", "-o", "loop", image, point)
    report = tmp_path / "r.json"
    try:
        trace = write_trace(tmp_path / "t.parquet", simple_rows(500, gap_ns=20_000_000))
        words = ("--device", point / "kv", "--size", "128MiB", "--arena", "16MiB")
        words = (*words, "--settle", "0s")
        start("replay", trace, *words, "--mode", "max").communicate()  # fills the file
        process = start("replay", trace, *words, "--report", report)
        wait_until(lambda: _runs(process.pid), process)
        tool("fsfreeze", "--freeze", point)
        try:
            time.sleep(0.5)  # a write is due every 80 ms: one is held up now
            process.send_signal(number)
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(2)
        finally:
            tool("fsfreeze", "--unfreeze", point)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 5, errors
        assert report.exists(), errors
        found = json.loads(report.read_text())
        assert "interrupted" in [reason["code"] for reason in found["reasons"]]
    finally:
        subprocess.run(["umount", point], check=False)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_bench_takes_its_child_along(
    number: signal.Signals, long_trace: Path, tmp_path: Path
) -> None:
    """However a bench ends, nothing goes on against the device."""
    folder = tmp_path / "bench"
    process = start("bench", "--trace", long_trace, "--folder", folder, "--trials", 3, *NULL)
    wait_until(lambda: any(_runs(pid) for pid in children_of(process.pid)), process)
    begun = children_of(process.pid)
    process.send_signal(number)
    _, errors = process.communicate(timeout=120)
    assert all_end(begun)
    if number == signal.SIGKILL:
        return
    assert process.returncode == 5, errors
    assert "stopped in trial 1 of 3" in errors
    assert not folder.exists()
    kept = folder.with_name("bench.stopped-1") / "results"
    result = json.loads((kept / "trial-01.json").read_text())
    assert "interrupted" in [reason["code"] for reason in result["reasons"]]
    assert not (kept / "trial-02.json").exists()


def test_the_producer_of_payload_ends_with_a_killed_run(long_trace: Path, tmp_path: Path) -> None:
    """--payload fresh has a process of its own, which no kill -9 of the run leaves behind."""
    words = (long_trace, "--device", tmp_path / "kv", "--size", "64MiB", "--payload", "fresh")
    process = start("replay", *words, "--arena", "16MiB")
    wait_until(lambda: children_of(process.pid) and _runs(process.pid), process)
    begun = children_of(process.pid)
    process.kill()
    process.communicate()
    assert all_end(begun)


def test_the_block_tracer_ends_where_sigint_is_ignored(
    disks: Disks, long_trace: Path, tmp_path: Path
) -> None:
    """Under nohup a child inherits SIGINT as ignored: it is ended by another signal."""
    device = disks.loop(disks.image())
    report = tmp_path / "r.json"
    words = ("--device", device, "--allow-destroy", device, "--arena", "16MiB", "--bpf")
    process = start(
        "replay", long_trace, *words, "--report", report, "--limit", "3s", ignore_sigint=True
    )
    _, errors = process.communicate(timeout=120)
    assert process.returncode in (0, 5), errors
    found = json.loads(report.read_text())
    missing = [w["figure"] for w in found["warnings"] if w["code"] == "no_bpf"]
    if missing and "didn't end" not in missing[0]:
        pytest.skip(missing[0])
    assert found["block_layer"] is not None if "block_layer" in found else not missing
