"""sai3-bench's operation log (.tsv.zst, .csv.zst): warp's columns, names below s3://BUCKET/."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvtrace.errors import UsageError
from kvtrace.formats.warp import oplog_export
from kvtrace.formats.warp.oplog import Naming

if TYPE_CHECKING:
    from pathlib import Path

    from kvtrace.formats.common.exporting import Exported, ExportOptions
    from kvtrace.trace.reader import Trace

OPTIONS = ("tiers", "bucket", "endpoint", "prefix")
LOSES = oplog_export.LOSES
beside = oplog_export.beside
BUCKET = "kvtrace"


def export(trace: Trace, out: Path, options: ExportOptions) -> Exported:
    """Write `trace` so that endpoint and file, one behind the other, are each object's URI."""
    return oplog_export.export(trace, out, options, Naming(_base(options), options.prefix))


def _base(options: ExportOptions) -> str:
    if options.endpoint and options.bucket:
        raise UsageError(
            "both --bucket and --endpoint",
            accepted="a bucket of S3, or a URI of another store such as file:///mnt/nvme/",
        )
    if not options.endpoint:
        return f"s3://{(options.bucket or BUCKET).strip('/')}/"
    if "://" not in options.endpoint:
        raise UsageError(
            "not a URI", where="--endpoint", got=options.endpoint, accepted="e.g. file:///mnt/nvme/"
        )
    return options.endpoint.rstrip("/") + "/"
