"""Loop devices, partitions, mounts and processes that hold them; all gone again at the end."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
import xxhash

from tests.support.loops import attach, detach, drop_partition, tool

MIB = 1 << 20


def digest(path: Path) -> str:
    """Return a digest of a file or device: nobody forges it here, and sha256 takes its time."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, xxhash.xxh3_128).hexdigest()


def try_tool(*words: object) -> None:
    """Run a program; what it thinks of it doesn't matter."""
    subprocess.run([*map(str, words)], capture_output=True, check=False)


class Disks:
    """Makes devices in `folder`. As a context manager it takes them all down again."""

    def __init__(self, folder: Path) -> None:
        if os.geteuid() != 0:
            pytest.skip("loop devices need root")
        self.folder = folder
        self._undo = ExitStack()
        self._count = 0

    def __enter__(self) -> Disks:
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.close()

    def image(self, size: int = 64 * MIB) -> Path:
        """Return a new file of zeros."""
        path = self.folder / f"image{self._count}"
        self._count += 1
        with path.open("wb") as file:
            file.truncate(size)
        return path

    def loop(self, backing: Path, *options: object) -> Path:
        """Return a loop device over a file or device."""
        device = attach(backing, *options)
        self._undo.callback(detach, device, backing)
        return device

    def ext4(self, device: Path) -> None:
        """Make a file system with a file in it."""
        tool("mkfs.ext4", "-q", "-F", device)

    def mount(self, device: Path) -> Path:
        """Mount a device, read-only so that its bytes stay as they are; return where."""
        point = self.folder / f"point{self._count}"
        self._count += 1
        point.mkdir()
        tool("mount", "--options", "ro", device, point)
        self._undo.callback(try_tool, "umount", point)
        return point

    def partition(self, disk: Path, number: int, start_sector: int, sectors: int) -> Path:
        """Tell the kernel of a partition, without a table; return its device."""
        tool("addpart", disk, number, start_sector, sectors)
        self._undo.callback(drop_partition, disk, number)
        return Path(f"{disk}p{number}")

    def overlay(self) -> tuple[Path, Path]:
        """Return the upper and the merged folder of a mounted overlay."""
        lower, upper, work, merged = (self.folder / name for name in ("lo", "up", "wk", "mg"))
        for folder in (lower, upper, work, merged):
            folder.mkdir()
        options = f"lowerdir={lower},upperdir={upper},workdir={work}"
        tool("mount", "-t", "overlay", "-o", options, "none", merged)
        self._undo.callback(try_tool, "umount", merged)
        return upper, merged

    def held_open(self, path: Path, mode: str = "r+b") -> subprocess.Popen[str]:
        """Return a process that has a file or device open."""
        code = f"f = open({str(path)!r}, {mode!r}, buffering=0); print(flush=True); input()"
        return self._process([sys.executable, "-c", code])

    def mapped(self, path: Path) -> subprocess.Popen[str]:
        """Return a process that has a device mapped for writing, and its descriptor closed."""
        code = (
            "import mmap, os\n"
            f"file = os.open({str(path)!r}, os.O_RDWR)\n"
            "there = mmap.mmap(file, 1 << 20)\n"
            "os.closerange(3, 64)\n"
            "print(flush=True); input()"
        )
        return self._process([sys.executable, "-c", code])

    def mounted_elsewhere(self, device: Path) -> subprocess.Popen[str]:
        """Return a process with a mount namespace of its own in which a device is mounted."""
        point = self.folder / "elsewhere"
        point.mkdir()
        script = f"mount --make-rprivate / && mount -o ro {device} {point} && echo && read line"
        return self._process(["unshare", "--mount", "sh", "-c", script])

    def _process(self, words: list[str]) -> subprocess.Popen[str]:
        """Start a process that prints a line once it is ready, and ends when its input does."""
        process = subprocess.Popen(words, stdin=-1, stdout=-1, stderr=-1, text=True)
        self._undo.callback(process.communicate, "\n")
        assert process.stdout is not None
        if process.stdout.readline() != "\n":
            pytest.skip(f"{words[0]} can't do that here")
        return process
