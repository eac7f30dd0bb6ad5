"""What a drive says of itself, from a tree of files and pages made by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from replay.device import nvme_cli, smart
from replay.device import sysfs as device
from tests.support.sysfs import CONTROLLER, PCI, QUEUE, page, write

UNIT = 512_000


def ocp_page(nand_bytes: int) -> bytes:
    """Return an OCP extended health log."""
    guid = bytes.fromhex("c5af1028eabff2a49c4f6f7cc914d5af")
    return nand_bytes.to_bytes(16, "little") + bytes(480) + guid


def test_a_health_log_is_parsed() -> None:
    """Every field is where the specification has it; units are 1,000 sectors of 512 bytes."""
    found = smart.parse(page(media_errors=2, throttles=5, warm_minutes=4))
    assert found == smart.Smart(
        critical_warning=0b100,
        temperature_c=40,
        available_spare_percent=100,
        used_percent=3,
        read_bytes=2**70 * UNIT,
        written_bytes=1000 * UNIT,
        unsafe_shutdowns=7,
        media_errors=2,
        warm_minutes=4,
        thermal_throttles=5,
    )


def test_what_is_no_health_log_is_unknown() -> None:
    """An empty or short page says nothing; another vendor's page has no NAND bytes."""
    assert smart.parse(bytes(512)) is None
    assert smart.parse(page()[:100]) is None
    other = smart.parse(page(), bytes(512))
    assert other is not None
    assert other.nand_written_bytes is None
    known = smart.parse(page(), ocp_page(12345))
    assert known is not None
    assert known.nand_written_bytes == 12345


def test_a_log_that_cannot_be_had_is_unknown(tmp_path: Path) -> None:
    """No such controller, or no controller at all: None, no error."""
    assert smart.read_log(tmp_path / "nvme0", smart.HEALTH_LOG) is None
    (tmp_path / "file").write_bytes(b"")
    assert smart.read_log(tmp_path / "file", smart.HEALTH_LOG) is None


@pytest.fixture
def nvme(tmp_path: Path) -> Path:
    """An NVMe drive's directory."""
    pci = write(tmp_path / "pci0000:00/0000:01:00.0", PCI)
    controller = write(pci / "nvme/nvme3", CONTROLLER)
    disk = write(controller / "nvme3n1", QUEUE)
    (disk / "device").symlink_to(controller)
    return disk


def test_all_that_a_drive_says_is_read(nvme: Path) -> None:
    """Firmware, link, temperature with its limits, caches, blocks, NUMA node, health."""
    asked: list[tuple[Path, int]] = []

    def read_log(path: Path, log: int) -> bytes | None:
        asked.append((path, log))
        return page() if log == smart.HEALTH_LOG else None

    found = device.state(nvme, read_log, nvme_cli.ask_nobody)
    assert asked == [(Path("/dev/nvme3"), 0x02), (Path("/dev/nvme3"), 0xC0)]
    assert found.model == "Fast SSD 3"
    assert found.serial_known
    assert (found.firmware, found.state) == ("1.0.7", "live")
    assert (found.logical_block_bytes, found.physical_block_bytes) == (512, 4096)
    assert (found.write_cache, found.numa_node) == ("write back", 1)
    assert found.link == device.Link("16.0 GT/s PCIe", "32.0 GT/s PCIe", 4, 4)
    assert found.link.reduced
    assert found.temperature == device.Temperature(41.85, 81.85, 84.85)
    assert found.smart is not None


def test_a_partition_has_its_disks_state(nvme: Path) -> None:
    """What is asked of a partition is answered by the disk."""
    part = write(nvme / "nvme3n1p1", {"partition": 1})
    found = device.state(part, lambda *_: None, nvme_cli.ask_nobody)
    assert (found.firmware, found.logical_block_bytes) == ("1.0.7", 512)
    assert found.smart is None


def test_a_drive_with_several_paths_has_its_first_controllers_state(tmp_path: Path) -> None:
    """With multipath the disk lies below its subsystem, and the controllers beside it."""
    pci = write(tmp_path / "0000:02:00.0", PCI)
    controller = write(pci / "nvme/nvme0", CONTROLLER)
    disk = write(tmp_path / "virtual/nvme-subsys0/nvme0n1", QUEUE)
    (disk.parent / "nvme0").symlink_to(controller)
    (disk / "device").symlink_to(disk.parent)
    found = device.state(disk, lambda *_: page(), nvme_cli.ask_nobody)
    assert (found.firmware, found.numa_node) == ("1.0.7", 1)
    assert found.link is not None
    assert found.temperature is not None
    assert found.smart is not None


def test_a_scsi_disk_names_its_revision_and_its_monitor(tmp_path: Path) -> None:
    """Other drives have other names for the same; they have no NVMe log and aren't asked."""
    home = write(
        tmp_path / "host0/0:0:0:0",
        {"rev": "B7", "state": "running", "model": "Disk", "hwmon/hwmon1/temp1_input": 30000},
    )
    disk = write(home / "block/sda", QUEUE)
    (disk / "device").symlink_to(home)

    def never(path: Path, log: int) -> bytes | None:
        raise AssertionError

    found = device.state(disk, never)
    assert (found.firmware, found.state) == ("B7", "running")
    assert found.temperature == device.Temperature(30, None, None)


def test_what_is_missing_is_unknown(tmp_path: Path) -> None:
    """A device that says nothing is no error, and nor is the difference of two such looks."""
    disk = tmp_path / "loop7"
    disk.mkdir()
    found = device.state(disk)
    assert found.model == "loop7"
    assert not found.serial_known
    unknown = (found.firmware, found.state, found.logical_block_bytes, found.write_cache)
    assert unknown == (None,) * 4
    assert (found.link, found.temperature, found.smart) == (None,) * 3
    change = found.since(found)
    assert (change.throttled, change.media_errors, change.temperature_c) == (None,) * 3
    assert change.write_amplification is None


def looks(nvme: Path, *pages: tuple[bytes, bytes | None]) -> device.DeviceChange:
    """Return the change between two looks at a drive with these logs."""
    before, after = (
        device.state(
            nvme, lambda _, log, pair=pair: pair[log == smart.OCP_LOG], nvme_cli.ask_nobody
        )
        for pair in pages
    )
    return after.since(before)


def test_a_runs_wear_is_the_difference(nvme: Path) -> None:
    """Errors, wear and bytes are those of the run; flash ÷ host bytes is write amplification."""
    before = (page(written_units=1000, used=3), ocp_page(10 * UNIT))
    after = (page(written_units=3000, used=4, media_errors=1), ocp_page(10 * UNIT + 5000 * UNIT))
    found = looks(nvme, before, after)
    assert (found.media_errors, found.used_percent, found.unsafe_shutdowns) == (1, 1, 0)
    assert found.host_written_bytes == 2000 * UNIT
    assert found.write_amplification == 2.5
    assert found.temperature_c == (41.85, 41.85)
    assert found.throttled is False


def test_write_amplification_is_unknown_without_flash_bytes(nvme: Path) -> None:
    """A drive that doesn't say what reached its flash, or that wrote nothing, has no ratio."""
    assert looks(nvme, (page(), None), (page(written_units=2000), None)).write_amplification is None
    same = (page(), ocp_page(1))
    assert looks(nvme, same, same).write_amplification is None


@pytest.mark.parametrize("sign", [{"throttles": 1}, {"warm_minutes": 1}])
def test_throttling_shows_in_the_counters(nvme: Path, sign: dict[str, int]) -> None:
    """One more transition, or a minute above the warning temperature."""
    assert looks(nvme, (page(), None), (page(**sign), None)).throttled is True


def test_a_drive_above_its_warning_temperature_is_throttled(nvme: Path) -> None:
    """Where there are no counters, the sensor and its limit say so."""
    before = device.state(nvme, lambda *_: None, nvme_cli.ask_nobody)
    write(nvme.parent, {"hwmon4/temp1_input": 82000})
    after = device.state(nvme, lambda *_: None, nvme_cli.ask_nobody)
    assert after.since(before).throttled is True
    assert before.since(before).throttled is False
