"""What goes wrong in mid-run, through whole runs: nothing hangs, nothing found so far is lost."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

import replay
from kvtrace.cli.main import main
from kvtrace.errors import TargetError
from kvtrace.trace.reader import open_trace
from kvtrace.trace.schema import Op, Phase, Tier
from replay import ReplayOptions, TargetSpec, clock
from replay.engine.drive import drive
from replay.execution import measurement
from replay.execution.output import PARTS_SUFFIX, left_parts
from replay.report.short import LINES
from replay.targets.support.simulated import faulty_target, stall_target
from tests.support.runs import simulated
from tests.support.traces import MIB, Row, file_target, simple_rows, write_trace
from tests.support.whole import QUICK, Command, Midway, codes, duration_ns, row_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import polars as pl

R, W, NVME = Op.READ, Op.WRITE, Tier.NVME
ACCEPT = ("--accept", "host_lateness", "--accept", "device_shared")
"""What a busy test machine may give."""
BUSY = {"host_lateness", "device_shared"}
_SHUTDOWN = 0x8004587D  # FS_IOC_SHUTDOWN; 2: without writing anything back. Source: linux/fs.h


@pytest.fixture
def command(cli: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Command:
    """`kvtrace replay` on ready-made targets."""
    return Command(cli, monkeypatch, tmp_path)


def rows_of(path: Path) -> pl.DataFrame:
    """Return a result trace."""
    with open_trace(path) as opened:
        return opened.lazy().collect()


PAUSE_NS = 2_000_000_000
"""Long enough for an action of midway, however busy the machine is."""


def spread_rows(
    count: int = 40, gap_ns: int = 10_000_000, before: int = 5, pause_ns: int = 0
) -> list[Row]:
    """Objects that are written, each read at once, a pair every few ms; a pause after `before`."""
    rows: list[Row] = []
    for key in range(count):
        at = key * gap_ns + pause_ns * (key >= before)
        rows += [(at, W, NVME, key, Phase.EVICT, 4096), (at, R, NVME, key, Phase.DECODE, 4096)]
    return rows


@pytest.mark.slow
def test_a_stall_of_one_second_is_printed_as_computed_by_hand(
    command: Command, tmp_path: Path
) -> None:
    """Depth 1, 1 ms of service each 10 ms, a stall of 1 s: both rows of the report."""
    gap, service, begin, end = 10_000_000, 1_000_000, 500_000_000, 1_500_000_000
    rows: list[Row] = [(i * gap, R, NVME, i, Phase.DECODE, 4096) for i in range(1_000)]
    trace = write_trace(tmp_path / "t.parquet", rows)
    target = simulated(stall_target(service, begin, end), virtual=True)
    outcome, found = command(trace, [target], "--queue-depth", 1)
    assert (outcome.code, found["reasons"]) == (0, [])
    free, times = 0, {"nvme all": [], "response": []}  # type: ignore[var-annotated]
    for i in range(1_000):
        submit = max(i * gap, free)
        free = submit + service + (end - max(submit, begin) if begin <= submit < end else 0)
        times["nvme all"].append(free - submit)
        times["response"].append(free - i * gap)
    for name, exact in times.items():
        exact.sort()
        *cells, count = row_of(outcome.out, name)
        assert count == "1,000"
        for cell, rank in zip(cells, (500, 900, 990, 999, 1_000, 1_000), strict=True):
            # A bucket is 1/256 wide, and four digits are printed.
            assert duration_ns(cell) == pytest.approx(exact[rank - 1] * 513 / 512, rel=1 / 400)
    assert times["nvme all"][989] == service < 900_000_000 < times["response"][989]


@pytest.mark.slow
@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_an_error_of_the_thousandth_io_is_counted_and_named(
    command: Command, tmp_path: Path, number: int
) -> None:
    """One op has the errno, what waits for it isn't executed, all else is; exit 5."""
    trace = write_trace(tmp_path / "t.parquet", simple_rows(400, 4096, gap_ns=1_000))
    out, name = tmp_path / "out.parquet", errno.errorcode[number]
    target = simulated(faulty_target({999: -number}))
    outcome, found = command(trace, [target], *ACCEPT, "--slack", 10, "--out", out)
    assert outcome.code == 5
    assert codes(found) - BUSY == {"failed_ops"}
    assert found["errors_by_name"][name] == 1
    assert f"1 ops failed, the first with {name}" in " ".join(outcome.out.split())
    errors = rows_of(out)["error"]
    assert len(errors) == 1_600 == found["ops"] + found["errors"]
    assert errors.to_list().count(number) == 1
    assert set(errors) == {0, number, errno.ECANCELED}
    assert found["fidelity"]["order_violations"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["open", "closed", "max"])
def test_a_device_that_is_gone_fails_all_that_is_left(
    command: Command, tmp_path: Path, mode: str
) -> None:
    """Every I/O from one on ends with ENODEV: what was done before stays in the result."""
    trace = write_trace(tmp_path / "t.parquet", spread_rows(400, 1_000))
    out = tmp_path / "out.parquet"
    target = simulated(faulty_target(dict.fromkeys(range(300, 800), -errno.ENODEV)))
    outcome, found = command(trace, [target], *ACCEPT, "--mode", mode, "--out", out)
    assert (outcome.code, codes(found) - BUSY) == (5, {"failed_ops"})
    assert found["ops"] == 300
    assert set(found["errors_by_name"]) == {"ENODEV", "dependency_failed"}
    errors = rows_of(out)["error"].to_list()
    assert (len(errors), errors.count(0)) == (800, 300)


@contextmanager
def mounted(loop: Path, point: Path) -> Iterator[Path]:
    """Give a new small ext4 file system; skip where none can be mounted."""
    point.mkdir()
    make = ["mkfs.ext4", "-q", "-m", "0", str(loop)]
    try:
        subprocess.run(make, check=True, capture_output=True)
        subprocess.run(["mount", str(loop), str(point)], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no ext4 to mount: {error}")
    try:
        yield point
    finally:
        subprocess.run(["umount", str(point)], check=True)


def take_away(place: Path) -> None:
    """Make a file system refuse everything, as if its disk had been pulled out."""
    folder = os.open(place, os.O_RDONLY)
    try:
        fcntl.ioctl(folder, _SHUTDOWN, struct.pack("=I", 2))
    finally:
        os.close(folder)


@pytest.mark.slow
def test_a_file_system_that_goes_away_loses_nothing_that_was_found(
    command: Command, loop_device: Callable[..., Path], tmp_path: Path
) -> None:
    """In mid-run: what is left fails with EIO, the result is whole, exit 5."""
    trace = write_trace(tmp_path / "t.parquet", spread_rows(pause_ns=PAUSE_NS))
    out = tmp_path / "out.parquet"
    with mounted(loop_device(), tmp_path / "point") as point:
        watcher = Midway(lambda: take_away(point), after=10)
        spec = file_target(point / "target")
        outcome, found = command(trace, [spec], *ACCEPT, "--out", out, watcher=watcher)
    assert watcher.happened
    assert (outcome.code, codes(found) - BUSY) == (5, {"failed_ops"})
    assert set(found["errors_by_name"]) == {"EIO", "dependency_failed"}
    errors = rows_of(out)["error"].to_list()
    assert len(errors) == 80
    assert errors.count(0) == found["ops"] == 10


@pytest.mark.slow
def test_a_device_whose_medium_goes_away_fails_its_reads(
    command: Command, loop_device: Callable[..., Path], tmp_path: Path
) -> None:
    """A loop device whose file is cut to nothing: EIO, no hang, exit 5."""
    rows: list[Row] = [(PAUSE_NS * (i >= 10), R, NVME, i, Phase.DECODE, 4096) for i in range(40)]
    trace = write_trace(tmp_path / "t.parquet", rows)
    loop = loop_device(8 * MIB)
    watcher = Midway(lambda: os.truncate(tmp_path / "disk0", 0), after=10)
    spec = file_target(loop, allow_destroy=str(loop))
    outcome, found = command(trace, [spec], *ACCEPT, watcher=watcher)
    assert (outcome.code, codes(found) - BUSY) == (5, {"failed_ops"})
    assert set(found["errors_by_name"]) == {"EIO"}
    assert found["ops"] == 10


def fill_up(place: Path) -> None:
    """Leave no block free."""
    with (place / "foreign").open("wb") as file:
        for step in (MIB, 4096):
            while True:
                try:
                    file.write(bytes(step))
                    file.flush()
                except OSError:
                    break


@pytest.mark.slow
def test_a_file_system_that_is_filled_up_gives_enospc(
    command: Command, loop_device: Callable[..., Path], tmp_path: Path
) -> None:
    """Another one takes the space: writes of new objects fail, what is there is still read."""
    rows = spread_rows(pause_ns=PAUSE_NS)
    last_ns = rows[-1][0]
    rows += [(last_ns + i, R, NVME, 0, Phase.DECODE, 4096) for i in range(10)]
    trace = write_trace(tmp_path / "t.parquet", rows)
    with mounted(loop_device(16 * MIB), tmp_path / "point") as point:
        watcher = Midway(lambda: fill_up(point), after=10)
        spec = TargetSpec("dir", (NVME,), point / "objects")
        outcome, found = command(trace, [spec], *ACCEPT, watcher=watcher)
    assert (outcome.code, codes(found) - BUSY) == (5, {"failed_ops"})
    assert set(found["errors_by_name"]) == {"ENOSPC", "dependency_failed"}
    assert found["ops"] == 20
    assert "ENOSPC" in outcome.out


def _sleep_while_replaying(monkeypatch: pytest.MonkeyPatch, slept_ns: int) -> list[int]:
    """Let CLOCK_BOOTTIME jump once the loop has run, and return what it has jumped since.

    No watcher of the run does it: where a machine is busy, a short run ends before one looks. A
    thread's readings of a look are of one instant, for it may wait for a CPU between them.
    """
    slept: list[int] = []
    looks = threading.local()

    def read(which: int) -> int:
        if which == time.CLOCK_BOOTTIME:
            looks.at_ns = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
            return int(looks.at_ns) + 10**15 + sum(slept)  # an earlier sleep is none of this run's
        at_ns: int | None = looks.__dict__.pop("at_ns", None)
        return time.clock_gettime_ns(which) if at_ns is None else at_ns

    def drive_and_sleep(*words: Any) -> Any:
        driven = drive(*words)
        slept.append(slept_ns)
        return driven

    clocks = {name: getattr(time, name) for name in dir(time)} | {"clock_gettime_ns": read}
    monkeypatch.setattr(clock, "time", SimpleNamespace(**clocks))
    monkeypatch.setattr(measurement, "drive", drive_and_sleep)
    return slept


@pytest.mark.slow
def test_a_machine_that_slept_is_told_by_its_other_clock(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CLOCK_BOOTTIME goes on and CLOCK_MONOTONIC doesn't: INVALID with figure and remedy."""
    trace = write_trace(tmp_path / "t.parquet", simple_rows(4, gap_ns=12_000_000))
    null = TargetSpec("null", (NVME,))
    for slept_ns, code in ((9_000_000, 0), (3_000_000_000, 5)):
        slept = _sleep_while_replaying(monkeypatch, slept_ns)
        outcome, found = command(trace, [null], *ACCEPT)
        assert slept
        assert (outcome.code, codes(found) - BUSY) == (code, {"clock_suspended"} if code else set())
    assert "suspended for 3.000 s" in outcome.out
    assert "systemd-inhibit" in outcome.out


class Full:
    """A journal whose disk is full."""

    def begin(self, rows: object, tiers: object, *, timed: bool) -> None:
        """Nothing to note."""

    def add(self, done: object, start_ns: int) -> None:
        """Fail."""
        raise TargetError("can't write: No space left on device", where="out.parquet")

    def checkpoint(self, result_so_far: object) -> None:
        """Nothing to keep."""


def test_a_result_that_cannot_be_kept_ends_the_run_at_once(
    tmp_path: Path, quick: Callable[..., ReplayOptions]
) -> None:
    """A full disk under --out: its error, now, and not when the trace's ten minutes are over."""
    trace = write_trace(tmp_path / "t.parquet", spread_rows(600, 1_000_000_000))
    began_ns = clock.now_ns()
    with pytest.raises(TargetError, match="No space left"):
        replay.run(trace, [TargetSpec("null", (NVME,))], quick(), journal=Full())
    assert clock.now_ns() - began_ns < 60 * 10**9


_RUN = """
import sys
import replay.execution.measurement, replay.execution.output
replay.execution.measurement._FLUSH_NS = replay.execution.output._FLUSH_NS = 0
from kvtrace.cli.main import main
sys.argv = ["kvtrace", "replay", *sys.argv[1:]]
main()
"""
"""The command as it is, but it flushes whenever it looks."""


class Running:
    """A replay in a process of its own, with outputs; `begin` waits for its first flush."""

    def __init__(self, folder: Path, rows: list[Row]) -> None:
        self.trace = write_trace(folder / "t.parquet", rows)
        self.out, self.report = folder / "out.parquet", folder / "report.json"
        self.target = folder / "target"
        self.words = [str(self.trace), "--device", str(self.target), *QUICK]
        outputs = ["--out", str(self.out), "--report", str(self.report)]
        command = [sys.executable, "-c", _RUN, *self.words, *outputs]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def __enter__(self) -> Running:
        for _ in range(1_200):
            if list(self.out.parent.glob(f".*{PARTS_SUFFIX}/part-*.parquet")):
                return self
            assert self.process.poll() is None, self.process.communicate()
            time.sleep(0.02)
        raise AssertionError("nothing was flushed")

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    def ended(self) -> tuple[int, str]:
        """Return exit code and what was printed; fails if it hangs."""
        printed, _ = self.process.communicate(timeout=60)
        return self.process.returncode, printed

    def found(self) -> dict[str, Any]:
        """Return the report."""
        document: dict[str, Any] = json.loads(self.report.read_text())
        return document


def run_here(words: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    """Run `replay` in this process; return its exit code."""
    monkeypatch.setattr("sys.argv", ["kvtrace", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    assert isinstance(ended.value.code, int)
    return ended.value.code


@pytest.mark.slow
def test_an_interrupted_run_keeps_what_it_has_done(direct_path: Path) -> None:
    """SIGINT: exit 5, every row is there, done before the signal or marked as stopped by it."""
    with Running(direct_path, spread_rows(3_000)) as running:
        running.process.send_signal(signal.SIGINT)
        code, printed = running.ended()
    assert code == 5
    assert printed.startswith("INVALID  ")
    assert len(printed.splitlines()) <= LINES
    assert "interrupted" in codes(running.found())
    errors = rows_of(running.out)["error"].to_list()
    assert len(errors) == 6_000
    done = errors.count(0)
    assert done >= 1
    assert errors == [0] * done + [errno.EINTR] * (6_000 - done)
    assert running.found()["ops"] == done
    assert not [path for path in direct_path.iterdir() if path.name.startswith(".")]


@pytest.mark.slow
def test_a_killed_run_leaves_its_parts_and_a_target_to_go_on_with(
    direct_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGKILL: `recover` gives each flushed row once, in order; the next run takes the target."""
    rows = spread_rows(3_000)
    with Running(direct_path, rows) as running:
        running.process.kill()
        assert running.ended()[0] == -signal.SIGKILL
    parts = left_parts(running.out)
    flushed = sum(len(rows_of(part)) for part in sorted(parts.glob("part-*.parquet")))
    whole = direct_path / "whole.parquet"
    assert run_here(["recover", str(parts), str(whole)], monkeypatch) == 0
    found = rows_of(whole)
    assert len(found) == flushed >= 1
    assert found["key"].to_list() == [row[3] for row in rows[:flushed]]
    assert found["error"].to_list() == [0] * flushed
    assert found["complete"].null_count() == 0
    again = ["replay", *running.words, "--limit", "100", *ACCEPT]
    assert run_here(again, monkeypatch) == 0


@pytest.mark.slow
def test_a_stopped_process_is_late_by_as_long(direct_path: Path) -> None:
    """SIGSTOP for a second: all is done in the end, and the second is the tool's own lateness."""
    with Running(direct_path, spread_rows(300)) as running:
        began = time.monotonic()
        running.process.send_signal(signal.SIGSTOP)
        time.sleep(1)
        running.process.send_signal(signal.SIGCONT)
        stopped_ns = int((time.monotonic() - began) * 1e9)  # more than it asks for, where it's busy
        code, _ = running.ended()
    found = running.found()
    assert code == 5
    assert codes(found) - {"device_shared"} == {"host_lateness"}
    assert (found["ops"], found["errors"]) == (600, 0)
    late = found["lateness_ns"]["host_lateness_ns"]
    assert late["p99"] > 500_000_000
    assert 950_000_000 < late["max"] < stopped_ns + 2_000_000_000
    assert found["service_ns"]["p50"] < 100_000_000


@pytest.mark.slow
@pytest.mark.parametrize("name", ["file", "dir"])
def test_a_target_whose_name_is_gone_loses_no_result(
    command: Command, direct_path: Path, name: str
) -> None:
    """A node that was unplugged, a file or folder that was removed: the run ends with a result."""
    place = direct_path / "target"
    remove = {"file": place.unlink, "dir": lambda: shutil.rmtree(place)}[name]
    trace = write_trace(direct_path / "t.parquet", spread_rows(pause_ns=PAUSE_NS))
    watcher = Midway(remove, after=10)
    spec = TargetSpec(name, (NVME,), place)
    outcome, found = command(trace, [spec], *ACCEPT, watcher=watcher)
    assert watcher.happened
    assert not (place / "marker").exists()
    assert outcome.code == (0 if name == "file" else 5)
    assert found["ops"] + found["errors"] == 80
    assert found["ops"] >= 10
