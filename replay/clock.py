"""The only place of `replay` that reads a clock or sleeps."""

from __future__ import annotations

import time

from kvtrace.units import S_NS

_LOOKS = 5


def now_ns() -> int:
    """Return CLOCK_MONOTONIC, the clock of every time in a result."""
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC)


def suspended_ns() -> int:
    """Return how long the machine has been suspended, plus a constant.

    CLOCK_BOOTTIME goes on while it sleeps and CLOCK_MONOTONIC doesn't. Of several looks the one
    whose readings lie closest together counts.
    """
    looks = []
    for _ in range(_LOOKS):
        before_ns = now_ns()
        boot_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        after_ns = now_ns()
        looks.append((after_ns - before_ns, boot_ns - after_ns))
    return min(looks)[1]


def unix_s() -> int:
    """Return seconds of Unix time: for people, and for what outlives the machine's run."""
    return int(time.time())


def thread_cpu_ns() -> int:
    """Return the CPU time of the calling thread."""
    return time.thread_time_ns()


def process_cpu_ns() -> int:
    """Return the CPU time of the process, all threads."""
    return time.process_time_ns()


def sleep_ns(duration_ns: int) -> None:
    """Return after `duration_ns` or a little later."""
    time.sleep(max(0, duration_ns) / S_NS)
