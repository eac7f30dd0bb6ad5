"""Times of a capture: one clock for all processes of a host, and its relation to the date."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

monotonic_ns = time.monotonic_ns
"""CLOCK_MONOTONIC in ns: equal for all processes of a host until it restarts."""
thread_cpu_ns = time.thread_time_ns
wait_s = time.sleep

ANCHOR_EVERY_NS = 30_000_000_000
"""Interval between readings of both clocks: NTP moves the date."""
_BRACKETS = 9
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class Anchor:
    """A moment on both clocks; `width_ns` is how far apart their readings may be."""

    mono_ns: int
    wall_ns: int
    width_ns: int

    def document(self) -> dict[str, int]:
        """Return the anchor as frames hold it."""
        return {"mono_ns": self.mono_ns, "wall_ns": self.wall_ns, "width_ns": self.width_ns}

    def monotonic(self, wall_s: float) -> int:
        """Return the monotonic time in ns of a date in seconds since 1970."""
        return round(wall_s * 1e9) - self.wall_ns + self.mono_ns


def anchor() -> Anchor:
    """Read both clocks nine times and return the tightest pair, some 0.3 µs wide."""
    return min((_bracket() for _ in range(_BRACKETS)), key=lambda one: one.width_ns)


def _bracket() -> Anchor:
    before, wall, after = monotonic_ns(), time.time_ns(), monotonic_ns()
    return Anchor((before + after) // 2, wall, after - before)


def boot_id() -> str | None:
    """Return the id of the host's current boot, None where the kernel has none."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return None
