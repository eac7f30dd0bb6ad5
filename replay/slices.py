"""What happened when: counts and latencies per slice of time, for plots and for what changes.

Slices begin at 1/16 s and double in width whenever a run outgrows their number, so that a run of
any length takes the same memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from kvtrace.units import S_NS
from replay.histogram import COARSE_BITS, Histogram, bucket_count, count_in_rows, upper
from replay.loop import Action

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from replay.done import Done

FIRST_WIDTH_NS = S_NS // 16
SLICES_MAX = 512
HEAT_SLICES_MAX, HEAT_PER_OCTAVE = 128, 2
_COUNTS = (
    "due", "completed", "reads", "writes", "read_bytes", "write_bytes", "errors"
)  # fmt: skip
_DIRECTIONS = {"read": Action.READ, "write": Action.WRITE}


class Level:
    """How many spans overlap, as the mean of each slice."""

    def __init__(self) -> None:
        self.step = np.zeros(SLICES_MAX + 1, np.int64)
        self.partial_ns = np.zeros(SLICES_MAX + 1, np.int64)

    def add(self, at_ns: NDArray[np.int64], width_ns: int, sign: int) -> None:
        """Begin (+1) or end (−1) spans at these times since the start."""
        index = at_ns // width_ns
        np.add.at(self.step, index + 1, sign)
        np.add.at(self.partial_ns, index, sign * ((index + 1) * width_ns - at_ns))

    def widen(self, width_ns: int) -> None:
        """Go on with slices twice as wide as `width_ns`."""
        half = SLICES_MAX // 2
        odd_steps = self.step[1:SLICES_MAX:2].copy()
        partial = self.partial_ns[0:SLICES_MAX:2] + self.partial_ns[1:SLICES_MAX:2]
        partial += odd_steps * width_ns
        step = self.step[0 : SLICES_MAX + 1 : 2].copy()
        step[1:] += odd_steps
        self.step[:], self.partial_ns[:] = 0, 0
        self.step[: half + 1], self.partial_ns[:half] = step, partial

    def mean(self, width_ns: int) -> NDArray[np.float64]:
        """Return the mean number of overlapping spans per slice."""
        whole = np.cumsum(self.step)[:SLICES_MAX] * width_ns
        return (whole + self.partial_ns[:SLICES_MAX]) / width_ns


@dataclass(frozen=True, slots=True)
class Series:
    """One lane's slices as columns, of equal length, from the start of the run."""

    width_ns: int
    columns: dict[str, NDArray[np.generic]]


@dataclass(frozen=True, slots=True)
class Heat:
    """Counts per slice of time and class of service time; classes lie between `edges_ns`."""

    width_ns: int
    edges_ns: NDArray[np.int64]
    counts: NDArray[np.int64]


def _edges_ns(first_ns: int, last_ns: int) -> NDArray[np.int64]:
    """Return edges, `HEAT_PER_OCTAVE` per doubling, from below the first to not below the last."""
    begin = np.floor(np.log2(max(1, first_ns)) * HEAT_PER_OCTAVE) - 1
    end = np.ceil(np.log2(max(1, last_ns)) * HEAT_PER_OCTAVE)
    found = np.exp2(np.arange(begin, end + 1) / HEAT_PER_OCTAVE).astype(np.int64)
    found[-1] = max(found[-1], last_ns)
    return np.unique(found)


class Slices:
    """Slices of one lane. Times are since the start of the run."""

    def __init__(self) -> None:
        self.width_ns = FIRST_WIDTH_NS
        self.used = 0
        self._counts = {name: np.zeros(SLICES_MAX, np.int64) for name in _COUNTS}
        self._late_max_ns = {
            name: np.zeros(SLICES_MAX, np.int64) for name in ("lateness", "host_lateness")
        }
        shape = (SLICES_MAX, bucket_count(COARSE_BITS))
        names = (*_DIRECTIONS, "response")
        self._latencies = {name: np.zeros(shape, np.int64) for name in names}
        self.in_flight, self.planned = Level(), Level()

    def add(self, done: Done, host_ns: NDArray[np.int64], start_ns: int) -> None:
        """Count finished ops that move bytes; `host_ns`: how late the tool was with each."""
        if not len(done):
            return
        submit, complete = done.submit_ns - start_ns, done.complete_ns - start_ns
        due = np.maximum(done.due_ns - start_ns, 0)
        last = int(max(due.max(), complete.max()))
        while last >= self.width_ns * SLICES_MAX:
            self._widen()
        self.used = max(self.used, last // self.width_ns + 1)
        at = complete // self.width_ns
        good = done.error == 0
        self._count("due", due // self.width_ns)
        self._count("completed", at)
        self._count("errors", at[~good])
        for name, action in _DIRECTIONS.items():
            mine = good & (done.action == action)
            self._count(f"{name}s", at[mine])
            np.add.at(self._counts[f"{name}_bytes"], at[mine], done.size_bytes[mine])
            took = (complete - submit)[mine]
            count_in_rows(self._latencies[name], at[mine], took, COARSE_BITS)
        response = (complete - due)[good]
        count_in_rows(self._latencies["response"], at[good], response, COARSE_BITS)
        began = submit // self.width_ns
        np.maximum.at(self._late_max_ns["lateness"], began, submit - due)
        np.maximum.at(self._late_max_ns["host_lateness"], began, host_ns)
        self.in_flight.add(submit, self.width_ns, 1)
        self.in_flight.add(complete, self.width_ns, -1)
        self.planned.add(due, self.width_ns, 1)
        ends = np.minimum(due + complete - submit, self.width_ns * SLICES_MAX - 1)
        self.planned.add(ends, self.width_ns, -1)

    def _count(self, name: str, index: NDArray[np.int64]) -> None:
        self._counts[name] += np.bincount(index, minlength=SLICES_MAX)

    def _widen(self) -> None:
        half = SLICES_MAX // 2
        for column in (*self._counts.values(), *self._latencies.values()):
            merged = column[0::2] + column[1::2]
            column[:half], column[half:] = merged, 0
        for column in self._late_max_ns.values():
            merged = np.maximum(column[0::2], column[1::2])
            column[:half], column[half:] = merged, 0
        for level in (self.in_flight, self.planned):
            level.widen(self.width_ns)
        self.width_ns *= 2
        self.used = -(-self.used // 2)

    def waiting_min(self, begin_ns: int, end_ns: int) -> int:
        """Return the fewest ops that were due and not completed at the end of a slice in between.

        A queue that keeps up is all but empty now and then, however bursty its load.
        """
        begin = min(begin_ns // self.width_ns, SLICES_MAX - 1)
        end = min(max(end_ns // self.width_ns, begin + 1), SLICES_MAX)
        waiting = np.cumsum(self._counts["due"] - self._counts["completed"])
        return int(waiting[begin:end].min())

    def median_service(self, begin: float, end: float) -> tuple[int, int]:
        """Return the median service time within a part of the run, and of how many ops it is."""
        rows = slice(int(begin * self.used), max(int(begin * self.used) + 1, int(end * self.used)))
        counts = sum(self._latencies[name][rows].sum(axis=0) for name in _DIRECTIONS)
        found = Histogram.from_counts(np.asarray(counts), COARSE_BITS)
        return found.value_at(5000), found.count

    def heat(self) -> Heat | None:
        """Return how many reads and writes took how long when; None if there were none."""
        counts = np.asarray(sum(self._latencies[name][: self.used] for name in _DIRECTIONS))
        filled = np.flatnonzero(counts.any(axis=0))
        if not len(filled):
            return None
        edges = _edges_ns(upper(int(filled[0]), COARSE_BITS), upper(int(filled[-1]), COARSE_BITS))
        ends = np.array([upper(bucket, COARSE_BITS) for bucket in filled.tolist()])
        row = np.maximum(np.searchsorted(edges, ends) - 1, 0)
        together = -(-self.used // HEAT_SLICES_MAX)
        slices = np.arange(self.used) // together
        found = np.zeros((int(slices[-1]) + 1, len(edges) - 1), np.int64)
        np.add.at(found, (slices[:, None], row[None, :]), counts[:, filled])
        return Heat(self.width_ns * together, edges, found)

    def series(self, *, scheduled: bool) -> Series:
        """Return all columns; without a schedule there is no response time."""
        used = slice(0, self.used)
        columns: dict[str, NDArray[np.generic]] = {
            "begin_ns": np.arange(self.used, dtype=np.int64) * self.width_ns,
            **{name: values[used] for name, values in self._counts.items()},
            **{f"{name}_max_ns": values[used] for name, values in self._late_max_ns.items()},
            "in_flight_mean": self.in_flight.mean(self.width_ns)[used],
        }
        for name, counts in self._latencies.items():
            if name == "response" and not scheduled:
                continue
            word = name if name == "response" else f"{name}_service"
            rows = [Histogram.from_counts(row, COARSE_BITS) for row in counts[used]]
            columns[f"{word}_p50_ns"] = np.array([row.value_at(5000) for row in rows], np.int64)
            columns[f"{word}_p99_ns"] = np.array([row.value_at(9900) for row in rows], np.int64)
        return Series(self.width_ns, columns)
