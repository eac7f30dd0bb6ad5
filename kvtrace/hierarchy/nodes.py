"""The traces of several nodes as one: merged by time, each node's keys and requests its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from kvtrace.trace.interleave import interleaved
from kvtrace.trace.schema import NODE_SHIFT

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from kvtrace.trace.reader import Columns, Trace

_NUMBERED = ("key", "block", "request")
"""Columns whose numbers each node counts for itself; sessions are numbered by the source."""


def merged(traces: Sequence[Trace]) -> Iterator[Columns]:
    """Yield the rows of nodes' traces in order of (time, node, row)."""
    streams = [_rows_of(trace, node) for node, trace in enumerate(traces)]
    return interleaved(streams, traces[0].columns)


def _rows_of(trace: Trace, node: int) -> Iterator[Columns]:
    """Yield a trace's rows with numbers that say that they are of `node`."""
    high = np.uint64(node) << np.uint64(NODE_SHIFT)
    for columns in trace.batches():
        yield columns | {name: columns[name] | high for name in _NUMBERED if name in columns}


def residents(traces: Sequence[Trace]) -> NDArray[np.void]:
    """Return what is there at the start on all nodes."""
    residents = [trace.resident() for trace in traces]
    for node, objects in enumerate(residents):
        residents[node] = objects.copy()
        residents[node]["key"] |= np.uint64(node) << np.uint64(NODE_SHIFT)
    return np.concatenate(residents)
