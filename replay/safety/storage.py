"""Block devices that share storage, as byte ranges of the devices below."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from replay.device import mounts
from replay.device import sysfs as device
from replay.safety.identity import loop_backing

_BLOCK = Path("/sys/class/block")
_SECTOR_BYTES = 512
_EVERYTHING = 1 << 63
_DEPTH_MAX = 16

Base = tuple[str | int, ...]
"""Owner of bytes: ("device", number), ("file", device, inode) or ("drive", WWID)."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A range of bytes of one base."""

    base: Base
    begin_bytes: int
    end_bytes: int

    def overlaps(self, other: Piece) -> bool:
        """Whether both have a byte in common."""
        return (
            self.base == other.base
            and self.begin_bytes < other.end_bytes
            and other.begin_bytes < self.end_bytes
        )


class Relation(StrEnum):
    """How a device with common bytes stands to the one that was asked about."""

    BELOW = "below"
    PARTITION = "partition"
    SAME_DRIVE = "same drive"
    OVER = "over"


@dataclass(frozen=True, slots=True)
class Relative:
    """A device that has bytes in common with another."""

    sysfs: Path
    relation: Relation

    @property
    def path(self) -> str:
        """Its name under /dev."""
        return f"/dev/{self.sysfs.name}"


def number_of(sysfs: Path) -> int:
    """Return the device number of a sysfs directory; 0 if it has none (hidden paths of NVMe)."""
    major, _, minor = (device.read_text(sysfs / "dev") or "").partition(":")
    return os.makedev(int(major), int(minor)) if major.isdigit() and minor.isdigit() else 0


def file_bases(name: Path, file: tuple[int, int]) -> tuple[Base, ...]:
    """Return the bases of a regular file: its own, and that of the file below an overlay."""
    bases: list[Base] = [("file", *file)]
    upper = mounts.upper_of(name)
    if upper is not None and upper.exists():
        status = upper.stat()
        bases.append(("file", status.st_dev, status.st_ino))
    return tuple(bases)


def pieces(sysfs: Path) -> tuple[Piece, ...]:
    """Return every range that a device takes: its own, and those of all that it is built on."""
    return _pieces(sysfs, 0, device.size_bytes(sysfs) or _EVERYTHING, 0)


def _pieces(sysfs: Path, begin: int, end: int, depth: int) -> tuple[Piece, ...]:
    own = Piece(("device", number_of(sysfs)), begin, end)
    if depth > _DEPTH_MAX:
        return (own,)
    below: tuple[Piece, ...] = ()
    if (sysfs / "partition").exists():
        start = int(device.read_text(sysfs / "start") or 0) * _SECTOR_BYTES
        below = _pieces(sysfs.parent, start + begin, start + end, depth + 1)
    elif (sysfs / "loop").is_dir():
        below = _of_loop(sysfs, begin, end, depth)
    elif any((sysfs / "slaves").glob("*")):
        below = _of_slaves(sysfs, depth)
    else:
        wwid = device.read_text(sysfs / "wwid") or device.read_text(sysfs / "device/wwid")
        if wwid:  # one drive that is reached by several paths has a device for each
            below = (Piece(("drive", wwid), begin, end),)
    return (own, *below)


def _of_loop(sysfs: Path, begin: int, end: int, depth: int) -> tuple[Piece, ...]:
    backing = loop_backing(sysfs)
    if backing is None:
        return ()
    if backing.device_number:
        lower = device.sysfs_of(backing.device_number)
        start = backing.offset_bytes
        return () if lower is None else _pieces(lower, start + begin, start + end, depth + 1)
    start = backing.offset_bytes
    low, high = start + begin, start + end
    if (begin, end) == (0, device.size_bytes(sysfs)):
        # All of the file, wherever the loop device begins in it: a file has one owner.
        low, high = 0, _EVERYTHING
    name = Path(device.read_text(sysfs / "loop/backing_file") or "")
    return tuple(Piece(base, low, high) for base in file_bases(name, backing.file))


def _of_slaves(sysfs: Path, depth: int) -> tuple[Piece, ...]:
    """Return what the devices below give to one; of a part of it, what they give to the whole."""
    slaves = {number_of(each): each.resolve() for each in (sysfs / "slaves").iterdir()}
    ranges = _mapped(sysfs)
    if ranges is None:
        ranges = dict.fromkeys(slaves, (0, _EVERYTHING))
    pieces: list[Piece] = []
    for number, (low, high) in ranges.items():
        if number in slaves:
            pieces += _pieces(slaves[number], low, high, depth + 1)
    return tuple(pieces)


def _mapped(sysfs: Path) -> dict[int, tuple[int, int]] | None:
    """Return, per lower device, the range that a device-mapper device takes; None if unknown."""
    name = device.read_text(sysfs / "dm/name")
    program = shutil.which("dmsetup", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if name is None or program is None:
        return None
    answer = subprocess.run(
        [program, "table", "--", name], capture_output=True, text=True, check=False
    )
    return parse_table(answer.stdout) if answer.returncode == 0 else None


def parse_table(text: str) -> dict[int, tuple[int, int]] | None:
    """Return the range of each lower device in a device-mapper table; None if one isn't known.

    Only targets that map linearly say which bytes they take. A thin volume's blocks are its pool's
    to hand out, as a file's are its file system's: it takes none of its own.
    Source: Documentation/admin-guide/device-mapper/{linear,dm-crypt,thin-provisioning}.rst.
    """
    ranges: dict[int, tuple[int, int]] = {}
    for line in text.splitlines():
        words = line.split()
        kind = words[2] if len(words) > 2 else ""
        if kind in ("zero", "error", "thin"):
            continue
        at = {"linear": 3, "crypt": 6}.get(kind)
        if at is None or len(words) < at + 2:
            return None
        major, _, minor = words[at].partition(":")
        numbers = (major, minor, words[1], words[at + 1])
        if not all(word.isdigit() for word in numbers):
            return None
        number = os.makedev(int(major), int(minor))
        begin = int(words[at + 1]) * _SECTOR_BYTES
        end = begin + int(words[1]) * _SECTOR_BYTES
        low, high = ranges.get(number, (begin, end))
        ranges[number] = (min(low, begin), max(high, end))
    return ranges


def relatives(sysfs: Path) -> tuple[Relative, ...]:
    """Return the other devices that have a byte in common with one."""
    mine = pieces(sysfs)
    below = {piece.base for piece in mine if piece.base[0] == "device"}
    own_number = number_of(sysfs)
    storages = []
    for other in _devices():
        number = number_of(other)
        if number == own_number:
            continue
        if ("device", number) in below:
            storages.append(Relative(other, Relation.BELOW))
        else:
            shared = _shared(mine, pieces(other))
            if shared:
                storages.append(Relative(other, _relation(other, shared)))
    return tuple(storages)


def _relation(other: Path, shared: set[Base]) -> Relation:
    if all(base[0] == "drive" for base in shared):
        return Relation.SAME_DRIVE
    return Relation.PARTITION if (other / "partition").exists() else Relation.OVER


def _shared(mine: tuple[Piece, ...], others: tuple[Piece, ...]) -> set[Base]:
    """Return the bases of which both have a byte in common."""
    return {piece.base for piece in mine for other in others if piece.overlaps(other)}


def below_loops(sysfs: Path) -> list[Path]:
    """Return the devices on which a loop device lies, and those on which they lie in turn."""
    backing = loop_backing(sysfs) if (sysfs / "loop").is_dir() else None
    if (sysfs / "partition").exists():
        return below_loops(sysfs.parent)
    lower = None if backing is None else device.sysfs_of(backing.device_number)
    return [] if lower is None else [lower, *below_loops(lower)]


def files_below(path: Path) -> list[Path]:
    """Return the files that a device lies on, by their names; none for what isn't a loop device."""
    try:
        status = path.stat()
    except OSError:
        return []
    sysfs = device.sysfs_of(status.st_rdev) if stat.S_ISBLK(status.st_mode) else None
    if sysfs is None:
        return []
    asked = [device.disk_of(each) for each in (sysfs, *below_loops(sysfs))]
    names = [device.read_text(each / "loop/backing_file") for each in asked]
    return [Path(name) for name in names if name]


def over_file(path: Path, file: tuple[int, int]) -> tuple[str, ...]:
    """Return the loop devices that are attached to a file."""
    wanted = set(file_bases(path, file))
    loops = [sysfs for sysfs in _devices() if (sysfs / "loop").is_dir()]
    return tuple(
        f"/dev/{sysfs.name}"
        for sysfs in loops
        if wanted & {piece.base for piece in _of_loop(sysfs, 0, device.size_bytes(sysfs), 0)}
    )


def _devices() -> tuple[Path, ...]:
    """Return the sysfs directories of all block devices."""
    if not _BLOCK.is_dir():
        return ()
    entries = [entry.resolve() for entry in sorted(_BLOCK.iterdir())]
    return tuple(sysfs for sysfs in entries if number_of(sysfs))
