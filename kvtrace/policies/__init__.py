"""Eviction policies: which block leaves a full tier. One file each, and its C file beside it.

A policy's Python file says what it is and has `policy()`, which returns where its table of
functions lies in memory, a `struct kv_policy` of `policy.h`: of the core's library, or of one that
a plug-in brings.
"""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path

from kvtrace.errors import UsageError
from kvtrace.native.core import CORE

HEADERS = Path(__file__).parent
"""Folder of `policy.h`, for policies that are compiled elsewhere."""
ABI_VERSION = 1


class Head(ctypes.Structure):
    """The first fields of `struct kv_policy`."""

    _fields_ = (("abi", ctypes.c_uint32), ("state_bytes", ctypes.c_uint32))


def of_core(name: str) -> int:
    """Return the address of the core's table `name`."""
    return ctypes.addressof(Head.in_dll(CORE.load(), name))


@cache
def of_library(name: str, path: Path) -> int:
    """Return the address of the table `name` in a library of its own.

    Raises UsageError if it can't be loaded, has no such table or was compiled for another
    `policy.h`.
    """
    try:
        head = Head.in_dll(ctypes.CDLL(str(path)), name)
    except (OSError, ValueError) as error:
        raise UsageError(
            "the policy's library can't be used",
            where=path,
            got=error,
            hint="compile it as docs/extending.md shows",
        ) from error
    if head.abi != ABI_VERSION:
        raise UsageError(
            "the policy was compiled for another policy.h",
            where=path,
            got=f"version {head.abi}",
            accepted=str(ABI_VERSION),
            hint="compile it again",
        )
    return ctypes.addressof(head)
