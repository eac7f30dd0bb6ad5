"""A folder as a target: whole runs on it, and what is refused or left alone."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

import replay
from kvtrace.errors import TargetError, UsageError
from kvtrace.placement.extents import Need
from kvtrace.trace.schema import Op, Phase, Tier
from replay import ReplayOptions, TargetSpec, targets
from replay.device import statx
from replay.ops.contract import Fsync
from replay.safety.marker import Marker
from replay.targets import RunMark
from replay.targets.dir import OBJECT_BYTES_MAX, DirTarget
from replay.targets.support import folder
from replay.watch import Silent
from tests.support.examples import rest_slow
from tests.support.traces import MIB, Row, simple_rows, write_trace

if TYPE_CHECKING:
    from collections.abc import Callable

    Quick = Callable[..., ReplayOptions]

R, W, D = Op.READ, Op.WRITE, Op.DELETE
NOT_OURS = {"host_lateness", "device_shared"}
MARK = RunMark(7, "0" * 64)


def dir_target(path: Path, fsync: Fsync = Fsync.NONE) -> TargetSpec:
    """Return the spec of a folder target for tier nvme."""
    return TargetSpec("dir", (Tier.NVME,), path, fsync=fsync)


def made(path: Path) -> DirTarget:
    target = targets.make(dir_target(path))
    assert isinstance(target, DirTarget)
    return target


def reasons(result: replay.Result) -> set[str]:
    """Return why a result is INVALID, less what the test machine is to blame for."""
    return {reason.code for reason in result.verdict.reasons} - NOT_OURS


def objects(path: Path) -> dict[str, int]:
    """Return the objects' files and their lengths."""
    return {str(p.relative_to(path)): p.stat().st_size for p in path.rglob("*.kv")}


def reads(count: int = 5, size: int = 5000) -> list[Row]:
    return [(i, R, Tier.NVME, 1000 + i, Phase.DECODE, size) for i in range(count)]


@pytest.mark.slow
@pytest.mark.parametrize("mode", rest_slow(["open", "max", "closed"]))
@pytest.mark.parametrize("fsync", list(Fsync))
def test_a_run_is_valid_end_to_end(
    direct_path: Path, quick: Quick, mode: str, fsync: Fsync
) -> None:
    """Populate, write, read, verify, delete: all executed; what is live is what files there are."""
    rows = simple_rows(20, 50_000)[:-1]
    rows += [(rows[-1][0] + 1, *row[1:]) for row in reads()]
    trace = write_trace(direct_path / "t.parquet", rows)
    path = direct_path / "objects"
    result = replay.run(trace, [dir_target(path, fsync)], quick(mode=mode, verify="full"))
    assert reasons(result) == set()
    assert (result.ops, result.errors, result.payload.verified_ops) == (84, {}, 45)
    assert result.fidelity.order_violations == 0
    assert (result.populated.objects, result.populated.fill_bytes) == (5, 0)
    live = {19: 50_000} | {1000 + i: 5000 for i in range(5)}
    assert objects(path) == {folder.object_name(key): size for key, size in live.items()}
    assert f"fsync {fsync.name.lower()}" in result.lanes[0].title
    assert result.environment.targets[0].file_system
    assert not list(path.rglob("*.tmp"))


def test_objects_longer_than_an_io_go_whole(direct_path: Path, quick: Quick) -> None:
    """An object is one I/O whatever --io-size says, also by several loop threads at once."""
    rows = simple_rows(6, 3 * MIB + 12345)
    trace = write_trace(direct_path / "t.parquet", rows)
    options = quick(verify="full", io_size_bytes=64 << 10, threads=2, mode="max")
    result = replay.run(trace, [dir_target(direct_path / "objects")], options)
    assert reasons(result) == set()
    assert result.lanes[0].counters.in_flight_max <= 32
    assert sum(group.count for group in result.lanes[0].io_ns) == 18


def test_parts_of_objects_are_kept_together(direct_path: Path, quick: Quick) -> None:
    """Parts written at offsets, rewritten, and read across: all bytes verify."""
    size = 8192
    steps = [(W, 0), (W, size), (W, 2 * size), (R, size), (W, size), (R, 0), (R, 2 * size)]
    rows: list[Row] = [
        (i, op, Tier.NVME, 1, Phase.PREFILL, size) for i, (op, _) in enumerate(steps)
    ]
    rows += [(9, R, Tier.NVME, 1, Phase.DECODE, 3 * size)]
    offsets = [offset for _, offset in steps] + [0]
    trace = write_trace(direct_path / "t.parquet", rows, offsets=offsets)
    path = direct_path / "objects"
    result = replay.run(trace, [dir_target(path)], quick(verify="full"))
    assert reasons(result) == set()
    assert objects(path) == {folder.object_name(1): 3 * size}


@pytest.mark.slow
def test_a_later_run_begins_with_an_empty_folder(direct_path: Path, quick: Quick) -> None:
    """Objects of an earlier run are removed; what isn't ours, or is elsewhere, stays."""
    trace = write_trace(direct_path / "t.parquet", simple_rows(4, 4096)[:-1])
    path = direct_path / "objects"
    replay.run(trace, [dir_target(path)], quick())
    earlier = next(iter(objects(path)))
    foreign = [
        path / "notes.txt",
        path / "00" / "notes.txt",
        path / "00" / "0123.kv",
        path / f"{0x42:016x}.kv",
        path / ("01" if folder.subfolder(0x42) == "00" else "00") / f"{0x42:016x}.kv",
    ]
    for file in foreign:
        file.write_text("mine")
    link = path / folder.object_name(0x77)
    link.symlink_to(foreign[0])
    stale = (
        path / "00" / f"{next(k for k in range(999) if folder.subfolder(k) == '00'):016x}.0-1.tmp"
    )
    stale.write_text("half")
    other = write_trace(direct_path / "o.parquet", reads(1))
    result = replay.run(other, [dir_target(path)], quick(run_id=8))
    assert reasons(result) == set()
    assert not (path / earlier).exists()
    assert not stale.exists()
    assert all(file.read_text() == "mine" for file in foreign)
    assert link.is_symlink()
    marker = Marker.unpack((path / folder.MARKER_NAME).read_bytes())
    assert marker is not None
    assert marker.run_id == 8


@pytest.mark.slow
def test_a_population_is_reused(direct_path: Path, quick: Quick) -> None:
    """Taken as it is by the same run id and trace; not after a run that changes objects."""
    trace = write_trace(direct_path / "t.parquet", reads())
    path = direct_path / "objects"
    replay.run(trace, [dir_target(path)], quick(run_id=9))
    inodes = {p: (path / p).stat().st_ino for p in objects(path)}
    again = replay.run(trace, [dir_target(path)], quick(run_id=None, reuse_populated=True))
    assert reasons(again) == set()
    assert again.populated.reused
    assert {p: (path / p).stat().st_ino for p in objects(path)} == inodes
    (path / next(iter(inodes))).unlink()
    with pytest.raises(TargetError, match="no earlier population"):
        replay.run(trace, [dir_target(path)], quick(run_id=None, reuse_populated=True))
    changing = write_trace(direct_path / "c.parquet", [*reads(), (9, D, *reads()[0][2:])])
    replay.run(changing, [dir_target(path)], quick(run_id=9))
    with pytest.raises(TargetError, match="no earlier population"):
        replay.run(changing, [dir_target(path)], quick(run_id=9, reuse_populated=True))


class Damage(Silent):
    """Does something to the folder when the run begins."""

    def __init__(self, act: Callable[[], object]) -> None:
        self.act = act

    def stage(self, name: str, total: int | None) -> None:
        """Act between populating and the run."""
        if name == "replaying":
            self.act()


@pytest.mark.slow
def test_wrong_bytes_and_missing_files_are_found(direct_path: Path, quick: Quick) -> None:
    """Overwritten, lost and torn objects are named as such, each with what is there."""
    trace = write_trace(direct_path / "t.parquet", reads(3, 8192))
    path = direct_path / "objects"

    def damage() -> None:
        (path / folder.object_name(1000)).unlink()
        with (path / folder.object_name(1001)).open("r+b") as file:
            file.write(bytes(512))
            os.fsync(file.fileno())
        os.truncate(path / folder.object_name(1002), 4096)

    result = replay.run(trace, [dir_target(path)], quick(), watcher=Damage(damage))
    assert reasons(result) == {"verify_failed", "nothing_measured"}
    assert result.errors == {"verify_failed": 3}
    lost, zeros, torn = result.payload.mismatches
    assert "object 1000, byte 0" in lost
    assert "its file isn't there: a lost write" in lost
    assert "object 1001, byte 0" in zeros
    assert "only zeros" in zeros
    assert "object 1002, byte 4096" in torn
    assert "it ends at byte 4096: a torn write" in torn


def test_a_run_that_only_reads_changes_nothing(direct_path: Path, quick: Quick) -> None:
    """With --populate none: no marker in a foreign folder, no new folder."""
    trace = write_trace(direct_path / "t.parquet", reads(2))
    path = direct_path / "objects"
    with pytest.raises(TargetError, match="no such directory, and the run writes nothing"):
        replay.run(trace, [dir_target(path)], quick(populate="none"))
    path.mkdir()
    (path / "notes.txt").write_text("mine")
    result = replay.run(trace, [dir_target(path)], quick(populate="none"))
    assert [p.name for p in path.iterdir()] == ["notes.txt"]
    assert set(result.errors.values()) == {2}


def test_a_run_of_deletes_alone_writes(direct_path: Path, quick: Quick) -> None:
    """Unlinking changes the folder: it must be ours."""
    rows: list[Row] = [(0, D, Tier.NVME, 1, Phase.EVICT, 4096)]
    trace = write_trace(direct_path / "t.parquet", rows, resident=[(Tier.NVME, 1, 4096)])
    path = direct_path / "objects"
    path.mkdir()
    (path / "notes.txt").write_text("mine")
    with pytest.raises(TargetError, match=r"isn't empty and wasn't made by kvtrace.*notes\.txt"):
        replay.run(trace, [dir_target(path)], quick(populate="none"))


SYSTEM_PATHS = (
    "/ /etc /etc/kv /usr/local/kv /bin /boot/x /dev/shm/x /proc/1 /sys /var /home /root /tmp /mnt ~"
)


@pytest.mark.parametrize("path", SYSTEM_PATHS.split())
def test_system_paths_are_refused(path: str) -> None:
    """Whatever is in them."""
    with pytest.raises(TargetError, match="is a system path"):
        targets.make(dir_target(Path(path).expanduser()))


def test_what_is_no_folder_of_its_own_is_refused(direct_path: Path) -> None:
    """A link to a folder, a file, a folder in no folder, one in memory, and no path at all."""
    (direct_path / "real").mkdir()
    (direct_path / "link").symlink_to(direct_path / "real")
    with pytest.raises(TargetError, match=r"is a symbolic link.*name the folder itself"):
        made(direct_path / "link")
    (direct_path / "to_etc").symlink_to("/etc")
    with pytest.raises(TargetError, match="is a system path"):
        made(direct_path / "to_etc")
    (direct_path / "file").touch()
    with pytest.raises(TargetError, match=r"isn't a directory.*use --device"):
        made(direct_path / "file")
    with pytest.raises(TargetError, match="no such directory"):
        made(direct_path / "none" / "objects")
    with pytest.raises(UsageError, match="needs a path"):
        targets.make(TargetSpec("dir", (Tier.NVME,)))


@pytest.mark.parametrize("name", ["notes.txt", ".kvtrace"])
def test_a_foreign_folder_is_refused(direct_path: Path, name: str) -> None:
    """Anything in it, also a marker that isn't one of ours, and nothing of it is touched."""
    path = direct_path / "objects"
    path.mkdir()
    (path / name).write_text("mine")
    with pytest.raises(TargetError, match=r"isn't empty and wasn't made by kvtrace"):
        made(path).authorise(writes=True)
    assert [p.name for p in path.iterdir()] == [name]


def test_what_changed_meanwhile_is_refused(direct_path: Path) -> None:
    """Another folder in its place, something in it, a subfolder that is a link: before a write."""
    path = direct_path / "objects"
    path.mkdir()
    target = made(path)
    path.rename(direct_path / "old")
    path.mkdir()
    with pytest.raises(TargetError, match="changed while it was being opened"):
        target.open(target.space(), MARK, writes=True)
    target = made(path)
    (path / "notes.txt").write_text("mine")
    with pytest.raises(TargetError, match="changed while it was being opened"):
        target.open(target.space(), MARK, writes=True)
    assert [p.name for p in path.iterdir()] == ["notes.txt"]
    (path / "notes.txt").unlink()
    target = made(path)
    target.open(target.space(), MARK, writes=True)
    target.close()
    (path / "7f").rmdir()
    (path / "7f").symlink_to(direct_path)
    target = made(path)
    with pytest.raises(TargetError, match=r"isn't a directory|isn't one"):
        target.open(target.space(), MARK, writes=True)


@pytest.mark.slow
def test_two_runs_cannot_share_a_folder(direct_path: Path) -> None:
    """The second would remove the first one's objects."""
    path = direct_path / "objects"
    first = made(path)
    first.open(first.space(), MARK, writes=True)
    second = made(path)
    with pytest.raises(TargetError, match="is used by another run"):
        second.open(second.space(), MARK, writes=False)
    assert (path / folder.MARKER_NAME).exists()
    first.close()
    second = made(path)
    second.open(second.space(), MARK, writes=True)
    second.close()


@pytest.mark.slow
def test_a_new_folder_in_use_is_left_alone(direct_path: Path) -> None:
    """One that somebody else has just made: refused, and nothing of it is removed."""
    path = direct_path / "objects"
    target = made(path)
    path.mkdir()
    with pytest.raises(TargetError, match="can't be opened: File exists"):
        target.open(target.space(), MARK, writes=True)
    assert path.is_dir()
    target = made(path)
    holder = os.open(path, os.O_RDONLY)
    fcntl.flock(holder, fcntl.LOCK_EX)
    with pytest.raises(TargetError, match="is used by another run"):
        target.open(target.space(), MARK, writes=True)
    os.close(holder)


@pytest.mark.parametrize("there", [False, True])
def test_without_direct_io_nothing_is_left(
    direct_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    """Refused, never buffered: whether opening fails, or the kernel says so; nothing stays."""
    path = direct_path / "objects"
    if there:
        path.mkdir()

    def no_direct(name: object, flags: int, *args: object, **others: object) -> int:
        if flags & os.O_DIRECT:
            raise OSError(errno.EINVAL, "Invalid argument")
        return os_open(name, flags, *args, **others)  # type: ignore[arg-type]

    os_open = os.open
    target = made(path)
    with monkeypatch.context() as patched:
        patched.setattr(os, "open", no_direct)
        with pytest.raises(TargetError, match=r"no direct I/O.*EINVAL"):
            target.open(target.space(), MARK, writes=True)
    for found, said in ((0, "no direct I/O"), (65536, "--extent-align 65536")):
        answer = statx.DirectAlign(found, found)
        monkeypatch.setattr(statx, "direct_align", lambda _, answer=answer: answer)
        with pytest.raises(TargetError, match=said):
            target.open(target.space(), MARK, writes=True)
    assert path.exists() == there
    assert not there or not list(path.iterdir())


def test_a_folder_in_memory_is_refused() -> None:
    """A tmpfs has no direct I/O to measure."""
    place = Path("/run/user-kvtrace")
    if not os.path.ismount("/run") or not os.access("/run", os.W_OK):
        pytest.skip("no tmpfs at /run")
    with pytest.raises(TargetError, match=r"no direct I/O.*tmpfs"):
        made(place)


def test_what_does_not_fit_is_refused(
    direct_path: Path, quick: Quick, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Too much, too many, too long an object, or one longer than the arena: known beforehand."""
    path = direct_path / "objects"
    target = made(path)
    with pytest.raises(TargetError, match="not enough space"):
        target.reserve(Need(1, 1 << 60, 1 << 60, 4096))
    long = OBJECT_BYTES_MAX + 4096
    with pytest.raises(TargetError, match=r"too long: each goes in one I/O.*use --device"):
        target.reserve(Need(1, long, long, long))
    statvfs = os.statvfs

    def few_inodes(place: Path) -> os.statvfs_result:
        found = list(statvfs(place))
        found[7] = 1000  # f_favail
        return os.statvfs_result(found)

    monkeypatch.setattr(os, "statvfs", few_inodes)
    target.reserve(Need(10, 4096, 4096, 4096))
    with pytest.raises(TargetError, match="not enough inodes"):
        target.reserve(Need(2000, 4096, 4096, 4096))
    monkeypatch.setattr(os, "statvfs", statvfs)
    trace = write_trace(direct_path / "t.parquet", reads(1, 20 * MIB))
    with pytest.raises(UsageError, match="--dir needs an arena that holds the largest object"):
        replay.run(trace, [dir_target(path)], quick(arena_bytes=16 * MIB))
    assert not path.exists()


def test_earlier_objects_make_room(direct_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a run will remove counts as free."""
    path = direct_path / "objects"
    target = made(path)
    target.open(target.space(), MARK, writes=True)
    target.close()
    (path / folder.object_name(5)).write_bytes(b"x" * MIB)
    statvfs = os.statvfs

    def full(place: Path) -> os.statvfs_result:
        found = list(statvfs(place))
        found[4] = int(found[2] * 0.05) + 1  # f_bavail: what stays free anyway
        return os.statvfs_result(found)

    monkeypatch.setattr(os, "statvfs", full)
    target = made(path)
    target.reserve(Need(1, MIB, MIB, MIB))
    with pytest.raises(TargetError, match="not enough space"):
        target.reserve(Need(1, 2 * MIB, 2 * MIB, MIB))


def test_reads_only_folders_are_refused_for_writing(
    direct_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A place that can't be written is known before it is opened."""
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(TargetError, match="isn't writable"):
        made(direct_path / "objects").authorise(writes=True)


def test_the_python_engine_refuses_folders(direct_path: Path, quick: Quick) -> None:
    """It has no way to: the error names the one that has; the folder stays empty of objects."""
    trace = write_trace(direct_path / "t.parquet", simple_rows(1))
    with pytest.raises(TargetError, match="needs the compiled loop"):
        replay.run(trace, [dir_target(direct_path / "objects")], quick(engine="python"))


@pytest.mark.slow
def test_reduction_is_measured_on_what_landed(direct_path: Path, quick: Quick) -> None:
    """A sample is read back from the objects' files."""
    trace = write_trace(direct_path / "t.parquet", simple_rows(8, MIB)[:-1])
    result = replay.run(
        trace, [dir_target(direct_path / "objects")], quick(compress_ratio=3, verify="none")
    )
    assert result.payload.measured is not None
    gone = write_trace(direct_path / "g.parquet", simple_rows(1, MIB))
    result = replay.run(
        gone, [dir_target(direct_path / "objects")], quick(compress_ratio=3, verify="none")
    )
    assert result.payload.measured is None


def test_every_key_has_its_subfolder() -> None:
    """Keys that differ little are spread over all subfolders."""
    found = {folder.subfolder(key) for key in range(4096)}
    assert found == set(folder.SUBFOLDERS)
    rng = np.random.default_rng(1)
    for key in rng.integers(0, 1 << 64, 100, np.uint64).tolist():
        assert folder.object_name(key) == f"{folder.subfolder(key)}/{key:016x}.kv"
