"""Memory on huge pages: with 4 KiB pages a device moves half as many bytes or fewer."""

from __future__ import annotations

import ctypes
import mmap
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kvtrace.errors import TargetError
from kvtrace.units import format_bytes

if TYPE_CHECKING:
    from numpy.typing import NDArray

HUGE_BYTES = 2 << 20
_MAP_HUGETLB = 0x40000  # Source: include/uapi/asm-generic/mman-common.h, Linux 6.1


class PageKind(StrEnum):
    """What kind of pages memory was obtained on."""

    HUGETLB = "hugetlb-2M"
    TRANSPARENT = "thp-2M"
    SMALL = "4K"


def _mapped(rounded_bytes: int) -> tuple[NDArray[np.uint8], bool]:
    """Return memory that starts at a multiple of 2 MiB, and whether it is of reserved pages."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    try:
        reserved = mmap.mmap(-1, rounded_bytes, flags=flags | _MAP_HUGETLB)
    except OSError:
        mapping = mmap.mmap(-1, rounded_bytes + HUGE_BYTES, flags=flags)
    else:
        return np.frombuffer(reserved, np.uint8), True
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a kernel without them: 4 KiB pages are what is reported
            mapping.madvise(mmap.MADV_HUGEPAGE)
    whole = np.frombuffer(mapping, np.uint8)
    head = -whole.ctypes.data % HUGE_BYTES
    return whole[head : head + rounded_bytes], False


def _is_transparent_huge(start: int, rounded_bytes: int) -> bool:
    """Return whether the mapping around `start` has at least 95 % of the bytes on huge pages."""
    inside = False
    with Path("/proc/self/smaps").open(encoding="ascii", errors="replace") as file:
        for line in file:  # no further than needed: the kernel walks all pages of what is read
            words = line.split()
            if "-" in words[0] and not words[0].endswith(":"):
                low, high = (int(part, 16) for part in words[0].split("-"))
                inside = low <= start < high
            elif inside and words[0] == "AnonHugePages:":
                return int(words[1]) * 1024 >= 0.95 * rounded_bytes
    return False


def allocate(size_bytes: int) -> tuple[NDArray[np.uint8], PageKind]:
    """Return `size_bytes` of zeros, all touched, and the kind of pages they are on.

    The memory starts at a multiple of 2 MiB and is freed with the array. Raises TargetError where
    the system refuses that much.
    """
    rounded_bytes = max(1, -(-size_bytes // HUGE_BYTES)) * HUGE_BYTES
    try:
        memory, reserved = _mapped(rounded_bytes)
    except (OSError, OverflowError) as error:
        raise TargetError(
            "not enough memory", got=format_bytes(size_bytes),
            hint="use a smaller --arena, or replay a tier that needs less on a device",
        ) from error  # fmt: skip
    memory[:: mmap.PAGESIZE] = 0
    kind = PageKind.SMALL
    if reserved:
        kind = PageKind.HUGETLB
    elif _is_transparent_huge(memory.ctypes.data, rounded_bytes):
        kind = PageKind.TRANSPARENT
    return memory[:size_bytes], kind


def at_address(address: int, size_bytes: int) -> NDArray[np.uint8]:
    """Return foreign memory as bytes; it must outlive the array."""
    return np.ctypeslib.as_array((ctypes.c_uint8 * size_bytes).from_address(address))
