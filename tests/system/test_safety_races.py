"""What was checked is what is written: changes between check and first write are refused."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import replay
from kvtrace.errors import KvtraceError
from kvtrace.trace.schema import Tier
from replay import ReplayOptions, TargetSpec, targets
from replay.payload import stamps as payload
from replay.state import populate
from replay.state.precondition import PreconditionOptions, precondition
from replay.targets.support.folder import object_name
from replay.watch import Silent
from tests.support.disks import MIB, Disks, digest
from tests.support.loops import tool
from tests.support.traces import file_target, simple_rows, write_trace

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.slow

OPTIONS = ReplayOptions(arena_bytes=16 * MIB, io_size_bytes=MIB, settle_ns=0, min_window_ns=0)


def run(command: str, folder: Path, spec: TargetSpec) -> object:
    """Write to a target by `command`."""
    if command == "precondition":
        return precondition(spec, PreconditionOptions(passes=1, arena_bytes=16 * MIB))
    return replay.run(write_trace(folder / "trace.parquet", simple_rows(4)), [spec], OPTIONS)


def during_arena(monkeypatch: pytest.MonkeyPatch, action: Callable[[], object]) -> None:
    """Do something while the payload is made, which takes seconds on large machines."""
    fill = payload.fill

    def filled(*words: object, **more: object) -> None:
        action()
        fill(*words, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(payload, "fill", filled)


COMMANDS = pytest.mark.parametrize(
    "command", ["replay", pytest.param("precondition", marks=pytest.mark.slow)]
)


@COMMANDS
@pytest.mark.parametrize("signatures", [(), ("ext4",)], ids=["none", "ext4"])
def test_mkfs_while_the_payload_is_made(
    signatures: tuple[str, ...], command: str, disks: Disks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file system that appears after the check stays whole."""
    image = disks.image()
    device = disks.loop(image)
    after: list[str] = []

    def mkfs() -> None:
        disks.ext4(image)  # what a program does that ignores the claim
        tool("blockdev", "--flushbufs", device)
        after.append(digest(image))

    during_arena(monkeypatch, mkfs)
    spec = file_target(device, allow_destroy=str(device), allow_signature=signatures)
    with pytest.raises(KvtraceError, match=r"got ext4|was written by something else"):
        run(command, disks.folder, spec)
    assert [digest(image)] == after


@COMMANDS
def test_mkfs_on_the_device_is_kept_out(
    command: str, disks: Disks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the check on the device is claimed: programs that ask are told that it is busy."""
    device = disks.loop(disks.image())
    answers: list[int] = []

    def mkfs() -> None:
        words = ["mkfs.ext4", "-q", "-F", str(device)]
        answers.append(subprocess.run(words, capture_output=True, check=False).returncode)

    during_arena(monkeypatch, mkfs)
    run(command, disks.folder, file_target(device, allow_destroy=str(device)))
    assert answers != [0]


@COMMANDS
def test_a_loop_device_over_the_same_file_appears(
    command: str, disks: Disks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Attached and mounted after the check: refused before the first write."""
    image = disks.image()
    device = disks.loop(image)
    during_arena(monkeypatch, lambda: disks.loop(image))
    before = digest(image)
    with pytest.raises(KvtraceError, match="shares its storage"):
        run(command, disks.folder, file_target(device, allow_destroy=str(device)))
    assert digest(image) == before


def test_a_loop_device_is_attached_to_another_image(disks: Disks) -> None:
    """Between the first look and the check; its number and size are the same."""
    first, second = disks.image(), disks.image()
    device = disks.loop(first)
    target = targets.make(file_target(device, allow_destroy=str(device)))
    tool("losetup", "--detach", device)
    tool("losetup", device, second)
    before = digest(second)
    with pytest.raises(KvtraceError, match="changed while it was being checked"):
        target.authorise(writes=True)
    target.close()
    assert digest(second) == before


def test_a_node_is_replaced(disks: Disks) -> None:
    """The name is another device's by now."""
    devices = [disks.loop(disks.image()) for _ in range(2)]
    node = disks.folder / "node"

    def make(device: Path) -> None:
        node.unlink(missing_ok=True)
        os.mknod(node, 0o600 | 0o060000, device.stat().st_rdev)

    make(devices[0])
    spec = file_target(node, allow_destroy=str(node))
    target = targets.make(spec)
    make(devices[1])
    with pytest.raises(KvtraceError, match="changed while it was being checked"):
        target.authorise(writes=True)
    target.close()
    target = targets.make(spec)
    target.authorise(writes=True)
    make(devices[0])
    with pytest.raises(KvtraceError, match="changed while it was being checked"):
        target.open(target.space(), targets.RunMark(1, "f" * 64), writes=True)


@COMMANDS
@pytest.mark.parametrize("what", ["file", "symlink", "fifo", "hard link"])
def test_a_new_file_appears_under_the_name(
    what: str, command: str, disks: Disks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It isn't ours, and stays."""
    path, victim = disks.folder / "target", disks.folder / "victim"
    victim.write_bytes(b"precious" * 1000)

    def appear() -> None:
        if what == "file":
            path.write_bytes(b"precious")
        elif what == "symlink":
            path.symlink_to(victim)
        elif what == "hard link":
            os.link(victim, path)
        else:
            os.mkfifo(path)

    during_arena(monkeypatch, appear)
    with pytest.raises(KvtraceError, match="File exists"):
        run(command, disks.folder, file_target(path, size_bytes=32 * MIB))
    assert victim.read_bytes() == b"precious" * 1000
    assert os.path.lexists(path)


@COMMANDS
def test_a_file_of_ours_is_replaced(
    command: str, disks: Disks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another file under the name of an earlier run's target."""
    path, victim = disks.folder / "target", disks.folder / "victim"
    spec = file_target(path, size_bytes=32 * MIB)
    run(command, disks.folder, spec)
    victim.write_bytes(path.read_bytes())
    before = digest(victim)
    during_arena(monkeypatch, lambda: victim.rename(path))
    with pytest.raises(KvtraceError, match="changed while it was being checked"):
        run(command, disks.folder, spec)
    assert digest(path) == before


def test_the_device_is_written_to_while_it_settles(
    disks: Disks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After long steps the marker is looked at again: no op runs on another's device."""
    image = disks.image()
    device = disks.loop(image)
    after: list[str] = []
    settle = populate.settle

    def settled(*words: object) -> int:
        disks.ext4(image)
        tool("blockdev", "--flushbufs", device)
        after.append(digest(image))
        return settle(*words)  # type: ignore[arg-type]

    monkeypatch.setattr(populate, "settle", settled)
    rows = simple_rows(4)[1:]  # its first object is populated
    trace = write_trace(disks.folder / "trace.parquet", rows)
    with pytest.raises(KvtraceError, match="was written by something else"):
        replay.run(trace, [file_target(device, allow_destroy=str(device))], OPTIONS)
    assert [digest(image)] == after


@COMMANDS
def test_two_runs_on_one_file(command: str, disks: Disks) -> None:
    """One is refused before it begins, the other goes on."""
    path = disks.folder / "target"
    spec = file_target(path, size_bytes=32 * MIB)
    run(command, disks.folder, spec)
    first = targets.make(spec)
    first.authorise(writes=True)
    before = digest(path)
    with pytest.raises(KvtraceError, match="is used by another run"):
        run(command, disks.folder, spec)
    assert digest(path) == before
    first.close()
    run(command, disks.folder, spec)


def test_a_device_that_is_written_to_during_a_run(
    disks: Disks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its header is gone at the end: the result is INVALID, whatever was read."""
    image = disks.image()
    device = disks.loop(image)
    rows = simple_rows(8, gap_ns=60_000_000)
    trace = write_trace(disks.folder / "trace.parquet", rows)

    def strike() -> None:
        with device.open("r+b", buffering=0) as node:
            node.write(bytes(4096))

    class Striking(Silent):
        """Overwrites the header once the run has begun."""

        def stage(self, name: str, total: int | None) -> None:
            if name == "replaying":
                strike()

    spec = file_target(device, allow_destroy=str(device))
    result = replay.run(trace, [spec], OPTIONS, watcher=Striking())
    assert "target_changed" in {reason.code for reason in result.verdict.reasons}


def test_a_subfolder_that_becomes_a_link(disks: Disks, monkeypatch: pytest.MonkeyPatch) -> None:
    """Objects go into the folder that was checked, or nowhere."""
    folder, victim = disks.folder / "objects", disks.folder / "victim"
    spec = TargetSpec("dir", (Tier.NVME,), folder)
    rows = simple_rows(4)[1:]  # its first object is populated
    trace = write_trace(disks.folder / "trace.parquet", rows)
    name = object_name(1)
    victim.mkdir()
    (victim / Path(name).name).write_bytes(b"precious")
    settle = populate.settle

    def settled(*words: object) -> int:
        place = (folder / name).parent
        place.rename(folder / "moved")
        place.symlink_to(victim)
        return settle(*words)  # type: ignore[arg-type]

    monkeypatch.setattr(populate, "settle", settled)
    result = replay.run(trace, [spec], OPTIONS)
    assert result.errors["ELOOP"] >= 1
    assert [path.read_bytes() for path in victim.iterdir()] == [b"precious"]


def test_two_runs_on_one_new_file(disks: Disks, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both begin before the file is there: one makes it, the other is refused."""
    path = disks.folder / "target"
    spec = file_target(path, size_bytes=32 * MIB)
    answers: list[object] = []

    def other() -> None:
        monkeypatch.undo()
        answers.append(run("replay", disks.folder, spec))

    during_arena(monkeypatch, other)
    with pytest.raises(KvtraceError, match="File exists"):
        run("precondition", disks.folder, spec)
    assert len(answers) == 1
    assert path.stat().st_size == 32 * MIB
