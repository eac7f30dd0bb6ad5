"""Checks what must hold in a trace, from its rows alone."""

from __future__ import annotations

from dataclasses import dataclass
from errno import ENOENT
from typing import TYPE_CHECKING, Any

import numpy as np

from kvtrace.compiled.hashmap import MISSING, find, insert, new_table, with_room
from kvtrace.compiled.jit import constant, kernel
from kvtrace.errors import TraceError
from kvtrace.trace.counting import TotalsCounter
from kvtrace.trace.schema import MAX_TOTAL_BYTES, NODE_SHIFT, Op, Phase, Tier

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kvtrace.trace.header import Header, Totals
    from kvtrace.trace.reader import Trace

SHOWN = 5
"""Offending rows that are kept per kind of violation."""

# Kinds of violation, in the order of the kernel's counters.
(
    READ_OF_DEAD,
    READ_BEFORE_WRITE,
    DELETE_OF_DEAD,
    READ_BEYOND_END,
    DELETE_SIZE,
    EVICT_WITHOUT_READ,
    EVICT_WITHOUT_WRITE,
    OVER_CAPACITY,
) = (constant(kind) for kind in range(8))
MEANINGS = (
    "reads an object after it was deleted",
    "reads an object that was neither written nor declared resident",
    "deletes an object that isn't there",
    "reads beyond the end of the object",
    "deletes another size than the object has",
    "demotes an object without reading it from the tier above",
    "reads an object to demote it, and never writes it below",
    "holds more than the tier's capacity",
)

# Columns of an object's row: its (tier, key) number, its size while it lives, and its state.
_IDENT, _SIZE, _STATE = range(3)
_UNKNOWN, _ALIVE, _DEAD = range(3)
# Columns of a demotion under way, per key: bytes read, tier, row; bytes 0: none.
_EV_IDENT, _EV_BYTES, _EV_TIER, _EV_ROW = range(4)

_READ, _WRITE, _DELETE = constant(Op.READ), constant(Op.WRITE), constant(Op.DELETE)
_EVICT = constant(Phase.EVICT)
_TIERS = constant(len(Tier))


@dataclass(frozen=True, slots=True)
class Violation:
    """One kind of violation: how often, and the first rows."""

    meaning: str
    count: int
    rows: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class CheckReport:
    """What a check found. `peak_bytes`: most that a node's tier held, ranks not emitted included.

    `derived`: objects taken to be resident since the trace, an imported one, reads them first.
    """

    rows: int
    violations: tuple[Violation, ...]
    peak_bytes: dict[Tier, int]
    derived: int

    @property
    def ok(self) -> bool:
        """Whether nothing was violated."""
        return not self.violations


@kernel
def _slot(objects: Any, table: Any, count: Any, ident: int) -> int:
    slot = find(table, objects, ident)
    if slot == MISSING:
        slot = count[0]
        count[0] += 1
        objects[slot, _IDENT] = ident
        objects[slot, 1:] = 0
        insert(table, objects, slot)
    return slot


@kernel
def _note(tally: Any, kind: int, row: int) -> None:
    if tally[kind, 0] + 1 < tally.shape[1]:
        tally[kind, 1 + tally[kind, 0]] = row
    tally[kind, 0] += 1


@kernel
def _read(objects: Any, tiers: Any, tally: Any, slot: int, tier: int, end: int, row: int,
          derive: bool) -> bool:  # fmt: skip
    """Check a read; return whether the object had to be taken for resident."""
    state = objects[slot, _STATE]
    if state == _DEAD:
        _note(tally, READ_OF_DEAD, row)
    elif state == _ALIVE:
        if end > objects[slot, _SIZE]:
            _note(tally, READ_BEYOND_END, row)
    elif derive:
        objects[slot, _STATE] = _ALIVE
        objects[slot, _SIZE] = end
        tiers[tier, 0] += end
        return True
    else:
        _note(tally, READ_BEFORE_WRITE, row)
    return False


@kernel
def _write(objects: Any, tiers: Any, slot: int, tier: int, end: int) -> None:
    grows = end if objects[slot, _STATE] != _ALIVE else max(0, end - objects[slot, _SIZE])
    if objects[slot, _STATE] != _ALIVE:
        objects[slot, _SIZE] = 0
    objects[slot, _STATE] = _ALIVE
    objects[slot, _SIZE] += grows
    tiers[tier, 0] += grows


@kernel
def _delete(objects: Any, tiers: Any, tally: Any, slot: int, tier: int, size: int, row: int,
            derive: bool) -> None:  # fmt: skip
    if objects[slot, _STATE] == _ALIVE:
        if objects[slot, _SIZE] != size:
            _note(tally, DELETE_SIZE, row)
        tiers[tier, 0] -= objects[slot, _SIZE]
    elif objects[slot, _STATE] == _DEAD or not derive:
        _note(tally, DELETE_OF_DEAD, row)
    objects[slot, _STATE] = _DEAD


@kernel
def _check_rows(
    op: Any, tier: Any, phase: Any, key: Any, size: Any, offset: Any, first_row: int,
    derive: bool, pairs: bool, objects: Any, table: Any, evictions: Any, evict_table: Any,
    count: Any, evict_count: Any, tiers: Any, tally: Any, nodes: int,
) -> int:  # fmt: skip
    """Check rows; return how many objects had to be taken for resident."""
    derived = 0
    for i in range(op.shape[0]):
        row, where = first_row + i, tier[i]
        # A row of `tiers` per node and tier; a key of no node counts for the first.
        node = key[i] >> NODE_SHIFT
        place = where + node * _TIERS if 0 <= node < nodes else where
        slot = _slot(objects, table, count, key[i] * 4 + where)
        end = size[i] + offset[i]
        if op[i] == _READ:
            derived += _read(objects, tiers, tally, slot, place, end, row, derive)
        elif op[i] == _WRITE:
            _write(objects, tiers, slot, place, end)
        elif op[i] == _DELETE:
            _delete(objects, tiers, tally, slot, place, size[i], row, derive)
        if tiers[place, 0] > tiers[place, 1]:
            tiers[place, 1] = tiers[place, 0]
            if tiers[place, 0] > tiers[place, 2]:
                _note(tally, OVER_CAPACITY, row)
        if pairs and phase[i] == _EVICT and op[i] <= _WRITE:
            demotion = _slot(evictions, evict_table, evict_count, key[i])
            pending = evictions[demotion, _EV_BYTES]
            if op[i] == _READ:
                if pending:
                    _note(tally, EVICT_WITHOUT_WRITE, evictions[demotion, _EV_ROW])
                evictions[demotion, _EV_BYTES] = size[i]
                evictions[demotion, _EV_TIER] = where
                evictions[demotion, _EV_ROW] = row
            else:
                if pending != size[i] or evictions[demotion, _EV_TIER] >= where:
                    _note(tally, EVICT_WITHOUT_READ, row)
                evictions[demotion, _EV_BYTES] = 0
    return derived


class Checker:
    """Holds what is known of every object while the rows go by."""

    def __init__(self, header: Header, resident: NDArray[np.void]) -> None:
        self._derive = header.resident.derived or header.source is None
        # A replay's result has the executed tiers only: a demotion's other half may be elsewhere.
        self._pairs = not (header.half_demotions or "replay" in header.statistics)
        self._objects, self._table = np.zeros((1024, 3), np.int64), new_table(1024)
        self._evictions = np.zeros((1024, 4), np.int64)
        self._evict_table = new_table(1024)
        self._count, self._evict_count = np.zeros(1, np.int64), np.zeros(1, np.int64)
        self._factors = {Tier[t.name.upper()]: t.occupancy_factor for t in header.tiers}
        self._nodes = header.nodes
        # Bytes now, at most, allowed.
        self._tiers = np.zeros((header.nodes * len(Tier), 3), np.int64)
        self._tiers[:, 2] = np.iinfo(np.int64).max
        for info in header.tiers:
            if info.capacity_bytes is not None:
                allowed = min(int(info.capacity_bytes / info.occupancy_factor), MAX_TOTAL_BYTES)
                self._tiers[Tier[info.name.upper()] :: len(Tier), 2] = allowed
        self._found = np.zeros((len(MEANINGS), 1 + SHOWN), np.int64)
        self._rows, self._derived = 0, 0
        self._add_resident(resident)

    def _add_resident(self, resident: NDArray[np.void]) -> None:
        count = len(resident)
        if count:
            zeros = np.zeros(count, np.uint8)
            self.add(
                {
                    "op": np.full(count, Op.WRITE, np.uint8),
                    "tier": resident["tier"],
                    "phase": zeros,
                    "key": resident["key"],
                    "size": resident["size"],
                }
            )
            self._rows = 0

    def add(self, columns: dict[str, NDArray[Any]]) -> None:
        """Check some more rows."""
        count = len(columns["op"])
        self._table, self._objects = with_room(
            self._table, self._objects, int(self._count[0]) + count
        )
        evicts = int((columns["phase"] == Phase.EVICT).sum())
        self._evict_table, self._evictions = with_room(
            self._evict_table, self._evictions, int(self._evict_count[0]) + evicts
        )
        self._derived += _check_rows(
            columns["op"],
            columns["tier"].astype(np.int64),
            columns["phase"],
            columns["key"].view(np.int64),
            columns["size"].astype(np.int64),
            columns.get("offset", np.zeros(count, np.int64)).astype(np.int64),
            self._rows,
            self._derive,
            self._pairs,
            self._objects,
            self._table,
            self._evictions,
            self._evict_table,
            self._count,
            self._evict_count,
            self._tiers,
            self._found,
            constant(self._nodes),
        )
        self._rows += count

    def report(self) -> CheckReport:
        """Return the report, demotions that never ended included."""
        for demotion in self._evictions[: self._evict_count[0]]:
            if demotion[_EV_BYTES]:
                _note(self._found, EVICT_WITHOUT_WRITE, demotion[_EV_ROW])
        return CheckReport(
            rows=self._rows,
            violations=tuple(
                Violation(MEANINGS[kind], int(row[0]), tuple(row[1 : 1 + row[0]].tolist()))
                for kind, row in enumerate(self._found)
                if row[0]
            ),
            peak_bytes={
                tier: int(self._tiers[tier :: len(Tier), 1].max() * self._factors.get(tier, 1.0))
                for tier in Tier
            },
            derived=self._derived,
        )


def check(trace: Trace) -> CheckReport:
    """Return whether a trace's invariants hold, with the first rows that break each.

    Raises TraceError for what the reader refuses, and for totals that aren't those of the rows.
    Memory grows with the number of objects.
    """
    checker, counter = Checker(trace.header, trace.resident()), TotalsCounter()
    wanted = ["timestamp", "op", "tier", "phase", "key", "size"]
    wanted += [name for name in ("offset", "error") if name in trace.columns]
    for columns in trace.batches(wanted):
        checker.add(_without_missed(columns))
        if len(columns["op"]):
            counter.update(columns)
    _check_totals(trace, counter.totals())
    return checker.report()


def _without_missed(columns: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Return rows in which an op on what isn't there, which did nothing, is a look-up."""
    if "error" not in columns or not (missed := columns["error"] == ENOENT).any():
        return columns
    return columns | {"op": np.where(missed, np.uint8(Op.LOOKUP), columns["op"])}


def _check_totals(trace: Trace, counted: Totals) -> None:
    """Raise TraceError if the header's totals are those of other rows.

    A header without totals is of another writer; that of a part says nothing of the whole.
    """
    stated = trace.header.totals
    if not stated.rows or (len(trace.parts) > 1 and not trace.has_head):
        return
    cells = [
        {(cell.tier, cell.phase, cell.op, cell.ops, cell.bytes) for cell in totals.cells}
        for totals in (stated, counted)
    ]
    for name, got, accepted in (
        ("rows", stated.rows, counted.rows),
        ("bytes", stated.bytes, counted.bytes),
        ("duration_ns", stated.duration_ns, counted.duration_ns),
        ("cells", cells[0] - cells[1], cells[1] - cells[0]),
    ):
        if got != accepted:
            raise TraceError(
                f"the header's totals aren't those of the rows: {name}",
                where=trace.path,
                got=got,
                accepted=accepted,
                hint="write the trace again",
            )
