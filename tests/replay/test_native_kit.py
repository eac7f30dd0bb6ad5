"""Fixtures and helpers of the tests of compiled engines; holds no tests itself."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from replay import native
from replay.loop import (
    NO_TIME_NS,
    Control,
    Lane,
    LaneKind,
    LoopOptions,
    Mode,
    Ops,
    Outcome,
    Verify,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

KIB = 1024
MIB = 1024 * KIB
RUN_ID = 4711
HOUR_NS = 3_600_000_000_000
NULL_LANE = Lane(LaneKind.NULL, queue_depth=8, io_bytes=MIB)


@pytest.fixture(params=[native.uring, native.threads], ids=lambda engine: engine.name)
def engine(request: pytest.FixtureRequest) -> native.NativeEngine:
    """Each engine, or a skip with the reason why it can't be used here."""
    chosen: native.NativeEngine = request.param
    reason = chosen.available()
    if reason is not None:
        pytest.skip(reason)
    return chosen


@pytest.fixture(scope="module")
def arena() -> NDArray[np.uint8]:
    """8 MiB of random payload."""
    memory, _kind = native.allocate(8 * MIB)
    memory[:] = np.random.default_rng(1).integers(0, 256, memory.size, dtype=np.uint8)
    return memory


@pytest.fixture
def open_file(tmp_path: Path) -> Iterator[Callable[..., int]]:
    """Yield a function that makes a file of a size and opens it, past the page cache if it can."""
    opened: list[int] = []

    def make(size_bytes: int, flags: int = os.O_RDWR) -> int:
        path = tmp_path / f"target{len(opened)}"
        path.touch()
        os.truncate(path, size_bytes)
        try:
            opened.append(os.open(path, flags | os.O_DIRECT))
        except OSError:
            opened.append(os.open(path, flags))
        return opened[-1]

    yield make
    for fd in opened:
        os.close(fd)


def contents(fd: int) -> NDArray[np.uint8]:
    """Return all bytes of an open file."""
    return np.frombuffer(Path(f"/proc/self/fd/{fd}").read_bytes(), np.uint8).copy()


def overwrite(fd: int, offset_bytes: int, data: bytes) -> None:
    """Change bytes of an open file behind the engine's back."""
    with Path(f"/proc/self/fd/{fd}").open("r+b") as file:
        file.seek(offset_bytes)
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def file_lane(fd: int, *, queue_depth: int = 8, io_bytes: int = 64 * KIB) -> Lane:
    """Return a FILE lane."""
    return Lane(LaneKind.FILE, queue_depth=queue_depth, io_bytes=io_bytes, fd=fd)


def options(
    arena: NDArray[np.uint8],
    *,
    mode: Mode = Mode.MAX,
    verify: Verify = Verify.FULL,
    spin_ns: int = 0,
    read_buffer_bytes: int = 64 * MIB,
) -> LoopOptions:
    """Return options that check everything."""
    return LoopOptions(
        mode=mode,
        arena=arena,
        run_id=RUN_ID,
        verify=verify,
        spin_ns=spin_ns,
        read_buffer_bytes=read_buffer_bytes,
    )


def run(
    engine: native.NativeEngine, lanes: tuple[Lane, ...], ops: Ops, chosen: LoopOptions
) -> Outcome:
    """Run with a control of its own."""
    return engine.run(lanes, ops, chosen, Control(len(lanes)))


def assert_order(outcome: Outcome, edges: list[tuple[int, int]]) -> None:
    """Fail unless every successor went out after its predecessor's completion."""
    for before, after in edges:
        assert outcome.times.complete_ns[before] <= outcome.times.submit_ns[after]
        assert outcome.times.ready_ns[after] >= outcome.times.complete_ns[before]


def assert_times(outcome: Outcome, ops: Ops, mode: Mode) -> None:
    """Fail unless each executed op's times are in the order they are defined in."""
    times = outcome.times
    done = times.complete_ns != NO_TIME_NS
    due_ns = outcome.start_ns + (ops.due_ns if mode == Mode.OPEN else 0)
    eligible_ns = np.maximum(due_ns, times.ready_ns)
    assert (times.slot_ns[done] >= eligible_ns[done]).all()
    assert (times.submit_ns[done] >= times.slot_ns[done]).all()
    assert (times.complete_ns[done] >= times.submit_ns[done]).all()


def when_completed(control: Control, count: int, act: Callable[[], object]) -> threading.Thread:
    """Start a thread that acts once `count` ops have completed."""

    def watch() -> None:
        while control.completed_ops.sum() < count:
            os.sched_yield()
        act()

    thread = threading.Thread(target=watch)
    thread.start()
    return thread
