"""The shared library as Python sees it: structures, functions, and why it may be missing."""

from __future__ import annotations

import ctypes
import os
from functools import cache

from kvtrace.errors import TargetError
from replay.native import LOOP
from replay.ops.columns import NATIVE_OPS, TIME_TYPES

ABI_VERSION = 9

_POINTER = ctypes.c_void_p


class LaneStruct(ctypes.Structure):
    """`struct kv_lane` of abi.h."""

    _fields_ = (
        ("kind", ctypes.c_int32),
        ("fd", ctypes.c_int32),
        ("queue_depth", ctypes.c_uint32),
        ("features", ctypes.c_uint32),
        ("io_bytes", ctypes.c_uint64),
        ("longest_bytes", ctypes.c_uint64),
        ("pool", _POINTER),
        ("pool_bytes", ctypes.c_uint64),
        ("mailbox", _POINTER),
        ("trim_bytes", ctypes.c_uint32),
        ("fsync", ctypes.c_uint32),
        ("script_delay_ns", _POINTER),
        ("script_result", _POINTER),
        ("script_count", ctypes.c_uint64),
        ("script_channels", ctypes.c_uint64),
        ("stall_begin_ns", ctypes.c_int64),
        ("stall_end_ns", ctypes.c_int64),
        ("begin_bytes", ctypes.c_uint64),
        ("end_bytes", ctypes.c_uint64),
        ("io_counts", _POINTER),
        ("retries", ctypes.c_uint64),
        ("short_transfers", ctypes.c_uint64),
        ("bad_sectors", ctypes.c_uint64),
        ("in_flight_max", ctypes.c_uint64),
        ("in_flight_ns", ctypes.c_uint64),
        ("planner_stalls", ctypes.c_uint64),
        ("payload_stalls", ctypes.c_uint64),
        ("enter_calls", ctypes.c_uint64),
        ("timed_submits", ctypes.c_uint64),
        ("timed_submit_ns", ctypes.c_uint64),
        ("checked_bytes", ctypes.c_uint64),
        ("body_bytes", ctypes.c_uint64),
        ("body_reads", ctypes.c_uint64),
    )


class RunStruct(ctypes.Structure):
    """`struct kv_run` of abi.h."""

    _fields_ = (
        ("engine", ctypes.c_uint32),
        ("mode", ctypes.c_uint32),
        ("verify", ctypes.c_uint32),
        ("run_id", ctypes.c_uint32),
        ("spin_ns", ctypes.c_int64),
        ("read_buffer_bytes", ctypes.c_uint64),
        ("arena", _POINTER),
        ("arena_size_bytes", ctypes.c_uint64),
        ("filled_bytes", _POINTER),
        ("stamp", ctypes.c_uint32),
        ("virtual_time", ctypes.c_uint32),
        ("spin_adapts", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32),
        ("lanes", ctypes.POINTER(LaneStruct)),
        ("lane_count", ctypes.c_uint64),
        ("capacity", ctypes.c_uint64),
        ("edge_capacity", ctypes.c_uint64),
        *((name, _POINTER) for name in NATIVE_OPS),
        ("extent_words", ctypes.c_uint64),
        ("clock_count", ctypes.c_uint64),
        ("stop", _POINTER),
        ("planned", _POINTER),
        ("drained", _POINTER),
        ("final", _POINTER),
        ("started_ns", _POINTER),
        ("completed_ops", _POINTER),
        ("completed_bytes", _POINTER),
        *((name, _POINTER) for name in TIME_TYPES),
        ("start_ns", ctypes.c_int64),
        ("cpu_ns", ctypes.c_int64),
        ("verify_cpu_ns", ctypes.c_int64),
        ("message", ctypes.c_char * 256),
    )


class JobStruct(ctypes.Structure):
    """`struct kv_job` of abi.h."""

    _fields_ = (
        ("piece", ctypes.c_uint64),
        ("key", ctypes.c_uint64),
        ("offset", ctypes.c_uint64),
        ("bytes", ctypes.c_uint64),
        ("data", ctypes.c_uint64),
        ("action", ctypes.c_uint64),
    )


def _check_abi(library: ctypes.CDLL) -> None:
    library.kv_run_size.restype = ctypes.c_uint64
    library.kv_lane_size.restype = ctypes.c_uint64
    library.kv_job_size.restype = ctypes.c_uint64
    library.kv_abi_version.restype = ctypes.c_uint32
    sizes = (library.kv_run_size(), library.kv_lane_size(), library.kv_job_size())
    versions = (library.kv_abi_version(), *sizes)
    expected = (ABI_VERSION, *map(ctypes.sizeof, (RunStruct, LaneStruct, JobStruct)))
    if versions != expected:
        raise TargetError(
            "the compiled loop is of another version",
            where=LOOP.path,
            got=f"(version, sizes) {versions}",
            accepted=str(expected),
            hint="reinstall kvtrace",
        )


def _declare(library: ctypes.CDLL) -> None:
    stamp_types = (ctypes.c_uint64, ctypes.c_uint32, ctypes.c_uint32, ctypes.c_uint32)
    library.kv_run.argtypes = (ctypes.POINTER(RunStruct),)
    library.kv_run.restype = ctypes.c_int
    library.kv_publish.argtypes = (_POINTER, ctypes.c_uint64)
    library.kv_publish.restype = None
    library.kv_publish_flag.argtypes = (_POINTER, ctypes.c_int32)
    library.kv_publish_flag.restype = None
    library.kv_uring_available.restype = ctypes.c_int
    library.kv_stamp.argtypes = (_POINTER, ctypes.c_uint64, *stamp_types)
    library.kv_stamp.restype = None
    library.kv_check.argtypes = (
        _POINTER,
        ctypes.c_uint64,
        *stamp_types,
        _POINTER,
        ctypes.c_uint64,
        ctypes.c_uint64,
        ctypes.POINTER(ctypes.c_uint64),
    )
    library.kv_check.restype = ctypes.c_int64


def _declare_mailbox(library: ctypes.CDLL) -> None:
    library.kv_mailbox_new.argtypes = (ctypes.c_uint32,)
    library.kv_mailbox_new.restype = _POINTER
    for name in ("kv_mailbox_close", "kv_mailbox_free"):
        function = getattr(library, name)
        function.argtypes, function.restype = (_POINTER,), None
    library.kv_mailbox_take.argtypes = (_POINTER, ctypes.POINTER(JobStruct), ctypes.c_int64)
    library.kv_mailbox_take.restype = ctypes.c_int
    times = (ctypes.c_int64, ctypes.c_int64)
    library.kv_mailbox_done.argtypes = (_POINTER, ctypes.c_uint64, ctypes.c_int64, *times)
    library.kv_mailbox_done.restype = ctypes.c_int


@cache
def load() -> ctypes.CDLL:
    """Return the library, its version checked and its functions declared.

    Raises TargetError if it is missing, can't be loaded or is of another version.
    """
    library = LOOP.load()
    _check_abi(library)
    _declare(library)
    _declare_mailbox(library)
    return library


def unavailable() -> str | None:
    """Return why the library can't be used, or None if it can."""
    try:
        load()
    except TargetError as error:
        return str(error)
    return None


def uring_available() -> str | None:
    """Return why io_uring can't be used here, or None if it can."""
    reason = unavailable()
    if reason is not None:
        return reason
    code: int = load().kv_uring_available()
    if code == 0:
        return None
    return f"io_uring is refused by this system (a container's policy?): {os.strerror(code)}"
