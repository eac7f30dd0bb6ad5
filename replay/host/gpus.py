"""NVIDIA GPUs, by nvidia-ml-py (an extra), which is imported only here and only when asked."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

_DRIVER = Path("/proc/driver/nvidia/version")
NOT_INSTALLED = "nvidia-ml-py isn't installed: pip install 'kvtrace[gpu]'"
NO_DRIVER = "no NVIDIA driver is loaded"


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU. `numa_node` is None where the system doesn't say."""

    index: int
    name: str
    memory_bytes: int
    free_bytes: int
    pci: str
    numa_node: int | None


@dataclass(frozen=True, slots=True)
class Gpus:
    """All that were found; `missing` says why none could be looked for, or is empty."""

    found: tuple[Gpu, ...]
    missing: str = ""


def _node_of(pci: str) -> int | None:
    # NVML has eight digits of domain, sysfs four.
    domain, _, rest = pci.partition(":")
    path = Path("/sys/bus/pci/devices") / f"{domain[-4:]}:{rest}".lower() / "numa_node"
    try:
        number = int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
    return number if number >= 0 else None


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _gpu(nvml: Any, index: int) -> Gpu:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    pci = _text(nvml.nvmlDeviceGetPciInfo(handle).busId)
    name = _text(nvml.nvmlDeviceGetName(handle))
    return Gpu(index, name, int(memory.total), int(memory.free), pci, _node_of(pci))


def observe(driver: Path = _DRIVER) -> Gpus:
    """Return the machine's GPUs, or why they can't be seen."""
    if not driver.exists():
        return Gpus((), NO_DRIVER)
    try:
        nvml: Any = import_module("pynvml")
    except ImportError:
        return Gpus((), NOT_INSTALLED)
    try:
        nvml.nvmlInit()
        gpus = tuple(_gpu(nvml, index) for index in range(nvml.nvmlDeviceGetCount()))
        nvml.nvmlShutdown()
    except nvml.NVMLError as error:
        return Gpus((), f"NVML refuses: {error}")
    return Gpus(gpus)
