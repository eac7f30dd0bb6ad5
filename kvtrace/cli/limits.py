"""Limits of the process, looked at before a command: some packages abort where they meet one."""

from __future__ import annotations

import os
import resource
import threading
from contextlib import suppress

from kvtrace.errors import TargetError
from kvtrace.units import GIB, MIB, format_bytes

_ADDRESS_SPACE_BYTES, _OF_CPU_BYTES = 3 * GIB, 128 * MIB
"""What Arrow, polars and the compiler map, measured with a third to spare; not what they use."""
_THREADS = 8
_MANY_PROCESSES = 4096


def check_limits() -> None:
    """Raise the limit on open files as far as it goes, and check the others.

    Raises TargetError for an address space or a number of threads that no command can run in.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    needed = _ADDRESS_SPACE_BYTES + _OF_CPU_BYTES * (os.cpu_count() or 1)
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY and limit < needed:
        raise TargetError(
            "the limit on address space is too low",
            got=format_bytes(limit),
            accepted=f"at least {format_bytes(needed)}",
            hint="raise it: ulimit -v unlimited",
        )
    limit, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    if limit != resource.RLIM_INFINITY and limit < _MANY_PROCESSES:
        _try_threads((os.cpu_count() or 1) + _THREADS)


def _try_threads(count: int) -> None:
    """Start and end threads, as many as packages start. Raises TargetError."""
    done = threading.Event()
    started: list[threading.Thread] = []
    try:
        for _ in range(count):
            thread = threading.Thread(target=done.wait)
            thread.start()
            started.append(thread)
    except RuntimeError as error:
        raise TargetError(
            "the limit on processes and threads is too low",
            got=f"{len(started)} threads",
            accepted=f"at least {count}",
            hint="raise it: ulimit -u",
        ) from error
    finally:
        done.set()
        for thread in started:
            thread.join()
