"""Health of an NVMe drive: two log pages, read and parsed."""

from __future__ import annotations

import ctypes
import fcntl
import os
import struct
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

PAGE_BYTES = 512
HEALTH_LOG, OCP_LOG = 0x02, 0xC0
"""SMART / health information; the extended one of the OCP NVMe Cloud SSD specification."""
UNIT_BYTES = 512_000
KELVIN = 273
_ADMIN_CMD = 0xC0484E41  # Source: include/uapi/linux/nvme_ioctl.h, NVME_IOCTL_ADMIN_CMD
_COMMAND = struct.Struct("<BBHIIIQQII6III")
_GET_LOG_PAGE, _ALL_NAMESPACES, _TIMEOUT_MS = 0x02, 0xFFFFFFFF, 5_000
_OCP_GUID = bytes.fromhex("c5af1028eabff2a49c4f6f7cc914d5af")
_OCP_GUID_AT = 496


@dataclass(frozen=True, slots=True)
class Smart:
    """The health log. Counters count from the drive's first day.

    `nand_written_bytes` is what reached the flash, None where the drive doesn't say.
    """

    critical_warning: int
    temperature_c: int
    available_spare_percent: int
    used_percent: int
    read_bytes: int
    written_bytes: int
    unsafe_shutdowns: int
    media_errors: int
    warm_minutes: int
    """Above the warning or the critical temperature."""
    thermal_throttles: int
    """Thermal throttling events of the drive."""
    nand_written_bytes: int | None = None

    def with_nand(self, written_bytes: int | None) -> Smart:
        """Return the same with what reached the flash."""
        return replace(self, nand_written_bytes=written_bytes)


def _number(page: bytes, begin: int, count: int) -> int:
    return int.from_bytes(page[begin : begin + count], "little")


def parse(page: bytes, ocp_page: bytes | None = None) -> Smart | None:
    """Return what the pages say; None if the first isn't a health log that was filled in.

    Source: NVM Express Base Specification 2.0c, 5.16.1.3.
    """
    temperature_k = _number(page, 1, 2)
    if len(page) != PAGE_BYTES or temperature_k == 0:
        return None
    return Smart(
        critical_warning=page[0],
        temperature_c=temperature_k - KELVIN,
        available_spare_percent=page[3],
        used_percent=page[5],
        read_bytes=_number(page, 32, 16) * UNIT_BYTES,
        written_bytes=_number(page, 48, 16) * UNIT_BYTES,
        unsafe_shutdowns=_number(page, 144, 16),
        media_errors=_number(page, 160, 16),
        warm_minutes=_number(page, 192, 4) + _number(page, 196, 4),
        thermal_throttles=_number(page, 216, 4) + _number(page, 220, 4),
        nand_written_bytes=None if ocp_page is None else nand_written_bytes(ocp_page),
    )


def nand_written_bytes(page: bytes) -> int | None:
    """Return "physical media units written"; None if the page isn't the OCP's.

    Source: OCP Datacenter NVMe SSD Specification 2.0, 4.8.5, SMART-1 and SMART-21.
    """
    if page[_OCP_GUID_AT:] != _OCP_GUID:
        return None
    return _number(page, 0, 16)


def read_log(path: Path, log: int) -> bytes | None:
    """Return a log page of the controller at `path`; None if it can't be had. Changes nothing."""
    page = ctypes.create_string_buffer(PAGE_BYTES)
    which = (PAGE_BYTES // 4 - 1) << 16 | log
    address = ctypes.addressof(page)
    command = bytearray(
        _COMMAND.pack(
            *(_GET_LOG_PAGE, 0, 0, _ALL_NAMESPACES, 0, 0, 0, address, 0, PAGE_BYTES),
            *(which, 0, 0, 0, 0, 0, _TIMEOUT_MS, 0),
        )
    )
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        status = fcntl.ioctl(descriptor, _ADMIN_CMD, command)
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return page.raw if status == 0 else None
