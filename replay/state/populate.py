"""Brings a target to the state that the trace expects, before the clock starts."""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING

import numpy as np

from kvtrace.errors import TargetError
from kvtrace.units import MS_NS
from replay import clock
from replay.device import sysfs as device
from replay.ops.columns import DIVIDED, SECTOR_BYTES
from replay.ops.divided import places
from replay.payload import stamps as payload
from replay.state.read_back import read_back

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from replay.ops.columns import Ops, Times
    from replay.ops.contract import Lane
    from replay.plan.prepare import Prepared
    from replay.targets import Target

_LOOK_NS = 250 * MS_NS
_QUIET_LOOKS = 4
_SAMPLED = 1024
_BLOCK_BYTES = 4096


def check_written(
    ops: Ops,
    times: Times,
    where: object,
    *,
    hint: str = "nothing was measured yet; look at the device",
) -> None:
    """Return if every write succeeded; raise TargetError for the first that didn't."""
    failed = np.flatnonzero(times.error > 0)
    if len(failed):
        first = int(failed[0])
        raise TargetError(
            f"can't write: {os.strerror(int(times.error[first]))}",
            where=where,
            got=f"at byte {places(ops, first, 0, SECTOR_BYTES)[0][0]}",
            hint=hint,
        )


def digest(prepared: Prepared) -> str:
    """Return what names a population: run, objects, places."""
    ops, count = prepared.populate, prepared.populate_count
    digest = hashlib.sha256(str((prepared.run_id, count)).encode())
    for column in (ops.key, ops.lane, ops.offset_bytes, ops.length_sectors):
        digest.update(np.ascontiguousarray(column[:count]).tobytes())
    if (ops.offset_bytes[:count] >= np.uint64(DIVIDED)).any():
        digest.update(ops.extents.tobytes())
    return digest.hexdigest()


def check_noted(prepared: Prepared) -> None:
    """Return if all targets say that they have the population; nothing is read but their headers.

    Raises TargetError.
    """
    wanted = digest(prepared)
    for target in prepared.targets:
        if target.populated != wanted:
            raise _not_reusable(target, f"population {(target.populated or 'none')[:12]}")


def check_reusable(prepared: Prepared, lanes: tuple[Lane, ...]) -> None:
    """Return if the objects that the trace expects are there from an earlier run.

    The target's header must name the same population, and a sample of stamps must be right.
    Raises TargetError.
    """
    check_noted(prepared)
    ops, count = prepared.populate, prepared.populate_count
    rng = np.random.default_rng(prepared.run_id)
    for op in rng.choice(count, min(count, _SAMPLED), replace=False).tolist():
        lane = lanes[ops.lane[op]]
        stored = read_back(
            lane, int(ops.key[op]), places(ops, op, 0, _BLOCK_BYTES)[0][0], _BLOCK_BYTES
        )
        expected = payload.Stamp(int(ops.key[op]), 0, 0, prepared.run_id)
        if len(stored) < SECTOR_BYTES or payload.Stamp.of(stored) != expected:
            target = prepared.targets[ops.lane[op] * len(prepared.targets) // len(lanes)]
            raise _not_reusable(target, payload.describe(stored, expected))


def _not_reusable(target: Target, got: str) -> TargetError:
    return TargetError(
        "no earlier population that this run could take",
        where=target.title,
        got=got,
        accepted="one of the same trace, limits, geometry and --run-id that no run has changed",
        hint="run it once with --run-id N, then again with the same and --reuse-populated",
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
