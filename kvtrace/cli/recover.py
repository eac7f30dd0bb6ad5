"""`kvtrace recover`: a result trace of the parts that a killed replay has left."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kvtrace.writer import check_writable
from replay.output import recover


def recover_command(
    parts: Annotated[Path, typer.Argument(help="Folder NAME.parquet.parts.", show_default=False)],
    out: Annotated[Path, typer.Argument(help="Trace to write.", show_default=False)],
    force: Annotated[bool, typer.Option("--force", help="Overwrite OUT.")] = False,
) -> None:
    """Make one trace of the parts of a result that a killed replay has left; they stay."""
    check_writable(out, force=force)
    rows = recover(parts, out, force=force)
    typer.echo(f"{out}: {rows:,} rows; delete {parts} when it is no longer needed")
