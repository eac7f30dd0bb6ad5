"""Storage time of each inference request, over all its ops."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from kvtrace.compiled.jit import kernel
from kvtrace.placement.keys import KeyTable
from kvtrace.trace.schema import Phase, Qos
from replay.measure.executed import ExecutedRows
from replay.measure.histogram import Histogram, Summary
from replay.measure.requests.levels import TARGET_P95_NS
from replay.ops.columns import INTERRUPTED, NO_TIME_NS
from replay.ops.contract import Mode

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from kvtrace.placement.rows import RowSource
    from kvtrace.trace.schema import Tier
    from replay.ops.done import Done

_BEGIN, _END, _IO, _WAITED, _STATE = range(5)
_COLUMNS = 5
_FAILED, _OUTSIDE, _BEGUN, _QOS_SHIFT = 1, 2, 4, 3
"""In a request's state: an op failed; one was before the window or never begun; one succeeded; its
class."""


@dataclass(frozen=True, slots=True)
class RequestTimes:
    """Of some requests, ns. A request that failed, in any of its ops, is in no time.

    `end_to_end`: from when its first op was due until its last one completed. `storage_io`: sum of
    its ops' service times, though they overlap. `waited`: how long at least one of its ops was due
    and hadn't completed. `…_within`: requests within their class's target; None without a class.
    """

    qos: Qos | None
    count: int
    failed: int
    end_to_end: Summary
    storage_io: Summary
    waited: Summary
    end_to_end_within: int | None
    waited_within: int | None


@dataclass(frozen=True, slots=True)
class RequestsMeasure:
    """All requests, then those of each class of urgency that there was.

    `from_submit`: no op has a due time, so that submits stand in for them.
    """

    whole: RequestTimes
    by_qos: tuple[RequestTimes, ...]
    from_submit: bool


class Requests:
    """Puts the ops of requests together: their own reads and writes, in phases prefill and decode.

    Demotions and promotions that a request forces aren't its own; requests that began before the
    window, or that a run was stopped in, are left out. Memory follows the number of requests: up to
    120 bytes each.
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
        keys = np.ascontiguousarray(np.ma.getdata(request)[own], np.uint64)
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
        _gather(index, state, begin_ns, complete_ns - submit_ns, complete_ns, self._columns)

    def _make_room(self) -> None:
        missing = self._table.capacity - self._columns.shape[1]
        if missing > 0:
            more = np.zeros((_COLUMNS, missing), np.int64)
            self._columns = np.concatenate((self._columns, more), axis=1)

    def measure(self) -> RequestsMeasure | None:
        """Return the requests' times; None if no op names its request."""
        columns = self._columns[:, : self._table.count]
        state = columns[_STATE]
        columns = columns[:, state & _OUTSIDE == 0]
        if not columns.shape[1]:
            return None
        qos = columns[_STATE] >> _QOS_SHIFT
        present = [word for word in Qos if (qos == word + 1).any()]
        by_qos = [_times(columns[:, qos == word + 1], word) for word in present]
        whole = _times(columns, None)
        return RequestsMeasure(whole, tuple(by_qos), self._mode == Mode.MAX)


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


def _times(columns: NDArray[np.int64], qos: Qos | None) -> RequestTimes:
    """Return what is known of some requests, which are all of one class or of any."""
    good = columns[:, columns[_STATE] & _FAILED == 0]
    end_to_end, waited = good[_END] - good[_BEGIN], good[_WAITED]
    target_ns = None if qos is None else TARGET_P95_NS[qos]
    return RequestTimes(
        qos=qos,
        count=good.shape[1],
        failed=columns.shape[1] - good.shape[1],
        end_to_end=Histogram.of(end_to_end).summary(),
        storage_io=Histogram.of(good[_IO]).summary(),
        waited=Histogram.of(waited).summary(),
        end_to_end_within=None if target_ns is None else int((end_to_end <= target_ns).sum()),
        waited_within=None if target_ns is None else int((waited <= target_ns).sum()),
    )


@kernel
def _gather(
    index: NDArray[np.int32],
    state: NDArray[np.int64],
    begin_ns: NDArray[np.int64],
    service_ns: NDArray[np.int64],
    complete_ns: NDArray[np.int64],
    columns: NDArray[np.int64],
) -> None:
    """Add each op to its request's columns; `state`: what it adds to the request's."""
    for at in range(index.size):
        to = index[at]
        known = columns[_STATE, to]
        columns[_STATE, to] = known | state[at]
        if state[at] & _FAILED:
            continue
        begin, end = begin_ns[at], complete_ns[at]
        if known & _BEGUN == 0 or begin < columns[_BEGIN, to]:
            columns[_BEGIN, to] = begin
        columns[_WAITED, to] += max(0, end - max(begin, columns[_END, to]))
        columns[_END, to] = max(end, columns[_END, to])
        columns[_IO, to] += service_ns[at]
        columns[_STATE, to] |= _BEGUN
