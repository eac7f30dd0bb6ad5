"""Latencies of the block layer: real ones on a loop device, a captured output, and refusals."""

from __future__ import annotations

import io
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from rich.console import Console

from kvtrace.trace.schema import Op, Phase, Tier
from replay import ReplayOptions, Stop, run
from replay.host import bpf, bpftrace
from replay.host.document import block_document
from replay.report import terminal
from replay.report.sections import whole
from tests.support.traces import file_target, null_target, write_trace

if TYPE_CHECKING:
    from tests.support.command import Outcome

CAPTURED = Path(__file__).with_name("bpftrace_output.txt")
"""bpftrace 0.17 on a loop device: 64 direct writes of 64 KiB, then 300 reads of 4 KiB and 20 of 1
MiB, a flush, and a discard of 1 MiB; beside the kernel's own reads ahead."""
LOOP0 = bpf.kernel_number(7, 0)
Quick = Callable[..., ReplayOptions]


def by_kind(groups: tuple[bpf.BlockGroup, ...]) -> dict[tuple[str, int], bpf.BlockGroup]:
    """Return groups by operation and size class."""
    return {(group.op, group.size_class_bytes): group for group in groups}


def test_a_captured_output_is_parsed() -> None:
    """Counts are those of the commands that ran; a write without bytes is a flush."""
    found = by_kind(bpf.parse(CAPTURED.read_text(), {LOOP0: "loop0"}))
    writes = found["write", 65_536]
    assert (writes.device, writes.count) == ("loop0", 64)
    assert writes.mean_us == pytest.approx(2_064_690 / 64 / 1000)
    assert writes.max_us == 77.205
    assert writes.bucket_count.sum() == 64
    assert found["read", 4096].count >= 300
    assert sum(found["read", size].count for size in (262_144, 524_288) if ("read", size) in found)
    assert found["discard", 1 << 20].count == 1
    assert found["flush", 0].max_us == 11_773.421
    assert {op for op, _ in found} == {"read", "write", "discard", "flush"}


def test_percentiles_are_upper_edges_of_buckets() -> None:
    """Of 64 writes the 32nd and the 64th, at most an eighth too long, never above the maximum."""
    writes = by_kind(bpf.parse(CAPTURED.read_text(), {LOOP0: "loop0"}))["write", 65_536]
    # 8 in bucket 117 (13 × 2 µs), 20 in 118, 22 in 119, …: 26.6 to 30.7 µs holds the median.
    assert writes.p50_us == 32.768
    assert writes.p99_us == writes.max_us
    assert np.all(np.diff(writes.bucket_us) > 0)
    assert writes.bucket_us[0] == 26.624


def test_buckets_of_the_program_are_those_of_the_parser() -> None:
    """An edge of every bucket lies in that bucket, computed as the program does."""
    for ns in (1, 2, 5, 8, 9, 15, 16, 1000, 123_456_789, 1 << 40):
        power = ns.bit_length() - 1
        bucket = power * 8 + ((ns >> power - 3) & 7 if power >= 3 else 0)
        text = json.dumps({"type": "map", "data": {"@count": {f"{LOOP0},R,3,{bucket}": 1}}})
        more = {"@sum": {f"{LOOP0},R,3": ns}, "@max": {f"{LOOP0},R,3": ns}}
        lines = [text, *(json.dumps({"type": "map", "data": {k: v}}) for k, v in more.items())]
        group = bpf.parse("\n".join(lines), {LOOP0: "loop0"})[0]
        low_ns, width_ns = group.bucket_us[0] * 1000, max(1, (1 << power) // 8)
        assert low_ns <= ns < low_ns + max(width_ns, 1 << power if power < 3 else 0)


@pytest.mark.parametrize(
    ("letters", "op"),
    [("R", "read"), ("RA", "read"), ("WSM", "write"), ("FWFS", "write"), ("DE", "discard"),
     ("FF", "flush"), ("N", "other")],
)  # fmt: skip
def test_a_requests_letters_say_what_it_is(letters: str, op: str) -> None:
    """The first letter, or the second behind the one that says: flush before."""
    entry = {"@count": {f"{LOOP0},{letters},3,80": 2}}
    rest = {"@sum": {f"{LOOP0},{letters},3": 9}, "@max": {f"{LOOP0},{letters},3": 5}}
    text = "\n".join(json.dumps({"type": "map", "data": {k: v}}) for k, v in (entry | rest).items())
    assert [group.op for group in bpf.parse(text, {LOOP0: "x"})] == [op]


@pytest.mark.parametrize("text", ['{"type": "map", "data": {"@sum": {"1,R": 2}}}', "{broken"])
def test_what_is_not_its_output_is_an_error(text: str) -> None:
    """A reader that can't understand says so instead of returning nothing."""
    with pytest.raises(ValueError, match=r"."):
        bpf.parse(text, {LOOP0: "loop0"})


def test_the_table_fits_80_columns() -> None:
    """The most frequent kinds are shown, with a sentence on what they are."""
    groups = bpf.parse(CAPTURED.read_text(), {LOOP0: "loop0"})
    console = Console(width=80, record=True, file=io.StringIO())
    [section] = whole.block_layer(block_document(bpf.BlockLatency(-0.5, 3.0, groups)))
    for part in terminal.render_section(section):
        console.print(part)
    lines = console.export_text().splitlines()
    assert all(len(line) <= 80 for line in lines)
    text = "\n".join(lines)
    assert "block layer" in text
    assert "32.8µs" in text
    assert "from all processes" in text
    assert not list(whole.block_layer(None))


@pytest.fixture
def tracing(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The kernel's tracepoints, mounted for the test if need be."""
    place = bpftrace.TRACING[0]
    mounted = False
    if os.geteuid() == 0 and place.is_dir() and not (place / "events").exists():
        command = ["mount", "-t", "tracefs", "tracefs", str(place)]
        mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    reason = bpftrace.why_not()
    if reason is None:
        yield
    if mounted:
        subprocess.run(["umount", str(place)], check=True)
    if reason is not None:
        pytest.skip(reason)


@pytest.mark.slow
@pytest.mark.usefixtures("tracing")
def test_real_requests_are_counted(
    loop_device: Callable[..., Path], tmp_path: Path, quick: Quick
) -> None:
    """On a loop device every write and read of the run is there, by its size."""
    device = loop_device()
    rows = [(0, Op.WRITE, Tier.NVME, key, Phase.EVICT, 65_536) for key in range(100)]
    rows += [(1, Op.READ, Tier.NVME, key, Phase.DECODE, 65_536) for key in range(100)]
    trace = write_trace(tmp_path / "t.parquet", rows)
    target = file_target(device, allow_destroy=str(device))
    result = run(trace, [target], quick(mode="max", bpf=True))
    bpf_latency = result.document().bpf
    assert bpf_latency is not None, result.verdict.warnings
    assert bpf_latency.start_s < 0 < bpf_latency.end_s
    found = by_kind(bpf_latency.groups)
    assert {group.device for group in bpf_latency.groups} == {device.name}
    for op in ("read", "write"):
        # Neighbours may be merged: what was moved is at least the run's.
        sizes = [group for (name, size), group in found.items() if name == op and size]
        moved = sum(group.count * 2 * group.size_class_bytes for group in sizes)
        assert moved >= 100 * 65_536
        group = found[op, 65_536]
        assert 0 < group.p50_us <= group.p99_us <= group.max_us
        assert sum(group.bucket_count) == group.count
    assert "no_bpf" not in {warning.code for warning in result.verdict.warnings}


def fake(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Put a `bpftrace` of that shell script on PATH, and let all else be in order."""
    program = folder / "bpftrace"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    events = folder / "tracing/events/block/block_rq_issue"
    events.mkdir(parents=True)
    monkeypatch.setattr(bpftrace, "TRACING", (folder / "tracing",))
    monkeypatch.setattr(os, "geteuid", lambda: 0)


@pytest.fixture
def sysfs(tmp_path: Path) -> Path:
    """A disk's directory."""
    disk = tmp_path / "loop0"
    disk.mkdir()
    (disk / "dev").write_text("7:0\n")
    return disk


ATTACHED = """printf '%s\\n' '{"type": "printf", "data": "attached\\n"}'"""


def test_a_tracer_is_joined_to_the_runs_clock(
    sysfs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is awaited, ended by SIGTERM, and what it prints then is the result."""
    forever = "while :; do sleep 0.01; done"
    fake(tmp_path, monkeypatch, f"trap 'cat {CAPTURED}; exit 0' TERM\n{ATTACHED}\n{forever}")
    found = bpftrace.attach((sysfs, None), Stop())
    assert isinstance(found, bpftrace.Tracer), found
    latency = found.finish(found.attached_ns + 5)
    assert isinstance(latency, bpf.BlockLatency), latency
    assert latency.start_s == -5e-9
    assert by_kind(latency.groups)["write", 65_536].count == 64


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("echo 'ERROR: no rights' >&2; exit 1", "ended at once: ERROR: no rights"),
        ("exit 0", "ended at once: it said nothing"),
        ("sleep 100", "wasn't in place within"),
    ],
)
def test_one_that_does_not_start_says_why(
    sysfs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, reason: str
) -> None:
    """Its own last line is the reason, and nothing is left running."""
    fake(tmp_path, monkeypatch, script)
    monkeypatch.setattr(bpftrace, "ATTACH_NS", 10**9 if "in place" not in reason else 10**6)
    found = bpftrace.attach((sysfs,), Stop())
    assert isinstance(found, str)
    assert reason in found


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (f"trap 'exit 3' TERM\n{ATTACHED}\nwhile :; do sleep 0.01; done", "exit code 3"),
        (
            f"trap 'echo {{broken; exit 0' TERM\n{ATTACHED}\nwhile :; do sleep 0.01; done",
            "something else than expected",
        ),
    ],
)
def test_one_that_ends_badly_says_why(
    sysfs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, reason: str
) -> None:
    """There are no latencies then, but a reason."""
    fake(tmp_path, monkeypatch, script)
    found = bpftrace.attach((sysfs,), Stop())
    assert isinstance(found, bpftrace.Tracer), found
    assert reason in str(found.finish(0))


def test_a_stop_ends_the_wait(sysfs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C isn't waited for until the time is over."""
    fake(tmp_path, monkeypatch, "sleep 100")
    stop = Stop()
    stop.set()
    assert bpftrace.attach((sysfs,), stop) == "stopped"


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No root, no program, no tracepoints: each has its line, with what to do."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert "needs root" in str(bpftrace.why_not())
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "apt-get install bpftrace" in str(bpftrace.why_not())
    fake(tmp_path, monkeypatch, "exit 0")
    assert bpftrace.why_not() is None
    monkeypatch.setattr(bpftrace, "TRACING", (tmp_path / "elsewhere",))
    assert "mount -t tracefs" in str(bpftrace.why_not())


def test_a_device_built_on_others_is_watched_below(tmp_path: Path) -> None:
    """A mapped device has no requests of its own: the disks below it are watched, each once."""
    for name, number in (("sda", "8:0"), ("sdb", "8:16"), ("dm-0", "252:0"), ("dm-1", "252:1")):
        (tmp_path / name / "slaves").mkdir(parents=True)
        (tmp_path / name / "dev").write_text(number)
    part = tmp_path / "sda/sda1"
    part.mkdir()
    (part / "partition").write_text("1")
    for upper, lower in (("dm-0", "sda/sda1"), ("dm-0", "sdb"), ("dm-1", "dm-0"), ("dm-1", "sdb")):
        link = tmp_path / upper / "slaves" / lower.rpartition("/")[2]
        link.symlink_to(tmp_path / lower)
    found = bpftrace.watched((tmp_path / "dm-1", None))
    assert found == {8 << 20: "sda", 8 << 20 | 16: "sdb"}


def test_the_option_says_on_stderr_what_is_missing(
    cli: Callable[..., Outcome], tmp_path: Path
) -> None:
    """`--bpf` where it can't be had: a line on stderr, a warning in the report, exit 0."""
    trace = write_trace(tmp_path / "t.parquet", [(0, Op.WRITE, Tier.NVME, 1, Phase.EVICT, 4096)])
    words = ("--target", "null", "--min-window", "0s", "--accept", "host_lateness")
    found = cli("replay", trace, *words, "--bpf", "--full")
    assert found.code == 0
    assert "--bpf: the block layer's latencies won't be there: no target" in found.err
    assert "no_bpf (warning)" in found.out


def test_a_run_goes_on_without_it(tmp_path: Path, quick: Quick) -> None:
    """A warning says why there are none; it is no reason against the numbers."""
    trace = write_trace(tmp_path / "t.parquet", [(0, Op.WRITE, Tier.NVME, 1, Phase.EVICT, 4096)])
    result = run(trace, [null_target()], quick(mode="max", bpf=True))
    assert result.document().bpf is None
    warning = next(each for each in result.verdict.warnings if each.code == "no_bpf")
    assert "no target has a block device" in warning.figure
    assert "no_bpf" not in {reason.code for reason in result.verdict.reasons}
