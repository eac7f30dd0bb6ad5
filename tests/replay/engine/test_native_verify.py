"""What both compiled engines promise of payload: stamps, verification, shared memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from replay.engine import native
from replay.ops.columns import DEPENDENCY_FAILED, VERIFY_FAILED
from replay.ops.contract import Action, Lane, LaneKind, LoopOptions, Mode, Verify
from tests.support.native_kit import (
    KIB,
    MIB,
    RUN_ID,
    assert_times,
    contents,
    file_lane,
    make_ops,
    options,
    overwrite,
    run,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray


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
