"""Inputs of a plan: targets, loop threads, payload and initial state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from kvtrace.placement.ground import make_ground
from kvtrace.placement.places import PLACE
from kvtrace.trace.schema import Tier
from replay.payload.stamps import GENERATION_MASK
from replay.plan.order import ORDER, Plan

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kvtrace.placement.extents import Space
    from replay.ops.lists import Lists, Ring


@dataclass(frozen=True, slots=True)
class Geometry:
    """What the plan must know of targets, loop threads and payload. `spaces`: one per lane.

    A lane of the plan is a tier; each has `threads` loop threads, numbered lane after lane.
    """

    lane_of_tier: NDArray[np.int8]
    spaces: tuple[Space, ...]
    arena_bytes: int
    io_bytes: int
    speed: float = 1.0
    threads: int = 1
    deletes: tuple[bool, ...] = ()
    """Per lane: whether a delete is work for the target."""
    closed: bool = False
    sync_stores: bool = False
    fresh: bool = False
    """Whether payload is a stream that goes on, and not an arena that stays."""


def new_plan(space_lanes: NDArray[np.void], geometry: Geometry, ring: Ring, lists: Lists) -> Plan:
    """Return a plan of nothing yet."""
    lanes = len(geometry.spaces)
    threads = np.full(lanes, geometry.threads, np.int64)
    return Plan(
        ring=ring,
        lists=lists,
        ground=make_ground(space_lanes.copy()),
        lane_of_tier=geometry.lane_of_tier,
        align=np.array([space.align_bytes for space in geometry.spaces], np.int64),
        threads=threads,
        first_thread=np.cumsum(threads) - threads,
        per_object=np.array([space.per_object for space in geometry.spaces], np.bool_),
        deletes=np.array(geometry.deletes or (False,) * lanes, np.bool_),
        next_thread=np.zeros(lanes, np.int64),
        lanes=lanes,
        arena_bytes=geometry.arena_bytes,
        io_bytes=geometry.io_bytes,
        speed=geometry.speed,
        closed=geometry.closed,
        sync_stores=geometry.sync_stores,
        fresh=geometry.fresh,
        generation_mask=GENERATION_MASK,
        order=np.zeros((0, len(Tier)), ORDER),
        place=np.zeros((0, lanes), PLACE),
        transfer_read=np.zeros(0, np.int64),
        touched=np.zeros(0, np.int64),
        born_length=np.zeros(0, np.int64),
    )
