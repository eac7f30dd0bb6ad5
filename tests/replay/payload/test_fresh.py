"""A ring of unique bytes that another process keeps full."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import pytest

from kvtrace.errors import TargetError, UsageError
from replay.engine import native
from replay.ops.columns import Ops, Times
from replay.ops.contract import Action, Control, Lane, LaneKind, LoopOptions, Mode, Verify
from replay.payload.fresh import FreshPayload
from replay.payload.producer import Stream

if TYPE_CHECKING:
    from collections.abc import Iterator

MIB = 1 << 20


@pytest.fixture
def ring() -> Iterator[FreshPayload]:
    """A ring of 4 MiB in chunks of 1 MiB, of run 5."""
    with FreshPayload(4 * MIB, 5, chunk_bytes=MIB) as payload:
        yield payload


def expected(size: int, run_id: int = 5) -> np.ndarray:
    """Return the stream's first bytes."""
    data = np.zeros(size, np.uint8)
    Stream(run_id).fill(data.data)
    return data


@pytest.mark.slow
def test_the_ring_holds_the_stream_of_the_run(ring: FreshPayload) -> None:
    """Virtual byte v is byte v of the run id's stream, through several turns of the ring."""
    stream = expected(11 * MIB)
    for chunk in range(11):
        ring.wait_filled((chunk + 1) * MIB)
        place = chunk % 4 * MIB
        assert (ring.arena[place : place + MIB] == stream[chunk * MIB : (chunk + 1) * MIB]).all()
        ring.consumed((chunk + 1) * MIB)


def test_nothing_is_overwritten_before_it_was_consumed(ring: FreshPayload) -> None:
    """The producer stops a ring's length ahead, to the chunk, whatever part was consumed."""
    ring.wait_filled(4 * MIB)
    ring.consumed(2 * MIB - 1)
    ring.wait_filled(5 * MIB)
    assert ring.filled_bytes[0] == 5 * MIB
    stream = expected(5 * MIB)
    assert (ring.arena[MIB:] == stream[MIB : 4 * MIB]).all()
    assert (ring.arena[:MIB] == stream[4 * MIB :]).all()
    ring.consumed(2 * MIB)
    ring.wait_filled(6 * MIB)


@pytest.mark.slow
def test_ratios_go_to_the_producer() -> None:
    """With a dedup ratio of 2 the second half of an epoch is the first again."""
    with FreshPayload(16 * MIB, 5, dedup_ratio=2, chunk_bytes=4 * MIB) as ring:
        ring.wait_filled(16 * MIB)
        assert (ring.arena[: 4 * MIB] == ring.arena[4 * MIB : 8 * MIB]).all()
        assert (ring.arena[: 4 * MIB] != ring.arena[8 * MIB : 12 * MIB]).any()


@pytest.mark.slow
def test_its_cost_is_known(ring: FreshPayload) -> None:
    """The producer's CPU time is told."""
    ring.wait_filled(4 * MIB)
    ring.consumed(MIB)
    ring.wait_filled(5 * MIB)
    assert ring.producer_cpu_ns > 0
    assert ring.page_kind in ("hugetlb-2M", "thp-2M", "4K")


def test_a_producer_that_dies_is_an_error_and_no_hang(ring: FreshPayload) -> None:
    """Who waits for its bytes, or asks, gets a TargetError with the remedy."""
    ring.wait_filled(4 * MIB)
    ring.check()
    assert ring._process is not None
    os.kill(ring._process.pid, signal.SIGKILL)
    ring._process.wait()
    ring.consumed(4 * MIB)
    with pytest.raises(TargetError, match=r"has ended.*--payload arena") as caught:
        ring.wait_filled(8 * MIB)
    assert caught.value.exit_code == 4
    with pytest.raises(TargetError, match="has ended"):
        ring.check()


def test_what_the_producer_says_last_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason of its end is in the message."""
    monkeypatch.setattr("replay.payload.producer.__file__", "/nowhere/producer.py")
    with FreshPayload(2 * MIB, 5, chunk_bytes=MIB) as ring:
        with pytest.raises(TargetError, match="No such file"):
            ring.wait_filled(MIB)
        with pytest.raises(TargetError, match="No such file"):
            ring.check()


def test_closing_ends_the_producer_and_keeps_the_arena(ring: FreshPayload) -> None:
    """After close nothing runs any more; what was in the ring can still be looked at."""
    ring.wait_filled(4 * MIB)
    process = ring._process
    ring.close()
    ring.close()
    assert process is not None
    assert process.returncode is not None
    assert (ring.arena == expected(4 * MIB)).all()


def test_a_ring_that_was_never_started_closes() -> None:
    """An error between making and starting it leaves nothing behind."""
    ring = FreshPayload(2 * MIB, 5, chunk_bytes=MIB)
    ring.close()
    assert not ring.arena.any()


@pytest.mark.slow
@pytest.mark.skipif(native.threads.available() is not None, reason="no compiled loop here")
def test_the_loop_writes_more_than_the_ring_holds(ring: FreshPayload) -> None:
    """The loop waits for bytes that aren't there yet; what lands is the stream, unrepeated."""
    count = 24
    ops, times, control = Ops.empty(32, 1), Times.empty(32), Control.whole(1, count)
    times.reset(0, count)
    ops.action[:count] = Action.WRITE
    ops.length_sectors[:count] = MIB // 512
    ops.offset_bytes[:count] = ops.arena_bytes[:count] = np.arange(count) * MIB
    pool = np.zeros(count * MIB, np.uint8)
    lane = Lane(LaneKind.MEMORY, 4, MIB, pool=pool)
    options = LoopOptions(
        Mode.MAX, ring.arena, 5, stamp=False, filled_bytes=ring.filled_bytes, verify=Verify.NONE
    )
    with ThreadPoolExecutor(1) as executor:
        running = executor.submit(native.threads.run, (lane,), ops, times, options, control)
        while not running.done():
            ring.check()
            ring.consumed(times.finished(0, count) * MIB)
        running.result()
    assert not times.error[:count].any()
    assert (pool == expected(count * MIB)).all()


ORPHAN = """
import os
from replay.payload.fresh import FreshPayload
ring = FreshPayload(2 << 20, 5, chunk_bytes=1 << 20)
ring.start()
ring.wait_filled(1 << 20)
print(ring._process.pid, flush=True)
os.kill(os.getpid(), 9)
"""


@pytest.mark.slow
def test_the_producer_ends_with_its_parent() -> None:
    """Killed without a chance to clean up, a run leaves no process behind."""
    answer = subprocess.run(
        [sys.executable, "-c", ORPHAN], capture_output=True, text=True, check=False
    )
    assert answer.returncode == -signal.SIGKILL
    try:
        watched = os.pidfd_open(int(answer.stdout))
    except ProcessLookupError:
        return
    try:
        assert select.select([watched], [], [], 30)[0], "the producer still runs"
    finally:
        os.close(watched)


def test_a_ring_must_be_of_whole_chunks() -> None:
    """A chunk that goes around the end would be written past it: refused."""
    for size in (3 * MIB // 2, MIB // 2):
        with pytest.raises(UsageError, match=r"--arena.*multiples of 1.00 MiB"):
            FreshPayload(size, 5, chunk_bytes=MIB)
