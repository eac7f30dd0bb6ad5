"""A planner of a trace in memory."""

from __future__ import annotations

from typing import Any

from kvtrace.placement import extents
from kvtrace.placement.extents import Space, lane_of_tier
from kvtrace.placement.limit import Limit
from kvtrace.placement.rows import TraceRows
from kvtrace.placement.survey import survey
from kvtrace.trace.schema import Tier
from replay.ops.columns import Ops
from replay.plan.geometry import Geometry
from replay.plan.planner import Planner, make_ring
from tests.support.traces import MemoryTrace, Row

EVERYTHING = Limit()
KIB4 = 4096
NVME = Tier.NVME


def make_planner(
    rows: list[Row],
    tiers: tuple[Tier, ...] = (NVME,),
    *,
    limit: Limit = EVERYTHING,
    spare_bytes: int = 0,
    arena_bytes: int = 1 << 20,
    io_bytes: int = 1 << 16,
    ring_ops: int | None = None,
    closed: bool = False,
    sync_stores: bool = False,
    threads: int = 1,
    speed: float = 1.0,
    fresh: bool = False,
    **trace_fields: Any,
) -> tuple[Planner, Ops]:
    """Return a planner with exactly the space that is needed, or a little more, and its ring."""
    trace: Any = MemoryTrace(rows, **trace_fields)
    lanes = lane_of_tier(tiers)
    found = survey(TraceRows(trace, limit), lanes, count_sessions=closed)
    offered = tuple(Space(KIB4, 1 << 20, None) for _ in tiers)
    needs = extents.needs(found, offered, 0.0, io_bytes)
    spaces = tuple(Space(KIB4, 1 << 20, need.size_bytes + spare_bytes) for need in needs)
    space_lanes = extents.lanes(needs, spaces, 0.0, io_bytes)
    geometry = Geometry(
        lanes,
        spaces,
        arena_bytes,
        io_bytes,
        speed=speed,
        threads=threads,
        closed=closed,
        sync_stores=sync_stores,
        fresh=fresh,
    )
    ops = make_ring(found, closed=closed, divided=True)
    if ring_ops is not None:
        ops = Ops.empty(ring_ops, 1 << 20, clocks=closed, extents=1 << 10)
    return Planner(TraceRows(trace, limit), found, space_lanes, geometry, ops), ops
