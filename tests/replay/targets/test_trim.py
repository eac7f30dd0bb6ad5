"""Deletes that trim: holes in files, discards on devices, and what is refused."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import numpy as np
import pytest

import replay
from kvtrace.errors import TargetError
from kvtrace.trace.schema import Op, Phase, Tier
from replay import ReplayOptions
from replay.device import sysfs as device
from replay.ops.contract import Action, Lane, LaneKind, Verify
from replay.safety.marker import Marker
from replay.targets import TargetSpec
from replay.targets.file import FileTarget, make
from tests.support import native_kit as kit
from tests.support.native_kit import KIB, assert_order, contents, make_ops, options, run
from tests.support.traces import MIB, Row, file_target, simple_rows, write_trace

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from replay.engine import native

R, W, D = Op.READ, Op.WRITE, Op.DELETE


def trim_lane(fd: int, trim_bytes: int = 4096, queue_depth: int = 8) -> Lane:
    return Lane(LaneKind.FILE, queue_depth, 64 * KIB, fd=fd, trim_bytes=trim_bytes)


def zeros(fd: int) -> list[tuple[int, int]]:
    """Return the ranges of zeros in an open file."""
    edges = np.flatnonzero(np.diff(contents(fd) == 0, prepend=False, append=False))
    return [(int(begin), int(end)) for begin, end in edges.reshape(-1, 2)]


@pytest.fixture
def full_file(open_file: Callable[..., int]) -> int:
    """An open file of 1 MiB without zeros."""
    fd = open_file(MIB)
    descriptor = os.open(f"/proc/self/fd/{fd}", os.O_WRONLY)
    os.pwrite(descriptor, b"\7" * MIB, 0)
    os.fsync(descriptor)
    os.close(descriptor)
    return fd


@pytest.mark.parametrize(
    ("offset", "length", "trim", "hole"),
    [
        (0, 64 * KIB, 4096, (0, 64 * KIB)),
        (4096, 128 * KIB, 4096, (4096, 132 * KIB)),
        (4096, 128 * KIB, 64 * KIB, (64 * KIB, 128 * KIB)),
        (512, 16 * KIB, 4096, (4096, 16 * KIB)),
        (4096, 8192, 64 * KIB, None),
    ],
)
def test_a_delete_frees_its_extent_and_nothing_else(
    engine: native.NativeEngine,
    arena: NDArray[np.uint8],
    full_file: int,
    offset: int,
    length: int,
    trim: int,
    hole: tuple[int, int] | None,
) -> None:
    """Aligned inward: what neighbours share with the extent stays; the file keeps its length."""
    rows = make_ops(1, action=Action.DELETE, offset_bytes=offset, length_bytes=length)
    outcome = run(engine, (trim_lane(full_file, trim),), rows, options(arena))
    assert outcome.times.error.tolist() == [0]
    assert outcome.times.complete_ns[0] >= outcome.times.submit_ns[0] >= outcome.start_ns
    assert zeros(full_file) == ([hole] if hole else [])
    assert os.fstat(full_file).st_size == MIB


@pytest.mark.parametrize("lanes", [1, 2])
def test_trims_and_transfers_keep_their_order(
    engine: native.NativeEngine, arena: NDArray[np.uint8], full_file: int, lanes: int
) -> None:
    """Write, read, delete, write, read of many extents: all verify, what was deleted is zero."""
    count, size = 12, 80 * KIB
    places = np.tile(np.arange(count) * size, 5)
    edges = [(i, i + count) for i in range(4 * count)]
    actions = [Action.WRITE, Action.READ, Action.DELETE, Action.WRITE, Action.READ]
    rows = make_ops(
        5 * count,
        edges=edges,
        action=np.repeat(actions, count),
        lane=np.arange(5 * count) % lanes,
        key=np.tile(np.arange(count), 5),
        offset_bytes=places,
        arena_bytes=places,
        length_bytes=size,
    )
    chosen = options(arena, spin_ns=1000)
    outcome = run(engine, (trim_lane(full_file),) * lanes, rows, chosen)
    assert not outcome.times.error.any()
    assert_order(outcome, edges)
    gone = run(
        engine, (trim_lane(full_file),) * lanes, kit.Rows(rows.ops, 3 * count), options(arena)
    )
    assert not gone.times.error.any()
    assert zeros(full_file) == [(0, count * size)]


def test_what_cannot_trim_is_the_ops_errno(
    engine: native.NativeEngine, arena: NDArray[np.uint8], open_file: Callable[..., int]
) -> None:
    """A descriptor that takes no trim: each delete has its errno, the rest goes on."""
    fd = open_file(MIB, os.O_RDONLY)
    rows = make_ops(2, action=[Action.DELETE, Action.READ])
    outcome = run(engine, (trim_lane(fd),), rows, options(arena, verify=Verify.NONE))
    assert outcome.times.error.tolist() == [errno.EBADF, 0]
    null = os.open("/dev/null", os.O_RDWR)
    outcome = run(engine, (trim_lane(null),), kit.Rows(rows.ops, 1), options(arena))
    os.close(null)
    assert outcome.times.error[0] in (errno.EOPNOTSUPP, errno.ENODEV, errno.ESPIPE)


def test_without_trim_a_delete_is_bookkeeping(
    engine: native.NativeEngine, arena: NDArray[np.uint8], full_file: int
) -> None:
    """It completes when it is due, and the extent stays as it is."""
    rows = make_ops(1, action=Action.DELETE, length_bytes=64 * KIB)
    outcome = run(engine, (trim_lane(full_file, 0),), rows, options(arena))
    assert outcome.times.complete_ns.tolist() == [outcome.start_ns]
    assert zeros(full_file) == []


@pytest.mark.parametrize(
    ("lane", "said"),
    [
        (Lane(LaneKind.NULL, 1, 4096, trim_bytes=4096), "only extents of a file are trimmed"),
        (Lane(LaneKind.FILE, 1, 4096, trim_bytes=1000), "multiple of 512"),
    ],
)
def test_impossible_lanes_are_refused(
    engine: native.NativeEngine, arena: NDArray[np.uint8], lane: Lane, said: str
) -> None:
    """What has no extents can't be trimmed."""
    with pytest.raises(TargetError, match=said):
        run(engine, (lane,), make_ops(1), options(arena))


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["open", "max", "closed"])
def test_a_run_punches_holes(
    direct_path: Path, quick: Callable[..., ReplayOptions], mode: str
) -> None:
    """On a file: every delete is done, no space is left behind, and the target's title says how."""
    trace = write_trace(direct_path / "t.parquet", simple_rows(20, 48 << 10))
    path = direct_path / "target"
    result = replay.run(
        trace, [file_target(path, trim=True)], quick(mode=mode, verify="full", trim=True)
    )
    assert (result.ops, result.errors, result.fidelity.order_violations) == (80, {}, 0)
    assert "deletes punch holes" in result.lanes[0].title
    assert path.stat().st_size > MIB + (48 << 10)
    assert path.stat().st_blocks * 512 < MIB + (48 << 10)  # the marker has the first MiB
    table = result.table()
    deletes = table.filter(table["op"] == "delete")
    assert (deletes["complete"] > deletes["submit"]).all()


@pytest.mark.slow
def test_a_file_with_holes_is_filled_again(
    direct_path: Path, quick: Callable[..., ReplayOptions]
) -> None:
    """A run that trims leaves unwritten space: the next run writes it before it measures."""
    trace = write_trace(direct_path / "t.parquet", simple_rows(4))
    path = direct_path / "target"
    first = replay.run(trace, [file_target(path, trim=True)], quick())
    marker = Marker.unpack(path.read_bytes()[:4096])
    assert marker is not None
    assert marker.written_bytes == 0
    second = replay.run(trace, [file_target(path)], quick())
    assert second.populated.fill_bytes == first.populated.fill_bytes > 0
    third = replay.run(trace, [file_target(path)], quick())
    assert third.populated.fill_bytes == 0


def test_a_run_of_deletes_alone_writes(
    direct_path: Path, quick: Callable[..., ReplayOptions]
) -> None:
    """Trimming is writing: a foreign file is refused, and so is one of another's."""
    path = direct_path / "foreign"
    path.write_bytes(b"x" * 2 * MIB)
    rows: list[Row] = [(0, D, Tier.NVME, 1, Phase.EVICT, 4096)]
    trace = write_trace(direct_path / "t.parquet", rows, resident=[(Tier.NVME, 1, 4096)])
    with pytest.raises(TargetError, match="wasn't made by kvtrace"):
        replay.run(trace, [file_target(path, trim=True)], quick(populate="none"))
    assert path.read_bytes() == b"x" * 2 * MIB
    result = replay.run(trace, [file_target(path)], quick(populate="none"))
    assert result.errors == {}


def test_the_python_engine_refuses_to_trim(
    direct_path: Path, quick: Callable[..., ReplayOptions]
) -> None:
    """It has no way to: the error names the one that has."""
    trace = write_trace(direct_path / "t.parquet", simple_rows(1))
    with pytest.raises(TargetError, match="needs the compiled loop"):
        replay.run(trace, [file_target(direct_path / "f", trim=True)], quick(engine="python"))


@pytest.mark.slow
def test_a_device_discards(
    loop_device: Callable[..., Path], direct_path: Path, quick: Callable[..., ReplayOptions]
) -> None:
    """On a block device deletes discard, aligned to its granularity."""
    loop = loop_device(64 * MIB)
    spec = TargetSpec("file", (Tier.NVME,), loop, allow_destroy=str(loop), trim=True)
    target = make(spec)
    assert "deletes discard" in target.title
    trace = write_trace(direct_path / "t.parquet", simple_rows(20, 48 << 10))
    result = replay.run(trace, [spec], quick(verify="full"))
    assert (result.ops, result.errors) == (80, {})
    backing = direct_path / "disk0"
    assert backing.stat().st_blocks * 512 <= 2 * MIB + 64 * KIB  # of the file system's own


def test_a_device_without_discards_is_refused(
    loop_device: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is known before anything is opened, and the message says what to do."""
    loop = loop_device(64 * MIB)
    read_text = device.read_text

    def without(path: Path) -> str | None:
        return "0" if path.name == "discard_max_bytes" else read_text(path)

    monkeypatch.setattr(device, "read_text", without)
    target = make(TargetSpec("file", (Tier.NVME,), loop, allow_destroy=str(loop), trim=True))
    assert isinstance(target, FileTarget)
    with pytest.raises(TargetError, match=r"doesn't support discard.*omit --trim"):
        target.authorise(writes=True)
