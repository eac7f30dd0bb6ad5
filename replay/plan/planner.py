"""Pass 2 over a trace: everything that can be decided before an op runs, as columns of a ring."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import numpy as np

from kvtrace.errors import TargetError, UsageError
from kvtrace.native.library import contiguous
from kvtrace.placement.ground import MIXED, Ground
from kvtrace.placement.keys import KeyTable, carried
from kvtrace.placement.looped import round_step
from kvtrace.placement.places import give_arena, place_originals
from kvtrace.placement.rehearsal import space_ends, unpack
from kvtrace.placement.rows import NO_STREAM, Batch, read_batches, rows_of, stream_keys
from kvtrace.placement.spool import CHUNK
from kvtrace.placement.survey import dead_read
from kvtrace.trace.schema import Tier
from kvtrace.units import format_bytes
from replay.ops.columns import Ops
from replay.ops.divided import EXTENT_ROOM
from replay.ops.lists import JOIN_COUNT, Lists, Ring
from replay.plan import gates, order
from replay.plan.geometry import Geometry, new_plan
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
        most = survey.executed_ops * (2 if closed else 1) + survey.rows // JOIN_COUNT
        if closed:
            most += survey.rows  # every row may begin a group
    capacity = min(RING_OPS, 1 << (most + order.SLOTS_PER_ROW).bit_length())
    edges = max(EDGES_PER_OP * capacity, 16 * JOIN_COUNT)
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
        self._ring, self._lists = Ring(ops), Lists(1 << (2 * ops.capacity).bit_length())
        self._plan = new_plan(space_lanes, geometry, self._ring, self._lists)
        self._table = KeyTable()
        self._streams = KeyTable()
        self._stream_states = np.zeros(0, gates.STREAM)
        self._marks: deque[tuple[int, int]] = deque()
        """(ops, links) at the beginning of slices."""
        self._extent_marks: deque[tuple[int, int]] = deque()
        """(ops, extents) at the beginning of calls of `advance`."""
        self._born = 0
        self._batches = read_batches(rows, _optional(geometry))
        self._batch: Batch | None = None
        self._in_slice = False
        """Whether rows of the batch are left to plan."""
        self.rows = 0
        """How many rows of the trace have been planned."""
        self.final = False
        """Whether all have."""
        self._place_originals()

    @property
    def planned(self) -> int:
        """Number of ops."""
        return int(self._ring.planned)

    @property
    def edges(self) -> int:
        """Number of waits."""
        return int(self._ring.edge_end)

    @property
    def extent_ends(self) -> NDArray[np.int64]:
        """Per lane: the end of the space that the plan uses."""
        return np.asarray(self._ground.spaces["top"], np.int64)

    @property
    def _ground(self) -> Ground:
        ground: Ground = self._plan.structure("ground")
        return ground

    @property
    def _place(self) -> NDArray[np.void]:
        return self._plan.array("place")

    @property
    def clocks(self) -> int:
        """How many clocks the whole plan has."""
        return self._survey.sessions + 1 if self._geometry.closed else 0

    def space_ends(self) -> tuple[int, ...]:
        """Return, per lane, where the space that the whole plan may use ends."""
        return space_ends(self._survey, self._space_lanes, self._plan.array("align"))

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
        index = self._table.add(contiguous(originals["key"])).astype(np.int64)
        lane = originals["lane"].astype(np.int64)
        wanted &= self._place["length"][index, lane] > 0  # some are only deleted
        index, lane = index[wanted], lane[wanted]
        plan = self._plan
        plan.arena = give_arena(
            self._place, index, lane, plan.arena, plan.arena_bytes, plan.io_bytes
        )
        shuffled = rng.permutation(len(index))
        index, lane = index[shuffled], lane[shuffled]
        chosen = self._place[index, lane]
        per_object = plan.array("per_object")[lane]
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
        self._plan.arena = 0

    def _place_originals(self) -> None:
        """Give extents to the objects that are there before the first row."""
        originals = self._survey.originals
        self._reserve(len(originals))
        index = self._table.add(contiguous(originals["key"])).astype(np.int64)
        lane = originals["lane"].astype(np.int64)
        length = contiguous(originals["length"])
        align = self._plan.array("align")
        place_originals(self._place, self._ground, index, lane, length, align)

    def advance(self, drained: int) -> bool:
        """Plan one slice of rows, or what of it the ring takes; return whether that was anything.

        `drained`: ops below it were taken out of the ring. Raises UsageError for a row that the
        target can't do, TraceError for a bad one.
        """
        before = (self.planned, self.rows)
        ring = self._ring
        ring.drained = drained
        ring.edge_floor = self._edge_floor(drained)
        self._raise_extent_floor(drained)
        if not self.final and (self._in_slice or self._next_slice()):
            self._plan_slice()
        return (self.planned, self.rows) != before

    def _edge_floor(self, drained: int) -> int:
        ring = self._ring
        edges = self.edges
        if drained >= self.planned:
            return edges
        begin = int(ring.ops.edge_begin[drained & (ring.capacity - 1)])
        return edges - ((edges - begin) & 0xFFFFFFFF)

    def _raise_extent_floor(self, drained: int) -> None:
        """Give up the extents of ops that were taken out of the ring."""
        self._extent_marks.append((self.planned, self._ring.extent_end))
        while self._extent_marks and self._extent_marks[0][0] <= drained:
            self._ring.extent_floor = self._extent_marks.popleft()[1]

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
        self._place["generation"][before : self._table.count] = epoch
        groups = self._groups(batch)
        self._plan.set(rows=rows_of(batch), key_index=index, qos=_qos(batch), groups=groups, row=0)
        self._in_slice = True
        return True

    def _groups(self, batch: Batch) -> gates.GroupRows:
        if not self._geometry.closed:
            return gates.GroupRows()
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
        task = batch.optional.get("batch", np.full(rows, -1, np.int64)).astype(np.int64)
        return gates.GroupRows(
            stream=stream,
            request=np.ma.getdata(request) + round_step(batch.round),  # others in each round
            step=contiguous(np.ma.getdata(step)),
            complete=contiguous(np.ma.filled(complete, -1)),
            batch=contiguous(np.ma.filled(task, -1)),
            streams=self._stream_states,
        )

    def _raise_floor(self) -> None:
        """Forget what waits need not be planned for any more: it was drained long ago."""
        ring = self._ring
        floor = max(0, self.planned - ring.ops.due_ns.size)
        ring.floor = floor
        self._marks.append((self.planned, self._lists.end))
        while self._marks and self._marks[0][0] <= floor:
            self._lists.begin = self._marks.popleft()[1]

    def _reserve(self, count: int) -> None:
        """Make room for `count` more keys, by forgetting those that are neither live nor recent."""
        plan, table = self._plan, self._table
        if table.has_room(count) and table.capacity <= len(plan.array("touched")):
            return
        live = (self._place["live"][: table.count] != 0).any(axis=1)
        kept = live | (plan.array("touched")[: table.count] > self._ring.floor)
        if table.has_room(count):
            kept[:] = True
        table.keep(kept, count)
        plan.set(
            **{name: carried(plan.array(name), kept, table.capacity) for name in _PLACE_COLUMNS}
        )

    def _plan_slice(self) -> None:
        """Plan the rows at hand, as far as the ring takes them."""
        assert self._batch is not None
        while True:
            status = self._plan.plan_rows()
            self.rows = self._batch.first_row + self._plan.row
            self._check_space()
            if status == order.DONE:
                self._in_slice = False
                return
            if status == order.RING_FULL:
                assert self.planned > self._ring.drained, "one row needs the whole ring"
                return
            if status == order.MORE_ROOM:
                self._lists.enlarge()
            elif status == order.MORE_NODES:
                self._ground.enlarge()
            elif status == order.MORE_BIRTHS:
                self._load_births()
            elif status == order.UNALIGNED:
                raise self._unaligned()
            else:
                raise self._dead_read()

    def _check_space(self) -> None:
        """Raise TargetError if the space is used up: further rounds divide it as none before."""
        assert self._batch is not None
        lanes = self._ground.spaces
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
        self._plan.set(born_length=lengths, born_count=len(lengths), born=0)

    def _unaligned(self) -> UsageError:
        assert self._batch is not None
        batch, row = self._batch, self._plan.row
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
        batch, row = self._batch, self._plan.row
        tier = Tier(batch.tier[row])
        return dead_read(self._source, batch.first_row + row, int(batch.key[row]), tier)


def _optional(geometry: Geometry) -> tuple[str, ...]:
    if geometry.closed:
        return ("qos", "session", "request", "step", "complete", "batch")
    return ("qos",)


def _qos(batch: Batch) -> NDArray[np.uint8]:
    """Return 1 + the class of urgency of each row, 0 where it is unknown."""
    if "qos" not in batch.optional:
        return np.zeros(len(batch.op), np.uint8)
    words = batch.optional["qos"]
    return np.where(np.ma.getmaskarray(words), 0, np.ma.getdata(words) + 1).astype(np.uint8)
