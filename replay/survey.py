"""Pass 1 over a trace: which objects there are, how long, what must exist before the clock starts.

Streams the rows; memory grows with the objects, and by eight bytes per life of an object.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kvtrace.errors import TraceError
from kvtrace.jit import helper, kernel
from kvtrace.schema import Op, Phase, Tier
from replay.keys import KeyTable, find_or_add

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kvtrace.reader import Trace

Columns = dict[str, NDArray[Any]]
COLUMNS = ("timestamp", "op", "size", "tier", "key", "phase")
NO_LANE = -1
ORIGINAL = 1 << 62
"""`written` of an object that was there before the run: all of it."""
_SLICE_ROWS = 1 << 16
_READ, _WRITE, _DELETE, _LOOKUP = (int(op) for op in Op)

OBJECT = np.dtype(
    [
        ("length", "i8"),
        ("written", "i8"),
        ("resident", "u1"),
        ("touched", "u1"),
        ("initial", "u1"),
        ("live", "u1"),
        ("original", "u1"),
    ],
    align=True,
)
"""One (key, lane). `written`: end of what was written; `initial`: first touched by a read or delete
without being resident; `original`: holds bytes that this run didn't write."""

_ORIGINAL_READS, _BEYOND_READS, _DELETES, _EXECUTED, _BAD_ROW, _KEYS = range(6)


@dataclass(frozen=True, slots=True)
class Limit:
    """How much of a trace is replayed: that many rows, or the rows before that time."""

    rows: int | None = None
    duration_ns: int | None = None

    def cut(self, first_row: int, timestamps: NDArray[np.int64]) -> int:
        """Return how many of the rows that start at `first_row` are within the limit."""
        count = len(timestamps)
        if self.rows is not None:
            count = min(count, max(0, self.rows - first_row))
        if self.duration_ns is not None:
            count = min(count, int(np.searchsorted(timestamps, self.duration_ns)))
        return count


@dataclass(slots=True)
class Batch:
    """Consecutive rows of a trace, with `offset_bytes` filled in where the trace has none."""

    first_row: int
    timestamp_ns: NDArray[np.int64]
    op: NDArray[np.uint8]
    size_bytes: NDArray[np.uint64]
    tier: NDArray[np.uint8]
    key: NDArray[np.uint64]
    phase: NDArray[np.uint8]
    offset_bytes: NDArray[np.uint64]


def read_batches(trace: Trace, limit: Limit) -> Iterator[Batch]:
    """Yield the rows of `trace` that are within `limit`, in slices that stay in a CPU's cache."""
    names = [*COLUMNS, "offset"] if "offset" in trace.columns else list(COLUMNS)
    first_row = 0
    for columns in trace.batches(names):
        rows = limit.cut(first_row, columns["timestamp"])
        for begin in range(0, rows, _SLICE_ROWS):
            end = min(rows, begin + _SLICE_ROWS)
            part = {name: values[begin:end] for name, values in columns.items()}
            offset = part.get("offset")
            yield Batch(
                first_row + begin,
                part["timestamp"],
                part["op"],
                part["size"],
                part["tier"],
                part["key"],
                part["phase"],
                np.zeros(end - begin, np.uint64) if offset is None else offset,
            )
        if rows < len(columns["timestamp"]):
            return
        first_row += rows


@dataclass(slots=True)
class Survey:
    """What pass 1 found. Object arrays are indexed [key index, lane]."""

    table: KeyTable
    objects: NDArray[np.void]
    births_deaths: NDArray[np.int64]
    """Flat object index + 1 where a life begins, − (flat object index + 1) where one ends."""
    cell_ops: NDArray[np.int64]
    cell_bytes: NDArray[np.int64]
    """Per tier × phase × op, of all rows."""
    rows: int
    last_ns: int
    executed_ops: int
    deletes: int
    original_reads: int
    """Reads of bytes that the run itself hasn't written: they need populating."""
    beyond_reads: int
    """Reads past the end of what had been written."""

    @property
    def keys(self) -> int:
        """How many keys there are."""
        return self.table.count


def survey(
    trace: Trace,
    lane_of_tier: NDArray[np.int8],
    limit: Limit,
    progress: Callable[[int], None] = lambda rows: None,
) -> Survey:
    """Return what the rows of `trace` within `limit` need. Raises TraceError for a dead read."""
    lanes = int(lane_of_tier.max()) + 1
    state = _State(max(1, lanes))
    state.add_resident(trace, lane_of_tier)
    rows, last_ns = 0, 0
    for batch in read_batches(trace, limit):
        state.add(batch, lane_of_tier)
        if state.tally[_BAD_ROW] >= 0:
            raise _dead_read(trace, batch, int(state.tally[_BAD_ROW]))
        rows = batch.first_row + len(batch.op)
        last_ns = int(batch.timestamp_ns[-1])
        progress(rows)
    return state.result(rows, last_ns)


def _dead_read(trace: Trace, batch: Batch, row: int) -> TraceError:
    return TraceError(
        "read of a deleted object",
        where=f"{trace.path}: row {batch.first_row + row}, column op",
        got=f"key {int(batch.key[row])} on tier {Tier(batch.tier[row]).label}",
        accepted="a read that follows a live write",
        hint="run `kvtrace check`",
    )


class _State:
    def __init__(self, lanes: int) -> None:
        self.table = KeyTable()
        self.objects = np.zeros((self.table.keys.size, lanes), OBJECT)
        self.lives: list[NDArray[np.int64]] = []
        shape = (len(Tier), len(Phase), len(Op))
        self.cell_ops = np.zeros(shape, np.int64)
        self.cell_bytes = np.zeros(shape, np.int64)
        self.tally = np.zeros(6, np.int64)
        self.tally[_BAD_ROW] = -1

    def _reserve(self, rows: int) -> None:
        self.table.reserve(rows)
        if len(self.objects) < self.table.keys.size:
            grown = np.zeros((self.table.keys.size, self.objects.shape[1]), OBJECT)
            grown[: len(self.objects)] = self.objects
            self.objects = grown

    def add_resident(self, trace: Trace, lane_of_tier: NDArray[np.int8]) -> None:
        """Make the declared residents of executed tiers live."""
        resident = trace.resident()
        resident = resident[lane_of_tier[resident["tier"]] >= 0]
        self._reserve(len(resident))
        lane = lane_of_tier[resident["tier"]].astype(np.int64)
        keys = np.ascontiguousarray(resident["key"])
        sizes = resident["size"].astype(np.int64)
        self.table.count = _add_resident(
            self.table.slots, self.table.keys, keys, lane, sizes, self.objects, self.table.count
        )

    def add(self, batch: Batch, lane_of_tier: NDArray[np.int8]) -> None:
        """Take one slice of rows."""
        self._reserve(len(batch.op))
        lives = np.empty(len(batch.op), np.int64)
        self.tally[_KEYS] = self.table.count
        count = _survey_rows(
            batch.op,
            batch.size_bytes,
            batch.tier,
            batch.key,
            batch.phase,
            batch.offset_bytes,
            lane_of_tier,
            self.table.slots,
            self.table.keys,
            self.objects,
            self.cell_ops,
            self.cell_bytes,
            lives,
            self.tally,
        )
        self.table.count = int(self.tally[_KEYS])
        self.lives.append(lives[:count].copy())

    def result(self, rows: int, last_ns: int) -> Survey:
        """Return all that was found."""
        tally = self.tally
        return Survey(
            self.table,
            self.objects[: self.table.count],
            np.concatenate(self.lives) if self.lives else np.zeros(0, np.int64),
            self.cell_ops,
            self.cell_bytes,
            rows,
            last_ns,
            executed_ops=int(tally[_EXECUTED]),
            deletes=int(tally[_DELETES]),
            original_reads=int(tally[_ORIGINAL_READS]),
            beyond_reads=int(tally[_BEYOND_READS]),
        )


@kernel
def _add_resident(
    slots: NDArray[np.int32],
    keys: NDArray[np.uint64],
    new_keys: NDArray[np.uint64],
    lane: NDArray[np.int64],
    size: NDArray[np.int64],
    objects: NDArray[np.void],
    count: int,
) -> int:
    for row in range(new_keys.size):
        index = find_or_add(slots, keys, count, new_keys[row])
        count = max(count, index + 1)
        item: Any = objects[index, lane[row]]
        item.length = max(item.length, size[row])
        item.written = ORIGINAL
        item.resident = 1
        item.original = 1
        item.live = 1
    return count


@helper
def _note_write(item: Any, offset: int, end: int) -> int:
    """Note a write; return 1 if a life begins, else 0."""
    begins = 0
    if item.live == 0:
        item.live = 1
        item.written = 0
        begins = 1
    if offset == 0 and end == item.length:
        item.original = 0
    item.written = max(item.written, end)
    return begins


@helper
def _note_first_touch(item: Any) -> None:
    """Note a read or delete: an object never seen before must have been there."""
    if item.touched == 0 and item.live == 0:
        item.initial = 1
        item.live = 1
        item.original = 1
        item.written = ORIGINAL


@helper
def _note_delete(item: Any) -> int:
    """Note a delete; return -1 if a life ends, else 0."""
    if item.live == 0:
        return 0
    item.live = 0
    item.original = 0
    return -1


@kernel
def _survey_rows(
    op: NDArray[np.uint8],
    size: NDArray[np.uint64],
    tier: NDArray[np.uint8],
    key: NDArray[np.uint64],
    phase: NDArray[np.uint8],
    offset: NDArray[np.uint64],
    lane_of_tier: NDArray[np.int8],
    slots: NDArray[np.int32],
    keys: NDArray[np.uint64],
    objects: NDArray[np.void],
    cell_ops: NDArray[np.int64],
    cell_bytes: NDArray[np.int64],
    lives: NDArray[np.int64],
    tally: NDArray[np.int64],
) -> int:
    count = int(tally[_KEYS])
    life = 0
    lanes = objects.shape[1]
    for row in range(op.size):
        what = op[row]
        cell_ops[tier[row], phase[row], what] += 1
        cell_bytes[tier[row], phase[row], what] += int(size[row])
        # Every key gets an index, executed or not: order goes across tiers.
        index = find_or_add(slots, keys, count, key[row])
        count = max(count, index + 1)
        lane = int(lane_of_tier[tier[row]])
        if lane < 0:
            continue
        tally[_EXECUTED] += 1
        if what == _LOOKUP:
            continue
        item: Any = objects[index, lane]
        end = int(offset[row]) + int(size[row])
        item.length = max(item.length, end)
        change = 0
        if what == _WRITE:
            change = _note_write(item, int(offset[row]), end)
        else:
            _note_first_touch(item)
            if what == _DELETE:
                change = _note_delete(item)
                tally[_DELETES] += 1
            elif item.live == 0:
                tally[_BAD_ROW] = row
                break
            else:
                tally[_ORIGINAL_READS] += item.original
                tally[_BEYOND_READS] += item.written < end
        if change != 0:
            lives[life] = change * (index * lanes + lane + 1)
            life += 1
        item.touched = 1
    tally[_KEYS] = count
    return life
