"""The tests' loop devices leave nothing behind that a later test would meet."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from tests.support import loops

if TYPE_CHECKING:
    import pytest

    from tests.support.disks import Disks


def test_a_partition_that_somebody_looks_at_is_dropped_once_they_are_done(disks: Disks) -> None:
    """The kernel refuses while it is open: it would stay for whoever gets the device next."""
    disk = disks.loop(disks.image())
    partition = disks.partition(disk, 1, 2048, 65536)
    assert loops.partitions(disk) == [1]
    file = partition.open("rb")
    closing = threading.Timer(0.3, file.close)
    closing.start()
    loops.drop_partition(disk, 1)
    closing.join()
    assert loops.partitions(disk) == []


def test_a_device_is_attached_without_an_earlier_ones_partitions(disks: Disks) -> None:
    """The kernel keeps those that were added by hand, and shows them on whatever comes next."""
    image = disks.image()
    disk = disks.loop(image)
    disks.partition(disk, 1, 2048, 65536)
    loops.detach(disk, image)
    loops.tool("losetup", disk, disks.image())
    assert loops.partitions(disk) == [1]
    loops.forget_partitions(disk)
    assert loops.partitions(disk) == []


def test_a_device_that_another_test_has_by_now_is_left_to_it(
    disks: Disks, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A test that detached its device itself doesn't detach whose it is then."""
    mine = disks.image()
    disk = disks.loop(mine)
    loops.detach(disk, mine)
    other = tmp_path_factory.mktemp("other") / "image"
    other.write_bytes(bytes(1 << 20))
    loops.tool("losetup", disk, other)
    loops.detach(disk, mine)
    size = (loops.BLOCKS / disk.name / "size").read_text()
    loops.detach(disk, other)
    assert int(size) == 2048
