"""Machines and places made up: one on which nothing is wrong, and what differs from it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from kvtrace.units import GIB
from replay.host.activity import Activity
from replay.host.disks import Disk, FileSystem
from replay.host.doctor import Snapshot
from replay.host.machine import Machine
from replay.host.numa import Node
from replay.host.place import Place

MACHINE = Machine(
    cpu_model="Fast CPU",
    cpus=32,
    nodes=(Node(0, tuple(range(16)), 128 * GIB), Node(1, tuple(range(16, 32)), 128 * GIB)),
    memory_bytes=256 * GIB,
    available_bytes=200 * GIB,
    swap_bytes=8 * GIB,
    swap_used_bytes=0,
    memlock_bytes=None,
    root=False,
    huge_page_bytes=2 << 20,
    huge_pages=0,
    huge_pages_free=0,
    transparent_huge_pages="madvise",
    governors=("performance",),
    clocksource="tsc",
    no_uring=None,
    hypervisor=False,
)
ACTIVITY = Activity(2.0, 0.1, 0.0, 0.0, 0.0)
DISK = Disk(
    name="nvme0n1",
    model="Fast SSD 3",
    size_bytes=4000 * GIB,
    logical_block_bytes=512,
    physical_block_bytes=4096,
    scheduler="none",
    rotational=False,
    read_only=False,
    mounts=(),
    holders=(),
    partitions=(),
    swap=False,
    identities=("S123", "eui.0123"),
    signatures=(),
    loop_direct=None,
    numa_node=1,
)
FILE_SYSTEM = FileSystem("/data", "xfs", "nvme0n1", 4000 * GIB, 3000 * GIB, True, True)
PLACE = Place("/data/new", "file", DISK, FILE_SYSTEM, "", "")


def machine(**fields: Any) -> Machine:
    """Return the machine with other fields."""
    return replace(MACHINE, **fields)


def disk(**fields: Any) -> Disk:
    """Return the disk with other fields."""
    return replace(DISK, **fields)


def file_system(**fields: Any) -> FileSystem:
    """Return the file system with other fields."""
    return replace(FILE_SYSTEM, **fields)


def of_machine(**fields: Any) -> Snapshot:
    """Return a snapshot of such a machine."""
    return Snapshot(machine(**fields), ACTIVITY, PLACE)


def of_activity(**fields: Any) -> Snapshot:
    """Return a snapshot with such activity of others."""
    return Snapshot(MACHINE, replace(ACTIVITY, **fields), PLACE)


def of_place(**fields: Any) -> Snapshot:
    """Return a snapshot of such a place."""
    return Snapshot(MACHINE, ACTIVITY, replace(PLACE, **fields))
