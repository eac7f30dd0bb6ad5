"""A device is refused if anything shares its storage: nothing written, by digest."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

import replay
from kvtrace.cli.main import app
from kvtrace.errors import TargetError, UsageError
from replay import ReplayOptions, TargetSpec
from replay.safety import preflight, users
from replay.safety.storage import parse_table
from replay.state.precondition import PreconditionOptions, precondition
from tests.support.disks import MIB, Disks, digest
from tests.support.loops import tool
from tests.support.traces import file_target, simple_rows, write_trace

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow

Attempt = Callable[[TargetSpec], object]
ANY = ("ext4", "btrfs", "dos", "gpt", "unknown")


@pytest.fixture(params=["replay", pytest.param("precondition", marks=pytest.mark.slow)])
def attempt(request: pytest.FixtureRequest, tmp_path: Path) -> Attempt:
    """Write to a target, by either command that does."""
    if request.param == "precondition":
        return lambda spec: precondition(spec, PreconditionOptions(passes=1, arena_bytes=16 * MIB))
    trace = write_trace(tmp_path / "trace.parquet", simple_rows(4))
    options = ReplayOptions(arena_bytes=16 * MIB, io_size_bytes=MIB, settle_ns=0, min_window_ns=0)
    return lambda spec: replay.run(trace, [spec], options)


@contextmanager
def refused(match: str, *unchanged: Path) -> Iterator[None]:
    """Expect a TargetError in one line, and the same bytes on each device before and after."""
    os.sync()
    before = [digest(path) for path in unchanged]
    with pytest.raises(TargetError, match=match) as caught:
        yield
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 4
    os.sync()
    assert [digest(path) for path in unchanged] == before


def allowed(device: Path, *signatures: str) -> TargetSpec:
    """Return a target whose device may be destroyed."""
    return file_target(
        device, allow_destroy=str(device), allow_signature=signatures, size_bytes=32 * MIB
    )


@pytest.mark.parametrize(
    "signatures",
    [(), ANY, pytest.param(("ext4",), marks=pytest.mark.slow)],
    ids=["none", "any", "ext4"],
)
@pytest.mark.parametrize("offset", [0, 8 * MIB], ids=["same-offset", "other-offset"])
def test_a_loop_device_whose_file_backs_a_mounted_one(
    offset: int, signatures: tuple[str, ...], disks: Disks, attempt: Attempt
) -> None:
    """Both write to the same file, wherever each begins."""
    image = disks.image()
    mounted = disks.loop(image, "--offset", offset)
    disks.ext4(mounted)
    disks.mount(mounted)
    target = disks.loop(image)
    with refused(f"shares its storage with {mounted}, which is mounted", image):
        attempt(allowed(target, *signatures))


def test_a_loop_device_whose_file_backs_another(disks: Disks, attempt: Attempt) -> None:
    """Mounted or not, the other may be any moment."""
    image = disks.image()
    other, target = disks.loop(image), disks.loop(image)
    with refused(f"shares its storage with other devices.*{other}", image):
        attempt(allowed(target))


def test_a_device_on_which_a_mounted_loop_device_lies(disks: Disks, attempt: Attempt) -> None:
    """A file system in the middle of a device, which nothing on the device itself shows."""
    image = disks.image()
    target = disks.loop(image)
    upper = disks.loop(target, "--offset", 16 * MIB)
    disks.ext4(upper)
    disks.mount(upper)
    with refused(f"shares its storage with {upper}, which is mounted", image):
        attempt(allowed(target, *ANY))


def test_a_loop_device_over_a_disk_whose_partition_is_mounted(
    disks: Disks, attempt: Attempt
) -> None:
    """Down to the disk, up to its partition."""
    image = disks.image()
    disk = disks.loop(image)
    part = disks.partition(disk, 1, 2048, 65536)
    disks.ext4(part)
    disks.mount(part)
    with refused(f"shares its storage with {part}, which is mounted", image):
        attempt(allowed(disks.loop(disk), *ANY))


def test_a_disk_with_a_mounted_partition(disks: Disks, attempt: Attempt) -> None:
    """The whole disk isn't free if a part of it isn't."""
    image = disks.image()
    disk = disks.loop(image)
    part = disks.partition(disk, 1, 2048, 65536)
    disks.ext4(part)
    disks.mount(part)
    with refused("which is mounted", image):
        attempt(allowed(disk, *ANY))


def test_a_partition_isnt_named_by_its_disk(disks: Disks, attempt: Attempt) -> None:
    """--allow-destroy of the disk says nothing of one partition."""
    image = disks.image()
    disk = disks.loop(image)
    part = disks.partition(disk, 1, 2048, 65536)
    spec = file_target(part, allow_destroy=str(disk))
    with refused("would be destroyed", image):
        attempt(spec)


def test_a_partition_beside_a_mounted_one(disks: Disks, attempt: Attempt) -> None:
    """It may be written; the other stays as it is."""
    image = disks.image()
    disk = disks.loop(image)
    first = disks.partition(disk, 1, 2048, 65536)
    second = disks.partition(disk, 2, 69632, 32768)
    disks.ext4(second)
    disks.mount(second)
    os.sync()
    before = digest(second)
    attempt(file_target(first, allow_destroy=str(first)))
    os.sync()
    assert digest(second) == before


def test_overlapping_partitions(disks: Disks, attempt: Attempt) -> None:
    """Two partitions of the same sectors are the same storage, whatever their numbers."""
    image = disks.image()
    disk = disks.loop(image)
    one = disks.partition(disk, 1, 2048, 65536)
    over = disks.loop(disk, "--offset", 2 * MIB, "--sizelimit", 8 * MIB)
    with refused(f"shares its storage with other devices.*{over}", image):
        attempt(file_target(one, allow_destroy=str(one)))


def test_a_disk_whose_partitions_the_kernel_still_knows(disks: Disks, attempt: Attempt) -> None:
    """The table is wiped, the partitions are there: somebody may use them again."""
    image = disks.image()
    disk = disks.loop(image)
    disks.partition(disk, 1, 2048, 65536)
    with refused("partitions on it, but its partition table.*partx --delete", image):
        attempt(allowed(disk))


def test_a_device_open_for_writing_in_another_process(disks: Disks, attempt: Attempt) -> None:
    """A virtual machine without O_EXCL, say: its name and pid are in the message."""
    image = disks.image()
    target = disks.loop(image)
    process = disks.held_open(target)
    with refused(rf"open for writing in another process.*pid {process.pid}", image):
        attempt(allowed(target))


def test_a_reader_is_no_writer(disks: Disks, attempt: Attempt) -> None:
    """Who only reads a device can't lose data to itself."""
    target = disks.loop(disks.image())
    disks.held_open(target, "rb")
    attempt(allowed(target))


def test_a_backing_file_open_for_writing(disks: Disks, attempt: Attempt) -> None:
    """A virtual machine runs from the image that the loop device shows."""
    image = disks.image()
    target = disks.loop(image)
    disks.held_open(image)
    with refused("open for writing in another process", image):
        attempt(allowed(target))


def test_a_file_open_for_writing(disks: Disks, attempt: Attempt) -> None:
    """A regular file of ours that something else writes to."""
    path = disks.folder / "target"
    attempt(file_target(path, size_bytes=32 * MIB))
    disks.held_open(path)
    with refused("open for writing in another process", path):
        attempt(file_target(path))


def test_a_device_mounted_in_another_namespace(disks: Disks, attempt: Attempt) -> None:
    """A container's mount isn't in our table."""
    image = disks.image()
    mounted = disks.loop(image)
    disks.ext4(mounted)
    disks.mounted_elsewhere(mounted)
    target = disks.loop(image)
    with refused(f"shares its storage with {mounted}, which is mounted", image):
        attempt(allowed(target, *ANY))
    with refused("is mounted", image):
        attempt(allowed(mounted, *ANY))


def test_a_mounted_btrfs(disks: Disks, attempt: Attempt) -> None:
    """Its mounts have device numbers of their own: the source tells."""
    image = disks.image(256 * MIB)
    target = disks.loop(image)
    tool("mkfs.btrfs", "-q", "-f", target)
    disks.mount(target)
    with refused("is mounted", image):
        attempt(allowed(target, *ANY))


def test_a_further_member_of_a_mounted_btrfs(disks: Disks, attempt: Attempt) -> None:
    """No table of mounts names it: the kernel says that it is in use."""
    images = [disks.image(256 * MIB) for _ in range(2)]
    members = [disks.loop(image) for image in images]
    tool("mkfs.btrfs", "-q", "-f", "-d", "single", "-m", "single", *members)
    disks.mount(members[0])
    with refused("in use|busy", *images):
        attempt(allowed(disks.loop(members[1], "--offset", 200 * MIB), *ANY))


def test_a_loop_device_over_one_that_is_lazily_unmounted(disks: Disks, attempt: Attempt) -> None:
    """Its mount is in no table any more, and goes on as long as a file is open."""
    image = disks.image()
    lower = disks.loop(image)
    disks.ext4(lower)
    point = disks.mount(lower)
    folder = os.open(point, os.O_RDONLY)
    try:
        tool("umount", "--lazy", point)
        with refused("in use", image):
            attempt(allowed(disks.loop(lower, "--offset", 44 * MIB), *ANY))
    finally:
        os.close(folder)


def test_a_device_mapped_for_writing(disks: Disks, attempt: Attempt) -> None:
    """A process may write without a descriptor."""
    image = disks.image()
    target = disks.loop(image)
    process = disks.mapped(target)
    with refused(rf"open for writing in another process.*pid {process.pid}", image):
        attempt(allowed(target))


def test_a_loop_device_without_a_node(disks: Disks, attempt: Attempt) -> None:
    """Its node and the name of its file are gone: the kernel still knows what it is attached to."""
    image = disks.image()
    mounted = disks.loop(image)
    disks.ext4(mounted)
    disks.mount(mounted)
    other = disks.folder / "other"
    os.link(image, other)
    image.unlink()
    number = mounted.stat().st_rdev
    target = disks.loop(other)
    mounted.unlink()
    try:
        with refused(f"shares its storage with {mounted}, which is mounted", other):
            attempt(allowed(target, *ANY))
    finally:
        os.mknod(mounted, 0o60660, number)


def test_a_file_below_an_overlay(disks: Disks, attempt: Attempt) -> None:
    """It has a name and an inode in the overlay and others below: it is one file."""
    upper, merged = disks.overlay()
    image = upper / "image"
    disks.image().rename(image)
    mounted = disks.loop(merged / "image")
    disks.ext4(mounted)
    disks.mount(mounted)
    with refused(f"shares its storage with {mounted}, which is mounted", image):
        attempt(allowed(disks.loop(image, "--offset", 44 * MIB), *ANY))
    target = merged / "target"
    attempt(file_target(target, size_bytes=32 * MIB))
    disks.loop(upper / "target", "--offset", 8 * MIB)
    with refused("is attached to a loop device", upper / "target"):
        attempt(file_target(target))


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("command", ["replay", "precondition"])
def test_a_report_isnt_the_file_of_a_loop_device(command: str, depth: int, disks: Disks) -> None:
    """An output is no input, also where that lies below a device, with --force too."""
    image = disks.image().rename(disks.folder / "image.json")
    device = disks.loop(image)
    for _ in range(depth - 1):
        device = disks.loop(device)
    trace = write_trace(disks.folder / "trace.parquet", simple_rows(4))
    words = [command, *([str(trace)] if command == "replay" else [])]
    words += ["--device", str(device), "--allow-destroy", str(device), "--force"]
    before = image.stat().st_ino, digest(image)
    answer = CliRunner().invoke(app, [*words, "--report", str(image)])
    assert isinstance(answer.exception, UsageError)
    assert "is an input too" in str(answer.exception)
    assert (image.stat().st_ino, digest(image)) == before


def test_swap_on_the_same_file(disks: Disks, attempt: Attempt) -> None:
    """A loop device that the kernel swaps to, beside the target."""
    image = disks.image()
    other = disks.loop(image)
    tool("mkswap", other)
    tool("swapon", other)
    try:
        target = disks.loop(image)
        with refused("shares its storage|is swap", image):
            attempt(allowed(target, *ANY, "swap"))
    finally:
        tool("swapoff", other)


def test_processes_that_cant_be_seen_are_said(
    disks: Disks, attempt: Attempt, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who isn't root can't see everybody's descriptors: the run says so."""

    def denied(_: Path) -> list[os.DirEntry[str]]:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(users, "_descriptors", denied)
    target = disks.loop(disks.image())
    facts = preflight.look(target)
    assert facts.sysfs is not None
    notes = users.check_device(facts.sysfs, facts.title)
    assert "processes of other users" in notes[0]
    assert "run as root" in notes[0]


@pytest.mark.parametrize(
    ("table", "ranges"),
    [
        ("0 2048 linear 8:2 4096", {0x802: (2097152, 3145728)}),
        (
            "0 2048 linear 8:2 0\n2048 2048 linear 8:2 8192",
            {0x802: (0, 5242880)},
        ),
        ("0 2048 crypt aes-xts-plain64 :64:logon:x 0 8:2 4096", {0x802: (2097152, 3145728)}),
        ("0 2048 thin 253:4 1", {}),
        ("0 2048 striped 2 128 8:2 0 8:3 0", None),
        ("0 2048 linear", None),
        ("0 2048 linear 8:x 0", None),
    ],
)
def test_device_mapper_tables(table: str, ranges: dict[int, tuple[int, int]] | None) -> None:
    """What maps linearly takes a range; of what else is mapped the whole device counts."""
    assert parse_table(table) == ranges
