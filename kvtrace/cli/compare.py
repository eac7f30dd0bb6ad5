"""`kvtrace compare`: results side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kvtrace.cli.console import plain_console
from kvtrace.errors import UsageError
from kvtrace.files.outputs import check_apart, check_writable

if TYPE_CHECKING:
    from replay.compare.document import ComparisonDocument


def compare_command(
    results: Annotated[
        list[Path],
        typer.Argument(
            help="JSON reports, result traces, directories of `kvtrace bench`, JSON "
            "results of fio, warp, LMCache or MLPerf Storage's KV benchmark, or logs "
            "that `kvtrace import` reads; the first is the baseline.",
            show_default=False,
        ),
    ],
    label: Annotated[
        list[str] | None,
        typer.Option(help="Name of each result, in order; may be repeated."),
    ] = None,
    report_to: Annotated[
        list[Path] | None,
        typer.Option("--report", help="Write a report: .html, .json or .xlsx; may be repeated."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite outputs.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the comparison as JSON.")] = False,
) -> None:
    """Compare results: ratios, and whether they exceed the trials' noise."""
    from kvtrace.cli.sides import load
    from kvtrace.files.outfile import write_all
    from replay.compare import report
    from replay.compare.comparison import compare
    from replay.compare.document import document_of
    from replay.compare.sides import check_alike
    from replay.result.stored import consistent

    labels = label or []
    if len(labels) > len(results):
        raise UsageError("more labels than results", where="--label", got=len(labels))
    check_outputs(report_to or [], results, force=force)
    names = [*labels, *([None] * (len(results) - len(labels)))]
    with consistent(", ".join(map(str, results))):
        sides = [load(path, name) for path, name in zip(results, names, strict=True)]
        for side in sides:
            check_alike(side.trials)
        document = document_of(compare(sides))
        write_all(
            report_to or [], lambda path: report.write(document, path, "Comparison", force=force)
        )
    show(document, as_json=as_json)


def check_outputs(outputs: list[Path], inputs: list[Path], *, force: bool) -> None:
    """Return if comparisons can be written to `outputs`. Raises UsageError or TargetError."""
    from replay.compare import report

    check_apart(outputs, inputs)
    for path in outputs:
        report.check_suffix(path)
        check_writable(path, force=force)


def show(document: ComparisonDocument, *, as_json: bool) -> None:
    """Print a comparison."""
    from replay.compare import terminal
    from replay.report.support.cells import WIDTH

    if as_json:
        print(document.model_dump_json(indent=2))
        return
    console = plain_console(width_max=WIDTH)
    for part in terminal.render(document):
        console.print(part)
