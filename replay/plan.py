"""Pass 2 over a trace: everything that can be decided before the clock starts, as columns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from kvtrace.errors import UsageError
from kvtrace.jit import kernel
from kvtrace.schema import Tier
from kvtrace.units import format_bytes
from replay import order
from replay.keys import find_all
from replay.loop import Action, Ops
from replay.order import CLASS, ORDER, PLACE, Fixed, Out, Rows, State
from replay.survey import NO_LANE, Batch, Limit, Survey, read_batches

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from kvtrace.reader import Trace
    from replay.extents import Classes, Space

_LIST_SLACK = 1 << 12
Number = TypeVar("Number", np.int64, np.uint32)


@dataclass(frozen=True, slots=True)
class Geometry:
    """What the plan must know of targets and payload. `spaces`: one per lane."""

    lane_of_tier: NDArray[np.int8]
    spaces: tuple[Space, ...]
    arena_bytes: int
    io_bytes: int
    speed: float = 1.0


@dataclass(frozen=True, slots=True)
class Plan:
    """Columns of the executed rows, in trace order: for the loop (`ops`), and what they are."""

    ops: Ops
    row: NDArray[np.int64]
    """Index in the trace."""
    tier: NDArray[np.uint8]
    op: NDArray[np.uint8]
    phase: NDArray[np.uint8]
    size_bytes: NDArray[np.uint64]
    extent_bytes: NDArray[np.int64]
    """Per lane: where the space that the plan uses ends."""


def lane_of_tier(tiers: tuple[Tier, ...]) -> NDArray[np.int8]:
    """Return the lane of each tier, `NO_LANE` where it isn't among `tiers`."""
    lanes = np.full(len(Tier), NO_LANE, np.int8)
    for lane, tier in enumerate(tiers):
        lanes[tier] = lane
    return lanes


class Planner:
    """Plans a trace. Its state goes from slice to slice, so that slices may be planned apart."""

    def __init__(
        self,
        survey: Survey,
        classes: Classes,
        quotas: NDArray[np.int64],
        geometry: Geometry,
    ) -> None:
        self._survey = survey
        self._geometry = geometry
        self._fixed = Fixed(
            geometry.lane_of_tier,
            np.array([space.align_bytes for space in geometry.spaces], np.int64),
            geometry.arena_bytes,
            geometry.io_bytes,
            geometry.speed,
        )
        self._state = _initial_state(survey, classes, quotas, geometry)
        _place_originals(self._state.place, survey, self._state)

    def populate(self, which: str, rng: np.random.Generator) -> Ops:
        """Return the writes that bring the objects there that the trace expects to find.

        In shuffled extent order; which: `touched`, `all` or `none`. Call it before `plan`.
        """
        objects = self._survey.objects
        wanted = objects["initial"] > 0
        if which == "touched":
            wanted = wanted | ((objects["resident"] > 0) & (objects["touched"] > 0))
        elif which == "all":
            wanted = wanted | (objects["resident"] > 0)
        if which == "none":
            wanted = np.zeros_like(wanted)
        wanted &= self._state.place["size_class"] >= 0  # of some only their delete is known
        index, lane = np.nonzero(wanted)
        place = self._state.place
        _give_arena(place, index, lane, self._state.cursor, self._fixed)
        shuffled = rng.permutation(len(index))
        index, lane = index[shuffled], lane[shuffled]
        chosen = place[index, lane]
        return _writes(
            self._survey.table.keys[index],
            lane.astype(np.uint8),
            chosen["extent"].astype(np.uint64),
            chosen["length"].astype(np.uint64),
            chosen["arena"].astype(np.uint64),
        )

    def plan(
        self, trace: Trace, limit: Limit, progress: Callable[[int], None] = lambda rows: None
    ) -> Plan:
        """Return the plan of the rows within `limit`."""
        out = _empty_out(self._survey.executed_ops)
        for batch in read_batches(trace, limit):
            self._plan_batch(trace, batch, out)
            progress(batch.first_row + len(batch.op))
        count = self._state.cursor
        assert count[order.OPS] == self._survey.executed_ops
        edges = self._state.edges[: count[order.EDGES]]
        begin, waiting = order.successors(edges, out.wait_count)
        ops = Ops(
            due_ns=out.due,
            lane=out.lane,
            action=out.action,
            offset_bytes=out.offset,
            length_bytes=out.length,
            key=out.key,
            sector=out.sector,
            generation=out.generation,
            arena_bytes=out.arena,
            wait_count=out.wait_count,
            successor_begin=begin,
            successors=waiting,
        )
        end = self._state.next_free
        return Plan(ops, out.row, out.tier, out.op, out.phase, out.size, end.copy())

    def _plan_batch(self, trace: Trace, batch: Batch, out: Out) -> None:
        table = self._survey.table
        index = np.empty(len(batch.op), np.int32)
        find_all(table.slots, table.keys, batch.key, index)
        rows = Rows(
            batch.timestamp_ns,
            batch.op,
            batch.size_bytes,
            batch.tier,
            batch.key,
            index,
            batch.phase,
            batch.offset_bytes,
        )
        begin = 0
        while begin < len(batch.op):
            status, begin = order.plan_rows(
                rows, begin, batch.first_row, self._state, self._fixed, out
            )
            if status == order.MORE_ROOM:
                self._state = _enlarged(self._state, int(index[begin]))
            elif status == order.UNALIGNED:
                raise self._unaligned(trace, batch, begin)

    def _unaligned(self, trace: Trace, batch: Batch, row: int) -> UsageError:
        lane = int(self._geometry.lane_of_tier[batch.tier[row]])
        align = self._geometry.spaces[lane].align_bytes
        return UsageError(
            "partial write that isn't aligned",
            where=f"{trace.path}: row {batch.first_row + row}",
            got=f"offset {int(batch.offset_bytes[row])}, size {int(batch.size_bytes[row])}",
            accepted=f"multiples of {format_bytes(align)}, or up to the object's end",
            hint="replay it on a target with smaller blocks, or without this tier (--tiers)",
        )


def _enlarged(state: State, index: int) -> State:
    """Return the state with lists at least twice as long, and room for a row of that key."""
    more = int(state.order["read_count"][index].max())
    more += int(state.node_length[: state.cursor[order.NODES]].max(initial=0)) * 4 + _LIST_SLACK

    def grown(column: NDArray[Number]) -> NDArray[Number]:
        return np.concatenate((column, np.zeros(max(more, len(column)), column.dtype)))

    return state._replace(
        edges=grown(state.edges),
        node_op=grown(state.node_op),
        node_next=grown(state.node_next),
        node_length=grown(state.node_length),
    )


def _initial_state(
    survey: Survey, classes: Classes, quotas: NDArray[np.int64], geometry: Geometry
) -> State:
    place = np.zeros(survey.objects.shape, PLACE)
    place["size_class"] = classes.of_object
    known = classes.of_object >= 0
    place["length"][known] = classes.length_bytes[classes.of_object[known]]
    for lane, space in enumerate(geometry.spaces):
        align = space.align_bytes
        place["length"][:, lane] = -(-survey.objects["length"][:, lane] // align) * align
    table = np.zeros(len(quotas), CLASS)
    table["length"], table["quota"] = classes.length_bytes, quotas
    freed = survey.deletes + 1
    count = np.zeros(6, np.int64)
    count[order.NODES] = count[order.FREED] = 1  # 0 ends a list
    nodes, edges = survey.executed_ops + _LIST_SLACK, 2 * survey.executed_ops + _LIST_SLACK
    return State(
        order=np.zeros((survey.keys, len(Tier)), ORDER),
        place=place,
        transfer_read=np.zeros(survey.keys, np.int64),
        classes=table,
        next_free=np.array([space.begin_bytes for space in geometry.spaces], np.int64),
        freed_extent=np.zeros(freed, np.int64),
        freed_ref=np.zeros(freed, np.int64),
        freed_next=np.zeros(freed, np.int64),
        node_op=np.zeros(nodes, np.uint32),
        node_next=np.zeros(nodes, np.int64),
        node_length=np.zeros(nodes, np.int64),
        edges=np.zeros(edges, np.uint32),
        cursor=count,
    )


def _place_originals(place: NDArray[np.void], survey: Survey, state: State) -> None:
    """Give extents to the objects that are there before the first row."""
    there = (survey.objects["initial"] | survey.objects["resident"]) > 0
    index, lane = np.nonzero(there & (place["size_class"] >= 0))
    _take_originals(place, index, lane, state.classes, state.next_free)


@kernel
def _take_originals(
    place: NDArray[np.void],
    index: NDArray[np.int64],
    lane: NDArray[np.int64],
    classes: NDArray[np.void],
    next_free: NDArray[np.int64],
) -> None:
    for at in range(index.size):
        item: order.Record = place[index[at], lane[at]]
        item.extent = order.take_extent(classes, item.size_class, next_free, lane[at])
        item.written = item.length
        item.live = 1


@kernel
def _give_arena(
    place: NDArray[np.void],
    index: NDArray[np.int64],
    lane: NDArray[np.int64],
    count: NDArray[np.int64],
    fixed: Fixed,
) -> None:
    for at in range(index.size):
        item: order.Record = place[index[at], lane[at]]
        cursor = order.reserve_arena(
            int(count[order.ARENA]), item.length, fixed.arena_bytes, fixed.io_bytes
        )
        item.arena = cursor
        count[order.ARENA] = cursor + item.length


def _writes(
    key: NDArray[np.uint64],
    lane: NDArray[np.uint8],
    offset: NDArray[np.uint64],
    length: NDArray[np.uint64],
    arena: NDArray[np.uint64],
) -> Ops:
    count = len(key)
    return Ops(
        due_ns=np.zeros(count, np.int64),
        lane=lane,
        action=np.full(count, Action.WRITE, np.uint8),
        offset_bytes=offset,
        length_bytes=length,
        key=key,
        sector=np.zeros(count, np.uint32),
        generation=np.zeros(count, np.uint32),
        arena_bytes=arena,
        wait_count=np.zeros(count, np.uint32),
        successor_begin=np.zeros(count + 1, np.uint64),
        successors=np.zeros(0, np.uint32),
    )


def fill_ops(lane: int, begin_bytes: int, end_bytes: int, io_bytes: int, arena_bytes: int) -> Ops:
    """Return the writes that cover [begin, end) of a lane's target once, front to back."""
    offset = np.arange(begin_bytes, end_bytes, io_bytes, dtype=np.uint64)
    length = np.minimum(np.uint64(end_bytes) - offset, np.uint64(io_bytes))
    arena = np.arange(len(offset), dtype=np.uint64) * np.uint64(io_bytes)
    key = np.full(len(offset), np.iinfo(np.uint64).max, np.uint64)
    return _writes(key, np.full(len(offset), lane, np.uint8), offset, length, arena)


def _empty_out(count: int) -> Out:
    types = {
        "row": np.int64,
        "tier": np.uint8,
        "op": np.uint8,
        "phase": np.uint8,
        "size": np.uint64,
        "due": np.int64,
        "lane": np.uint8,
        "action": np.uint8,
        "offset": np.uint64,
        "length": np.uint64,
        "key": np.uint64,
        "sector": np.uint32,
        "generation": np.uint32,
        "arena": np.uint64,
        "wait_count": np.uint32,
    }
    return Out(**{name: np.zeros(count, kind) for name, kind in types.items()})
