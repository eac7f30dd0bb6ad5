"""The CSV of the MLPerf Storage KV benchmark: its words, and a writer like that of traces."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from kvtrace.errors import TargetError
from kvtrace.files.outfile import OutFile
from kvtrace.trace.counting import TotalsCounter
from kvtrace.trace.header import Header
from kvtrace.trace.outcomes import only_done
from kvtrace.trace.schema import Op, Phase, Tier
from kvtrace.trace.writer import RowWriter

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

HEADER = ("Timestamp", "Operation", "Object_Size_Bytes", "Tier", "Key", "Phase")
OPS = {Op.READ: "Read", Op.WRITE: "Write", Op.DELETE: "Delete"}
TIERS = {Tier.GPU: "Tier-0", Tier.CPU: "Tier-1", Tier.NVME: "Tier-2"}
PHASES = {Phase.PREFILL: "Prefill", Phase.DECODE: "Decode", Phase.EVICT: "Evict"}
LOSES = (
    "delete rows, which --with-deletes keeps",
    "lookup rows, ops that moved nothing, and rows of the object tier",
    "phase promote, which becomes Decode",
    "request, session, step, rank, block, offset, qos and recorded times",
    "nanoseconds below a microsecond",
    "the header",
)
"""Losses of a trace in this CSV; the first only without `with_deletes`."""


def is_csv(path: Path) -> bool:
    """Return whether `path` is named like such a CSV: .csv or .csv.zst."""
    return path.name.endswith((".csv", ".csv.zst"))


class CsvWriter(RowWriter):
    """Writes rows as CSV to `path`, which appears whole at `close` or not at all.

    `dropped` counts the rows that the format has no word for. `header`: what is known of the rows;
    the file has none, `close` returns it with the counts of what was written.
    """

    def __init__(
        self,
        path: Path,
        *,
        with_deletes: bool = False,
        epoch_ns: int = 0,
        force: bool = False,
        header: Header | None = None,
    ) -> None:
        self._file = OutFile(path, force=force)
        self.path = path
        self.rows = 0
        self.dropped = 0
        self._ops = [op for op in OPS if with_deletes or op is not Op.DELETE]
        self._epoch_ns = epoch_ns
        self._draft = self._file.draft
        self._header = header or Header()
        self._counter = TotalsCounter()
        try:
            self._file.write(f"{','.join(HEADER)}\n".encode())
        except TargetError:
            self.abort()
            raise

    def fits(self, columns: Mapping[str, NDArray[Any]]) -> NDArray[np.bool_]:
        """Return which rows the format has a word for: not those that moved nothing."""
        op = only_done(columns)["op"]
        kept = np.isin(op, self._ops) & np.isin(columns["tier"], list(TIERS))
        return np.asarray(kept, np.bool_)

    def append(self, columns: Mapping[str, NDArray[Any]]) -> None:
        """Take rows: one array per column, words as wire values."""
        from kvtrace.formats.mlperf_csv.csvrows import NAMES, text_of  # few recordings are a CSV

        kept = self.fits(columns)
        self.dropped += int(len(kept) - kept.sum())
        self.rows += int(kept.sum())
        chosen = {name: columns[name][kept] for name in NAMES}
        if kept.any():
            self._counter.update(chosen)
        self._file.write(text_of(chosen, self._epoch_ns))

    def close(self, **header_fields: object) -> Header:
        """Finish the file under its final name; return the header with what the file has."""
        self._file.close()
        counted = {"totals": self._counter.totals(), "dropped_rows": self.dropped}
        return self._header.model_copy(update=counted | header_fields)

    def abort(self) -> None:
        """Remove what was written."""
        self._file.abort()
