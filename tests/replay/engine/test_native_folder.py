"""DIR lanes: a file per object, whole or not there, of its true length."""

from __future__ import annotations

import errno
import os
import resource
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from kvtrace.errors import TargetError
from replay.engine import native
from replay.ops.columns import DEPENDENCY_FAILED, VERIFY_FAILED
from replay.ops.contract import Action, Fsync, Lane, LaneKind, Verify
from replay.targets.support import folder
from tests.support.native_kit import (
    KIB,
    MIB,
    RUN_ID,
    Ran,
    Rows,
    assert_order,
    make_ops,
    options,
    run,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray


@pytest.fixture
def place(direct_path: Path) -> Iterator[tuple[Path, int]]:
    """A folder with its subfolders, and its descriptor."""
    path = direct_path / "objects"
    path.mkdir()
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    folder.make_subfolders(descriptor, path)
    yield path, descriptor
    os.close(descriptor)


def dir_lane(descriptor: int, fsync: Fsync = Fsync.NONE, queue_depth: int = 8) -> Lane:
    return Lane(LaneKind.DIR, queue_depth, MIB, fd=descriptor, fsync=fsync)


def padded(rows: Rows, pad_bytes: list[int]) -> Rows:
    """Return rows that are so much longer than what was asked for."""
    rows.ops.pad_bytes[: rows.count] = pad_bytes
    return rows


def files(path: Path) -> dict[str, int]:
    """Return all files and their lengths."""
    return {
        str(file.relative_to(path)): file.stat().st_size
        for file in path.rglob("*")
        if file.is_file()
    }


def error_of(ran: Ran) -> list[int]:
    return ran.times.error.tolist()


@pytest.mark.parametrize("fsync", list(Fsync))
@pytest.mark.parametrize("lanes", [1, 2])
def test_objects_are_written_read_and_deleted(
    engine: native.NativeEngine,
    arena: NDArray[np.uint8],
    place: tuple[Path, int],
    fsync: Fsync,
    lanes: int,
) -> None:
    """Each object is a file of its true length in its key's subfolder; a delete removes it."""
    path, descriptor = place
    count = 40
    keys = np.random.default_rng(1).integers(0, 1 << 64, count, np.uint64)
    lengths = 4096 * (1 + np.arange(count) % 6)
    edges = [(i, i + count) for i in range(2 * count)]
    rows = make_ops(
        3 * count,
        edges=edges,
        action=np.repeat([Action.WRITE, Action.READ, Action.DELETE], count),
        lane=np.arange(3 * count) % lanes,
        key=np.tile(keys, 3),
        length_bytes=np.tile(lengths, 3),
        arena_bytes=np.tile(np.arange(count) * 64 * KIB, 3),
    )
    padded(rows, [100] * (3 * count))
    outcome = run(engine, (dir_lane(descriptor, fsync),) * lanes, rows, options(arena))
    assert not outcome.times.error.any()
    assert_order(outcome, edges)
    assert files(path) == {}
    again = run(
        engine,
        (dir_lane(descriptor, fsync),) * lanes,
        Rows(rows.ops, count),
        options(arena),
    )
    assert not again.times.error.any()
    expected = {
        folder.object_name(key): length - 100
        for key, length in zip(keys.tolist(), lengths.tolist(), strict=True)
    }
    assert files(path) == expected


def test_a_second_write_replaces_the_file(
    engine: native.NativeEngine, arena: NDArray[np.uint8], place: tuple[Path, int]
) -> None:
    """A rewritten object, longer or shorter by some, is another file under the same name."""
    path, descriptor = place
    rows = make_ops(2, action=Action.WRITE, key=9, edges=[(0, 1)], length_bytes=[4096, 8192])
    run(engine, (dir_lane(descriptor),), Rows(rows.ops, 1), options(arena))
    file = path / folder.object_name(9)
    before = file.stat().st_ino
    held = file.open("rb")
    run(engine, (dir_lane(descriptor),), rows, options(arena))
    assert (file.stat().st_size, file.stat().st_ino != before) == (8192, True)
    assert len(held.read()) == 4096
    held.close()
    assert len(files(path)) == 1


@pytest.mark.parametrize("fsync", [Fsync.NONE, Fsync.DIR])
def test_parts_go_into_the_file(
    engine: native.NativeEngine, arena: NDArray[np.uint8], place: tuple[Path, int], fsync: Fsync
) -> None:
    """A write behind the start, or of less than there is, changes the file in place."""
    path, descriptor = place
    offsets = [0, 8192, 4096, 0, 0]
    rows = make_ops(
        5,
        edges=[(i, i + 1) for i in range(4)],
        action=[Action.WRITE] * 4 + [Action.READ],
        key=3,
        offset_bytes=offsets,
        sector=np.array(offsets) // 512,
        length_bytes=[4096, 8192, 4096, 4096, 16384],
        arena_bytes=offsets,
    )
    padded(rows, [0, 3000, 0, 0, 3000])
    written = run(engine, (dir_lane(descriptor, fsync),), Rows(rows.ops, 1), options(arena))
    assert error_of(written) == [0]
    inode = (path / folder.object_name(3)).stat().st_ino
    # The first replaces the file of 4096 bytes by one of as many; the fourth doesn't.
    outcome = run(engine, (dir_lane(descriptor, fsync),), rows, options(arena))
    assert error_of(outcome) == [0] * 5
    assert files(path) == {folder.object_name(3): 16384 - 3000}
    assert (path / folder.object_name(3)).stat().st_ino != inode


def test_the_padding_need_not_be_there_and_the_rest_must(
    engine: native.NativeEngine, arena: NDArray[np.uint8], place: tuple[Path, int]
) -> None:
    """A read is whole without its padding, to the byte; each sector that is there is verified."""
    path, descriptor = place
    lane, chosen = (dir_lane(descriptor),), options(arena)
    for missing, pad in ((100, 100), (500, 500), (4000, 4000), (100, 99)):
        write = padded(make_ops(1, action=Action.WRITE, key=1, length_bytes=8192), [missing])
        assert error_of(run(engine, lane, write, chosen)) == [0]
        read = padded(make_ops(1, key=1, length_bytes=8192), [pad])
        expected = 0 if pad >= missing else VERIFY_FAILED
        assert error_of(run(engine, lane, read, chosen)) == [expected]
    file = path / folder.object_name(1)
    read = padded(make_ops(1, key=1, length_bytes=8192), [100])
    with file.open("r+b") as opened:
        opened.seek(15 * 512 + 300)  # in the last sector, of which 412 bytes are there
        opened.write(b"\1")
    outcome = run(engine, lane, read, chosen)
    assert error_of(outcome) == [VERIFY_FAILED]
    assert outcome.times.bad_sector.tolist() == [15]
    stamps = run(engine, lane, read, options(arena, verify=Verify.STAMPS))
    assert error_of(stamps) == [0]


def test_a_file_that_was_cut_has_lost_what_was_written(
    engine: native.NativeEngine, arena: NDArray[np.uint8], place: tuple[Path, int]
) -> None:
    """What is missing of an object, from some bytes to all, is no whole read and no I/O error."""
    path, descriptor = place
    lane, chosen = (dir_lane(descriptor),), options(arena)
    run(engine, lane, make_ops(1, action=Action.WRITE, key=1, length_bytes=8192), chosen)
    for length in (8191, 4096, 100, 0):
        os.truncate(path / folder.object_name(1), length)
        for verify in (Verify.NONE, Verify.STAMPS, Verify.FULL):
            chosen = options(arena, verify=verify)
            outcome = run(engine, lane, make_ops(1, key=1, length_bytes=8192), chosen)
            assert error_of(outcome) == [VERIFY_FAILED]
            assert outcome.times.bad_sector.tolist() == [length // 512]


def test_what_is_not_there_is_named(
    engine: native.NativeEngine, arena: NDArray[np.uint8], place: tuple[Path, int]
) -> None:
    """A read of no object is a lost write, a delete fails; what waits for them isn't run."""
    _, descriptor = place
    rows = make_ops(
        3, action=[Action.READ, Action.DELETE, Action.WRITE], key=[1, 2, 1], edges=[(0, 2)]
    )
    outcome = run(engine, (dir_lane(descriptor),), rows, options(arena))
    assert error_of(outcome) == [VERIFY_FAILED, errno.ENOENT, DEPENDENCY_FAILED]


def test_a_failed_write_leaves_nothing(
    engine: native.NativeEngine, arena: NDArray[np.uint8], place: tuple[Path, int]
) -> None:
    """Too large, or with no folder to be in: the errno, no temporary file, the old object kept."""
    path, descriptor = place
    lane = (dir_lane(descriptor),)
    run(engine, lane, make_ops(1, action=Action.WRITE, key=1), options(arena))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, before[1]))
    try:
        rows = make_ops(1, action=Action.WRITE, key=1, length_bytes=16384)
        outcome = run(engine, lane, rows, options(arena))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert error_of(outcome) == [errno.EFBIG]
    assert files(path) == {folder.object_name(1): 4096}
    (path / folder.subfolder(2)).rmdir()
    outcome = run(engine, lane, make_ops(1, action=Action.WRITE, key=2), options(arena))
    assert error_of(outcome) == [errno.ENOENT]


def test_a_name_that_is_taken_fails_the_write(
    engine: native.NativeEngine, arena: NDArray[np.uint8], place: tuple[Path, int]
) -> None:
    """A folder in an object's place, and symbolic links, are errors; nothing is followed."""
    path, descriptor = place
    lane = (dir_lane(descriptor),)
    (path / folder.object_name(1)).mkdir()
    elsewhere = path.parent / "elsewhere"
    elsewhere.write_bytes(b"x" * 4096)
    (path / folder.object_name(2)).symlink_to(elsewhere)
    rows = make_ops(
        4,
        action=[Action.WRITE, Action.READ, Action.WRITE, Action.DELETE],
        key=[1, 2, 2, 1],
        offset_bytes=[0, 0, 4096, 0],
        arena_bytes=[0, 0, 4096, 0],
    )
    outcome = run(engine, lane, rows, options(arena))
    found = error_of(outcome)
    assert found[0] in (errno.EISDIR, errno.EINVAL)
    assert found[1:] == [errno.ELOOP, errno.ELOOP, errno.EISDIR]
    assert elsewhere.read_bytes() == b"x" * 4096
    assert not list(path.rglob("*.tmp"))


def test_few_files_are_open_at_once(
    engine: native.NativeEngine, arena: NDArray[np.uint8], place: tuple[Path, int]
) -> None:
    """However deep the queue, a worker has one file open."""
    _, descriptor = place
    lane = (dir_lane(descriptor, Fsync.DIR, queue_depth=1024),)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    opened = len(list(Path("/proc/self/fd").iterdir()))
    resource.setrlimit(resource.RLIMIT_NOFILE, (opened + 300, before[1]))
    try:
        places = np.arange(600) * 4096
        rows = make_ops(600, action=Action.WRITE, arena_bytes=places)
        outcome = run(engine, lane, rows, options(arena))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert not outcome.times.error.any()
    assert outcome.counters[0].in_flight_max <= 256


@pytest.mark.parametrize(
    ("columns", "pad", "said"),
    [
        ({"length_bytes": 2 * MIB}, 0, "longer than one I/O"),
        ({}, 5000, "more padding than bytes"),
        ({"offset_bytes": 100}, 0, "multiple of 512"),
    ],
)
def test_impossible_objects_are_refused(
    engine: native.NativeEngine,
    arena: NDArray[np.uint8],
    place: tuple[Path, int],
    columns: dict[str, Any],
    pad: int,
    said: str,
) -> None:
    """What can't go in one I/O, or makes no sense, ends the run before it is submitted."""
    _, descriptor = place
    rows = padded(make_ops(1, action=Action.WRITE, **columns), [pad])
    with pytest.raises(TargetError, match=said):
        run(engine, (dir_lane(descriptor),), rows, options(arena))


def test_names_are_the_same_in_both_languages(
    engine: native.NativeEngine, arena: NDArray[np.uint8], place: tuple[Path, int]
) -> None:
    """Extreme keys are found under the names that Python gives them, with the right bytes."""
    _, descriptor = place
    keys = [0, 1, (1 << 64) - 1, 1 << 63, 0x0123456789ABCDEF]
    places = np.arange(len(keys)) * 4096
    rows = make_ops(len(keys), action=Action.WRITE, key=keys, arena_bytes=places)
    run(engine, (dir_lane(descriptor),), rows, options(arena))
    for key, at in zip(keys, places.tolist(), strict=True):
        found = folder.read_object(descriptor, key, 0, 4096)
        assert native.check(found, native.Stamp(key, 0, 0, RUN_ID), arena, at).bad_sectors == 0
    assert len(folder.read_object(descriptor, 77, 0, 4096)) == 0
