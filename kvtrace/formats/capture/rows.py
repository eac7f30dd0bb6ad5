"""The rows of one process's recording, in order of submission, as a trace's columns."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from kvtrace.capture.spool import UNKNOWN, UNKNOWN_RANK
from kvtrace.capture.table import MOST
from kvtrace.errors import TraceError
from kvtrace.formats.common.order import Again, Reordered
from kvtrace.hierarchy.native import LOAD, LOOK_UP, STORE
from kvtrace.trace.schema import Op, Phase

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from kvtrace.formats.capture.recording import Part, Process
    from kvtrace.trace.reader import Columns

COLUMNS = (
    "request", "step", "rank", "block", "submit", "complete", "error", "batch", "position",
)  # fmt: skip
ALL_COLUMNS = ("timestamp", "op", "size", "tier", "key", "phase", *COLUMNS)
NO_SIZE = "reads and writes of unknown size left out"
BACKWARDS = "ops that ended before they began: their end is unknown"


class InOrder(ABC):
    """A process's rows by time of submission; they are read twice, memory follows their disorder.

    `first_batch`: what is added to the numbers of its batches. `first_ns`: the first submission, of
    `rows`, those that have a size. `unclear`: what has no rows, or lacks something, of the last
    reading.
    """

    def __init__(self, process: Process, first_batch: int) -> None:
        self._process, self._first_batch = process, first_batch
        self.unclear = Counter[str]()
        self._rows = Reordered("timestamp", Again(self._batches))
        self.first_ns = self._rows.first
        self.rows = self._rows.rows

    def __iter__(self) -> Iterator[Columns]:
        return iter(self._rows)

    def _batches(self) -> Iterator[Columns]:
        self.unclear.clear()
        return self._read()

    @abstractmethod
    def _read(self) -> Iterator[Columns]:
        """Yield the rows as the files have them."""


class TaskRows(InOrder):
    """The rows of the storage tasks that a process recorded."""

    def _read(self) -> Iterator[Columns]:
        for part in self._process.parts:
            for records in part.records():
                _check(records, part)
                yield self._columns(self._kept(records))

    def _kept(self, records: NDArray[np.void]) -> NDArray[np.void]:
        """Return records less those whose size the engine doesn't tell."""
        sized = (records["op"] > Op.WRITE) | (records["size"] > 0)
        self.unclear[NO_SIZE] += int((~sized).sum())
        return records if sized.all() else records[sized]

    def _columns(self, records: NDArray[np.void]) -> Columns:
        op = records["op"].copy()
        promoted = records["phase"] == Phase.PROMOTE
        step = np.where(op == Op.LOOKUP, LOOK_UP, np.where((op == Op.READ) | promoted, LOAD, STORE))
        backwards = records["complete"] < records["submit"]
        self.unclear[BACKWARDS] += int(backwards.sum())
        return {
            "timestamp": records["submit"].copy(),
            "op": op,
            "size": records["size"].copy(),
            "tier": records["tier"].copy(),
            "key": records["key"].copy(),
            "phase": records["phase"].copy(),
            "request": _known(records["request"], np.uint64(UNKNOWN)),
            "step": np.ma.masked_array(step.astype(np.uint16), op == Op.DELETE),
            "rank": _known(records["rank"], np.uint16(UNKNOWN_RANK)),
            "block": _known(records["block"], np.uint64(UNKNOWN)),
            "submit": records["submit"].copy(),
            "complete": np.ma.masked_array(records["complete"], backwards),
            "error": records["error"].copy(),
            "batch": records["batch"] + numbered_from(self._first_batch),
            "position": records["position"].copy(),
        }


def numbered_from(first: int) -> np.uint32:
    """Return what is added to a process's numbers of batches; they begin anew behind the last."""
    return np.uint32(first & 0xFFFFFFFF)


def since(columns: Columns, zero_ns: int) -> Columns:
    """Return the rows with times since `zero_ns`."""
    times = {name: columns[name] - zero_ns for name in ("timestamp", "submit", "complete")}
    return columns | times


def _known(values: NDArray[np.generic], unknown: np.generic) -> np.ma.MaskedArray:
    return np.ma.masked_array(values, values == unknown)


def _check(records: NDArray[np.void], part: Part) -> None:
    """Raise TraceError for records that no recorder writes."""
    for name, most in MOST.items():
        bad = (records[name] < 0) | (records[name] > most)
        unit = " ns" if name in ("submit", "complete") else ""
        _refuse(bad, records[name], part, name, f"0 to {most}{unit}")


def _refuse(
    bad: NDArray[np.bool_], values: NDArray[np.generic], part: Part, name: str, accepted: str
) -> None:
    if bad.any():
        raise TraceError(
            f"{name} out of range", where=part.path, got=values[int(bad.argmax())],
            accepted=accepted, hint="the recording is damaged",
        )  # fmt: skip
