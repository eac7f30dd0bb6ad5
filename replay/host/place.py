"""Kind of a replay target's path: a device, an existing or new file, or a directory."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kvtrace.errors import TargetError
from replay.device import mounts
from replay.device import sysfs as device
from replay.host import beneath
from replay.host.beneath import NOTHING, Beneath
from replay.host.disks import Disk, FileSystem, direct_io, observe_disk, observe_file_system
from replay.safety import consent, preflight, signatures

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Place:
    """A path, and what is below it; None where there is no such thing.

    `disk`: the device itself, or the one that the file system is on. `refused`: why the path can't
    be a target, in the words of the replay; empty where it can, as far as can be seen from here.
    `needs`: what the replay will want to be told before it overwrites a device; or empty.
    """

    path: str
    kind: str
    disk: Disk | None
    file_system: FileSystem | None
    refused: str
    needs: str
    beneath: Beneath = NOTHING


def observe(path: Path) -> tuple[Place, Path | None]:
    """Return what `path` is, and the sysfs directory of the device whose I/O it becomes."""
    if path.is_block_device():
        return _of_device(path)
    folder = path if path.is_dir() else path.parent
    refused = "" if path.is_dir() else _refused(path)
    if not folder.is_dir():
        return Place(str(path), "file", None, None, refused, ""), None
    sysfs = device.sysfs_of(folder.stat().st_dev)
    mount = mounts.mount_of(folder)
    file_system = None if mount is None else observe_file_system(mount)
    if file_system is not None and not refused:
        refused = _refused_folder(folder, file_system)
    disk = None if sysfs is None else observe_disk(device.disk_of(sysfs))
    kind = "folder" if path.is_dir() else "file"
    below = beneath.observe(sysfs, folder)
    return Place(str(path), kind, disk, file_system, refused, "", below), sysfs


def _refused(path: Path) -> str:
    try:
        preflight.check_file(preflight.look(path))
    except TargetError as error:
        return str(error)
    return ""


def _refused_folder(folder: Path, file_system: FileSystem) -> str:
    if direct_io(folder) is False:
        return f"no direct I/O (O_DIRECT) on {file_system.type}"
    if not os.access(folder, os.W_OK):
        return "the folder isn't writable"
    return ""


def _of_device(path: Path) -> tuple[Place, Path | None]:
    sysfs = device.sysfs_of(path.stat().st_rdev)
    if sysfs is None:
        return Place(str(path), "device", None, None, "the kernel has no such device", ""), None
    disk, below = observe_disk(sysfs), beneath.observe(sysfs, path)
    try:
        facts = preflight.look(path)
        consent.check_read_only(facts)
        consent.check_unused(facts)
        needs = f"--allow-destroy {disk.allow_destroy}{_signed(facts)}"
    except TargetError as error:
        return Place(str(path), "device", disk, None, str(error), "", below), sysfs
    return Place(str(path), "device", disk, None, "", needs, below), sysfs


def _signed(facts: preflight.FileFacts) -> str:
    """Return the options that name what is on a device."""
    descriptor = preflight.open_direct(facts.path, os.O_RDONLY, facts.title)
    try:
        data = signatures.sample(descriptor, facts.title)
        named = consent.to_name(facts, descriptor, data, facts.size_bytes)
    finally:
        os.close(descriptor)
    return "".join(f" --allow-signature {each.name}" for each in named)
