"""Devices that the command must not write: exit 4, model and size in one line, not a byte changed.

Signatures are written by hand, so that no tool but blkid has to be there.
"""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import uuid
import zlib
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from kvtrace.trace.schema import Op, Phase, Tier
from tests.support.digests import digest
from tests.support.examples import rest_slow
from tests.support.traces import MIB, Row, simple_rows, write_trace
from tests.support.whole import QUICK

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.command import Outcome

SIZE = 8 * MIB


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """A trace that writes."""
    return write_trace(tmp_path / "trace.parquet", simple_rows(4, 4096))


@pytest.fixture
def decode_only(tmp_path: Path) -> Path:
    """A trace that only reads."""
    rows: list[Row] = [(i, Op.READ, Tier.NVME, i, Phase.DECODE, 4096) for i in range(4)]
    return write_trace(tmp_path / "decode.parquet", rows)


@pytest.fixture
def undo() -> Iterator[ExitStack]:
    """Whatever was pushed is undone before loop devices are detached."""
    with ExitStack() as stack:
        yield stack


def put(backing: Path, *parts: tuple[int, bytes]) -> None:
    """Write bytes at offsets."""
    with backing.open("r+b") as file:
        for offset, content in parts:
            file.seek(offset)
            file.write(content)


def guid(text: str) -> bytes:
    """Return a GUID as GPT keeps it."""
    return uuid.UUID(text).bytes_le


def ext4(backing: Path) -> None:
    """The magic of a superblock, with features that only ext4 has."""
    put(backing, (1024 + 56, b"\x53\xef"), (1024 + 76, struct.pack("<I", 1)))
    put(backing, (1024 + 92, struct.pack("<III", 4, 0x40, 0)))


def dos(backing: Path) -> None:
    """A partition table with one entry."""
    entry = struct.pack("<BBBBBBBBII", 0, 0, 2, 0, 0x83, 0, 0, 0, 2048, 8192)
    put(backing, (440, b"\x12\x34\x56\x78"), (446, entry), (510, b"\x55\xaa"))


def gpt(backing: Path) -> None:
    """A GUID partition table with one entry, and its protective MBR."""
    last = SIZE // 512 - 1
    kind = guid("0fc63daf-8483-4772-8e79-3d69d8477de4")
    entry = kind + guid(str(uuid.UUID(int=1))) + struct.pack("<QQQ", 2048, 4095, 0)
    entries = entry.ljust(128 * 128, b"\0")

    def header(checksum: int) -> bytes:
        head = struct.pack(
            "<8sIIIIQQQQ", b"EFI PART", 0x10000, 92, checksum, 0, 1, last, 34, last - 33
        )
        tail = struct.pack("<QIII", 2, 128, 128, zlib.crc32(entries))
        return head + guid(str(uuid.UUID(int=2))) + tail

    protective = struct.pack("<BBBBBBBBII", 0, 0, 2, 0, 0xEE, 0xFF, 0xFF, 0xFF, 1, last)
    put(backing, (446, protective), (510, b"\x55\xaa"), (1024, entries))
    put(backing, (512, header(zlib.crc32(header(0)))))


def lvm(backing: Path) -> None:
    """The label of a physical volume; its checksum starts at LVM's own value."""
    rest = struct.pack("<I8s", 32, b"LVM2 001") + b"0123456789abcdefghijklmnopqrstuv"
    rest = rest.ljust(512 - 20, b"\0")
    checksum = ~zlib.crc32(rest, ~0xF597A6CF & 0xFFFFFFFF) & 0xFFFFFFFF
    put(backing, (512, struct.pack("<8sQI", b"LABELONE", 1, checksum) + rest))


def luks(backing: Path) -> None:
    """The header of LUKS 1."""
    put(backing, (0, b"LUKS\xba\xbe" + struct.pack(">H", 1)), (168, str(uuid.UUID(int=3)).encode()))


def raid(backing: Path) -> None:
    """The superblock of a member of an md array, version 1.2."""
    put(backing, (4096, struct.pack("<II", 0xA92B4EFC, 1)), (4096 + 144, struct.pack("<Q", 8)))


def swap(backing: Path) -> None:
    """The header of a swap area."""
    put(backing, (1024, struct.pack("<III", 1, SIZE // 4096 - 1, 0)), (4086, b"SWAPSPACE2"))


def refused(cli: Callable[..., Outcome], trace: Path, loop: Path, *words: object) -> str:
    """Replay; return the error. It names the device with its model and size; nothing is written."""
    before = digest(loop)
    outcome = cli("replay", trace, "--device", loop, *QUICK, *words)
    assert outcome.code == 4
    assert f"{loop} (loop device over " in outcome.error
    assert ", 8.00 MiB)" in outcome.error
    assert outcome.out == ""
    assert digest(loop) == before
    return outcome.error


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "kind"),
    rest_slow(
        [
            (ext4, "ext4"),
            (dos, "dos"),
            (gpt, "gpt"),
            (lvm, "LVM2_member"),
            (luks, "crypto_LUKS"),
            (raid, "linux_raid_member"),
            (swap, "swap"),
        ],
        quick=2,
    ),
)
def test_signatures_are_refused(
    cli: Callable[..., Outcome],
    trace: Path,
    loop_device: Callable[..., Path],
    make: Callable[[Path], None],
    kind: str,
) -> None:
    """Though the device may be destroyed: its signature has a name, and that wasn't named."""
    loop = loop_device(SIZE, make)
    for words in ((), ("--allow-signature", "xfs")):
        error = refused(cli, trace, loop, "--allow-destroy", loop, *words)
        assert "has a file system, partition table or other signature" in error
        assert f"--allow-signature {kind}" in error


@pytest.mark.slow
def test_populating_for_a_decode_only_trace_needs_permission(
    cli: Callable[..., Outcome], decode_only: Path, loop_device: Callable[..., Path]
) -> None:
    """The trace reads and the run would write: refused without --allow-destroy, and told how."""
    loop = loop_device(SIZE)
    for words in ((), ("--populate", "all"), ("--allow-destroy", "/dev/sda")):
        error = refused(cli, decode_only, loop, *words)
        assert "everything on it would be destroyed" in error
        assert f"--allow-destroy {loop}" in error
    accept = ("--accept", "unwritten", "--accept", "host_lateness", "--accept", "device_shared")
    before = digest(loop)
    read_only = cli("replay", decode_only, "--device", loop, *QUICK, "--populate", "none", *accept)
    assert read_only.code == 0
    assert digest(loop) == before
    allowed = ("--allow-destroy", loop, *accept)
    assert cli("replay", decode_only, "--device", loop, *QUICK, *allowed).code == 0
    assert digest(loop) != before


def must(*command: object) -> None:
    """Run a command; skip if it can't be done here."""
    words = [str(word) for word in command]
    if shutil.which(words[0]) is None:
        pytest.skip(f"no {words[0]} here")
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"{words[0]}: {done.stderr.strip()}")


def test_a_mounted_device_is_refused(
    cli: Callable[..., Outcome],
    trace: Path,
    loop_device: Callable[..., Path],
    tmp_path: Path,
    undo: ExitStack,
) -> None:
    """Whatever was allowed, and where it is mounted is said, spaces and all."""
    loop, point = loop_device(SIZE), tmp_path / "mount point"
    point.mkdir()
    must("mkfs.ext4", "-q", loop)
    must("mount", "-o", "ro", loop, point)
    undo.callback(subprocess.run, ["umount", str(point)], check=True)
    error = refused(cli, trace, loop, "--allow-destroy", loop, "--allow-signature", "ext4")
    assert "is mounted" in error
    assert f"got {point}" in error


def test_a_device_that_is_swapped_to_is_refused(
    cli: Callable[..., Outcome], trace: Path, loop_device: Callable[..., Path], undo: ExitStack
) -> None:
    """The kernel's own list counts, whatever was allowed."""
    loop = loop_device(SIZE)
    must("mkswap", loop)
    must("swapon", loop)
    undo.callback(subprocess.run, ["swapoff", str(loop)], check=True)
    error = refused(cli, trace, loop, "--allow-destroy", loop, "--allow-signature", "swap")
    assert "is swap" in error


@pytest.mark.slow
def test_a_device_that_others_hold_is_refused(
    cli: Callable[..., Outcome], trace: Path, loop_device: Callable[..., Path], undo: ExitStack
) -> None:
    """Who has it open for himself keeps it; the message says what to look at."""
    loop = loop_device(SIZE)
    claim = os.open(loop, os.O_RDWR | os.O_EXCL)
    undo.callback(os.close, claim)
    error = refused(cli, trace, loop, "--allow-destroy", loop)
    assert "busy" in error
    assert "lsblk" in error


def test_a_read_only_device_stays_as_it_is(
    cli: Callable[..., Outcome], trace: Path, loop_device: Callable[..., Path]
) -> None:
    """Allowed or not."""
    loop = loop_device(SIZE, read_only=True)
    assert "is read-only" in refused(cli, trace, loop, "--allow-destroy", loop)


def test_a_link_to_a_device_is_that_device(
    cli: Callable[..., Outcome], trace: Path, loop_device: Callable[..., Path], tmp_path: Path
) -> None:
    """By-id names are links: the same checks, and the identity isn't the link's name."""
    loop, link = loop_device(SIZE, ext4), tmp_path / "by-id"
    link.symlink_to(loop)
    before = digest(loop)
    outcome = cli("replay", trace, "--device", link, *QUICK, "--allow-destroy", loop)
    assert outcome.code == 4
    assert "ext4" in outcome.error
    assert digest(loop) == before


@pytest.mark.slow
def test_files_that_are_not_ours_alone_are_refused(
    cli: Callable[..., Outcome], trace: Path, direct_path: Path, undo: ExitStack
) -> None:
    """A link, a file of two names, one that is swapped to: by path, and unchanged."""
    ours = direct_path / "ours"
    accept = ("--accept", "host_lateness", "--accept", "device_shared")
    assert cli("replay", trace, "--device", ours, *QUICK, *accept).code == 0
    link, second, swapped = (direct_path / name for name in ("link", "second", "swap file"))
    link.symlink_to(ours)
    refused_file(cli, trace, link, "is a symbolic link")
    os.link(ours, second)
    refused_file(cli, trace, ours, "has several hard links")
    second.unlink()
    swapped.write_bytes(bytes(SIZE))
    swapped.chmod(0o600)
    must("mkswap", swapped)
    must("swapon", swapped)
    undo.callback(subprocess.run, ["swapoff", str(swapped)], check=True)
    refused_file(cli, trace, swapped, "is swap")


def refused_file(cli: Callable[..., Outcome], trace: Path, path: Path, why: str) -> None:
    """Replay and expect a refusal that names the file; its bytes stay."""
    before = digest(path)
    outcome = cli("replay", trace, "--device", path, *QUICK)
    assert outcome.code == 4
    assert f"{path}: {why}" in outcome.error
    assert digest(path) == before
