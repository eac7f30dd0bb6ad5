"""Counts and latencies per slice of time, for plots and drift.

Ops are counted where they complete. Their bytes are spread evenly over their service time: an
object that takes longer than a slice would else show a peak that no device has.

Slices begin at 1/16 s and double in width whenever a run outgrows their number, so that a run of
any length takes the same memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from kvtrace.native.library import INT, POINTER, contiguous
from kvtrace.native.structures import Structure, fields
from kvtrace.units import S_NS
from replay.measure.figures import HeatMap, TimeSlices
from replay.measure.histogram import COARSE_BITS, Histogram, bucket_count, upper, uppers
from replay.native import function

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from replay.ops.done import Done

FIRST_WIDTH_NS = S_NS // 16
SLICES_MAX = 512
HEAT_SLICES_MAX, HEAT_PER_OCTAVE = 128, 2
_COUNTS = (
    "due", "completed", "errors", "reads", "writes", "read_bytes", "write_bytes"
)  # fmt: skip
_DUE, _COMPLETED, _ERRORS, _OPS, _BYTES = 0, 1, 2, 3, 5
"""Rows of counts; of ops and bytes the reads', the writes' come after."""
_LATE = 2
"""Rows of the longest lateness: whole, and the tool's own."""
_LATENCIES, _RESPONSE = 3, 2
"""Rows of latencies: service of reads, of writes, and response."""
_STEP, _PARTIAL = 0, 1
_count = function("kv_count_slices", POINTER)


class _Sliced(Structure):
    """Some ops, and what is counted: `struct kv_sliced` of slices.c."""

    ARRAYS, _fields_ = fields(
        width_ns=INT, count=INT, action=np.uint8, error=np.int32, size=np.int64, due=np.int64,
        submit=np.int64, complete=np.int64, table=np.int64, late_ns=np.int64,
        latencies=np.int64, in_flight=np.int64, planned=np.int64,
    )  # fmt: skip


class Level:
    """How many spans overlap, as the mean of each slice."""

    def __init__(self) -> None:
        self.columns = np.zeros((2, SLICES_MAX + 1), np.int64)

    def widen(self, width_ns: int) -> None:
        """Go on with slices twice as wide as `width_ns`."""
        half = SLICES_MAX // 2
        step, partial_ns = self.columns[_STEP], self.columns[_PARTIAL]
        odd_steps = step[1:SLICES_MAX:2].copy()
        partial = partial_ns[0:SLICES_MAX:2] + partial_ns[1:SLICES_MAX:2]
        partial += odd_steps * width_ns
        steps = step[0 : SLICES_MAX + 1 : 2].copy()
        steps[1:] += odd_steps
        self.columns[:] = 0
        step[: half + 1], partial_ns[:half] = steps, partial

    def mean(self, width_ns: int) -> NDArray[np.float64]:
        """Return the mean number of overlapping spans per slice."""
        whole = np.cumsum(self.columns[_STEP])[:SLICES_MAX] * width_ns
        return (whole + self.columns[_PARTIAL, :SLICES_MAX]) / width_ns


@dataclass(frozen=True, slots=True)
class Recent:
    """Service times, longest lateness, and ops in flight of some slices."""

    service: Histogram
    lateness_max_ns: int
    in_flight: float


def _edges_ns(first_ns: int, last_ns: int) -> NDArray[np.int64]:
    """Return edges, `HEAT_PER_OCTAVE` per doubling, from below the first to not below the last."""
    begin = np.floor(np.log2(max(1, first_ns)) * HEAT_PER_OCTAVE) - 1
    end = np.ceil(np.log2(max(1, last_ns)) * HEAT_PER_OCTAVE)
    edges = np.exp2(np.arange(begin, end + 1) / HEAT_PER_OCTAVE).astype(np.int64)
    edges[-1] = max(edges[-1], last_ns)
    return np.unique(edges)


class Slices:
    """Slices of one lane. Times are since the start of the run."""

    def __init__(self) -> None:
        self.width_ns = FIRST_WIDTH_NS
        self.used = 0
        self._table = np.zeros((len(_COUNTS), SLICES_MAX), np.int64)
        self._late_max_ns = np.zeros((_LATE, SLICES_MAX), np.int64)
        shape = (_LATENCIES, SLICES_MAX, bucket_count(COARSE_BITS))
        self._latencies = np.zeros(shape, np.int64)
        self.in_flight, self.planned = Level(), Level()

    def add(self, done: Done, start_ns: int) -> None:
        """Count finished ops that move bytes."""
        if not len(done):
            return
        submit, complete = done.submit_ns - start_ns, done.complete_ns - start_ns
        due = np.maximum(done.due_ns - start_ns, 0)
        last = int(max(due.max(), complete.max()))
        while last >= self.width_ns * SLICES_MAX:
            self._widen()
        self.used = max(self.used, last // self.width_ns + 1)
        _count(
            _Sliced(
                width_ns=self.width_ns,
                count=len(done),
                action=contiguous(done.action),
                error=contiguous(done.error),
                size=contiguous(done.size_bytes),
                due=due,
                submit=submit,
                complete=complete,
                table=self._table,
                late_ns=self._late_max_ns[0],
                latencies=self._latencies,
                in_flight=self.in_flight.columns,
                planned=self.planned.columns,
            )
        )

    def add_host_lateness(self, submit_ns: NDArray[np.int64], host_ns: NDArray[np.int64]) -> None:
        """Note how late the tool was with ops that were counted before."""
        np.maximum.at(self._late_max_ns[1], submit_ns // self.width_ns, host_ns)

    def _widen(self) -> None:
        half = SLICES_MAX // 2
        for column in (*self._table, *self._latencies):
            merged = column[0::2] + column[1::2]
            column[:half], column[half:] = merged, 0
        for column in self._late_max_ns:
            merged = np.maximum(column[0::2], column[1::2])
            column[:half], column[half:] = merged, 0
        for level in (self.in_flight, self.planned):
            level.widen(self.width_ns)
        self.width_ns *= 2
        self.used = -(-self.used // 2)

    @property
    def errors(self) -> int:
        """Failed ops."""
        return int(self._table[_ERRORS].sum())

    @property
    def ops(self) -> int:
        """Reads and writes that succeeded."""
        return int(self._table[_OPS : _OPS + 2].sum())

    @property
    def bytes(self) -> int:
        """Bytes that they moved."""
        return int(self._table[_BYTES : _BYTES + 2].sum())

    def service_counts(self) -> NDArray[np.int64]:
        """Return the number of service times in each coarse bucket."""
        return np.asarray(self._latencies[:_RESPONSE].sum(axis=(0, 1)))

    def recent(self, begin_ns: int, end_ns: int) -> Recent:
        """Return what is known of the slices between two times."""
        begin = max(0, begin_ns // self.width_ns)
        within = slice(begin, max(begin + 1, end_ns // self.width_ns))
        counts = self._latencies[:_RESPONSE, within].sum(axis=(0, 1))
        levels = self.in_flight.mean(self.width_ns)[within]
        return Recent(
            Histogram.from_counts(counts, COARSE_BITS),
            int(self._late_max_ns[0, within].max(initial=0)),
            float(levels.mean()) if len(levels) else 0.0,
        )

    def waiting_min(self, begin_ns: int, end_ns: int) -> int:
        """Return the fewest ops that were due and not completed at the end of a slice in between.

        A queue that keeps up is all but empty now and then, however bursty its load.
        """
        begin = min(begin_ns // self.width_ns, SLICES_MAX - 1)
        end = min(max(end_ns // self.width_ns, begin + 1), SLICES_MAX)
        waiting = np.cumsum(self._table[_DUE] - self._table[_COMPLETED])
        return int(waiting[begin:end].min())

    def median_service(self, begin: float, end: float) -> tuple[int, int]:
        """Return the median service time within a part of the run, and of how many ops it is."""
        rows = slice(int(begin * self.used), max(int(begin * self.used) + 1, int(end * self.used)))
        counts = self._latencies[:_RESPONSE, rows].sum(axis=(0, 1))
        histogram = Histogram.from_counts(counts, COARSE_BITS)
        return histogram.value_at(5000), histogram.count

    def heat(self) -> HeatMap | None:
        """Return how many reads and writes took how long when; None if there were none."""
        by_op = self._latencies[:_RESPONSE, : self.used]
        filled = np.flatnonzero(by_op.any(axis=(0, 1)))
        if not len(filled):
            return None
        edges = _edges_ns(upper(int(filled[0]), COARSE_BITS), upper(int(filled[-1]), COARSE_BITS))
        ends = uppers(COARSE_BITS)[filled]
        row = np.maximum(np.searchsorted(edges, ends) - 1, 0)
        together = -(-self.used // HEAT_SLICES_MAX)
        slices = np.arange(self.used) // together
        heats = np.zeros((len(by_op), int(slices[-1]) + 1, len(edges) - 1), np.int64)
        for heat, counts in zip(heats, by_op, strict=True):
            np.add.at(heat, (slices[:, None], row[None, :]), counts[:, filled])
        read, write = (heat.tolist() for heat in heats)
        return HeatMap(
            width_s=self.width_ns * together / S_NS,
            edges_ns=edges.tolist(),
            counts=heats.sum(axis=0).tolist(),
            counts_by_op={"read": read, "write": write},
        )

    def series(self, *, scheduled: bool, divided: bool) -> TimeSlices:
        """Return all columns; without a schedule there is no response time.

        Not `divided`: of lateness only the whole is known.
        """
        used = slice(0, self.used)
        late, host_late = self._late_max_ns[:, used].tolist()
        (read_p50, read_p99), (write_p50, write_p99), (p50, p99) = (
            self._percentiles(counts[used]) for counts in self._latencies
        )
        counted = dict(zip(_COUNTS, self._table[:, used].tolist(), strict=True))
        return TimeSlices(
            width_s=self.width_ns / S_NS,
            begin_ns=[at * self.width_ns for at in range(self.used)],
            **counted,
            lateness_max_ns=late,
            host_lateness_max_ns=host_late if divided else None,
            in_flight_mean=self.in_flight.mean(self.width_ns)[used].tolist(),
            read_service_p50_ns=read_p50,
            read_service_p99_ns=read_p99,
            write_service_p50_ns=write_p50,
            write_service_p99_ns=write_p99,
            response_p50_ns=p50 if scheduled else None,
            response_p99_ns=p99 if scheduled else None,
        )

    @staticmethod
    def _percentiles(counts: NDArray[np.int64]) -> tuple[list[int], list[int]]:
        """Return P50 and P99 of each slice."""
        rows = [Histogram.from_counts(row, COARSE_BITS) for row in counts]
        return [row.value_at(5000) for row in rows], [row.value_at(9900) for row in rows]
