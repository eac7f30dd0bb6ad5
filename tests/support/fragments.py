"""Rows whose objects differ in length, so that space falls into pieces."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from kvtrace.placement import extents
from kvtrace.placement.extents import Need, Space, lane_of_tier
from kvtrace.placement.rows import TraceRows
from kvtrace.placement.survey import survey
from kvtrace.trace.schema import Op, Phase, Tier
from replay.plan.geometry import Geometry
from replay.plan.planner import Planner, make_ring
from tests.support.traces import MemoryTrace, Row

if TYPE_CHECKING:
    from replay.ops.columns import Ops

R, W, D = Op.READ, Op.WRITE, Op.DELETE
NVME, CPU = Tier.NVME, Tier.CPU
EVICT, DECODE, PREFILL, PROMOTE = Phase.EVICT, Phase.DECODE, Phase.PREFILL, Phase.PROMOTE
TIERS = (CPU, NVME)
KIB4 = 4096
IO_BYTES = 4 * KIB4


def planned(
    rows: list[Row], slack: float = 0.05, spare: int = 0, part: int = IO_BYTES
) -> tuple[tuple[Need, ...], tuple[Space, ...], Planner, Ops]:
    """Return needs, spaces, planner and all ops of a trace on two tiers."""
    trace = MemoryTrace(rows)
    lanes = lane_of_tier(TIERS)
    found = survey(TraceRows(trace), lanes)  # type: ignore[arg-type]
    offered = (Space(KIB4, 1 << 20),) * len(TIERS)
    needs = extents.needs(found, offered, slack, part)
    spaces = tuple(Space(KIB4, 1 << 20, max(KIB4, need.size_bytes + spare)) for need in needs)
    space_lanes = extents.lanes(needs, spaces, slack, part)
    geometry = Geometry(lanes, spaces, 1 << 24, IO_BYTES)
    ops = make_ring(found, closed=False, divided=True)
    planner = Planner(TraceRows(trace), found, space_lanes, geometry, ops)  # type: ignore[arg-type]
    return needs, spaces, planner, ops


@dataclass
class Tiers:
    """Random rows as a hierarchy makes them, each tier with a limit in bytes."""

    rng: np.random.Generator
    limits: dict[Tier, int]
    rows: list[Row] = field(default_factory=list)
    held: dict[Tier, dict[int, int]] = field(default_factory=lambda: {CPU: {}, NVME: {}})

    def add(self, op: Op, tier: Tier, key: int, phase: Phase, size: int) -> None:
        """Add a row."""
        self.rows.append((len(self.rows), op, tier, key, phase, size))

    def make_room(self, tier: Tier, size: int) -> None:
        """Demote or drop objects until there is room for another."""
        held = self.held[tier]
        while sum(held.values()) + size > self.limits[tier]:
            key = list(held)[int(self.rng.integers(len(held)))]
            length = held.pop(key)
            if tier is CPU and key not in self.held[NVME] and self.rng.random() < 0.7:
                self.make_room(NVME, length)
                self.add(R, CPU, key, EVICT, length)
                self.add(W, NVME, key, EVICT, length)
                self.held[NVME][key] = length
            self.add(D, tier, key, EVICT, length)

    def store(self, key: int, size: int) -> None:
        """Write an object to the upper tier, anew if it is there."""
        if key in self.held[CPU]:
            self.add(W, CPU, key, PREFILL, self.held[CPU][key])
            return
        if key in self.held[NVME]:
            self.promote(key)
            return
        self.make_room(CPU, size)
        self.add(W, CPU, key, PREFILL, size)
        self.held[CPU][key] = size

    def promote(self, key: int) -> None:
        """Copy an object to the upper tier; it may be pushed out of the lower one for it."""
        size = self.held[NVME][key]
        self.add(R, NVME, key, PROMOTE, size)
        self.make_room(CPU, size)
        self.add(W, CPU, key, PROMOTE, size)
        self.held[CPU][key] = size


def random_rows(seed: int, count: int) -> list[Row]:
    """Return rows of objects of one to some hundred blocks on two tiers."""
    rng = np.random.default_rng(seed)
    made = Tiers(rng, {CPU: int(rng.integers(60, 200)) * KIB4, NVME: 400 * KIB4})
    spread = rng.uniform(0.2, 1.6)
    for _ in range(count):
        key = int(rng.integers(60))
        size = KIB4 * int(np.clip(np.exp(rng.normal(1.5, spread)), 1, 50))
        made.store(key, size)
        there = [tier for tier in TIERS if key in made.held[tier]]
        if there and rng.random() < 0.5:
            tier = there[int(rng.integers(len(there)))]
            made.add(R, tier, key, DECODE, made.held[tier][key])
    return made.rows


def fragmenting(objects: int) -> list[Row]:
    """Return rows that fill a tier with small objects, drop every other one, then store large."""
    rows: list[Row] = []

    def add(op: Op, key: int, size: int) -> None:
        rows.append((len(rows), op, NVME, key, EVICT, size))

    for key in range(objects):
        add(W, key, KIB4)
    for key in range(0, objects, 2):
        add(D, key, KIB4)
    for key in range(objects // 4):
        add(W, objects + key, 2 * KIB4)
    return rows
