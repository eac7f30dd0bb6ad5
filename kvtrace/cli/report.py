"""`kvtrace report`: results in files once more, in another form."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kvtrace.cli.console import plain_console
from kvtrace.cli.parsing import FULL_HELP, REPORT_HELP
from kvtrace.errors import UsageError
from kvtrace.files.outputs import check_apart, check_writable
from kvtrace.show.printable import printable

if TYPE_CHECKING:
    from rich.console import RenderableType

    from kvtrace.cli.plain import PlainConsole
    from replay.result.document import ResultDocument


def report_command(
    results: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="RESULT",
            help="JSON reports or result traces, also imported ones with outcomes; each is "
            "printed in turn.",
            show_default=False,
        ),
    ] = None,
    report_to: Annotated[
        list[Path] | None,
        typer.Option("--report", help=f"{REPORT_HELP} Of one result."),
    ] = None,
    from_ops: Annotated[
        bool,
        typer.Option(
            "--from-ops",
            help="Recompute the result from a result trace's ops instead of "
            "reading the stored one.",
        ),
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite outputs.")] = False,
    full: Annotated[bool, typer.Option("--full", help=FULL_HELP)] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON; for several results, a list.")
    ] = False,
    as_schema: Annotated[
        bool,
        typer.Option("--schema", help="Print the JSON schema of JSON reports; takes no RESULT."),
    ] = False,
) -> None:
    """Print stored results, or write one in other forms."""
    from kvtrace.files.outfile import write_all
    from replay import report
    from replay.result import stored

    results, outputs = results or [], report_to or []
    if as_schema:
        _print_schema([*results, *outputs])
        return
    _check(results, outputs, force=force)
    documents = [stored.load(path, from_ops=from_ops) for path in results]
    with stored.consistent(", ".join(map(str, results))):
        rendered = [
            _rendered(document, outputs, as_json=as_json, full=full) for document in documents
        ]
        write_all(outputs, lambda path: report.write(documents[0], path, force=force))
    if len(results) == 1:
        _print(rendered[0])
    else:
        _show_all(results, rendered, as_json=as_json)


def _check(results: Sequence[Path], outputs: Sequence[Path], *, force: bool) -> None:
    """Return if these results can be shown and written there. Raises UsageError, TargetError."""
    from replay import report

    if not results:
        raise UsageError(
            "a result is missing",
            where="report",
            accepted="JSON reports or result traces (kvtrace replay --report, --out), or --schema",
        )
    if outputs and len(results) > 1:
        raise UsageError(
            "is of one result",
            where="--report",
            got=f"{len(results)} results",
            hint="name one of them, or put them side by side: "
            + shlex.join(["kvtrace", "compare", *map(str, results)]),
        )
    check_apart(outputs, results)
    for path in outputs:
        report.check_suffix(path)
        check_writable(path, force=force)


def _print_schema(files: Sequence[Path]) -> None:
    """Print the JSON schema of results. Raises UsageError where files are named beside it."""
    from replay.result import schema

    if files:
        raise UsageError(
            "the schema is that of all results",
            where="--schema",
            got=files[0],
            hint="kvtrace report --schema > result.schema.json",
        )
    print(schema.text())


def show(
    document: ResultDocument, files: Sequence[Path] = (), *, as_json: bool, full: bool
) -> None:
    """Print a result that was written to `files`: the short report, all tables, or JSON."""
    _print(_rendered(document, files, as_json=as_json, full=full))


def _rendered(
    document: ResultDocument, files: Sequence[Path], *, as_json: bool, full: bool
) -> str | list[RenderableType]:
    """Return the printed form of a result: JSON, or parts for a terminal."""
    from replay.report import json as json_report
    from replay.report import short, terminal

    if as_json:
        return json_report.text(document)
    return list(terminal.render(document) if full else short.render(document, files))


def _print(rendered: str | list[RenderableType]) -> None:
    if isinstance(rendered, str):
        print(rendered)
        return
    console = _console()
    for part in rendered:
        console.print(part)


def _show_all(
    results: list[Path], rendered: list[str | list[RenderableType]], *, as_json: bool
) -> None:
    """Print several results, each under its name; as JSON, a list in their order."""
    if as_json:
        print(f"[{','.join(map(str, rendered))}]")
        return
    from rich.text import Text

    for at, (path, parts) in enumerate(zip(results, rendered, strict=True)):
        title = Text(("\n" if at else "") + f"── {printable(path)}", style="bold")
        _console().print(title, soft_wrap=True)
        _print(parts)


def _console() -> PlainConsole:
    from replay.report.support import cells

    return plain_console(width_max=cells.WIDTH)
