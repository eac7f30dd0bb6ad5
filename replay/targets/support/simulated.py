"""Targets of memory and a script: slow, failing, short or standing still on purpose."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from kvtrace.placement.extents import Need, Space, pool_space
from kvtrace.trace.schema import Tier
from replay.engine.native import allocate
from replay.ops.contract import Lane, LaneKind, Script
from replay.targets import Bookkeeper, RunMark, TargetSpec

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray


@dataclass(slots=True)
class SimulatedTarget(Bookkeeper):
    """Memory behind a script: takes as long, and fails, as the script says for the n-th I/O.

    Only the compiled engines execute it. With `virtual_time`, alone in a run with one loop thread,
    its seconds take none.
    """

    script: Script
    spec: TargetSpec = field(default_factory=lambda: TargetSpec("simulated", tuple(Tier)))
    title: str = "simulated"
    device: Path | None = None
    virtual_time: bool = False
    _pool: NDArray[np.uint8] | None = None

    def space(self) -> Space:
        """Return space for what is needed."""
        return Space(self.spec.extent_align_bytes or 4096, 0, self.spec.size_bytes)

    def authorise(self, *, writes: bool) -> None:
        """Nothing can be harmed."""

    def reserve(self, need: Need) -> Space:
        """Return space for what is needed."""
        return pool_space(self.space(), need)

    def open(self, space: Space, mark: RunMark, *, writes: bool) -> None:
        """Take the memory."""
        assert space.size_bytes is not None
        self._pool, _ = allocate(space.size_bytes)

    def lane(self, queue_depth: int, io_bytes: int) -> Lane:
        """Return a lane that follows the script from its beginning."""
        kind = LaneKind.SIMULATED
        return Lane(kind, queue_depth, io_bytes, pool=self._pool, script=self.script)

    def close(self) -> None:
        """Free the memory."""
        self._pool = None


def faulty_target(
    results: Mapping[int, int], delays_ns: Sequence[int] = (0,), period_ios: int = 1 << 16
) -> SimulatedTarget:
    """Return a target whose n-th I/O ends as `results[n]` says: −errno, or a number of bytes.

    All other I/Os are whole. `delays_ns` are service times, repeated. After `period_ios` I/Os
    everything begins again, and so it does with every engine call.
    """
    assert all(0 <= n < period_ios for n in results)
    result = np.zeros(period_ios, np.int64)
    result[list(results)] = list(results.values())
    delay = np.resize(np.asarray(delays_ns, np.int64), period_ios)
    return SimulatedTarget(Script(delay, result), title="simulated, with faults")


def stall_target(
    service_ns: int, stall_begin_ns: int = 0, stall_end_ns: int = 0, channels: int = 0
) -> SimulatedTarget:
    """Return a target that takes `service_ns` for each I/O and stands still for a while.

    `channels`: I/Os that are served at once, 0 all; the others wait in the device.
    """
    script = Script(
        np.array([service_ns], np.int64),
        np.zeros(1, np.int64),
        channels,
        stall_begin_ns,
        stall_end_ns,
    )
    return SimulatedTarget(script, title="simulated, with a stall")
