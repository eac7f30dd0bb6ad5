"""The MLPerf Storage KV benchmark's CSV (.csv, .csv.zst)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvtrace.errors import UsageError
from kvtrace.formats.common.exporting import Exported, ExportOptions
from kvtrace.formats.common.sidecar import NAMES, MapWriter, map_path
from kvtrace.formats.mlperf_csv.csvfile import LOSES, CsvWriter, is_csv

if TYPE_CHECKING:
    from pathlib import Path

    from kvtrace.trace.reader import Trace

OPTIONS = ("with_deletes",)


def beside(out: Path) -> tuple[Path, ...]:
    """Return the file that an export makes beside `out`."""
    return (map_path(out),)


def export(trace: Trace, out: Path, options: ExportOptions) -> Exported:
    """Write `trace` as CSV. Raises UsageError if nothing would be left of it."""
    if not is_csv(out):
        raise UsageError("unknown kind of output", where=out, accepted=".csv or .csv.zst")
    epoch_ns = trace.header.epoch_ns or 0
    columns = ("timestamp", "op", "size", "tier", "key", "phase")
    optional = [name for name in NAMES if name in trace.columns and name not in columns]
    outcome = [name for name in ("error",) if name in trace.columns]
    with (
        MapWriter(out, force=options.force) as mapped,
        CsvWriter(
            out, with_deletes=options.with_deletes, epoch_ns=epoch_ns, force=options.force
        ) as writer,
    ):
        for batch in trace.batches((*columns, *optional, *outcome), nulls=True):
            kept = writer.fits(batch)
            writer.append(batch)
            mapped.append({name: batch[name][kept] for name in (*columns, *optional)})
        if writer.rows == 0:
            raise UsageError("no row of this trace fits into the CSV", where=trace.path)
    losses = LOSES[1:] if options.with_deletes else LOSES
    return Exported(writer.rows, writer.dropped, losses, (map_path(out),))
