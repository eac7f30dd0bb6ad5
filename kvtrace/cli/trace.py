"""`kvtrace info`, `check` and `head`: looks at a trace."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kvtrace.cli.console import figures, plain_console
from kvtrace.cli.provenance import captured, objects_each
from kvtrace.errors import EXIT_TRACE
from kvtrace.show.printable import printable
from kvtrace.trace.schema import BY_NAME, Op
from kvtrace.units import format_bytes, format_count, format_rate, parse_bytes

if TYPE_CHECKING:
    import polars as pl
    from rich.table import Table

    from kvtrace.trace.check import CheckReport
    from kvtrace.trace.reader import Trace

_FRAME = 3
"""Columns that a table's column takes beside its text."""

TraceArgument = Annotated[Path, typer.Argument(help="Trace to read.", show_default=False)]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
ReportOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--report",
        help="Report file (.html with charts, .json, .xlsx); may be repeated.",
        show_default=False,
    ),
]
ReplaceOption = Annotated[bool, typer.Option("--force", help="Replace reports that exist.")]


def info_command(
    trace: TraceArgument,
    drive: Annotated[
        str | None,
        typer.Option(help="Drive size for drive writes per day, e.g. 3.84TB.", show_default=False),
    ] = None,
    space: Annotated[
        bool,
        typer.Option(
            "--space/--no-space",
            help="Compute each tier's live set and space needed, by a pass over all rows.",
            show_default="yes",
        ),
    ] = True,
    report_to: ReportOption = None,
    force: ReplaceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Show a trace's header, totals and hit ratios; with --report, what it looks like over time."""
    from kvtrace.tools.stats import summarise
    from kvtrace.trace.reader import open_trace

    reports = report_to or []
    if reports:
        from kvtrace.cli.forms import check_reports  # it brings the reports of replays

        check_reports(reports, [trace], force=force)
    with open_trace(trace) as opened:
        summary = summarise(opened, drive_bytes=parse_bytes(drive) if drive else None, space=space)
        summary["recorded_in_flight"] = _recorded(opened)
        if reports:
            _report(opened, summary, reports, force=force)
    if as_json:
        typer.echo(json.dumps(summary, indent=2))
    else:
        _print_info(summary)


def _recorded(trace: Trace) -> dict[str, Any] | None:
    """Return the depth that was kept when the trace was recorded, per tier; None if unknown."""
    if not {"submit", "complete"} <= set(trace.columns):
        return None
    from replay.measure.recorded import recorded_flights

    return {tier.label: flight.model_dump() for tier, flight in recorded_flights(trace).items()}


def _report(trace: Trace, info: dict[str, Any], paths: list[Path], *, force: bool) -> None:
    # Only a report needs them: they bring the page's program and compiled code.
    from kvtrace.cli.forms import write_reports
    from kvtrace.cli.trace_page import forms
    from kvtrace.tools.profile import profile

    write_reports(forms(info, profile(trace)), paths, force=force)


def _print_info(summary: dict[str, Any]) -> None:
    from rich.text import Text

    console, header = plain_console(), summary["header"]
    title = Text(printable(summary["path"]), "bold")
    console.print(title.append(f"  format {header['format_version']}", "not bold"))
    for name, text in _description(header):
        console.print(f"  {name:<10}{text}")
    console.print(
        f"  {'rows':<10}{summary['rows']:,} over {summary['duration_s']:,.3f} s, "
        f"{summary['objects']:,} objects, {format_bytes(summary['bytes'])}"
    )
    if summary["requests"] is not None and summary["blocks"] is None:
        console.print(f"  {'requests':<10}{summary['requests']:,}")
    elif summary["requests"] is not None:
        console.print(
            f"  {'requests':<10}{summary['requests']:,}, {summary['blocks']:,} blocks asked for, "
            f"ideal prefix hit {summary['ideal_prefix_hit']:.4f}"
        )
    console.print(f"  {'content':<10}{summary['content_sha256']}")
    words = ("tier", "phase", "op")
    cells = figures((*words, "ops", "bytes", "object size"), left=words, title="rows")
    for cell in summary["cells"]:
        sizes = sorted({cell["size_min"], cell["size_max"]})
        cells.add_row(
            cell["tier"],
            cell["phase"],
            cell["op"],
            format_count(cell["ops"]),
            format_bytes(cell["bytes"]),
            " to ".join(format_bytes(size) for size in sizes),
        )
    console.print(cells)
    _print_tiers(summary)
    _print_outcomes(summary)
    for name, flight in (summary["recorded_in_flight"] or {}).items():
        rate = flight["bytes_per_s"]
        moved = "" if rate is None else f", {format_rate(rate)}"
        console.print(
            f"{name} in flight when recorded: {flight['mean']:.2f} mean, {flight['max']:,} max"
            f"{moved}",
            highlight=False,
        )
    console.print(f"per day: at the mean rate of {summary['duration_s']:,.1f} s, {_start(header)}")
    for name, tier in summary["tiers"].items():
        if tier["space"] is not None:
            console.print(f"{name}: {tier['space']}", highlight=False)


def _print_tiers(summary: dict[str, Any]) -> None:
    """Print what the rows amount to per tier of the node."""
    names = ("tier", "hit ratio", "objects", "read:write", "written per day", "drive w/day")
    tiers = figures(names, left=["tier"], title=f"node totals, {_basis(summary['header'])}")
    for name, tier in summary["tiers"].items():
        tiers.add_row(
            name,
            _number((summary["hit_ratio"] or {}).get(name), ".4f"),
            format_count(tier["objects"]),
            _number(tier["read_write_ratio"], ".2f"),
            "-" if tier["write_bytes_per_day"] is None
            else format_bytes(tier["write_bytes_per_day"]),
            _number(tier["drive_writes_per_day"], ".2f"),
        )  # fmt: skip
    plain_console().print(tiers)


def _print_outcomes(summary: dict[str, Any]) -> None:
    """Print hit ratios of recorded look-ups, and the ops that moved nothing or failed."""
    for name, tier in summary["tiers"].items():
        if tier["lookup_hit_ratio"] is not None:
            plain_console().print(
                f"{name}: {tier['lookup_hit_ratio']:.1%} of {tier['lookups']:,} recorded "
                "look-ups hit"
            )
    for each in summary["outcomes"]:
        if each["op"] != Op.LOOKUP.label or each["outcome"] != "missed":
            plain_console().print(
                f"{each['tier']}: {each['ops']:,} {each['op']}s {each['outcome']}, "
                f"{format_bytes(each['bytes'])} not moved"
            )


def _basis(header: dict[str, Any]) -> str:
    """Return how the node's figures follow from the rows."""
    ranks = header["tensor_parallel"] or 1
    if header["ranks"] == "one" and ranks > 1:
        return f"of all {ranks} ranks; the rows are those of one"
    return "from the rows" if ranks == 1 else f"of all {ranks} ranks"


def _start(header: dict[str, Any]) -> str:
    """Print whether the rates' time includes the cold start."""
    warmed = (header["config"] or {}).get("warmup") or (header["resident"] or {}).get("objects")
    return "behind a warm-up" if warmed else "the cold start included"


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _description(header: dict[str, Any]) -> list[tuple[str, str]]:
    lines = []
    if header["source"]:
        lines.append(("source", header["source"]["name"]))
    if header.get("capture"):
        lines.append(("capture", captured(header)))
    if header["history"]:
        steps = ", ".join(str(step.get("tool")) for step in header["history"])
        lines.append(("made by", steps + (", anonymised" if header["anonymised"] else "")))
    if header["nodes"] > 1:
        lines.append(("nodes", f"{header['nodes']}, each with these tiers"))
    if header["model"]:
        model = header["model"]
        lines.append(
            (
                "model",
                f"{model.get('name', '?')}, {model.get('dtype', '?')}, "
                f"{model.get('bytes_per_token', 0):,} B per token",
            )
        )
    if header["layout"]:
        layout = header["layout"]
        block = layout.get("block_tokens") or "a turn's"
        lines.append(
            (
                "layout",
                f"{layout.get('name', '?')}, blocks of {block} tokens, "
                f"{objects_each(layout)}, TP {header['tensor_parallel']}, ranks {header['ranks']}",
            )
        )
    for tier in header["tiers"]:
        capacity = tier["capacity_bytes"]
        size = "unlimited" if capacity is None else format_bytes(capacity)
        lines.append((tier["name"], f"{size}, {tier['eviction']}, {header['write_policy']}"))
    resident = sum(header["resident"]["objects"].values())
    if resident:
        how = "derived from reads before writes" if header["resident"]["derived"] else "declared"
        lines.append(("resident", f"{resident:,} objects at the start, {how}"))
    return lines


def check_command(trace: TraceArgument, as_json: JsonOption = False) -> None:
    """Check a trace's invariants; exit 3 with the first offending rows if one fails."""
    from kvtrace.trace.check import check
    from kvtrace.trace.reader import open_trace

    with open_trace(trace) as opened:
        checked = check(opened)
        rows = [row for violation in checked.violations for row in violation.rows]
        offending = opened.collect(_rows(opened.lazy(), rows)) if rows else None
    if as_json:
        typer.echo(json.dumps(_document(checked), indent=2))
    else:
        _print_check(trace, checked, offending)
    if not checked.ok:
        raise typer.Exit(EXIT_TRACE)


def _rows(lazy: pl.LazyFrame, rows: list[int]) -> pl.LazyFrame:
    import polars as pl

    return lazy.with_row_index("row").filter(pl.col("row").is_in(sorted(set(rows))))


def _document(checked: CheckReport) -> dict[str, Any]:
    return {
        "ok": checked.ok,
        "rows": checked.rows,
        "derived_residents": checked.derived,
        "peak_bytes": {tier.label: peak for tier, peak in checked.peak_bytes.items() if peak},
        "violations": [
            {"meaning": v.meaning, "count": v.count, "rows": list(v.rows)}
            for v in checked.violations
        ],
    }


def _print_check(path: Path, checked: CheckReport, offending: pl.DataFrame | None) -> None:
    console = plain_console()
    peaks = ", ".join(
        f"{tier.label} {format_bytes(peak)}" for tier, peak in checked.peak_bytes.items() if peak
    )
    if checked.derived:
        console.print(f"{checked.derived:,} objects are read before any write: taken for resident")
    if checked.ok:
        console.print(f"{path}: fine: {checked.rows:,} rows; most held: {peaks or 'nothing'}")
        return
    for violation in checked.violations:
        console.print(
            f"{path}: {violation.count:,} rows: {violation.meaning} "
            f"(first: {', '.join(str(row) for row in violation.rows)})"
        )
    assert offending is not None
    for row in offending.to_dicts():
        console.print("  " + ", ".join(f"{name} {value}" for name, value in row.items()))


def head_command(
    trace: TraceArgument,
    rows: Annotated[int, typer.Option("--rows", "-n", min=1, help="Number of rows to print.")] = 10,
    as_json: JsonOption = False,
) -> None:
    """Print the first rows of a trace."""
    from kvtrace.trace.reader import open_trace

    with open_trace(trace) as opened:
        frame = opened.collect(opened.lazy().head(rows))
    if as_json:
        typer.echo(frame.write_json())
        return
    cells = [["" if value is None else str(value) for value in row] for row in frame.rows()]
    for table in _tables(frame.columns, cells, plain_console().width):
        plain_console().print(table)


def _tables(names: list[str], rows: list[list[str]], width: int) -> Iterator[Table]:
    """Yield the rows as tables of as many columns as fit, the rows' numbers before each."""
    from rich.table import Table

    wide = [max(map(len, column)) + _FRAME for column in zip(names, *rows, strict=True)]
    first = len(str(len(rows))) + _FRAME + 1
    begin = 0
    while begin < len(names):
        end, used = begin + 1, first + wide[begin]
        while end < len(names) and used + wide[end] <= width:
            used += wide[end]
            end += 1
        table = Table()
        table.add_column("", justify="right", no_wrap=True, style="dim")
        for name in names[begin:end]:
            words = name in BY_NAME and BY_NAME[name].words is not None
            table.add_column(name, justify="left" if words else "right", no_wrap=True)
        for number, row in enumerate(rows):
            table.add_row(str(number), *row[begin:end])
        yield table
        begin = end
