"""Pass 2 over a trace: everything that can be decided before an op runs, as columns of a ring."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

import numpy as np

from kvtrace.errors import TargetError, UsageError
from kvtrace.placement.ground import MIXED, enlarged
from kvtrace.placement.keys import KeyTable, carried
from kvtrace.placement.looped import round_step
from kvtrace.placement.places import ARENA, BORN, give_arena, place_originals
from kvtrace.placement.rehearsal import space_ends, unpack
from kvtrace.placement.rows import NO_STREAM, Batch, read_batches, read_only, stream_keys
from kvtrace.placement.spool import CHUNK
from kvtrace.placement.survey import dead_read
from kvtrace.trace.schema import Tier
from kvtrace.units import format_bytes
from replay.ops import lists
from replay.ops.columns import Ops
from replay.ops.divided import EXTENT_ROOM
from replay.ops.lists import (
    DRAINED,
    EDGE_FLOOR,
    EDGES,
    EXTENT_FLOOR,
    EXTENTS,
    FLOOR,
    NODE_FLOOR,
    NODES,
    OPS,
)
from replay.plan import gates, order
from replay.plan.geometry import Geometry, fixed_of, initial_state
from replay.plan.order import Rows
from replay.plan.writes import writes

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kvtrace.errors import TraceError
    from kvtrace.placement.rows import RowSource
    from kvtrace.placement.survey import Survey

RING_OPS = 1 << 20
"""Ops that the plan may be ahead of the loop."""
EDGES_PER_OP = 4
_LOOP_OPS, _LOOP_ROUNDS = 1 << 12, 1 << 10
"""A loop of few rows is planned for as many ops and rounds at least: each round has its cost."""
_PLACE_COLUMNS = ("order", "place", "transfer_read", "touched")


def make_ring(survey: Survey, *, closed: bool, divided: bool = False) -> Ops:
    """Return a ring for a trace's plan: of `RING_OPS`, or smaller for a short trace.

    `divided`: objects may have several extents.
    """
    if survey.repeats_from is not None:
        most = max(_LOOP_OPS, survey.executed_ops * _LOOP_ROUNDS)
    else:
        most = survey.executed_ops * (2 if closed else 1) + survey.rows // lists.JOIN_COUNT
        if closed:
            most += survey.rows  # every row may begin a group
    capacity = min(RING_OPS, 1 << (most + order.SLOTS_PER_ROW).bit_length())
    edges = max(EDGES_PER_OP * capacity, 16 * lists.JOIN_COUNT)
    extents = EXTENT_ROOM if divided else 1
    return Ops.empty(capacity, edges, clocks=closed, extents=extents)


class Planner:
    """Plans a trace, from a ring's room to its room. Memory follows live objects and the ring."""

    def __init__(
        self,
        rows: RowSource,
        survey: Survey,
        space_lanes: NDArray[np.void],
        geometry: Geometry,
        ops: Ops,
    ) -> None:
        self._source, self._survey, self._geometry = rows, survey, geometry
        self._space_lanes = space_lanes.copy()
        self._fixed = fixed_of(geometry)
        self._ring = lists.ring_of(ops)
        self._lists = lists.make_lists(1 << (2 * ops.capacity).bit_length(), self._ring)
        self._table = KeyTable()
        self._state = initial_state(space_lanes, geometry)
        self._streams = KeyTable()
        self._stream_states = np.zeros(0, gates.STREAM)
        self._marks: deque[tuple[int, int]] = deque()
        """(ops, nodes) at the beginning of slices."""
        self._extent_marks: deque[tuple[int, int]] = deque()
        """(ops, extents) at the beginning of calls of `advance`."""
        self._born = 0
        self._batches = read_batches(rows, _optional(geometry))
        self._batch: Batch | None = None
        self._rows: Rows | None = None
        self._at = 0
        self.rows = 0
        """How many rows of the trace have been planned."""
        self.final = False
        """Whether all have."""
        self._place_originals()

    @property
    def planned(self) -> int:
        """Number of ops."""
        return int(self._ring.cursor[OPS])

    @property
    def edges(self) -> int:
        """Number of waits."""
        return int(self._ring.cursor[EDGES])

    @property
    def extent_ends(self) -> NDArray[np.int64]:
        """Per lane: the end of the space that the plan uses."""
        return np.asarray(self._state.ground.lanes["top"], np.int64)

    @property
    def clocks(self) -> int:
        """How many clocks the whole plan has."""
        return self._survey.sessions + 1 if self._geometry.closed else 0

    def space_ends(self) -> tuple[int, ...]:
        """Return, per lane, where the space that the whole plan may use ends."""
        return space_ends(self._survey, self._space_lanes, self._fixed.align)

    def populate(self, which: str, rng: np.random.Generator) -> tuple[Ops, int]:
        """Return the writes that bring the objects there that the trace expects to find.

        In shuffled extent order; which: `touched`, `all` or `none`. Call it before `advance`.
        """
        originals = self._survey.originals
        wanted = originals["initial"] > 0
        if which == "touched":
            wanted = wanted | (originals["touched"] > 0)
        elif which == "all":
            wanted = np.ones_like(wanted)
        elif which == "none":
            wanted = np.zeros_like(wanted)
        index = self._table.add(np.ascontiguousarray(originals["key"])).astype(np.int64)
        lane = originals["lane"].astype(np.int64)
        wanted &= self._state.place["length"][index, lane] > 0  # some are only deleted
        index, lane = index[wanted], lane[wanted]
        give_arena(
            self._state.place, index, lane, self._state.cursor, self._fixed.arena_bytes,
            self._fixed.io_bytes,
        )  # fmt: skip
        shuffled = rng.permutation(len(index))
        index, lane = index[shuffled], lane[shuffled]
        chosen = self._state.place[index, lane]
        per_object = self._fixed.per_object[lane]
        ops = writes(
            self._table.keys[index],
            (lane * self._geometry.threads).astype(np.uint8),
            np.where(per_object, 0, chosen["extent"]).astype(np.uint64),
            chosen["length"].astype(np.uint64),
            chosen["arena"].astype(np.uint64),
        )
        size = originals["length"][wanted][shuffled]
        ops.pad_bytes[: len(index)] = chosen["length"] - size
        return ops, len(index)

    def restart_arena(self) -> None:
        """Let the ops that follow begin at the start of a stream of payload of their own."""
        self._state.cursor[ARENA] = 0

    def _place_originals(self) -> None:
        """Give extents to the objects that are there before the first row."""
        originals = self._survey.originals
        self._reserve(len(originals))
        index = self._table.add(np.ascontiguousarray(originals["key"])).astype(np.int64)
        lane = originals["lane"].astype(np.int64)
        state = self._state
        length = np.ascontiguousarray(originals["length"])
        ground = place_originals(state.place, state.ground, index, lane, length, self._fixed.align)
        self._state = state._replace(ground=ground)

    def advance(self, drained: int) -> bool:
        """Plan one slice of rows, or what of it the ring takes; return whether that was anything.

        `drained`: ops below it were taken out of the ring. Raises UsageError for a row that the
        target can't do, TraceError for a bad one.
        """
        before = (self.planned, self.rows)
        ring = self._ring
        ring.cursor[DRAINED] = drained
        ring.cursor[EDGE_FLOOR] = self._edge_floor(drained)
        self._raise_extent_floor(drained)
        if not self.final and (self._rows is not None or self._next_slice()):
            self._plan_slice()
        return (self.planned, self.rows) != before

    def _edge_floor(self, drained: int) -> int:
        ring = self._ring
        edges = self.edges
        if drained >= self.planned:
            return edges
        begin = int(ring.ops.edge_begin[drained & ring.mask])
        return edges - ((edges - begin) & 0xFFFFFFFF)

    def _raise_extent_floor(self, drained: int) -> None:
        """Give up the extents of ops that were taken out of the ring."""
        cursor = self._ring.cursor
        self._extent_marks.append((self.planned, int(cursor[EXTENTS])))
        while self._extent_marks and self._extent_marks[0][0] <= drained:
            cursor[EXTENT_FLOOR] = self._extent_marks.popleft()[1]

    def _next_slice(self) -> bool:
        """Take the next rows; False at the end of the trace."""
        self._batch = next(self._batches, None)
        if self._batch is None:
            self.final = True
            return False
        self._raise_floor()
        batch = self._batch
        self._reserve(len(batch.op))
        before = self._table.count
        index = self._table.add(batch.key)
        # A key that comes back after it was forgotten doesn't count from 1 again.
        epoch = self.planned // self._ring.ops.capacity
        self._state.place["generation"][before : self._table.count] = epoch
        self._rows = self._make_rows(batch, index)
        self._at = 0
        return True

    def _make_rows(self, batch: Batch, index: NDArray[np.int32]) -> Rows:
        return Rows(
            batch.timestamp_ns,
            batch.op,
            batch.size_bytes,
            batch.tier,
            batch.key,
            index,
            batch.phase,
            batch.offset_bytes,
            _qos(batch),
            self._groups(batch),
        )

    def _groups(self, batch: Batch) -> gates.GroupRows:
        if not self._geometry.closed:
            nothing = np.zeros(0, np.int32)
            request, complete = np.zeros(0, np.uint64), np.zeros(0, np.int64)
            return gates.GroupRows(
                nothing, read_only(request), nothing, read_only(complete), self._stream_states
            )
        keys = stream_keys(batch)
        stream = self._streams.add(keys)
        stream[keys == NO_STREAM] = gates.NO_STREAM
        if self._streams.capacity > len(self._stream_states):
            everything = np.ones(len(self._stream_states), bool)
            self._stream_states = carried(self._stream_states, everything, self._streams.capacity)
        rows = len(batch.op)
        step = batch.optional.get("step", np.zeros(rows, np.uint16)).astype(np.int32)
        complete = batch.optional.get("complete", np.full(rows, -1, np.int64))
        request = batch.optional.get("request", np.zeros(rows, np.uint64))
        return gates.GroupRows(
            stream,
            read_only(np.ma.getdata(request) + round_step(batch.round)),  # others in each round
            np.ma.getdata(step),
            read_only(np.ma.filled(complete, -1)),
            self._stream_states,
        )

    def _raise_floor(self) -> None:
        """Forget what waits need not be planned for any more: it was drained long ago."""
        ring = self._ring
        floor = max(0, self.planned - ring.ops.due_ns.size)
        ring.cursor[FLOOR] = floor
        self._marks.append((self.planned, int(self._lists.cursor[NODES])))
        while self._marks and self._marks[0][0] <= floor:
            self._lists.cursor[NODE_FLOOR] = self._marks.popleft()[1]

    def _reserve(self, count: int) -> None:
        """Make room for `count` more keys, by forgetting those that are neither live nor recent."""
        if self._table.has_room(count) and self._table.capacity <= len(self._state.touched):
            return
        used = self._table.count
        live = (self._state.place["live"][:used] != 0).any(axis=1)
        kept = live | (self._state.touched[:used] > self._ring.cursor[FLOOR])
        if self._table.has_room(count):
            kept[:] = True
        self._table.keep(kept, count)
        columns: dict[str, Any] = {
            name: carried(getattr(self._state, name), kept, self._table.capacity)
            for name in _PLACE_COLUMNS
        }
        self._state = self._state._replace(**columns)

    def _plan_slice(self) -> None:
        """Plan the rows at hand, as far as the ring takes them."""
        assert self._batch is not None
        assert self._rows is not None
        while True:
            status, self._at = order.plan_rows(
                self._rows,
                self._at,
                self._batch.first_row,
                self._state,
                self._lists,
                self._fixed,
                self._ring,
            )
            self.rows = self._batch.first_row + self._at
            self._check_space()
            if status == order.DONE:
                self._rows = None
                return
            if status == order.RING_FULL:
                assert self.planned > self._ring.cursor[DRAINED], "one row needs the whole ring"
                return
            if status == order.MORE_ROOM:
                self._enlarge()
            elif status == order.MORE_NODES:
                self._state = self._state._replace(ground=enlarged(self._state.ground))
            elif status == order.MORE_BIRTHS:
                self._load_births()
            elif status == order.UNALIGNED:
                raise self._unaligned()
            else:
                raise self._dead_read()

    def _enlarge(self) -> None:
        self._lists = lists.enlarged(self._lists, self._ring, len(self._lists.op))

    def _check_space(self) -> None:
        """Raise TargetError if the space is used up: further rounds divide it as none before."""
        assert self._batch is not None
        lanes = self._state.ground.lanes
        beyond = (lanes["kind"] == MIXED) & (lanes["top"] > lanes["cap"])
        if self._survey.repeats_from is None or not beyond.any():
            return
        raise TargetError(
            f"round {self._batch.round + 1} found no room: the free space is in too small parts",
            where=f"--loop: {self._source.path}",
            hint="give the target more space (--slack 0.2), or objects of one size",
        )

    def _load_births(self) -> None:
        lives = self._survey.lives
        if self._born == lives.count and self._survey.repeats_from is not None:
            self._born = self._survey.repeats_from
        lengths, _ = unpack(lives.read(self._born, CHUNK))
        self._born += len(lengths)
        assert len(lengths), "more lives than the survey found"
        self._state.cursor[BORN] = 0
        self._state = self._state._replace(born_length=lengths)

    def _unaligned(self) -> UsageError:
        assert self._batch is not None
        batch, row = self._batch, self._at
        align = self._geometry.spaces[self._geometry.lane_of_tier[batch.tier[row]]].align_bytes
        return UsageError(
            "partial write that isn't aligned",
            where=f"{self._source.path}: row {batch.first_row + row}",
            got=f"offset {int(batch.offset_bytes[row])}, size {int(batch.size_bytes[row])}",
            accepted=f"multiples of {format_bytes(align)}, or up to the object's end",
            hint="replay it on a target with smaller blocks, or without this tier (--tiers)",
        )

    def _dead_read(self) -> TraceError:
        assert self._batch is not None
        batch, row = self._batch, self._at
        tier = Tier(batch.tier[row])
        return dead_read(self._source, batch.first_row + row, int(batch.key[row]), tier)


def _optional(geometry: Geometry) -> tuple[str, ...]:
    if geometry.closed:
        return ("qos", "session", "request", "step", "complete")
    return ("qos",)


def _qos(batch: Batch) -> NDArray[np.uint8]:
    """Return 1 + the class of urgency of each row, 0 where it is unknown."""
    if "qos" not in batch.optional:
        return np.zeros(len(batch.op), np.uint8)
    words = batch.optional["qos"]
    return np.where(np.ma.getmaskarray(words), 0, np.ma.getdata(words) + 1).astype(np.uint8)
