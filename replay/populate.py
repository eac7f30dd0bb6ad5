"""Brings a target to the state that the trace expects, before the clock starts."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np

from kvtrace.errors import TargetError
from kvtrace.units import MS_NS
from replay import clock, device

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from replay.loop import Ops, Outcome

_LOOK_NS = 250 * MS_NS
_QUIET_LOOKS = 4


def check_written(ops: Ops, outcome: Outcome, where: object) -> None:
    """Return if every write succeeded; raise TargetError for the first that didn't."""
    failed = np.flatnonzero(outcome.times.error > 0)
    if len(failed):
        first = int(failed[0])
        raise TargetError(
            f"can't write: {os.strerror(int(outcome.times.error[first]))}",
            where=where,
            got=f"at byte {int(ops.offset_bytes[first])}",
            hint="nothing was measured yet; look at the device",
        )


def settle(devices: tuple[Path, ...], longest_ns: int, stopped: Callable[[], bool]) -> int:
    """Return, in ns, how long it took until the devices' writes stopped, or `longest_ns`."""
    start_ns = clock.now_ns()
    quiet, before = 0, _written(devices)
    while (waited_ns := clock.now_ns() - start_ns) < longest_ns and not stopped():
        clock.sleep_ns(min(_LOOK_NS, longest_ns - waited_ns))
        now = _written(devices)
        quiet = quiet + 1 if now == before else 0
        before = now
        if devices and quiet >= _QUIET_LOOKS:
            break
    return clock.now_ns() - start_ns


def _written(devices: tuple[Path, ...]) -> list[int]:
    stats = [device.stat(sysfs) for sysfs in devices]
    return [stat.write_bytes for stat in stats if stat is not None]
