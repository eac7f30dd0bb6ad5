"""Exports a trace as an operation log: what `warp` and `sai3` have in common."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

import numpy as np

from kvtrace.errors import UsageError
from kvtrace.files.outfile import OutFile
from kvtrace.files.outputs import check_writable
from kvtrace.formats.common.exporting import Exported, ExportOptions
from kvtrace.formats.common.rows import STORAGE, Outgoing, chosen_tiers, refuse_partial_writes
from kvtrace.formats.common.sidecar import MapWriter, map_path
from kvtrace.formats.warp.oplog import SUFFIXES, Naming, OpLogWriter, check_suffix
from kvtrace.native.library import contiguous
from kvtrace.trace.schema import Op

if TYPE_CHECKING:
    from pathlib import Path

    from kvtrace.trace.reader import Columns, Trace

LOSES = (
    "rows of tiers other than those of --tiers (by default nvme and object)",
    "phase and request (the map has them), session, step, block and qos",
    "where in its object a read starts: the tools read objects whole",
    "the size of a deleted object",
    "due times, and timestamps of measured ops, which start at their submit",
    "ops that were never submitted",
    "time before the first op",
    "the header",
)
"""Losses of a trace in an operation log."""
_COLUMNS = ("phase", "request", "rank", "offset", "error")
_RESIDENT_ROWS = 1 << 17


def resident_path(out: Path) -> Path:
    """Return where the log is that makes the objects that `out` expects to find."""
    suffix = next(suffix for suffix in SUFFIXES if out.name.endswith(suffix))
    return out.with_name(f"{out.name.removesuffix(suffix)}.resident{suffix}")


def beside(out: Path) -> tuple[Path, ...]:
    """Return the files that an export makes beside `out`."""
    check_suffix(out)
    return map_path(out), resident_path(out)


def export(trace: Trace, out: Path, options: ExportOptions, naming: Naming) -> Exported:
    """Write `trace` as an operation log. Raises UsageError if nothing would be left of it."""
    check_suffix(out)
    tiers = chosen_tiers(trace, options.tiers, STORAGE)
    epoch_ns = trace.header.epoch_ns or 0
    resident = trace.resident()
    resident = resident[np.isin(resident["tier"], [int(tier) for tier in tiers])]
    rows = Outgoing(trace, tiers, _COLUMNS)
    if len(resident):
        check_writable(resident_path(out), force=options.force)
    with ExitStack() as stack:
        beside = stack.enter_context(MapWriter(out, force=options.force))
        file = stack.enter_context(OutFile(out, force=options.force))  # published first
        writer = OpLogWriter(file, naming, epoch_ns)
        for columns in rows.batches():
            refuse_partial_writes(columns, writer.rows, trace)
            writer.append(columns)
            beside.append(columns)
        if writer.rows == 0:
            raise UsageError("no row of this trace fits into the log", where=trace.path)
    made = [map_path(out)]
    if len(resident):
        with OutFile(resident_path(out), force=options.force) as file:
            writes = OpLogWriter(file, naming, epoch_ns)
            for begin in range(0, len(resident), _RESIDENT_ROWS):
                writes.append(_puts(resident[begin : begin + _RESIDENT_ROWS]))
        made.append(resident_path(out))
    return Exported(writer.rows, rows.dropped, LOSES, tuple(made))


def _puts(objects: np.ndarray) -> Columns:
    zeros = np.zeros(len(objects), np.int64)
    return {
        "op": np.full(len(objects), Op.WRITE, np.uint8),
        "phase": np.zeros(len(objects), np.uint8),
        "tier": contiguous(objects["tier"]),
        "key": contiguous(objects["key"]),
        "size": contiguous(objects["size"]),
        "start": zeros,
        "end": zeros,
    }
