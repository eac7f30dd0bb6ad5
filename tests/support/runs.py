"""Runs on simulated devices, and why one is INVALID."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from kvtrace.trace.schema import Op, Phase, Tier

if TYPE_CHECKING:
    import replay
    from replay.targets.support.simulated import SimulatedTarget
    from tests.support.traces import Row

BUSY = {"host_lateness", "device_shared"}
R, W, D = Op.READ, Op.WRITE, Op.DELETE
NVME, CPU = Tier.NVME, Tier.CPU


def simulated(target: SimulatedTarget, tier: Tier = NVME, *, virtual: bool = False) -> Any:
    """Return the target for one tier."""
    target.spec = replace(target.spec, tiers=(tier,))
    target.virtual_time = virtual
    return target


def churning_rows(seed: int, count: int = 3_000) -> list[Row]:
    """Writes, reads, demotions, promotions and deletes of few live objects on two tiers."""
    rng = np.random.default_rng(seed)
    rows: list[Row] = []
    live: dict[Tier, list[int]] = {CPU: [], NVME: []}
    keys = itertools.count()

    def add(op: Op, tier: Tier, key: int, phase: Phase) -> None:
        rows.append((len(rows) * 2_000, op, tier, key, phase, 4096 * (1 + key % 3)))

    while len(rows) < count:
        choice = rng.integers(4)
        if choice == 0 or len(live[CPU]) < 2:
            key = next(keys)
            add(W, CPU, key, Phase.PREFILL)
            live[CPU].append(key)
        elif choice == 1 and live[NVME]:
            key = live[NVME][int(rng.integers(len(live[NVME])))]
            add(R, NVME, key, Phase.PROMOTE)
            if key not in live[CPU]:
                add(W, CPU, key, Phase.PROMOTE)
                live[CPU].append(key)
        else:
            key = live[CPU][int(rng.integers(len(live[CPU])))]
            add(R, CPU, key, Phase.DECODE)
        if len(live[CPU]) > 6:
            key = live[CPU].pop(0)
            add(R, CPU, key, Phase.EVICT)
            if key not in live[NVME]:
                add(W, NVME, key, Phase.EVICT)
                live[NVME].append(key)
            add(D, CPU, key, Phase.EVICT)
        if len(live[NVME]) > 8:
            add(D, NVME, live[NVME].pop(0), Phase.EVICT)
    return rows


def reasons(result: replay.Result) -> set[str]:
    """Return why a result is INVALID, less what the test machine is to blame for."""
    return {reason.code for reason in result.verdict.reasons} - BUSY
