"""Block devices in sysfs: identity, users, limits, counters."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from replay.device import nvme_cli, smart
from replay.device.smart import Smart

if TYPE_CHECKING:
    from collections.abc import Callable

_SYSFS = Path("/sys/dev/block")
_BY_ID = Path("/dev/disk/by-id")
_SECTOR_BYTES = 512
_QUEUE = (
    "scheduler",
    "nr_requests",
    "max_sectors_kb",
    "max_segments",
    "logical_block_size",
    "physical_block_size",
    "minimum_io_size",
    "rotational",
    "write_cache",
    "nomerges",
)


def read_text(path: Path) -> str | None:
    """Return the text of a small file, stripped; None if it can't be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None


def sysfs_of(number: int) -> Path | None:
    """Return the sysfs directory of the block device with that number; None if there is none."""
    link = _SYSFS / f"{os.major(number)}:{os.minor(number)}"
    return link.resolve() if link.exists() else None


def disk_of(sysfs: Path) -> Path:
    """Return the directory of the whole disk: its parent's if `sysfs` is a partition."""
    return sysfs.parent if (sysfs / "partition").exists() else sysfs


def lowest_disks(sysfs: Path) -> tuple[Path, ...]:
    """Return the whole disks that a device is, or in the end is built on."""
    below = sorted((sysfs / "slaves").glob("*"))
    if not below:
        return (disk_of(sysfs),)
    disks = [disk for each in below for disk in lowest_disks(each.resolve())]
    return tuple(dict.fromkeys(disks))


def size_bytes(sysfs: Path) -> int:
    """Return the device's size."""
    return int(read_text(sysfs / "size") or 0) * _SECTOR_BYTES


def model(sysfs: Path) -> str:
    """Return the model's name, or what kind of device it is."""
    disk = disk_of(sysfs)
    backing = read_text(disk / "loop/backing_file")
    if backing is not None:
        return f"loop device over {backing}"
    vendor = read_text(disk / "device/vendor")
    name = read_text(disk / "device/model")
    if name is None:
        return disk.name
    return name if vendor is None or vendor.startswith("0x") else f"{vendor} {name}"


def identities(sysfs: Path) -> tuple[str, ...]:
    """Return serial, WWN and by-id names; of a partition the by-id names only."""
    names: list[str] = []
    if not (sysfs / "partition").exists():
        for name in ("serial", "device/serial", "wwid", "device/wwid"):
            text = read_text(sysfs / name)
            if text and text not in names:
                names.append(text)
    number = read_text(sysfs / "dev")
    if _BY_ID.is_dir() and number:
        names += [link.name for link in sorted(_BY_ID.iterdir()) if _number(link) == number]
    return tuple(names)


def _number(path: Path) -> str | None:
    try:
        number = path.stat().st_rdev
    except OSError:
        return None
    return f"{os.major(number)}:{os.minor(number)}"


def partitions(sysfs: Path) -> tuple[Path, ...]:
    """Return the directories of the device's partitions."""
    return tuple(sorted(part.parent for part in sysfs.glob("*/partition")))


def holders(sysfs: Path) -> tuple[str, ...]:
    """Return the devices that are built on this one or on a partition of it."""
    names: list[str] = []
    for part in (sysfs, *partitions(sysfs)):
        if (part / "holders").is_dir():
            names += sorted(entry.name for entry in (part / "holders").iterdir())
    return tuple(names)


def queue_limits(sysfs: Path) -> dict[str, str]:
    """Return the scheduler and the limits of the device's queue, as sysfs words them."""
    queue = disk_of(sysfs) / "queue"
    limits = {name: read_text(queue / name) for name in _QUEUE}
    return {name: text for name, text in limits.items() if text is not None}


@dataclass(frozen=True, slots=True)
class DiskStat:
    """A device's counters. Source: Documentation/block/stat.rst of Linux."""

    read_ios: int
    read_merges: int
    read_bytes: int
    read_ms: int
    write_ios: int
    write_merges: int
    write_bytes: int
    write_ms: int

    def since(self, before: DiskStat) -> DiskStat:
        """Return what happened after `before`."""
        return DiskStat(
            *(getattr(self, name) - getattr(before, name) for name in DiskStat.__slots__)
        )


def stat(sysfs: Path | None) -> DiskStat | None:
    """Return the counters of a device or partition; None where there are none."""
    text = read_text(sysfs / "stat") if sysfs is not None else None
    if not text:
        return None
    words = [int(word) for word in text.split()]
    return DiskStat(
        words[0],
        words[1],
        words[2] * _SECTOR_BYTES,
        words[3],
        words[4],
        words[5],
        words[6] * _SECTOR_BYTES,
        words[7],
    )


@dataclass(frozen=True, slots=True)
class Temperature:
    """A drive's sensor and the limits it has, in °C."""

    now_c: float
    warning_c: float | None
    critical_c: float | None


@dataclass(frozen=True, slots=True)
class Link:
    """How a drive is connected, as the kernel words it: now, and at best."""

    speed: str | None
    speed_max: str | None
    width: int | None
    width_max: int | None

    @property
    def reduced(self) -> bool:
        """Whether it is slower or narrower than it could be."""
        slower = None not in (self.speed, self.speed_max) and self.speed != self.speed_max
        return slower or (self.width or 0) < (self.width_max or 0)


@dataclass(frozen=True, slots=True)
class DeviceState:
    """What can be read of a drive before and after a run; None is unknown."""

    model: str
    serial_known: bool
    firmware: str | None
    state: str | None
    logical_block_bytes: int | None
    physical_block_bytes: int | None
    write_cache: str | None
    numa_node: int | None
    link: Link | None
    temperature: Temperature | None
    smart: Smart | None

    def since(self, before: DeviceState) -> DeviceChange:
        """Return what happened after `before`."""
        return DeviceChange(
            temperature_c=_both(before._celsius(), self._celsius()),
            throttled=self._throttled(before),
            media_errors=self._grown(before, "media_errors"),
            unsafe_shutdowns=self._grown(before, "unsafe_shutdowns"),
            used_percent=self._grown(before, "used_percent"),
            host_read_bytes=self._grown(before, "read_bytes"),
            host_written_bytes=self._grown(before, "written_bytes"),
            nand_written_bytes=self._grown(before, "nand_written_bytes"),
        )

    def _celsius(self) -> float | None:
        if self.temperature is not None:
            return self.temperature.now_c
        return None if self.smart is None else float(self.smart.temperature_c)

    def _grown(self, before: DeviceState, name: str) -> int | None:
        first, last = getattr(before.smart, name, None), getattr(self.smart, name, None)
        return None if first is None or last is None else last - first

    def _throttled(self, before: DeviceState) -> bool | None:
        signs = [self._grown(before, name) for name in ("thermal_throttles", "warm_minutes")]
        known = [bool(sign) for sign in signs if sign is not None]
        known += [
            at.now_c >= at.warning_c
            for at in (before.temperature, self.temperature)
            if at is not None and at.warning_c is not None
        ]
        return any(known) if known else None


@dataclass(frozen=True, slots=True)
class DeviceChange:
    """What happened to a drive between two looks at it; None is unknown."""

    temperature_c: tuple[float, float] | None
    """Before and after."""
    throttled: bool | None
    """Whether it throttled thermally, or was above its warning temperature."""
    media_errors: int | None
    unsafe_shutdowns: int | None
    used_percent: int | None
    host_read_bytes: int | None
    host_written_bytes: int | None
    """To the nearest 512,000 bytes."""
    nand_written_bytes: int | None

    @property
    def write_amplification(self) -> float | None:
        """Bytes that reached the flash ÷ bytes that the host wrote."""
        if self.nand_written_bytes is None or not self.host_written_bytes:
            return None
        return self.nand_written_bytes / self.host_written_bytes


def _both(first: float | None, last: float | None) -> tuple[float, float] | None:
    return None if first is None or last is None else (first, last)


def state(
    sysfs: Path,
    read_log: Callable[[Path, int], bytes | None] = smart.read_log,
    ask: nvme_cli.Ask = nvme_cli.ask,
) -> DeviceState:
    """Return what can be read of the disk that `sysfs` is, or is a partition of."""
    disk = disk_of(sysfs)
    controller = _controller(disk)
    home = controller or disk / "device"
    pci = _first_with(home, "current_link_speed") or _first_with(disk, "current_link_speed")
    numbers = [home, pci, _first_with(disk, "numa_node")]
    nodes = [_integer(place / "numa_node") for place in numbers if place is not None]
    return DeviceState(
        model=model(sysfs),
        serial_known=any(read_text(place / "serial") for place in (disk, home)),
        firmware=read_text(home / "firmware_rev") or read_text(home / "rev"),
        state=read_text(home / "state"),
        logical_block_bytes=_integer(disk / "queue/logical_block_size"),
        physical_block_bytes=_integer(disk / "queue/physical_block_size"),
        write_cache=read_text(disk / "queue/write_cache"),
        numa_node=next((node for node in nodes if node is not None and node >= 0), None),
        link=None if pci is None else _link(pci),
        temperature=_temperature(home),
        smart=None if controller is None else _smart(controller, model(sysfs), read_log, ask),
    )


def _integer(path: Path) -> int | None:
    text = read_text(path)
    return int(text) if text and text.lstrip("-").isdigit() else None


def _controller(disk: Path) -> Path | None:
    """Return the directory of the NVMe controller: above the disk, or beside it (multipath)."""
    name = re.compile(r"nvme\d+")
    beside = sorted(disk.parent.glob("nvme[0-9]*"))
    for place in (*disk.parents, *beside):
        if name.fullmatch(place.name):
            return place.resolve()
    return None


def _first_with(place: Path, name: str) -> Path | None:
    """Return the nearest directory, from `place` upwards, that has a file of that name."""
    real = place.resolve()
    return next((at for at in (real, *real.parents) if (at / name).exists()), None)


def _link(pci: Path) -> Link:
    return Link(
        read_text(pci / "current_link_speed"),
        read_text(pci / "max_link_speed"),
        _integer(pci / "current_link_width"),
        _integer(pci / "max_link_width"),
    )


def _temperature(home: Path) -> Temperature | None:
    for monitor in (*sorted(home.glob("hwmon[0-9]*")), *sorted(home.glob("hwmon/hwmon[0-9]*"))):
        values = [_integer(monitor / f"temp1_{name}") for name in ("input", "max", "crit")]
        now, warning, critical = (None if v is None else v / 1000 for v in values)
        if now is not None:
            return Temperature(now, warning, critical)
    return None


def _smart(
    controller: Path, name: str, read_log: Callable[[Path, int], bytes | None], ask: nvme_cli.Ask
) -> Smart | None:
    path = Path("/dev") / controller.name
    page = read_log(path, smart.HEALTH_LOG)
    known = None if page is None else smart.parse(page, read_log(path, smart.OCP_LOG))
    return nvme_cli.complete(known, path, name, ask)
