"""A sysfs tree and a health log by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

CONTROLLER = {
    "model": "Fast SSD 3",
    "serial": "S123",
    "firmware_rev": "1.0.7",
    "state": "live",
    "hwmon4/temp1_input": 41850,
    "hwmon4/temp1_max": 81850,
    "hwmon4/temp1_crit": 84850,
}
PCI = {
    "current_link_speed": "16.0 GT/s PCIe",
    "max_link_speed": "32.0 GT/s PCIe",
    "current_link_width": 4,
    "max_link_width": 4,
    "numa_node": 1,
}
QUEUE = {
    "queue/logical_block_size": 512,
    "queue/physical_block_size": 4096,
    "queue/write_cache": "write back",
}


def page(
    *,
    temperature_c: int = 40,
    used: int = 3,
    written_units: int = 1000,
    media_errors: int = 0,
    throttles: int = 0,
    warm_minutes: int = 0,
) -> bytes:
    """Return a health log."""
    made = bytearray(512)
    made[0] = 0b100
    made[1:3] = (temperature_c + 273).to_bytes(2, "little")
    made[3], made[4], made[5] = 100, 10, used
    made[32:48] = (2**70).to_bytes(16, "little")
    made[48:64] = written_units.to_bytes(16, "little")
    made[144:160] = (7).to_bytes(16, "little")
    made[160:176] = media_errors.to_bytes(16, "little")
    made[192:196] = warm_minutes.to_bytes(4, "little")
    made[216:220] = throttles.to_bytes(4, "little")
    return bytes(made)


def write(folder: Path, files: dict[str, object]) -> Path:
    """Make a folder with these files, as sysfs has them."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    return folder
