"""What is on a device is recognised, or needs consent as unknown; nothing is taken for empty."""

from __future__ import annotations

import random
import shutil
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import replay
from kvtrace.errors import TargetError
from replay import ReplayOptions
from replay.safety.magics import MAGICS, Magic
from tests.support.disks import MIB, Disks, digest
from tests.support.examples import rest_slow
from tests.support.loops import tool
from tests.support.traces import file_target, simple_rows, write_trace

if TYPE_CHECKING:
    from replay import TargetSpec

pytestmark = pytest.mark.slow

OPTIONS = ReplayOptions(arena_bytes=16 * MIB, io_size_bytes=MIB, settle_ns=0, min_window_ns=0)


def refusal(disks: Disks, spec: TargetSpec) -> str:
    """Return the one line with which a run on a device is refused."""
    trace = write_trace(disks.folder / "trace.parquet", simple_rows(4))
    with pytest.raises(TargetError) as caught:
        replay.run(trace, [spec], OPTIONS)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def put(path: Path, place: int, data: bytes) -> None:
    """Write bytes into a file."""
    with path.open("r+b") as file:
        file.seek(place)
        file.write(data)


def named(device: Path, *signatures: str) -> TargetSpec:
    """Return a target whose device may be destroyed."""
    return file_target(device, allow_destroy=str(device), allow_signature=signatures)


@pytest.mark.parametrize("magic", MAGICS, ids=lambda m: f"{m.name}@{m.offset}")
def test_every_magic_is_found(magic: Magic, disks: Disks) -> None:
    """At its place, under its name, whatever else the format lacks; the bytes stay."""
    far = max(0, magic.offset)
    image = disks.image((far // MIB + 16) * MIB)
    put(image, magic.place(image.stat().st_size), magic.value)
    device = disks.loop(image)
    small = far < 64 * MIB
    before = digest(image) if small else ""
    answer = refusal(disks, named(device))
    assert f"--allow-signature {magic.name}" in answer or "conflicting" in answer
    assert not small or digest(image) == before


@pytest.mark.parametrize(
    ("program", "kind"),
    rest_slow(
        [
            (("mkfs.ext4", "-q", "-F"), "ext4"),
            (("mkfs.xfs", "-q", "-f"), "xfs"),
            (("mkfs.btrfs", "-q", "-f"), "btrfs"),
            (("mkfs.ntfs", "-q", "-F", "-f"), "ntfs"),
            (("mkswap",), "swap"),
        ]
    ),  # the kinds by their signatures: test_refusals.py
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_file_systems_as_their_tools_make_them(
    program: tuple[str, ...], kind: str, disks: Disks
) -> None:
    """One --allow-signature with the type is enough, and later runs need none."""
    image = disks.image(320 * MIB)
    device = disks.loop(image)
    tool(*program, device)
    assert f"--allow-signature {kind}" in refusal(disks, named(device))
    trace = disks.folder / "trace.parquet"
    assert replay.run(trace, [named(device, kind)], OPTIONS).errors == {}
    assert replay.run(trace, [named(device)], OPTIONS).errors == {}


def test_a_backup_partition_table(disks: Disks) -> None:
    """The primary is wiped, the copy in the last sector is there."""
    image = disks.image()
    put(image, 64 * MIB - 512, b"EFI PART")
    answer = refusal(disks, named(disks.loop(image)))
    assert f"gpt at byte {64 * MIB - 512}" in answer


def test_the_copy_in_the_last_sector_is_cleared(disks: Disks) -> None:
    """Else it would be found again, by us and by whoever repairs partition tables."""
    image = disks.image()
    put(image, 64 * MIB - 512, b"EFI PART")
    device = disks.loop(image)
    refusal(disks, named(device))
    replay.run(disks.folder / "trace.parquet", [named(device, "gpt")], OPTIONS)
    assert image.read_bytes()[-512:] == bytes(512)


def test_size_is_a_wall_for_clearing_too(disks: Disks) -> None:
    """With --size nothing behind it changes, signatures neither."""
    image = disks.image()
    put(image, 48 * MIB, b"\xa5" * (16 * MIB))
    device = disks.loop(image)
    before = image.read_bytes()[32 * MIB :]
    spec = file_target(
        device, allow_destroy=str(device), allow_signature=("unknown",), size_bytes=32 * MIB
    )
    trace = write_trace(disks.folder / "trace.parquet", simple_rows(4))
    replay.run(trace, [spec], OPTIONS)
    assert image.read_bytes()[32 * MIB :] == before


def test_size_is_a_wall_of_a_file_too(disks: Disks) -> None:
    """A file of ours that is larger than --size keeps what lies behind."""
    path = disks.folder / "target"
    rows = simple_rows(300, size=128 << 10)[::4]  # live all at once: 37.5 MiB
    trace = write_trace(disks.folder / "trace.parquet", rows)
    replay.run(trace, [file_target(path, size_bytes=64 * MIB)], OPTIONS)
    before = path.read_bytes()
    spec = file_target(path, size_bytes=16 * MIB)
    with pytest.raises(TargetError, match="smaller than the trace needs"):
        replay.run(trace, [spec], OPTIONS)
    small = write_trace(disks.folder / "trace.parquet", rows[:40])
    replay.run(small, [spec], OPTIONS)
    assert path.read_bytes()[16 * MIB :] == before[16 * MIB :]


@pytest.mark.parametrize("place", rest_slow([20 * MIB + 17, 0, 5000, 64 * MIB - 9]), ids=str)
def test_data_that_isnt_recognised(place: int, disks: Disks) -> None:
    """Bytes without a known format need consent of their own; the message shows where they are."""
    image = disks.image()
    noise = random.Random(place).randbytes(MIB)
    put(image, place, noise[: min(MIB, 64 * MIB - place)])
    before = digest(image)
    device = disks.loop(image)
    answer = refusal(disks, named(device))
    assert "--allow-signature unknown" in answer
    assert "data at byte" in answer
    assert "ext4" in refusal(disks, named(device, "ext4")) or "unknown" in answer
    assert digest(image) == before


def test_data_behind_the_part_that_an_earlier_run_was_given(disks: Disks) -> None:
    """Consent for a part isn't consent for the whole; without data the whole is free."""
    image = disks.image()
    device = disks.loop(image)
    trace = write_trace(disks.folder / "trace.parquet", simple_rows(4))
    part = file_target(device, allow_destroy=str(device), size_bytes=16 * MIB)
    assert replay.run(trace, [part], OPTIONS).errors == {}
    assert replay.run(trace, [named(device)], OPTIONS).errors == {}
    assert replay.run(trace, [part], OPTIONS).errors == {}
    other = disks.image()
    device = disks.loop(other)
    part = file_target(device, allow_destroy=str(device), size_bytes=16 * MIB)
    assert replay.run(trace, [part], OPTIONS).errors == {}
    put(other, 40 * MIB, b"\xa5" * (8 * MIB))
    tool("blockdev", "--flushbufs", device)
    before = digest(other)
    assert "got data at byte 4" in refusal(disks, named(device))
    assert digest(other) == before
    assert replay.run(trace, [part], OPTIONS).errors == {}


def test_a_file_of_ours_that_was_made_longer(disks: Disks) -> None:
    """What somebody has appended isn't ours."""
    path = disks.folder / "target"
    trace = write_trace(disks.folder / "trace.parquet", simple_rows(4))
    replay.run(trace, [file_target(path, size_bytes=16 * MIB)], OPTIONS)
    with path.open("ab") as file:
        file.write(b"precious" * MIB)
    before = digest(path)
    assert "--allow-signature unknown" in refusal(disks, file_target(path))
    assert digest(path) == before


@pytest.mark.parametrize("place", rest_slow([1080, 510, 512, 4096, 64 << 10], quick=2), ids=str)
def test_a_file_of_ours_that_became_an_image(place: int, disks: Disks) -> None:
    """Fdisk and mdadm leave the first bytes alone: a header of ours doesn't outlive them."""
    path = disks.folder / "target"
    trace = write_trace(disks.folder / "trace.parquet", simple_rows(4))
    replay.run(trace, [file_target(path, size_bytes=32 * MIB)], OPTIONS)
    magic = {510: b"\x55\xaa", 512: b"EFI PART", 1080: b"\x53\xef", 4096: b"\xfc\x4e\x2b\xa9"}
    put(path, place, magic.get(place, bytes(64) + b"_BHRfS_M"))
    before = digest(path)
    assert "wasn't made by kvtrace" in (answer := refusal(disks, file_target(path))) or (
        "--allow-signature" in answer
    )
    assert digest(path) == before


def test_a_damaged_marker_of_ours_is_unknown_data(disks: Disks) -> None:
    """Whose device it is can't be told any more."""
    image = disks.image()
    device = disks.loop(image)
    trace = write_trace(disks.folder / "trace.parquet", simple_rows(4))
    replay.run(trace, [named(device)], OPTIONS)
    put(image, 40, b"\xff")
    tool("blockdev", "--flushbufs", device)
    assert "--allow-signature unknown" in refusal(disks, named(device))


def test_a_device_that_cant_be_read(disks: Disks) -> None:
    """An unreadable device is never taken for an empty one."""
    image = disks.image()
    device = disks.loop(image)
    with image.open("r+b") as file:
        file.truncate(MIB)  # the device keeps its size: reads behind are I/O errors
    answer = refusal(disks, named(device))
    assert "can't read: Input/output error" in answer
    assert image.stat().st_size == MIB


def test_blkid_that_couldnt_look(
    disks: Disks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends with 2 both for nothing found and for a device that it couldn't open."""
    folder = tmp_path / "bin"
    folder.mkdir()
    fake = folder / "blkid"
    fake.write_text('#!/bin/sh\necho "blkid: error: $5: Input/output error" >&2\nexit 2\n')
    fake.chmod(fake.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    image = disks.image()
    answer = refusal(disks, named(disks.loop(image)))
    assert "blkid failed" in answer
    assert digest(image) == digest(disks.image())


def test_blkid_is_given_no_name(
    disks: Disks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A path that begins with a dash isn't an option of another program."""
    if shutil.which("blkid") is None:
        pytest.skip("no blkid here")
    device = disks.loop(disks.image())
    monkeypatch.chdir(tmp_path)
    Path("-w").symlink_to(device)
    trace = write_trace(tmp_path / "trace.parquet", simple_rows(4))
    spec = file_target(Path("-w"), allow_destroy="-w")
    assert replay.run(trace, [spec], OPTIONS).errors == {}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["-w", "image0", "trace.parquet"]
