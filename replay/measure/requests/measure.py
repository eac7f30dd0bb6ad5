"""Storage time of each inference request, over all its ops."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from kvtrace.native.library import INT, POINTER, contiguous
from kvtrace.native.structures import Structure, fields
from kvtrace.placement.keys import KeyTable
from kvtrace.trace.schema import Op, Phase, Qos
from kvtrace.units import S_NS
from replay.measure.executed import ExecutedRows
from replay.measure.histogram import Histogram
from replay.measure.requests.figures import (
    QosRequestsDocument,
    RequestsDocument,
    RequestTimesDocument,
    ServiceLevelDocument,
)
from replay.measure.requests.levels import MET_RATIO, TARGET_P95_NS
from replay.native import function
from replay.ops.columns import INTERRUPTED, NO_TIME_NS
from replay.ops.contract import Mode

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from kvtrace.placement.rows import RowSource
    from kvtrace.trace.schema import Tier
    from replay.ops.done import Done

_BEGIN, _END, _IO, _WAITED, _STATE, _READS = range(6)
_COLUMNS = 6
_FAILED, _OUTSIDE, _QOS_SHIFT = 1, 2, 3
"""In a request's state: an op failed; one was before the window or never begun; its class. 4: one
succeeded."""
_gather = function("kv_gather_requests", POINTER)


class _Gathered(Structure):
    """Ops, and the columns of their requests: `struct kv_gathered` of measure.c."""

    ARRAYS, _fields_ = fields(
        count=INT, index=np.int32, state=np.int64, begin_ns=np.int64, service_ns=np.int64,
        complete_ns=np.int64, is_read=np.uint8, begins=np.int64, ends=np.int64, io_ns=np.int64,
        waited_ns=np.int64, states=np.int64, reads=np.int64,
    )  # fmt: skip


class Requests:
    """Puts the ops of requests together: their own reads and writes, in phases prefill and decode.

    Demotions and promotions that a request forces aren't its own; requests that began before the
    window, or that a run was stopped in, are left out. Memory follows the number of requests: up to
    140 bytes each.
    """

    def __init__(self, mode: Mode, start_ns: int, warmup_ns: int = 0) -> None:
        self._mode, self._begin_ns = mode, start_ns + warmup_ns
        self._table = KeyTable()
        self._columns = np.zeros((_COLUMNS, 0), np.int64)

    def add(self, done: Done, request: NDArray[Any]) -> None:
        """Take finished ops, in the trace's order, and the requests that they belong to."""
        own = done.moves & (done.phase <= Phase.DECODE) & ~np.ma.getmaskarray(request)
        if not own.any():
            return
        keys = contiguous(np.ma.getdata(request)[own], np.uint64)
        index = self._table.add(keys)
        self._make_room()
        due_ns, submit_ns = done.due_ns[own], done.submit_ns[own]
        complete_ns = done.complete_ns[own]
        begin_ns = submit_ns if self._mode == Mode.MAX else due_ns
        by_ns = due_ns if self._mode == Mode.OPEN else submit_ns
        early = (by_ns < self._begin_ns) & (by_ns != NO_TIME_NS)
        outside = early | (done.error[own] == INTERRUPTED)
        qos = done.qos[own].astype(np.int64)
        state = outside * _OUTSIDE | ~done.good[own] * _FAILED | qos << _QOS_SHIFT
        begins, ends, io_ns, waited_ns, states, reads = self._columns
        _gather(
            _Gathered(
                count=len(index),
                index=index,
                state=state,
                begin_ns=begin_ns,
                service_ns=complete_ns - submit_ns,
                complete_ns=complete_ns,
                is_read=(done.op[own] == Op.READ).astype(np.uint8),
                begins=begins,
                ends=ends,
                io_ns=io_ns,
                waited_ns=waited_ns,
                states=states,
                reads=reads,
            )
        )

    def _make_room(self) -> None:
        missing = self._table.capacity - self._columns.shape[1]
        if missing > 0:
            more = np.zeros((_COLUMNS, missing), np.int64)
            self._columns = np.concatenate((self._columns, more), axis=1)

    def measure(self) -> RequestsDocument | None:
        """Return the requests' times; None if no op names its request."""
        columns = self._columns[:, : self._table.count]
        state = columns[_STATE]
        columns = columns[:, state & _OUTSIDE == 0]
        if not columns.shape[1]:
            return None
        qos = columns[_STATE] >> _QOS_SHIFT
        present = [word for word in Qos if (qos == word + 1).any()]
        by_qos = [_of_class(columns[:, qos == word + 1], word) for word in present]
        counted_from: Literal["due", "submit"] = "submit" if self._mode == Mode.MAX else "due"
        times = _Times(columns)
        return RequestsDocument(
            **dict(times.figures()), counted_from=counted_from, by_qos=by_qos, **times.rates()
        )


class RequestSink:
    """Takes a run's finished ops and looks up which requests they belong to."""

    def __init__(self, source: RowSource, tiers: Sequence[Tier], requests: Requests) -> None:
        self.requests = requests
        self._rows = ExecutedRows(source, ("request",), tiers)

    def add(self, done: Done) -> None:
        """Take finished ops, in the trace's order."""
        if not len(done):  # of a batch, all may be the planner's own ops
            return
        parts = [rows["request"] for rows in self._rows.take(len(done))]
        request = parts[0] if len(parts) == 1 else np.ma.concatenate(parts)  # type: ignore[no-untyped-call]
        self.requests.add(done, request)


class _Times:
    """Some requests, which are all of one class or of any; one that failed is in no time."""

    def __init__(self, columns: NDArray[np.int64]) -> None:
        good = columns[:, columns[_STATE] & _FAILED == 0]
        self.count, self.failed = good.shape[1], columns.shape[1] - good.shape[1]
        self.end_to_end_ns, self.waited_ns = good[_END] - good[_BEGIN], good[_WAITED]
        self.io_ns = good[_IO]
        self._begin_ns, self._end_ns, self._reads = good[_BEGIN], good[_END], good[_READS]

    def figures(self) -> RequestTimesDocument:
        """Return what is known of them."""
        return RequestTimesDocument(
            count=self.count,
            failed=self.failed,
            end_to_end_ns=Histogram.of(self.end_to_end_ns).summary(),
            storage_io_ns=Histogram.of(self.io_ns).summary(),
            waited_ns=Histogram.of(self.waited_ns).summary(),
        )

    def rates(self) -> dict[str, Any]:
        """Return how many completed in a second, and how many reads each had; none without any."""
        if not self.count:
            return {}
        window_ns = int(self._end_ns.max() - self._begin_ns.min())
        p50, p99 = np.percentile(self._reads, (50, 99), method="inverted_cdf").tolist()
        return {
            "per_s": self.count * S_NS / window_ns if window_ns else None,
            "reads_mean": float(self._reads.mean()),
            "reads_p50": p50,
            "reads_p99": p99,
            "reads_max": int(self._reads.max()),
        }


def _of_class(columns: NDArray[np.int64], qos: Qos) -> QosRequestsDocument:
    """Return what is known of the requests of a class, and how many were within its target."""
    times = _Times(columns)
    return QosRequestsDocument(
        **dict(times.figures()),
        qos=qos.label,
        end_to_end_level=_level(times.end_to_end_ns, TARGET_P95_NS[qos]),
        waited_level=_level(times.waited_ns, TARGET_P95_NS[qos]),
    )


def _level(times_ns: NDArray[np.int64], target_ns: int) -> ServiceLevelDocument:
    ratio = int((times_ns <= target_ns).sum()) / len(times_ns) if len(times_ns) else None
    return ServiceLevelDocument(
        target_p95_ns=target_ns,
        compliance_ratio=ratio,
        met=None if ratio is None else ratio >= MET_RATIO,
    )
