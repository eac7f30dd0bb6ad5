"""`kvtrace import` and `kvtrace export`: other tools' formats."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from kvtrace.cli.console import say
from kvtrace.cli.parsing import parse_tier, parse_tiers, parsed
from kvtrace.errors import UsageError
from kvtrace.formats.common import exporting as exporters
from kvtrace.units import parse_bytes

if TYPE_CHECKING:
    from kvtrace.formats.common.importing import Imported, ImportOptions

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_TIERS_HELP = "fio, warp, sai3, oracle, lmcache: export only these tiers, e.g. cpu,nvme."
_ENDPOINT_HELP = "warp: server address; sai3: URI that replaces --bucket."
ForceOption = Annotated[bool, typer.Option("--force", help="Overwrite OUT.")]


def import_command(
    files: Annotated[
        list[Path],
        typer.Argument(
            help="Files of another tool's trace or log, or a folder that an engine recorded in.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Argument(help="Trace to write (.parquet).", show_default=False)],
    format_: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="Format of FILES; see `kvtrace list importers`.",
            show_default="detected",
        ),
    ] = None,
    nvme_capacity: Annotated[
        str | None,
        typer.Option(
            help="mlperf-csv: infer deletes from the run's nvme capacity, e.g. 50GiB.",
            show_default=False,
        ),
    ] = None,
    tier: Annotated[
        str | None,
        typer.Option(
            "--tier",
            help="warp, elbencho, cachebench, oracle, lmcache: tier of the ops.",
            show_default=False,
        ),
    ] = None,
    map_: Annotated[
        Path | None,
        typer.Option(
            "--map",
            help="fio, warp: restore keys, tiers, phases and requests from the export's "
            ".map.parquet.",
            show_default=False,
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            help="mlperf-csv, capture: the run's model, name or file, to convert bytes to tokens "
            "or to size KV-cache events.",
            show_default=False,
        ),
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(
            help="capture: type of the KV cache's values.", show_default="the model's own"
        ),
    ] = None,
    block_size: Annotated[
        str | None,
        typer.Option(
            help="capture: bytes of a block in KV-cache events, of all ranks, e.g. 2MiB.",
            show_default=False,
        ),
    ] = None,
    device_filter: Annotated[
        list[str] | None,
        typer.Option(
            "--device-filter",
            help="blktrace, blkparse: import only this device's I/O, as MAJOR,MINOR; may "
            "be repeated.",
            show_default=False,
        ),
    ] = None,
    anonymise: Annotated[
        bool,
        typer.Option(
            "--anonymise",
            help="Replace keys, blocks, sessions and requests by keyed hashes; keep no names.",
        ),
    ] = False,
    secret_file: Annotated[
        Path | None,
        typer.Option(
            help="--anonymise: file with a secret of 16 to 64 bytes; equal secrets give equal "
            "hashes.",
            show_default="random",
        ),
    ] = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Convert another tool's trace or log, or a recording of an engine, to a kvtrace trace."""
    from kvtrace.formats.common import importing as importers

    if secret_file is not None and not anonymise:
        raise UsageError("needs --anonymise", where="--secret-file")
    if out.suffix != ".parquet":
        raise UsageError("unknown kind of output", where=out, accepted=".parquet")
    options = importers.ImportOptions(
        force=force,
        nvme_capacity_bytes=parsed("--nvme-capacity", parse_bytes, nvme_capacity),
        tier=parse_tier(tier),
        map=map_,
        model=model,
        dtype=dtype,
        block_size_bytes=parsed("--block-size", parse_bytes, block_size),
        device_filter=tuple(device_filter or ()),
    )
    made = (
        _anonymised(files, out, format_, options, secret_file)
        if anonymise
        else importers.convert(files, out, format_name=format_, options=options)
    )
    if as_json:
        fields = {"rows": made.header.totals.rows, "notes": made.notes, "path": str(out)}
        typer.echo(json.dumps(fields, indent=2))
        return
    say(f"{out}: {made.header.totals.rows:,} rows")
    for note in made.notes:
        say(f"  {note}")


def _anonymised(
    files: list[Path],
    out: Path,
    format_name: str | None,
    options: ImportOptions,
    secret_file: Path | None,
) -> Imported:
    """Import beside `out`, where no name stays, and rename what the rows name."""
    from kvtrace.files.outputs import check_apart, check_writable
    from kvtrace.formats.common import importing as importers
    from kvtrace.tools.anonymise import anonymised, new_secret, read_secret
    from kvtrace.tools.stream import write
    from kvtrace.trace.reader import open_trace

    check_writable(out, force=options.force)
    secret = new_secret() if secret_file is None else read_secret(secret_file)
    check_apart([out], [*files, *([] if secret_file is None else [secret_file])])
    with TemporaryDirectory(prefix=".kvtrace-", dir=out.parent) as folder:
        named = Path(folder) / out.name
        made = importers.convert(files, named, format_name=format_name, options=options)
        with open_trace(named) as trace:
            header = write(anonymised(trace, secret), out, force=options.force).header
    kept = [note for note in made.notes if "names kept in" not in note]
    return importers.Imported(header, tuple(kept))


def export_command(
    trace: Annotated[Path, typer.Argument(help="Trace to read.", show_default=False)],
    out: Annotated[Path, typer.Argument(help="File to write.", show_default=False)],
    to: Annotated[
        str,
        typer.Option(
            "--to", help="Format to write; see `kvtrace list exporters`.", show_default=False
        ),
    ],
    with_deletes: Annotated[
        bool, typer.Option("--with-deletes", help="mlperf-csv: write deletes.")
    ] = False,
    tiers: Annotated[
        str | None, typer.Option("--tiers", help=_TIERS_HELP, show_default=False)
    ] = None,
    device: Annotated[
        str,
        typer.Option(help="fio: block device to run on; deletes become trims.", show_default=False),
    ] = "",
    filename: Annotated[
        str,
        typer.Option(help="fio: file to run on instead of --device.", show_default="OUT with .dat"),
    ] = "",
    file_per_key: Annotated[
        bool,
        typer.Option("--file-per-key", help="fio: use a file per object, in directory --filename."),
    ] = False,
    size: Annotated[
        str | None,
        typer.Option(help="fio: size of the device or file.", show_default="the space needed"),
    ] = None,
    extent_align: Annotated[str, typer.Option(help="fio: align objects to this size.")] = "4KiB",
    io_size: Annotated[
        str | None,
        typer.Option(
            help="fio: split ops longer than this, as a replay does.", show_default="4MiB"
        ),
    ] = None,
    queue_depth: Annotated[
        int | None,
        typer.Option(
            help="fio: ops in flight; fewer where buffers exceed 1 GiB.",
            show_default="1024, or 32 with --no-stall",
        ),
    ] = None,
    no_stall: Annotated[
        bool,
        typer.Option("--no-stall", help="fio: write a job that runs at maximum speed, untimed."),
    ] = False,
    fio_version: Annotated[
        str,
        typer.Option(
            help="fio: version that will run the job, e.g. 3.41.",
            show_default="the installed one",
        ),
    ] = "",
    bucket: Annotated[
        str, typer.Option("--bucket", help="sai3: bucket of the objects.", show_default="kvtrace")
    ] = "",
    prefix: Annotated[
        str, typer.Option("--prefix", help="warp, sai3: prefix of object names.")
    ] = "",
    endpoint: Annotated[
        str, typer.Option("--endpoint", help=_ENDPOINT_HELP, show_default=False)
    ] = "",
    with_cat: Annotated[
        bool,
        typer.Option("--with-cat", help="warp: add columns last_byte and cat (1 miss, 2 hit)."),
    ] = False,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Convert a trace to another tool's format, and print what the format loses."""
    from kvtrace.trace.reader import open_trace

    options = exporters.ExportOptions(
        force=force,
        with_deletes=with_deletes,
        tiers=parse_tiers(tiers) or (),
        device=device,
        filename=filename,
        file_per_key=file_per_key,
        size_bytes=parsed("--size", parse_bytes, size),
        extent_align_bytes=parsed("--extent-align", parse_bytes, extent_align) or 0,
        io_size_bytes=parsed("--io-size", parse_bytes, io_size),
        queue_depth=queue_depth,
        no_stall=no_stall,
        fio_version=fio_version,
        bucket=bucket,
        prefix=prefix,
        endpoint=endpoint,
        with_cat=with_cat,
    )
    with open_trace(trace) as opened:
        made = exporters.export(opened, out, to, options)
    if as_json:
        fields = {"rows": made.rows, "dropped_rows": made.dropped_rows, "loses": made.loses}
        fields["beside"] = [str(path) for path in made.beside]
        typer.echo(json.dumps(fields, indent=2))
        return
    say(f"{out}: {made.rows:,} rows, {made.dropped_rows:,} left out")
    for path in made.beside:
        say(f"  beside it {path}")
    for lost in made.loses:
        say(f"  loses {lost}")
