"""A device that is a script, in a time that is computed: every time is exact."""

from __future__ import annotations

import errno

import numpy as np
import pytest

from kvtrace.errors import TargetError
from replay.engine import native
from replay.engine.python import PythonEngine
from replay.ops.contract import Action, Mode, Verify
from tests.support.native_kit import (
    KIB,
    MIB,
    Streamer,
    make_ops,
    options,
    run,
    run_virtual,
    simulated_lane,
)

if native.threads.available() is not None:
    pytest.skip(str(native.threads.available()), allow_module_level=True)

MS = 1_000_000


def test_each_io_takes_what_the_script_says() -> None:
    """Delays are taken in the order of submission, over and over."""
    rows = make_ops(5, due_ns=np.arange(5) * MS)
    ran = run_virtual(simulated_lane([10 * MS, 20 * MS]), rows, Mode.OPEN)
    submit = ran.times.submit_ns - ran.start_ns
    complete = ran.times.complete_ns - ran.start_ns
    assert submit.tolist() == [0, MS, 2 * MS, 3 * MS, 4 * MS]
    assert (complete - submit).tolist() == [10 * MS, 20 * MS, 10 * MS, 20 * MS, 10 * MS]


@pytest.mark.parametrize(
    ("channels", "expected"), [(0, [10, 20, 30]), (1, [10, 30, 60]), (2, [10, 20, 40])]
)
def test_channels_serve_in_order_of_coming(channels: int, expected: list[int]) -> None:
    """I/Os beyond the channels wait in the device, which counts as service."""
    lane = simulated_lane([10 * MS, 20 * MS, 30 * MS], channels=channels)
    ran = run_virtual(lane, make_ops(3), Mode.MAX)
    assert (ran.times.submit_ns == ran.start_ns).all()
    assert ((ran.times.complete_ns - ran.start_ns) // MS).tolist() == expected


def test_depth_is_a_wait_for_a_slot() -> None:
    """With one slot the second goes out at the first one's completion, exactly."""
    ran = run_virtual(simulated_lane([5 * MS], queue_depth=1), make_ops(3), Mode.MAX)
    assert ((ran.times.slot_ns - ran.start_ns) // MS).tolist() == [0, 5, 10]
    assert ((ran.times.complete_ns - ran.start_ns) // MS).tolist() == [5, 10, 15]


def test_a_stall_shifts_what_it_meets() -> None:
    """Nothing goes on while all stalls; what is over as it begins isn't touched."""
    due_ns = np.array([0, 1, 4, 7, 30]) * MS
    lane = simulated_lane(
        [5 * MS, 6 * MS, 1 * MS, 2 * MS, 3 * MS],
        stall_begin_ns=5 * MS,
        stall_end_ns=25 * MS,
    )
    ran = run_virtual(lane, make_ops(5, due_ns=due_ns), Mode.OPEN)
    assert ((ran.times.complete_ns - ran.start_ns) // MS).tolist() == [5, 27, 5, 27, 33]


def test_errors_and_retries() -> None:
    """An errno of the script is the op's; a transient one is tried again."""
    lane = simulated_lane([MS] * 4, [0, -errno.EIO, -errno.EAGAIN, 0], queue_depth=1)
    ran = run_virtual(lane, make_ops(3), Mode.MAX)
    assert ran.times.error.tolist() == [0, errno.EIO, 0]
    assert ((ran.times.complete_ns - ran.start_ns) // MS).tolist() == [1, 2, 4]
    assert ran.counters[0].retries == 1


def test_short_transfers_are_continued() -> None:
    """What a short transfer left is a further I/O, and the bytes come out whole."""
    pool = np.random.default_rng(1).integers(0, 256, MIB, dtype=np.uint8)
    lane = simulated_lane([MS, 2 * MS, 3 * MS], [8 * KIB, 20 * KIB, 0], pool=pool)
    data = np.arange(64 * KIB, dtype=np.uint32).astype(np.uint8)
    rows = make_ops(1, action=Action.WRITE, length_bytes=64 * KIB, offset_bytes=4096)
    chosen = options(data, mode=Mode.MAX, stamp=False, virtual_time=True)
    ran = run(native.threads, (lane,), rows, chosen)
    assert ran.times.error.tolist() == [0]
    assert ran.times.complete_ns[0] - ran.start_ns == 6 * MS
    assert ran.counters[0].short_transfers == 2
    assert (pool[4096 : 4096 + 64 * KIB] == data).all()


def test_what_was_written_is_read_and_verified(arena: np.typing.NDArray[np.uint8]) -> None:
    """In real time, too: a simulated lane keeps bytes as a memory lane does."""
    offsets = np.tile(np.arange(16) * 64 * KIB, 2)
    rows = make_ops(
        32,
        edges=[(row, row + 16) for row in range(16)],
        action=np.repeat([Action.WRITE, Action.READ], 16),
        offset_bytes=offsets,
        arena_bytes=offsets,
        length_bytes=64 * KIB,
        key=np.tile(np.arange(16), 2),
    )
    lane = simulated_lane([100_000, 300_000], channels=3)
    ran = run(native.threads, (lane, lane), rows, options(arena))
    assert not ran.times.error.any()
    service = ran.times.complete_ns - ran.times.submit_ns
    assert (service >= 100_000).all()


def test_an_io_of_a_real_time_device_ends_when_computed(
    arena: np.typing.NDArray[np.uint8],
) -> None:
    """However late it is collected, an I/O took what the script says."""
    rows = make_ops(20, due_ns=np.arange(20) * 300_000)
    chosen = options(arena, mode=Mode.OPEN, verify=Verify.NONE)
    ran = run(native.threads, (simulated_lane([100_000]),), rows, chosen)
    assert (ran.times.complete_ns - ran.times.submit_ns == 100_000).all()


def test_latencies_are_counted_by_size() -> None:
    """Each I/O is counted once, in its size class and in the bucket of its latency."""
    delays = [0, 31, 32, 1000, 123_456_789, 10**15]
    lengths = [512, 4096, 64 * KIB, 512, 8192, 128 * KIB]
    rows = make_ops(6, length_bytes=lengths, edges=[(row, row + 1) for row in range(5)])
    ran = run_virtual(simulated_lane([*delays, 5]), rows, Mode.MAX)
    counts = ran.counters[0].io_counts
    assert counts is not None
    expected = np.zeros_like(counts)
    sizes = [512, 4096, 64 * KIB, 512, 8192, 64 * KIB, 64 * KIB]
    for size, delay in zip(sizes, [*delays, 5], strict=True):
        shift = max(0, delay.bit_length() - 6)
        bucket = delay if delay < 32 else shift * 32 + (delay >> shift)
        expected[size.bit_length() - 1, bucket] += 1
    assert (counts == expected).all()


def test_virtual_time_is_the_same_through_a_small_ring() -> None:
    """How the ops come in doesn't change a single time."""
    rng = np.random.default_rng(5)
    count = 300
    rows = make_ops(
        count,
        due_ns=np.cumsum(rng.integers(0, 2 * MS, count)),
        edges=[(row - int(rng.integers(1, min(row, 8) + 1)), row) for row in range(1, count)],
    )
    lane = simulated_lane(rng.integers(1, 5 * MS, 97).tolist(), channels=2)
    whole = run_virtual(lane, rows, Mode.OPEN)
    chosen = options(np.zeros(MIB, np.uint8), mode=Mode.OPEN, verify=Verify.NONE, virtual_time=True)
    streamed = Streamer(rows, 64, 1).run(native.threads, (lane,), chosen)
    for name in ("ready_ns", "slot_ns", "submit_ns", "complete_ns"):
        assert (getattr(whole.times, name) == getattr(streamed.times, name)).all(), name


def test_simulated_lanes_need_the_compiled_loop() -> None:
    """The reference engine says what it can't do; virtual time is for one simulated lane."""
    lane = simulated_lane([1])
    chosen = options(np.zeros(MIB, np.uint8), virtual_time=True)
    with pytest.raises(TargetError, match="simulated needs the compiled loop"):
        run(PythonEngine(), (lane,), make_ops(1), chosen)
    with pytest.raises(TargetError, match="one simulated lane"):
        run(native.threads, (lane, lane), make_ops(1), chosen)
