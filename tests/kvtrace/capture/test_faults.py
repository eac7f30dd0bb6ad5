"""Kills, full and slow disks: what was written comes back, and the engine isn't disturbed."""

from __future__ import annotations

import mmap
import os
import signal
import subprocess
import time
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np
import pytest

from kvtrace.capture import spool
from kvtrace.capture.part import Part
from kvtrace.capture.spool import Damage, Frame, Kind
from tests.support import captures

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def load_forever(out: Path, sent: mmap.mmap) -> None:
    """Record tasks of three keys, numbered by their sizes, and tell how many were sent."""
    rec, number = captures.recorder(out, flush_s=0.002, rotate_bytes=20_000), 0
    while True:
        captures.send(rec, [number, number + 1, number + 2], [number, number + 1, number + 2])
        number += 3
        sent[:8] = number.to_bytes(8, "little")
        if number % 300 == 0:
            time.sleep(0.0005)


@pytest.mark.slow
def test_kills_at_random_moments(tmp_path: Path) -> None:
    """Of 100 processes killed under load all written rows come back, in order, none made up."""
    rng, kept, torn = np.random.default_rng(11), 0, 0
    for attempt in range(100):
        out, sent = tmp_path / str(attempt), mmap.mmap(-1, 8)
        child = os.fork()
        if child == 0:
            try:
                load_forever(out, sent)
            finally:
                os._exit(1)
        time.sleep(float(rng.uniform(0.0, 0.12)))
        os.kill(child, signal.SIGKILL)
        assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
        rows, ends, damages = read(out)
        assert rows == list(range(len(rows)))
        assert len(rows) <= int.from_bytes(sent[:8], "little") + 3
        assert not any(end["final"] for end in ends)
        assert all(damage.torn for damage in damages)
        kept, torn = kept + len(rows), torn + len(damages)
    assert kept > 10_000


def read(out: Path) -> tuple[list[int], list[dict[str, object]], list[Damage]]:
    """Return the sizes of all rows, END documents and damages of a capture."""
    parts = [part for path in spool.parts(out) for part in spool.frames(path)]
    whole = [part for part in parts if isinstance(part, Frame)]
    rows = [spool.records(frame)["size"].tolist() for frame in whole if frame.kind == Kind.ROWS]
    ends = [spool.document(frame) for frame in whole if frame.kind == Kind.END]
    return list(chain(*rows)), ends, [part for part in parts if isinstance(part, Damage)]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a file system of 256 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounting = ["mount", "-t", "tmpfs", "-o", "size=256k", "kvtrace-test", str(folder)]
    if subprocess.run(mounting, capture_output=True, check=False).returncode:
        pytest.skip("a file system can't be mounted here: it takes root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.slow
def test_a_disk_that_fills_up(small_disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Rows are lost while it is full, all of them counted; with space, recording goes on."""
    filler = small_disk / "filler"
    filler.write_bytes(bytes(100 << 10))
    rec, rng, sent = captures.recorder(small_disk), np.random.default_rng(5), 0
    while rec.dropped < 5000:
        sent += send_some(rec, rng)
    filler.unlink()
    full = rec.rows
    while rec.rows < full + 2000:
        sent += send_some(rec, rng)
    rec.close()
    rows, ends, damages = read(small_disk)
    gaps = captures.documents(small_disk, Kind.GAP)
    assert damages == []
    assert len(rows) + int(str(ends[-1]["dropped_rows"])) == sent
    assert sum(gap["dropped_rows"] for gap in gaps) == ends[-1]["dropped_rows"]
    assert {gap["reason"] for gap in gaps} == {"write failed"}
    assert capsys.readouterr().err.count("No space left on device") == 1


def send_some(rec: captures.Recorder, rng: np.random.Generator) -> int:
    """Send 200 rows, wait until they are written or lost, and return their number."""
    captures.send(rec, [rng.bytes(8) for _ in range(200)])
    wait_until_idle(rec)
    return 200


def wait_until_idle(rec: captures.Recorder) -> None:
    """Wait until the queue is empty."""
    while rec._queue:
        time.sleep(0.01)


@pytest.mark.slow
def test_a_slow_disk_holds_nothing_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The engine's calls stay quick, its end waits as long as it was told to, and it is said."""
    write = Part._write

    def slow(part: Part, data: bytes) -> None:
        time.sleep(0.5)
        write(part, data)

    rec = captures.recorder(tmp_path, queue_tasks=100, close_s=0.2)
    monkeypatch.setattr(Part, "_write", slow)
    captures.send(rec, [b"first"])
    while rec._queue:
        time.sleep(0.001)
    for number in range(1000):
        captures.send(rec, [number, -number])
    assert rec.rows == 0  # the first row is still being written
    rec.close()
    assert rec._thread.is_alive()
    assert rec.dropped == 2 * 900
    assert "the recording's disk is slow, its end is missing" in capsys.readouterr().err
    monkeypatch.undo()
    rec._thread.join(30)
    assert len(captures.records(tmp_path)) == 201
