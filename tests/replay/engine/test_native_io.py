"""What both compiled engines promise of pieces, failed I/O and refused columns."""

from __future__ import annotations

import errno
import os
import resource
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from kvtrace.errors import TargetError
from replay.engine import native
from replay.ops.columns import DEPENDENCY_FAILED, NO_TIME_NS
from replay.ops.contract import Action, Control, Lane, LaneKind, Verify
from tests.support.native_kit import (
    KIB,
    MIB,
    NULL_LANE,
    RUN_ID,
    Rows,
    contents,
    file_lane,
    make_ops,
    options,
    run,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray


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
    back = run(engine, lanes, make_ops(6, **columns), options(arena), control)
    assert not back.times.error.any()
    assert control.completed_bytes[0] == 6 * length


def test_read_beyond_the_end_fails(
    engine: native.NativeEngine, arena: NDArray[np.uint8], open_file: Callable[..., int]
) -> None:
    """A read that meets the end of the file is an error, never counted whole."""
    control = Control(1)
    lanes = (file_lane(open_file(10 * KIB)),)
    ops = make_ops(4, offset_bytes=[0, 8192, 12288, 4096], length_bytes=[4096, 4096, 4096, 65536])
    outcome = run(engine, lanes, ops, options(arena, verify=Verify.NONE), control)
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


@pytest.mark.parametrize(
    ("ops", "said"),
    [
        (make_ops(2, action=Action.WRITE, arena_bytes=8 * MIB - 512), "straddles"),
        (make_ops(2, offset_bytes=100), "multiple of 512"),
        (make_ops(2, lane=1), "no such lane"),
        (make_ops(2, action=5), "no such action"),
        (make_ops(2, action=Action.GATE), "gates are for closed mode"),
        (make_ops(2, edges=[(1, 1)]), "op 1: a predecessor isn't an earlier op"),
    ],
)
def test_unsafe_columns_are_refused(
    engine: native.NativeEngine,
    arena: NDArray[np.uint8],
    open_file: Callable[..., int],
    ops: Rows,
    said: str,
) -> None:
    """An op that would reach beyond memory ends the run before it is submitted."""
    with pytest.raises(TargetError, match=said):
        run(engine, (file_lane(open_file(MIB)),), ops, options(arena))


@pytest.mark.parametrize("offset", [512, 2**63 - 512, 2**64 - 512])
def test_pool_overrun_fails_the_op(
    engine: native.NativeEngine, arena: NDArray[np.uint8], offset: int
) -> None:
    """A memory op beyond the pool ends with ERANGE and moves nothing."""
    pool = np.zeros(4096, np.uint8)
    lanes = (Lane(LaneKind.MEMORY, queue_depth=1, io_bytes=4096, pool=pool),)
    rows = make_ops(1, offset_bytes=offset, action=Action.WRITE)
    outcome = run(engine, lanes, rows, options(arena))
    assert outcome.times.error.tolist() == [errno.ERANGE]
    assert not pool.any()


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
    good = make_ops(3).ops
    with pytest.raises(TypeError, match="column key"):
        run(
            engine,
            (NULL_LANE,),
            Rows(good._replace(key=good.key.astype(np.int32)), 3),
            options(arena),
        )
