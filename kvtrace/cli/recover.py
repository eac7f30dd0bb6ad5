"""`kvtrace recover`: a result trace of the parts that a killed replay has left."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kvtrace.cli.console import say
from kvtrace.files.outputs import check_apart, check_writable


def recover_command(
    parts: Annotated[
        Path,
        typer.Argument(
            metavar="RESULT",
            help="--out of the killed replay, or the directory of parts beside it.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Argument(help="Trace to write.", show_default=False)],
    force: Annotated[bool, typer.Option("--force", help="Overwrite OUT.")] = False,
) -> None:
    """Recover a trace from the parts that a killed replay left; keep the parts."""
    from replay.execution.output import left_parts, recover

    folder = left_parts(parts)
    check_apart([out], [folder])
    check_writable(out, force=force)
    rows = recover(folder, out, force=force)
    say(f"{out}: {rows:,} rows; delete {folder} when it is no longer needed")
