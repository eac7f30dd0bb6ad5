"""`kvtrace import` and `kvtrace export`: other tools' formats."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from kvtrace import exporters, importers
from kvtrace.errors import UsageError
from kvtrace.foreign.rows import parse_tier, parse_tiers
from kvtrace.reader import open_trace

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_TIERS_HELP = "warp, sai3, oracle, lmcache: tiers whose rows are exported, with commas."
_ENDPOINT_HELP = "warp: address of the server; sai3: a URI instead of --bucket."
ForceOption = Annotated[bool, typer.Option("--force", help="Replace OUT if it exists.")]


def import_command(
    files: Annotated[
        list[Path],
        typer.Argument(help="Another tool's trace, one file or several.", show_default=False),
    ],
    out: Annotated[Path, typer.Argument(help="Trace to make (.parquet).", show_default=False)],
    format_: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="Its format, if not recognised; see `kvtrace list importers`.",
            show_default=False,
        ),
    ] = None,
    tier: Annotated[
        str | None,
        typer.Option(
            "--tier",
            help="warp, elbencho, cachebench, oracle: tier that the ops are done on.",
            show_default=False,
        ),
    ] = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Turn another tool's trace into ours."""
    if out.suffix != ".parquet":
        raise UsageError("unknown kind of output", where=out, accepted=".parquet")
    options = importers.ImportOptions(tier=parse_tier(tier), force=force)
    made = importers.convert(files, out, format_name=format_, options=options)
    if as_json:
        fields = {"rows": made.header.totals.rows, "notes": made.notes, "path": str(out)}
        typer.echo(json.dumps(fields, indent=2))
        return
    typer.echo(f"{out}: {made.header.totals.rows:,} rows")
    for note in made.notes:
        typer.echo(f"  {note}")


def export_command(
    trace: Annotated[Path, typer.Argument(help="A trace.", show_default=False)],
    out: Annotated[Path, typer.Argument(help="File to make.", show_default=False)],
    to: Annotated[
        str, typer.Option("--to", help="Format; see `kvtrace list exporters`.", show_default=False)
    ],
    with_deletes: Annotated[
        bool, typer.Option("--with-deletes", help="mlperf-csv: keep deletes.")
    ] = False,
    tiers: Annotated[
        str | None, typer.Option("--tiers", help=_TIERS_HELP, show_default=False)
    ] = None,
    bucket: Annotated[
        str, typer.Option("--bucket", help="sai3: bucket of the objects.", show_default="kvtrace")
    ] = "",
    prefix: Annotated[
        str, typer.Option("--prefix", help="warp, sai3: what names begin with.")
    ] = "",
    endpoint: Annotated[
        str, typer.Option("--endpoint", help=_ENDPOINT_HELP, show_default=False)
    ] = "",
    with_cat: Annotated[
        bool, typer.Option("--with-cat", help="warp: columns last_byte and cat (1 miss, 2 hit).")
    ] = False,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write a trace in another tool's format, and say what that loses."""
    options = exporters.ExportOptions(
        with_deletes=with_deletes,
        tiers=parse_tiers(tiers),
        bucket=bucket,
        prefix=prefix,
        endpoint=endpoint,
        with_cat=with_cat,
        force=force,
    )
    with open_trace(trace) as opened:
        made = exporters.export(opened, out, to, options)
    if as_json:
        fields = {"rows": made.rows, "dropped_rows": made.dropped_rows, "loses": made.loses}
        fields["beside"] = [str(path) for path in made.beside]
        typer.echo(json.dumps(fields, indent=2))
        return
    typer.echo(f"{out}: {made.rows:,} rows, {made.dropped_rows:,} left out")
    for path in made.beside:
        typer.echo(f"  beside it {path}")
    for lost in made.loses:
        typer.echo(f"  loses {lost}")
