"""`statx` for what Python's `os.stat` doesn't say: the alignment that direct I/O needs."""

from __future__ import annotations

import ctypes
import os
import struct
from dataclasses import dataclass

_AT_EMPTY_PATH = 0x1000
_STATX_DIOALIGN = 0x2000
_STRUCT_BYTES = 256
# Source: struct statx in include/uapi/linux/stat.h, Linux 6.1.
_MASK_AT, _MEMORY_ALIGN_AT, _OFFSET_ALIGN_AT = 0, 0x98, 0x9C


@dataclass(frozen=True, slots=True)
class DirectAlign:
    """Alignment of direct I/O; both 0 where a file doesn't support it."""

    memory_bytes: int
    offset_bytes: int


def direct_align(descriptor: int) -> DirectAlign | None:
    """Return what an open file needs; None where the kernel doesn't say."""
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "statx"):
        return None
    buffer = ctypes.create_string_buffer(_STRUCT_BYTES)
    failed = libc.statx(
        descriptor, b"", ctypes.c_int(_AT_EMPTY_PATH), ctypes.c_uint(_STATX_DIOALIGN), buffer
    )
    if failed:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    if not struct.unpack_from("=I", buffer, _MASK_AT)[0] & _STATX_DIOALIGN:
        return None
    memory, offset = struct.unpack_from("=II", buffer, _MEMORY_ALIGN_AT)
    return DirectAlign(memory, offset)
