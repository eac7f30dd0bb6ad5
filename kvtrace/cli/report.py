"""`kvtrace report`: the result in a file once more, in another form."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from kvtrace.errors import UsageError
from kvtrace.writer import check_writable
from replay import report, stored
from replay.document import ResultDocument
from replay.report import json as json_report
from replay.report import terminal


def report_command(
    result: Annotated[
        Path,
        typer.Argument(
            help="A JSON report, or a result trace (also an imported one with outcomes).",
            show_default=False,
        ),
    ],
    report_to: Annotated[
        list[Path] | None,
        typer.Option("--report", help="Report file; may be repeated."),
    ] = None,
    from_ops: Annotated[
        bool,
        typer.Option(
            "--from-ops", help="Compute it again from a result trace's ops, whatever it carries."
        ),
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite outputs.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the JSON report.")] = False,
) -> None:
    """Show RESULT again, and write it in other forms."""
    outputs = report_to or []
    for path in outputs:
        report.check_suffix(path)
        if path.resolve() == result.resolve():
            raise UsageError("named twice", where=path, hint="name another output")
        check_writable(path, force=force)
    document = stored.load(result, from_ops=from_ops)
    for path in outputs:
        report.write(document, path)
    show(document, as_json=as_json)


def show(document: ResultDocument, *, as_json: bool) -> None:
    """Print a result."""
    if as_json:
        print(json_report.text(document))
        return
    console = Console(width=min(Console().width, terminal.WIDTH), highlight=False)
    for part in terminal.render(document):
        console.print(part)
