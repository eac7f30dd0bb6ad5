"""Memory that another process can map too, on huge pages where there are any."""

from __future__ import annotations

import ctypes
import mmap
import os
import weakref
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kvtrace.errors import TargetError
from kvtrace.units import format_bytes
from replay.payload.memory import HUGE_BYTES, PageKind

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MAP_FIXED, _MADV_HUGEPAGE, _MADV_COLLAPSE = 0x10, 14, 25
"""Source: include/uapi/asm-generic/mman-common.h, Linux 6.1."""
_FAILED = ctypes.c_void_p(-1).value
_NAME = "kvtrace-payload"


@dataclass(frozen=True, slots=True)
class Shared:
    """Memory behind a descriptor. The array keeps the memory, not the descriptor."""

    descriptor: int
    array: NDArray[np.uint8]
    page_kind: PageKind


class _Mapping:
    """A range of addresses that numpy looks at, unmapped after the last view."""

    def __init__(self, begin: int, mapped_bytes: int, address: int, size_bytes: int) -> None:
        weakref.finalize(self, _libc().munmap, ctypes.c_void_p(begin), mapped_bytes)
        self.__array_interface__ = {
            "shape": (size_bytes,),
            "typestr": "|u1",
            "data": (address, False),
            "version": 3,
        }


def _libc() -> Any:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = (
        ctypes.c_void_p,
        ctypes.c_size_t,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_long,
    )
    libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
    return libc


def _map(descriptor: int, size_bytes: int) -> NDArray[np.uint8] | None:
    """Return the file's bytes, touched, mapped at a multiple of 2 MiB; None if that can't be.

    Huge pages need address and file offset to agree, which `mmap` by itself doesn't see to.
    """
    libc, writable = _libc(), mmap.PROT_READ | mmap.PROT_WRITE
    room = size_bytes + HUGE_BYTES
    begin = libc.mmap(None, room, 0, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)
    if begin == _FAILED:
        return None
    at = -(-begin // HUGE_BYTES) * HUGE_BYTES
    mapped = libc.mmap(at, size_bytes, writable, mmap.MAP_SHARED | _MAP_FIXED, descriptor, 0)
    if mapped == _FAILED:
        libc.munmap(begin, room)
        return None
    where = (ctypes.c_void_p(at), ctypes.c_size_t(size_bytes))
    libc.madvise(*where, _MADV_HUGEPAGE)  # does nothing unless shmem_enabled says advise
    memory = np.asarray(_Mapping(begin, room, at, size_bytes))
    memory[::HUGE_BYTES] = 0
    libc.madvise(*where, _MADV_COLLAPSE)  # whatever shmem_enabled says; needs a page to start from
    memory[:: mmap.PAGESIZE] = 0
    return memory


def _huge_bytes(address: int) -> int:
    """Return how much of the mapping at `address` is on transparent huge pages."""
    inside = False
    for line in Path("/proc/self/smaps").read_text(encoding="ascii", errors="replace").splitlines():
        words = line.split()
        if "-" in words[0] and not words[0].endswith(":"):
            low, high = (int(part, 16) for part in words[0].split("-"))
            inside = low <= address < high
        elif inside and words[0] == "ShmemPmdMapped:":
            return int(words[1]) * 1024
    return 0


def _make(size_bytes: int, flags: int) -> tuple[int, NDArray[np.uint8] | None]:
    descriptor = os.memfd_create(_NAME, os.MFD_CLOEXEC | flags)
    try:
        os.ftruncate(descriptor, size_bytes)
        return descriptor, _map(descriptor, size_bytes)
    except OSError:
        os.close(descriptor)
        raise


def allocate(size_bytes: int) -> Shared:
    """Return `size_bytes` of zeros, all touched, that start at a multiple of 2 MiB."""
    rounded_bytes = max(1, -(-size_bytes // HUGE_BYTES)) * HUGE_BYTES
    with suppress(OSError):
        descriptor, reserved = _make(rounded_bytes, os.MFD_HUGETLB)
        if reserved is not None:
            return Shared(descriptor, reserved[:size_bytes], PageKind.HUGETLB)
        os.close(descriptor)
    try:
        descriptor, memory = _make(rounded_bytes, 0)
    except OSError as error:
        raise _no_memory(size_bytes, error.strerror) from error
    if memory is None:
        os.close(descriptor)
        raise _no_memory(size_bytes, os.strerror(ctypes.get_errno()))
    huge = _huge_bytes(memory.ctypes.data) >= 0.95 * rounded_bytes
    kind = PageKind.TRANSPARENT if huge else PageKind.SMALL
    return Shared(descriptor, memory[:size_bytes], kind)


def _no_memory(size_bytes: int, reason: str | None) -> TargetError:
    return TargetError(
        f"can't share memory: {reason}",
        where="--arena",
        got=format_bytes(size_bytes),
        hint="take a smaller --arena, or --payload arena",
    )
