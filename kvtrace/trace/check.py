"""Checks what must hold in a trace, from its rows alone."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from kvtrace.errors import TraceError
from kvtrace.native.core import function
from kvtrace.native.hashmap import Pool
from kvtrace.native.library import BOOLEAN, INT, POINTER, contiguous
from kvtrace.trace.counting import TotalsCounter
from kvtrace.trace.outcomes import only_done
from kvtrace.trace.schema import MAX_TOTAL_BYTES, Op, Phase, Tier

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kvtrace.trace.header import Header, Totals
    from kvtrace.trace.reader import Trace

SHOWN = 5
"""Offending rows that are kept per kind of violation."""

# Kinds of violation, in the order of `check.c`.
(
    READ_OF_DEAD,
    READ_BEFORE_WRITE,
    DELETE_OF_DEAD,
    READ_BEYOND_END,
    DELETE_SIZE,
    EVICT_WITHOUT_READ,
    EVICT_WITHOUT_WRITE,
    OVER_CAPACITY,
) = range(8)
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

_OBJECT = np.dtype([("ident", "i8"), ("size", "i8"), ("state", "i8")])
_DEMOTION = np.dtype([("key", "i8"), ("bytes", "i8"), ("tier", "i8"), ("row", "i8")])
_HELD = np.dtype([("now", "i8"), ("most", "i8"), ("allowed", "i8")])
_OFFENCE = np.dtype([("count", "i8"), ("rows", "i8", (SHOWN,))])
_check_rows = function("kv_check_rows", POINTER, POINTER, INT, INT, returns=BOOLEAN)


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


class CheckStruct(ctypes.Structure):
    """`struct kv_check` of `check.c`."""

    _fields_ = (
        ("objects", POINTER),
        ("demotions", POINTER),
        ("held", POINTER),
        ("offences", POINTER),
        ("nodes", INT),
        ("derive", INT),
        ("pairs", INT),
        ("rows", INT),
        ("derived", INT),
    )


class _RowsStruct(ctypes.Structure):
    _fields_ = tuple((name, POINTER) for name in ("op", "tier", "phase", "key", "size", "offset"))


class Checker:
    """Holds what is known of every object while the rows go by."""

    def __init__(self, header: Header, resident: NDArray[np.void]) -> None:
        # A replay's result has the executed tiers only: a demotion's other half may be elsewhere.
        pairs = not (header.half_demotions or "replay" in header.statistics)
        self._objects, self._demotions = Pool(_OBJECT), Pool(_DEMOTION)
        self._factors = {Tier[t.name.upper()]: t.occupancy_factor for t in header.tiers}
        self._held = np.zeros(header.nodes * len(Tier), _HELD)
        self._held["allowed"] = np.iinfo(np.int64).max
        for info in header.tiers:
            if info.capacity_bytes is not None:
                allowed = min(int(info.capacity_bytes / info.occupancy_factor), MAX_TOTAL_BYTES)
                self._held["allowed"][Tier[info.name.upper()] :: len(Tier)] = allowed
        self._offences = np.zeros(len(MEANINGS), _OFFENCE)
        self._struct = CheckStruct(
            objects=self._objects.address,
            demotions=self._demotions.address,
            held=self._held.ctypes.data,
            offences=self._offences.ctypes.data,
            nodes=header.nodes,
            derive=header.resident.derived or header.source is None,
            pairs=pairs,
        )
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
            self._struct.rows = 0

    def add(self, columns: dict[str, NDArray[Any]]) -> None:
        """Check some more rows; those that moved nothing are look-ups."""
        columns = only_done(columns)
        count = len(columns["op"])
        demotions = int((columns["phase"] == Phase.EVICT).sum())
        self._objects.make_room(count)
        self._demotions.make_room(demotions)
        offset = columns.get("offset", np.zeros(count, np.int64))
        rows = {
            **{name: (columns[name], np.uint8) for name in ("op", "tier", "phase")},
            "key": (columns["key"].view(np.int64), np.int64),
            "size": (columns["size"], np.int64),
            "offset": (offset, np.int64),
        }
        arrays = {name: contiguous(*each) for name, each in rows.items()}
        pointers = {name: array.ctypes.data for name, array in arrays.items()}
        checked = _check_rows(
            ctypes.byref(self._struct), ctypes.byref(_RowsStruct(**pointers)), count,
            demotions,
        )  # fmt: skip
        assert checked

    def report(self) -> CheckReport:
        """Return the report, demotions that never ended included."""
        offences = {
            kind: (int(offence["count"]), offence["rows"].tolist())
            for kind, offence in enumerate(self._offences)
        }
        unended = self._demotions.rows[self._demotions.rows["bytes"] > 0]["row"].tolist()
        count, rows = offences[EVICT_WITHOUT_WRITE]
        offences[EVICT_WITHOUT_WRITE] = count + len(unended), [*rows[:count], *unended]
        return CheckReport(
            rows=int(self._struct.rows),
            violations=tuple(
                Violation(MEANINGS[kind], count, tuple(rows[: min(count, SHOWN)]))
                for kind, (count, rows) in offences.items()
                if count
            ),
            peak_bytes={
                tier: int(
                    self._held["most"][tier :: len(Tier)].max() * self._factors.get(tier, 1.0)
                )
                for tier in Tier
            },
            derived=int(self._struct.derived),
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
        checker.add(columns)
        if len(columns["op"]):
            counter.update(columns)
    _check_totals(trace, counter.totals())
    return checker.report()


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
