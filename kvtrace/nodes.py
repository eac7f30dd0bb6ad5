"""The traces of several nodes as one: merged by time, each node's keys and requests its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from kvtrace.schema import NODE_SHIFT

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from kvtrace.reader import Trace

_NUMBERED = ("key", "block", "request")
"""Columns whose numbers each node counts for itself; sessions are numbered by the source."""

Columns = dict[str, "NDArray[Any]"]


class _Stream:
    """A node's rows: those read and not yet given on."""

    def __init__(self, batches: Iterator[Columns]) -> None:
        self._batches = batches
        self.rows: Columns = {}
        self.ended = False
        self.read_on()

    def read_on(self) -> None:
        """Read some more rows."""
        more = next(self._batches, None)
        if more is None:
            self.ended = True
        elif not self.rows:
            self.rows = more
        else:
            self.rows = {name: np.concatenate((self.rows[name], more[name])) for name in more}

    @property
    def safe_ns(self) -> float:
        """Before when all rows are there."""
        return float("inf") if self.ended else float(self.rows["timestamp"][-1])

    def take(self, before_ns: float) -> Columns:
        """Return the rows before a point in time and forget them."""
        if not self.rows:
            return {}
        end = int(np.searchsorted(self.rows["timestamp"], before_ns))
        taken = {name: values[:end] for name, values in self.rows.items()}
        self.rows = {name: values[end:] for name, values in self.rows.items()}
        if not len(self.rows["timestamp"]):
            self.rows = {}
        return taken


def of_node(columns: Columns, node: int) -> Columns:
    """Return rows whose numbers say that they are of `node`."""
    high = np.uint64(node) << np.uint64(NODE_SHIFT)
    return columns | {name: columns[name] | high for name in _NUMBERED if name in columns}


def merged(traces: Sequence[Trace]) -> Iterator[Columns]:
    """Yield the rows of nodes' traces in order of (time, node, row)."""
    streams = [
        _Stream(of_node(columns, node) for columns in trace.batches())
        for node, trace in enumerate(traces)
    ]
    while any(stream.rows for stream in streams):
        before_ns = min(stream.safe_ns for stream in streams)
        parts = [part for stream in streams if (part := stream.take(before_ns))]
        rows = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        order = np.argsort(rows["timestamp"], kind="stable")
        if len(order):
            yield {name: values[order] for name, values in rows.items()}
        for stream in streams:
            if stream.safe_ns == before_ns and not stream.ended:
                stream.read_on()


def residents(traces: Sequence[Trace]) -> NDArray[np.void]:
    """Return what is there at the start on all nodes."""
    found = [trace.resident() for trace in traces]
    for node, objects in enumerate(found):
        found[node] = objects.copy()
        found[node]["key"] |= np.uint64(node) << np.uint64(NODE_SHIFT)
    return np.concatenate(found)
