"""Real engines in environments of their own (`make engines`), and what was captured of them."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from kvtrace.capture import spool
from kvtrace.capture.spool import Kind
from tests.support import captures, places

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from kvtrace.trace.schema import Op, Tier


def environment(name: str) -> Path:
    """Return the folder of an engine's programs; skips the test if it wasn't made."""
    folder = places.ROOT / "build" / "engines" / name
    if not (folder / ".installed").exists():
        pytest.skip(f"no {name} in build/engines: run `make engines`")
    return folder / "bin"


def variables(**more: str) -> dict[str, str]:
    """Return the environment of an engine's process: it imports kvtrace from the checkout."""
    return {**os.environ, "PYTHONPATH": str(places.ROOT), **more}


def free_port() -> int:
    """Return a port that nothing listens at."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


def run(command: list[Any], folder: Path, **more: str) -> str:
    """Return what an engine's program prints; fails with its errors."""
    ended = subprocess.run(
        list(map(str, command)), cwd=folder, env=variables(**more),
        capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr[-3000:]
    (folder / "stderr").write_text(ended.stderr)
    return ended.stdout


@contextmanager
def serving(command: list[Any], folder: Path, status_url: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server until its status can be asked for, and end it as a terminal would."""
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            list(map(str, command)), cwd=folder, env=variables(), stdout=log, stderr=log
        )
    try:
        deadline = time.monotonic() + 120
        while not answers(status_url):
            assert process.poll() is None, (folder / "server.log").read_text()[-3000:]
            assert time.monotonic() < deadline
            time.sleep(0.3)
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def answers(url: str) -> bool:
    """Return whether a server answers."""
    try:
        get(url)
    except OSError:
        return False
    return True


def get(url: str) -> Any:
    """Return the JSON document at an address."""
    with urllib.request.urlopen(url, timeout=10) as answer:
        return json.load(answer)


@dataclass(frozen=True)
class Captured:
    """A capture's rows, and the totals of its END frame."""

    rows: np.ndarray
    end: dict[str, Any]

    def some(self, tier: Tier, op: Op, error: int | None = 0) -> np.ndarray:
        """Return the rows of a kind; None takes any outcome."""
        kept = (self.rows["tier"] == tier) & (self.rows["op"] == op)
        return self.rows[kept if error is None else kept & (self.rows["error"] == error)]

    def bytes(self, tier: Tier, op: Op) -> int:
        """Return the bytes that ops of a kind moved."""
        return int(self.some(tier, op)["size"].sum())


def captured(folder: Path) -> Captured:
    """Return a capture that ended cleanly, of one process."""
    ends = [end for end in captures.documents(folder, Kind.END) if end["final"]]
    assert len(ends) == 1
    rows = captures.records(folder)
    assert len(rows) == ends[0]["rows"]
    return Captured(rows, ends[0])


def conversations(requests: int, seed: int, blocks: tuple[int, int] = (3, 25)) -> list[list[int]]:
    """Return requests as their block ids: conversations that grow and share a system prompt."""
    rng, known = np.random.default_rng(seed), [[0, 1, 2, 3]]
    made, next_block = [], 4
    for _ in range(requests):
        old = known[int(rng.integers(len(known)))]
        history = old if rng.random() < 0.7 else known[0]
        new = int(rng.integers(*blocks))
        made.append([*history, *range(next_block, next_block + new)])
        known.append(made[-1])
        next_block += new
    return made


def spool_bytes(folder: Path) -> bytes:
    """Return all bytes of a capture, with its frames of rows and events decompressed."""
    data = b""
    for path in spool.parts(folder):
        data += path.name.encode() + path.read_bytes()
        for frame in spool.frames(path):
            if isinstance(frame, spool.Frame) and frame.kind == Kind.ROWS:
                data += spool.records(frame).tobytes()
    return data
