"""Bounds of a trace's values: inside them no sum, end or due time overflows 64 bits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from kvtrace.errors import TraceError
from kvtrace.trace.schema import MAX_SIZE_BYTES, MAX_TIME_NS, MAX_TOTAL_BYTES, Op

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

_MEASURED = ("due", "submit", "complete")


def refuse(
    bad: NDArray[np.bool_],
    values: NDArray[Any],
    where: object,
    first_row: int,
    *,
    name: str,
    accepted: str,
) -> None:
    """Raise TraceError for the first row that is `bad`."""
    if bad.any():
        row = int(np.argmax(bad))
        raise TraceError(
            f"{name} out of range",
            where=f"{where}: row {first_row + row}, column {name}",
            got=int(values[row]),
            accepted=accepted,
        )


class Bounds:
    """Checks a trace's rows, batch after batch. `where`: the trace, for messages."""

    def __init__(self, where: object) -> None:
        self._where = where
        self._last_ns = 0
        self._total_bytes = 0

    def check(self, columns: Mapping[str, NDArray[Any]], first_row: int) -> None:
        """Raise TraceError for a time, size or offset out of range, or too many bytes."""
        if "timestamp" in columns:
            times = columns["timestamp"]
            bad = (times < 0) | (times > MAX_TIME_NS)
            self._refuse(bad, times, "timestamp", first_row, _TIME)
        for name in _MEASURED:
            if name in columns:
                times = columns[name]
                bad = (times > MAX_TIME_NS) | (times < -MAX_TIME_NS)
                self._refuse(bad, times, name, first_row, f"{-MAX_TIME_NS} to {MAX_TIME_NS} ns")
        if "size" in columns:
            self._check_sizes(columns, first_row)

    def check_order(self, times: NDArray[Any], first_row: int) -> None:
        """Raise TraceError where time runs backwards."""
        if not len(times):
            return
        before = np.concatenate((np.array([self._last_ns], np.int64), times[:-1]))
        bad = times < before
        if bad.any():
            row = int(bad.argmax())
            raise TraceError(
                "time runs backwards",
                where=f"{self._where}: row {first_row + row}, column timestamp",
                got=int(times[row]),
                accepted=f"at least {int(before[row])}",
                hint="sort the rows by timestamp, keeping ties in order",
            )
        self._last_ns = int(times[-1])

    def _check_sizes(self, columns: Mapping[str, NDArray[Any]], first_row: int) -> None:
        sizes, most = columns["size"], np.uint64(MAX_SIZE_BYTES)
        bad = sizes > most
        if "op" in columns:
            bad = bad | ((columns["op"] <= Op.WRITE) & (sizes == 0))
        self._refuse(bad, sizes, "size", first_row, _SIZE)
        ends = sizes
        if "offset" in columns:
            offsets = np.ma.filled(columns["offset"], 0).astype(np.uint64, copy=False)
            ends = np.minimum(offsets, most) + sizes
            self._refuse((offsets > most) | (ends > most), offsets, "offset", first_row, _OFFSET)
        self._total_bytes += int(ends.sum(dtype=np.uint64))
        if self._total_bytes > MAX_TOTAL_BYTES:
            raise TraceError(
                "the ops are too large in all",
                where=f"{self._where}: row {first_row + len(sizes) - 1}, column size",
                got=f"{self._total_bytes} bytes up to here",
                accepted=f"up to {MAX_TOTAL_BYTES}, the sum of offset + size over all rows",
            )

    def _refuse(
        self, bad: Any, values: NDArray[Any], name: str, first_row: int, accepted: str
    ) -> None:
        refuse(bad, values, self._where, first_row, name=name, accepted=accepted)


_TIME = f"0 to {MAX_TIME_NS} ns"
_SIZE = f"1 to {MAX_SIZE_BYTES} bytes for a read or write"
_OFFSET = f"objects of up to {MAX_SIZE_BYTES} bytes, offset + size"
