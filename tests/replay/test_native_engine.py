"""What both compiled engines promise: order, pieces, failures, times, stopping."""

from __future__ import annotations

import errno
import os
import resource
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from kvtrace.errors import TargetError
from replay import native
from replay.loop import (
    DEPENDENCY_FAILED,
    INTERRUPTED,
    NO_TIME_NS,
    VERIFY_FAILED,
    Action,
    Control,
    Lane,
    LaneKind,
    LoopOptions,
    Mode,
    Ops,
    Outcome,
    Verify,
)
from replay.native.testing import make_ops

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


def test_chain_in_one_lane(
    engine: native.NativeEngine, arena: NDArray[np.uint8], open_file: Callable[..., int]
) -> None:
    """Dependents in one lane never go out before their predecessors have completed."""
    edges = [(row, row + 1) for row in range(299)]
    ops = make_ops(
        300, edges=edges, action=Action.WRITE, offset_bytes=np.arange(300) % 16 * 4 * KIB
    )
    outcome = run(engine, (file_lane(open_file(64 * KIB)),), ops, options(arena))
    assert not outcome.times.error.any()
    assert outcome.counters[0].in_flight_max == 1
    assert_order(outcome, edges)
    assert_times(outcome, ops, Mode.MAX)


def test_chain_across_lanes(
    engine: native.NativeEngine, arena: NDArray[np.uint8], open_file: Callable[..., int]
) -> None:
    """A completion on one lane wakes the lane whose op it made ready, in order."""
    edges = [(row, row + 1) for row in range(299)]
    lanes = (
        file_lane(open_file(64 * KIB)),
        file_lane(open_file(64 * KIB)),
        NULL_LANE,
        Lane(LaneKind.MEMORY, queue_depth=1, io_bytes=MIB, pool=np.zeros(4096, np.uint8)),
    )
    ops = make_ops(
        300,
        edges=edges,
        lane=np.arange(300) % 4,
        action=Action.WRITE,
        arena_bytes=np.arange(300) * 4 * KIB,
    )
    outcome = run(engine, lanes, ops, options(arena))
    assert not outcome.times.error.any()
    assert_order(outcome, edges)
    assert_times(outcome, ops, Mode.MAX)


def test_fan_in_waits_for_the_last(
    engine: native.NativeEngine, arena: NDArray[np.uint8], open_file: Callable[..., int]
) -> None:
    """An op with many predecessors on two lanes waits for the last of them."""
    edges = [(row, 64) for row in range(64)]
    lanes = (file_lane(open_file(MIB)), file_lane(open_file(MIB)))
    ops = make_ops(
        65,
        edges=edges,
        lane=np.arange(65) % 2,
        action=Action.WRITE,
        arena_bytes=np.arange(65) * 4 * KIB,
    )
    outcome = run(engine, lanes, ops, options(arena))
    assert_order(outcome, edges)
    assert outcome.times.ready_ns[64] == outcome.times.complete_ns[:64].max()


def test_bookkeeping_passes_order_on(
    engine: native.NativeEngine, arena: NDArray[np.uint8], open_file: Callable[..., int]
) -> None:
    """An op without I/O completes when it is due and ready, and order goes through it."""
    action = [Action.WRITE, Action.NONE, Action.NONE, Action.READ]
    edges = [(0, 1), (1, 2), (2, 3)]
    ops = make_ops(4, edges=edges, action=action, key=0, due_ns=[0, 0, 3_000_000, 0])
    lanes = (file_lane(open_file(MIB)),)
    outcome = run(engine, lanes, ops, options(arena, mode=Mode.OPEN))
    times = outcome.times
    assert not times.error.any()
    assert_order(outcome, edges)
    assert times.complete_ns[1] == times.complete_ns[0] == times.submit_ns[1]
    assert times.complete_ns[2] == max(outcome.start_ns + 3_000_000, times.complete_ns[1])


def test_only_the_blocked_op_waits(
    engine: native.NativeEngine, arena: NDArray[np.uint8], open_file: Callable[..., int]
) -> None:
    """Rows after a blocked one complete without it."""
    count = 102
    first = np.arange(count) == 0
    ops = make_ops(
        count,
        edges=[(0, 1)],
        lane=first,
        due_ns=np.where(first, HOUR_NS, 0),
        action=Action.WRITE,
        arena_bytes=np.arange(count) * 4 * KIB,
    )
    control = Control(2)
    watcher = when_completed(control, count - 2, lambda: control.stop.fill(1))
    lanes = (file_lane(open_file(MIB)), NULL_LANE)
    outcome = engine.run(lanes, ops, options(arena, mode=Mode.OPEN), control)
    watcher.join()
    assert outcome.times.error.tolist() == [INTERRUPTED] * 2 + [0] * (count - 2)
    assert outcome.times.ready_ns[1] == NO_TIME_NS


def test_ready_ops_go_in_row_order(
    engine: native.NativeEngine, arena: NDArray[np.uint8], open_file: Callable[..., int]
) -> None:
    """With one slot, ops that are due together are submitted in the order of their rows."""
    ops = make_ops(200, action=Action.WRITE, offset_bytes=np.arange(200) * 4 * KIB)
    lanes = (file_lane(open_file(MIB), queue_depth=1),)
    for mode in Mode:
        outcome = run(engine, lanes, ops, options(arena, mode=mode))
        assert (np.diff(outcome.times.submit_ns) > 0).all()
        assert (outcome.times.submit_ns[1:] >= outcome.times.complete_ns[:-1]).all()
        assert outcome.counters[0].in_flight_max == 1


@pytest.mark.parametrize("spin_ns", [0, 50_000])
def test_open_mode_never_early(
    engine: native.NativeEngine,
    arena: NDArray[np.uint8],
    open_file: Callable[..., int],
    spin_ns: int,
) -> None:
    """In open mode no op goes out before it is due."""
    due_ns = np.arange(100) * 200_000
    ops = make_ops(
        100,
        due_ns=due_ns,
        lane=np.arange(100) % 2,
        action=Action.WRITE,
        arena_bytes=np.arange(100) * 4 * KIB,
    )
    lanes = (file_lane(open_file(MIB)), NULL_LANE)
    outcome = run(engine, lanes, ops, options(arena, mode=Mode.OPEN, spin_ns=spin_ns))
    assert not outcome.times.error.any()
    assert (outcome.times.submit_ns >= outcome.start_ns + due_ns).all()
    assert (outcome.times.ready_ns == outcome.start_ns).all()
    assert_times(outcome, ops, Mode.OPEN)


def test_waiting_for_a_slot_is_told_apart(
    engine: native.NativeEngine, arena: NDArray[np.uint8], open_file: Callable[..., int]
) -> None:
    """An op that found the queue full has the time a slot came free, else its eligible time."""
    ops = make_ops(3, action=Action.WRITE, offset_bytes=np.arange(3) * 4 * KIB)
    lanes = (file_lane(open_file(MIB), queue_depth=1),)
    outcome = run(engine, lanes, ops, options(arena, mode=Mode.OPEN))
    times = outcome.times
    assert times.slot_ns[0] == outcome.start_ns
    assert times.slot_ns[1:].tolist() == times.complete_ns[:2].tolist()


def test_long_ops_go_in_pieces(
    engine: native.NativeEngine, arena: NDArray[np.uint8], open_file: Callable[..., int]
) -> None:
    """An op longer than `io_bytes` moves whole, in pieces, several in flight, none too many."""
    length = 5 * 64 * KIB + 512
    fd = open_file(8 * MIB)
    offsets = np.arange(6) * MIB
    lanes = (file_lane(fd, queue_depth=3),)
    columns: dict[str, Any] = {
        "length_bytes": length,
        "offset_bytes": offsets,
        "arena_bytes": offsets,
    }
    written = run(engine, lanes, make_ops(6, action=Action.WRITE, **columns), options(arena))
    assert not written.times.error.any()
    assert written.counters[0].in_flight_max == 3
    data = contents(fd)
    for row, offset in enumerate(offsets):
        found = native.check(
            data[offset : offset + length], native.Stamp(row, 0, 0, RUN_ID), arena, int(offset)
        )
        assert found.bad_sectors == 0
    control = Control(1)
    back = engine.run(lanes, make_ops(6, **columns), options(arena), control)
    assert not back.times.error.any()
    assert control.completed_bytes[0] == 6 * length


def test_stamps_land_as_specified(
    engine: native.NativeEngine, arena: NDArray[np.uint8], open_file: Callable[..., int]
) -> None:
    """Each sector on the target carries key, sector | generation << 31 | run id << 48."""
    fd = open_file(64 * KIB)
    ops = make_ops(
        1,
        action=Action.WRITE,
        length_bytes=2048,
        key=2**63 + 5,
        sector=100,
        generation=77,
        arena_bytes=4096,
    )
    run(engine, (file_lane(fd),), ops, options(arena))
    sectors = contents(fd)[:2048].reshape(4, 512)
    words = sectors[:, :16].copy().view("<u8")
    assert words[:, 0].tolist() == [2**63 + 5] * 4
    assert words[:, 1].tolist() == [sector | 77 << 31 | RUN_ID << 48 for sector in range(100, 104)]
    assert (sectors[:, 16:] == arena[4096:6144].reshape(4, 512)[:, 16:]).all()
    assert native.found(sectors.reshape(-1).copy())[3] == native.Stamp(2**63 + 5, 103, 77, RUN_ID)


def test_read_beyond_the_end_fails(
    engine: native.NativeEngine, arena: NDArray[np.uint8], open_file: Callable[..., int]
) -> None:
    """A read that meets the end of the file is an error, never counted whole."""
    control = Control(1)
    lanes = (file_lane(open_file(10 * KIB)),)
    ops = make_ops(4, offset_bytes=[0, 8192, 12288, 4096], length_bytes=[4096, 4096, 4096, 65536])
    outcome = engine.run(lanes, ops, options(arena, verify=Verify.NONE), control)
    assert outcome.times.error.tolist() == [0, errno.EIO, errno.EIO, errno.EIO]
    assert control.completed_bytes[0] == 4096
    assert control.completed_ops[0] == 4
    assert outcome.counters[0].short_transfers == 1


def test_short_write_is_continued(
    engine: native.NativeEngine, arena: NDArray[np.uint8], open_file: Callable[..., int]
) -> None:
    """What a short write left is issued again: here it meets the limit of a file's size."""
    fd = open_file(0)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 * MIB, before[1]))
    try:
        ops = make_ops(1, action=Action.WRITE, offset_bytes=2 * MIB - 4096, length_bytes=8192)
        outcome = run(engine, (file_lane(fd),), ops, options(arena))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert outcome.times.error.tolist() == [errno.EFBIG]
    assert outcome.counters[0].short_transfers == 1


def test_refused_ring_is_a_target_error(
    arena: NDArray[np.uint8], open_file: Callable[..., int]
) -> None:
    """A ring that the system refuses is an error to fall back from, before anything is done."""
    if native.uring.available() is not None:
        pytest.skip(str(native.uring.available()))
    lanes = (file_lane(open_file(MIB)),)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, before[1]))
    try:
        with pytest.raises(TargetError, match="io_uring_setup for lane 0"):
            run(native.uring, lanes, make_ops(1), options(arena))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_depth_beyond_the_workers_is_a_wait_for_a_slot(
    engine: native.NativeEngine, arena: NDArray[np.uint8], open_file: Callable[..., int]
) -> None:
    """A queue deeper than an engine can serve counts as full where the engine's own limit is."""
    ops = make_ops(
        2000,
        action=Action.WRITE,
        offset_bytes=np.arange(2000) % 16 * 4 * KIB,
        arena_bytes=np.arange(2000) * 4 * KIB,
    )
    lanes = (file_lane(open_file(MIB), queue_depth=1024),)
    outcome = run(engine, lanes, ops, options(arena))
    assert not outcome.times.error.any()
    assert outcome.counters[0].in_flight_max <= (1024 if engine is native.uring else 256)
    assert_times(outcome, ops, Mode.MAX)


def test_errors_reach_all_dependents(
    engine: native.NativeEngine, arena: NDArray[np.uint8], open_file: Callable[..., int]
) -> None:
    """A failed op has its errno; what depends on it, however far and on any lane, isn't run."""
    fd = open_file(64 * KIB, os.O_RDONLY)
    edges = [(0, 1), (1, 2), (2, 3)]
    action = [Action.WRITE, Action.READ, Action.NONE, Action.READ, Action.READ]
    ops = make_ops(5, edges=edges, action=action, lane=[0, 1, 0, 1, 0])
    chosen = options(arena, verify=Verify.NONE)
    outcome = run(engine, (file_lane(fd), NULL_LANE), ops, chosen)
    times = outcome.times
    assert times.error.tolist() == [errno.EBADF, *[DEPENDENCY_FAILED] * 3, 0]
    assert times.complete_ns[0] >= times.submit_ns[0] >= outcome.start_ns
    assert (times.submit_ns[1:4] == NO_TIME_NS).all()
    assert (times.complete_ns[1:4] == NO_TIME_NS).all()


def test_failed_piece_fails_the_op(
    engine: native.NativeEngine, arena: NDArray[np.uint8], open_file: Callable[..., int]
) -> None:
    """An op one of whose pieces failed has that errno, and the run goes on."""
    lanes = (file_lane(open_file(256 * KIB), queue_depth=2),)
    ops = make_ops(2, offset_bytes=[0, 0], length_bytes=[4 * MIB, 64 * KIB])
    outcome = run(engine, lanes, ops, options(arena, verify=Verify.NONE))
    assert outcome.times.error.tolist() == [errno.EIO, 0]


def test_directory_is_an_op_error(
    engine: native.NativeEngine, arena: NDArray[np.uint8], tmp_path: Path
) -> None:
    """A descriptor that can't be read fails each op, not the run."""
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        outcome = run(engine, (file_lane(fd),), make_ops(3), options(arena))
    finally:
        os.close(fd)
    assert set(outcome.times.error.tolist()) <= {errno.EISDIR, errno.EINVAL}


def written_file(
    engine: native.NativeEngine, arena: NDArray[np.uint8], fd: int, count: int
) -> dict[str, Any]:
    """Write `count` objects of 64 KiB and return the columns that read them back."""
    offsets = np.arange(count) * 64 * KIB
    columns: dict[str, Any] = {"offset_bytes": offsets, "arena_bytes": offsets}
    ops = make_ops(count, action=Action.WRITE, length_bytes=64 * KIB, **columns)
    assert not run(engine, (file_lane(fd),), ops, options(arena)).times.error.any()
    return columns


@pytest.mark.parametrize(
    ("place", "verify", "caught"),
    [
        (3 * 512 + 100, Verify.FULL, True),
        (3 * 512 + 511, Verify.FULL, True),
        (3 * 512 + 16, Verify.STAMPS, False),
        (3 * 512, Verify.STAMPS, True),
        (3 * 512 + 15, Verify.STAMPS, True),
        (3 * 512, Verify.NONE, False),
    ],
)
def test_verification_finds_a_flipped_byte(
    engine: native.NativeEngine,
    arena: NDArray[np.uint8],
    open_file: Callable[..., int],
    place: int,
    verify: Verify,
    caught: bool,
) -> None:
    """A changed byte is found by the check that covers it, with its sector."""
    fd = open_file(MIB)
    columns = written_file(engine, arena, fd, 3)
    before = contents(fd)[64 * KIB + place]
    overwrite(fd, 64 * KIB + place, bytes([before ^ 1]))
    ops = make_ops(3, length_bytes=64 * KIB, **columns)
    outcome = run(engine, (file_lane(fd, io_bytes=1024),), ops, options(arena, verify=verify))
    assert outcome.times.error.tolist() == [0, VERIFY_FAILED if caught else 0, 0]
    assert outcome.times.bad_sector.tolist() == [-1, 3 if caught else -1, -1]
    assert outcome.counters[0].bad_sectors == int(caught)


def test_verification_finds_swapped_objects(
    engine: native.NativeEngine, arena: NDArray[np.uint8], open_file: Callable[..., int]
) -> None:
    """Whole, valid objects in each other's place are found, sector by sector."""
    fd = open_file(MIB)
    columns = written_file(engine, arena, fd, 2)
    ops = make_ops(2, length_bytes=64 * KIB, key=[1, 0], **columns)
    outcome = run(engine, (file_lane(fd),), ops, options(arena, verify=Verify.STAMPS))
    assert outcome.times.error.tolist() == [VERIFY_FAILED] * 2
    assert outcome.counters[0].bad_sectors == 256


@pytest.mark.parametrize(("generation", "run_id"), [(1, RUN_ID), (0, RUN_ID + 1)])
def test_verification_finds_old_bytes(
    engine: native.NativeEngine,
    arena: NDArray[np.uint8],
    open_file: Callable[..., int],
    generation: int,
    run_id: int,
) -> None:
    """Bytes of another generation or another run are not what was written."""
    fd = open_file(MIB)
    columns = written_file(engine, arena, fd, 1)
    ops = make_ops(1, length_bytes=64 * KIB, generation=generation, **columns)
    chosen = LoopOptions(Mode.MAX, arena, run_id)
    outcome = run(engine, (file_lane(fd),), ops, chosen)
    assert outcome.times.error.tolist() == [VERIFY_FAILED]


def test_failed_verification_fails_dependents(
    engine: native.NativeEngine, arena: NDArray[np.uint8], open_file: Callable[..., int]
) -> None:
    """What waits for a read that failed verification isn't executed."""
    ops = make_ops(2, edges=[(0, 1)])
    outcome = run(engine, (file_lane(open_file(MIB)),), ops, options(arena))
    assert outcome.times.error.tolist() == [VERIFY_FAILED, DEPENDENCY_FAILED]


@pytest.mark.parametrize("queue_depth", [1, 32])
def test_small_arena_never_corrupts(
    engine: native.NativeEngine,
    arena: NDArray[np.uint8],
    open_file: Callable[..., int],
    queue_depth: int,
) -> None:
    """Writes whose payload places overlap wait for each other, on one lane and across lanes."""
    small = arena[: 256 * KIB]
    count = 400
    fds = (open_file(64 * MIB), open_file(64 * MIB))
    lanes = tuple(file_lane(fd, queue_depth=queue_depth) for fd in fds)
    place = np.arange(count) * 128 * KIB
    columns: dict[str, Any] = {
        "lane": np.arange(count) % 2,
        "offset_bytes": np.arange(count) // 2 * 128 * KIB,
        "length_bytes": 128 * KIB,
        "arena_bytes": place,
    }
    written = run(engine, lanes, make_ops(count, action=Action.WRITE, **columns), options(small))
    assert not written.times.error.any()
    assert_times(written, make_ops(count), Mode.MAX)
    back = run(engine, lanes, make_ops(count, **columns), options(small))
    assert not back.times.error.any()


def test_late_write_meets_its_place_taken(
    engine: native.NativeEngine, arena: NDArray[np.uint8], open_file: Callable[..., int]
) -> None:
    """A blocked write that goes out long after its arena place was reused doesn't corrupt."""
    small = arena[: 64 * KIB]
    count = 200
    edges = [(100, 101), (50, 150)]
    offsets = np.arange(count) * 64 * KIB
    columns: dict[str, Any] = {
        "offset_bytes": offsets,
        "length_bytes": 64 * KIB,
        "arena_bytes": offsets,
    }
    lanes = (file_lane(open_file(16 * MIB), queue_depth=16),)
    ops = make_ops(count, edges=edges, action=Action.WRITE, **columns)
    assert not run(engine, lanes, ops, options(small)).times.error.any()
    assert not run(engine, lanes, make_ops(count, **columns), options(small)).times.error.any()


@pytest.mark.parametrize("read_buffer_bytes", [64 * KIB, 200 * KIB, 16 * MIB])
def test_reads_in_flight_share_no_memory(
    engine: native.NativeEngine,
    arena: NDArray[np.uint8],
    open_file: Callable[..., int],
    read_buffer_bytes: int,
) -> None:
    """Reads of mixed sizes wait for buffers when they run out, and find their own bytes."""
    fd = open_file(16 * MIB)
    columns = written_file(engine, arena, fd, 128)
    length = np.tile([512, 4096, 12 * KIB, 64 * KIB], 32)
    ops = make_ops(128, length_bytes=length, **columns)
    lanes = (file_lane(fd, queue_depth=32),)
    outcome = run(engine, lanes, ops, options(arena, read_buffer_bytes=read_buffer_bytes))
    assert not outcome.times.error.any()
    assert_times(outcome, ops, Mode.MAX)


def test_memory_lane_keeps_what_was_written(
    engine: native.NativeEngine, arena: NDArray[np.uint8]
) -> None:
    """A memory lane stamps, copies and verifies as a file does."""
    pool, _kind = native.allocate(4 * MIB)
    lanes = (Lane(LaneKind.MEMORY, queue_depth=4, io_bytes=64 * KIB, pool=pool),)
    offsets = np.arange(32) * 128 * KIB
    action = np.repeat([Action.WRITE, Action.READ], 32)
    ops = make_ops(
        64,
        edges=[(row, row + 32) for row in range(32)],
        action=action,
        offset_bytes=np.tile(offsets, 2),
        arena_bytes=np.tile(offsets, 2),
        length_bytes=128 * KIB,
        key=np.tile(np.arange(32), 2),
    )
    outcome = run(engine, lanes, ops, options(arena))
    assert not outcome.times.error.any()
    assert native.check(pool[: 128 * KIB], native.Stamp(0, 0, 0, RUN_ID), arena, 0).bad_sectors == 0
    pool[512] ^= 1
    reads = make_ops(32, offset_bytes=offsets, arena_bytes=offsets, length_bytes=128 * KIB)
    assert run(engine, lanes, reads, options(arena)).times.bad_sector[0] == 1


def test_null_lane_needs_no_arena(engine: native.NativeEngine) -> None:
    """A null lane completes everything, without payload."""
    ops = make_ops(100_000, action=np.arange(100_000) % 3, length_bytes=123)
    control = Control(1)
    empty = np.zeros(0, np.uint8)
    outcome = engine.run((NULL_LANE,), ops, options(empty), control)
    assert not outcome.times.error.any()
    assert control.completed_ops[0] == 100_000
    assert outcome.cpu_ns > 0
    assert_times(outcome, ops, Mode.MAX)


def test_more_blocked_rows_than_the_look_ahead(
    engine: native.NativeEngine, arena: NDArray[np.uint8]
) -> None:
    """A backlog beyond the look-ahead is worked off, and nothing waits for ever."""
    count = 200_000
    edges = [(0, row) for row in range(2, count, 2)]
    lane = (np.arange(count) % 2).astype(np.uint8)
    lane[0] = 1
    due_ns = np.zeros(count)
    ops = make_ops(count, edges=edges, lane=lane, due_ns=due_ns)
    outcome = run(engine, (NULL_LANE, NULL_LANE), ops, options(arena, mode=Mode.OPEN))
    assert not outcome.times.error.any()
    assert (outcome.times.submit_ns[2::2] >= outcome.times.complete_ns[0]).all()


def test_stopped_before_it_began(
    engine: native.NativeEngine, arena: NDArray[np.uint8], open_file: Callable[..., int]
) -> None:
    """With `stop` set nothing is submitted, and every op says so."""
    control = Control(1)
    control.stop[0] = 1
    ops = make_ops(10, edges=[(0, 1)])
    outcome = engine.run((file_lane(open_file(MIB)),), ops, options(arena), control)
    assert outcome.times.error.tolist() == [INTERRUPTED] * 10
    assert (outcome.times.submit_ns == NO_TIME_NS).all()
    assert (outcome.times.ready_ns == NO_TIME_NS).all()


def test_stop_drains(
    engine: native.NativeEngine, arena: NDArray[np.uint8], open_file: Callable[..., int]
) -> None:
    """`stop` ends a waiting run: what was submitted completes, the rest is interrupted."""
    control = Control(2)
    due_ns = np.where(np.arange(40) < 20, 0, HOUR_NS)
    ops = make_ops(
        40,
        due_ns=due_ns,
        action=Action.WRITE,
        lane=np.arange(40) % 2,
        arena_bytes=np.arange(40) * 4 * KIB,
    )
    lanes = (file_lane(open_file(MIB)), NULL_LANE)
    watcher = when_completed(control, 20, lambda: control.stop.fill(1))
    outcome = engine.run(lanes, ops, options(arena, mode=Mode.OPEN), control)
    watcher.join()
    assert outcome.times.error.tolist() == [0] * 20 + [INTERRUPTED] * 20
    assert (outcome.times.complete_ns[:20] != NO_TIME_NS).all()
    assert (outcome.times.complete_ns[20:] == NO_TIME_NS).all()


def test_interrupt_from_the_keyboard(
    engine: native.NativeEngine, arena: NDArray[np.uint8], open_file: Callable[..., int]
) -> None:
    """Ctrl-C during a run stops and drains the engine before Python sees the exception."""
    control = Control(1)
    ops = make_ops(2, due_ns=[0, HOUR_NS], action=Action.WRITE)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        watcher = when_completed(control, 1, lambda: os.kill(os.getpid(), signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            engine.run((file_lane(open_file(MIB)),), ops, options(arena, mode=Mode.OPEN), control)
        watcher.join()
    finally:
        signal.signal(signal.SIGINT, before)
    assert control.stop[0] == 1
    assert control.completed_ops[0] == 1


def test_no_ops(
    engine: native.NativeEngine, arena: NDArray[np.uint8], open_file: Callable[..., int]
) -> None:
    """Nothing to do is done at once."""
    outcome = run(engine, (file_lane(open_file(MIB)), NULL_LANE), make_ops(0), options(arena))
    assert len(outcome.times.error) == 0


@pytest.mark.parametrize(
    ("ops", "said"),
    [
        (make_ops(2, action=Action.WRITE, arena_bytes=8 * MIB - 512), "straddles"),
        (make_ops(2, offset_bytes=100), "multiple of 512"),
        (make_ops(2, lane=1), "no such lane"),
        (make_ops(2, action=3), "no such lane or action"),
        (make_ops(2, length_bytes=2**63), "overflows"),
    ],
)
def test_unsafe_columns_are_refused(
    engine: native.NativeEngine,
    arena: NDArray[np.uint8],
    open_file: Callable[..., int],
    ops: Ops,
    said: str,
) -> None:
    """Columns that would reach beyond memory are refused before anything is submitted."""
    with pytest.raises(TargetError, match=said):
        run(engine, (file_lane(open_file(MIB)),), ops, options(arena))


def test_pool_overrun_is_refused(engine: native.NativeEngine, arena: NDArray[np.uint8]) -> None:
    """A memory op beyond the pool is refused."""
    pool = np.zeros(4096, np.uint8)
    lanes = (Lane(LaneKind.MEMORY, queue_depth=1, io_bytes=4096, pool=pool),)
    with pytest.raises(TargetError, match="beyond the memory target's pool"):
        run(engine, lanes, make_ops(1, offset_bytes=512), options(arena))


@pytest.mark.parametrize(
    ("queue_depth", "io_bytes", "said"), [(0, 4096, "queue depth"), (1, 1000, "I/O size")]
)
def test_impossible_lane_is_refused(
    engine: native.NativeEngine,
    arena: NDArray[np.uint8],
    queue_depth: int,
    io_bytes: int,
    said: str,
) -> None:
    """A lane that can't be set up is a TargetError that names it."""
    lanes = (Lane(LaneKind.NULL, queue_depth=queue_depth, io_bytes=io_bytes),)
    with pytest.raises(TargetError, match=f"lane 0: {said}"):
        run(engine, lanes, make_ops(1), options(arena))


def test_too_few_read_buffers_are_refused(
    engine: native.NativeEngine, arena: NDArray[np.uint8], open_file: Callable[..., int]
) -> None:
    """Read buffers that can't hold the longest I/O are refused."""
    ops = make_ops(1, length_bytes=64 * KIB)
    with pytest.raises(TargetError, match="more than its read buffers hold"):
        run(engine, (file_lane(open_file(MIB)),), ops, options(arena, read_buffer_bytes=4096))


def test_wrong_dtype_is_refused(engine: native.NativeEngine, arena: NDArray[np.uint8]) -> None:
    """A column of another type never reaches the library."""
    good = make_ops(3)
    columns: dict[str, Any] = {name: getattr(good, name) for name in Ops.__dataclass_fields__}
    columns["key"] = columns["key"].astype(np.int32)
    with pytest.raises(TypeError, match="column key"):
        run(engine, (NULL_LANE,), Ops(**columns), options(arena))
