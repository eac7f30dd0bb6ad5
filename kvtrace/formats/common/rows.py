"""Rows on their way out to another tool: those of some tiers, in order of when they began."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from kvtrace.errors import UsageError
from kvtrace.formats.common.order import Again, Reordered
from kvtrace.trace.schema import Op, Tier

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from kvtrace.trace.reader import Columns, Trace

STORAGE = (Tier.NVME, Tier.OBJECT)
MEASURED = ("submit", "complete")


def chosen_tiers(trace: Trace, asked: Sequence[Tier], default: Sequence[Tier]) -> tuple[Tier, ...]:
    """Return the tiers to export: those `asked` for, else those of `default`.

    Raises UsageError if, by its header's totals, the trace has no row of them.
    """
    present = {cell.tier for cell in trace.header.totals.cells}
    tiers = tuple(asked or default)
    if present and not present & {tier.label for tier in tiers}:
        raise UsageError(
            "no row of the tiers to export",
            where=trace.path,
            got=", ".join(tier.label for tier in tiers),
            accepted=", ".join(sorted(present)),
            hint="name some by --tiers",
        )
    return tiers


def is_measured(trace: Trace) -> bool:
    """Whether a trace knows when its ops really were submitted and when they completed."""
    return all(name in trace.columns for name in MEASURED)


class Outgoing:
    """A trace's rows of some tiers as another tool is to see them; counts those left out.

    Batches have the columns `names` as far as the trace has them, further `start` and `end` in ns
    (of a trace that was measured: when the ops were submitted and completed, else both the
    timestamp), in order of `start`. Ops that were never submitted are left out; those that were
    done, at a time that isn't known, have their timestamp.
    """

    def __init__(self, trace: Trace, tiers: Sequence[Tier], names: Sequence[str]) -> None:
        self._trace, self._tiers = trace, [int(tier) for tier in tiers]
        self._measured = is_measured(trace)
        wanted = {"timestamp", "op", "size", "tier", "key", *names}
        wanted |= {*MEASURED, "error"} if self._measured else set()
        self._names = [name for name in trace.columns if name in wanted]
        self.dropped = 0

    def batches(self) -> Iterator[Columns]:
        """Yield the rows."""
        if not self._measured:
            yield from self._kept()
            return
        rows = Reordered("start", Again(self._kept))
        self.dropped = 0  # it was read once before
        yield from rows

    def _kept(self) -> Iterator[Columns]:
        for columns in self._trace.batches(self._names, nulls=True):
            kept = np.isin(columns["tier"], self._tiers)
            start = end = columns["timestamp"]
            if self._measured:
                start, end = columns["submit"], columns["complete"]
                masks = np.ma.getmaskarray(start), np.ma.getmaskarray(end)
                done = masks[0] & masks[1] & (filled(columns, "error") == 0)
                kept &= ~(masks[0] | masks[1]) | done
                start, end = (
                    np.where(done, columns["timestamp"], np.ma.getdata(times))
                    for times in (start, end)
                )
            self.dropped += int(len(kept) - kept.sum())
            columns = columns | {"start": np.ma.getdata(start), "end": np.ma.getdata(end)}
            columns["end"] = np.maximum(columns["start"], columns["end"])
            if kept.any():
                yield {name: values[kept] for name, values in columns.items()}


def refuse_partial_writes(columns: Columns, first_row: int, trace: Trace) -> None:
    """Raise UsageError for the first write that doesn't begin at its object's start."""
    if "offset" not in columns:
        return
    bad = (columns["op"] == Op.WRITE) & (np.ma.filled(columns["offset"], 0) > 0)
    if bad.any():
        raise UsageError(
            "a write of a part of an object, which the format has no word for",
            where=f"{trace.path}: row {first_row + int(np.argmax(bad))} of those exported",
            got=f"offset {int(columns['offset'][np.argmax(bad)])}",
            accepted="whole objects",
        )


def filled(columns: Columns, name: str, default: int = 0) -> NDArray[Any]:
    """Return a column with `default` where it or a value of it is unknown."""
    if name not in columns:
        return np.full(len(columns["key"]), default, np.int64)
    return np.ma.filled(columns[name], default)
