"""warp's operation log (.csv.zst, .tsv.zst), for warp analyze, warp-replay and polarWarp."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvtrace.formats.warp import oplog_export
from kvtrace.formats.warp.oplog import Naming

if TYPE_CHECKING:
    from pathlib import Path

    from kvtrace.formats.common.exporting import Exported, ExportOptions
    from kvtrace.trace.reader import Trace

OPTIONS = ("tiers", "endpoint", "prefix", "with_cat")
LOSES = oplog_export.LOSES
beside = oplog_export.beside
ENDPOINT = "http://127.0.0.1:9000"


def export(trace: Trace, out: Path, options: ExportOptions) -> Exported:
    """Write `trace` as warp would: a server's address, names within a bucket."""
    naming = Naming(options.endpoint or ENDPOINT, options.prefix, options.with_cat)
    return oplog_export.export(trace, out, options, naming)
