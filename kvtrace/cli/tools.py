"""`kvtrace slice`, `merge`, `scale`, `diff` and `anonymise`: traces of traces."""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kvtrace.cli.console import figures, plain_console, say
from kvtrace.errors import EXIT_INVALID, UsageError, unknown_name
from kvtrace.files.outputs import check_apart, check_writable
from kvtrace.show.printable import printable
from kvtrace.trace.schema import Tier
from kvtrace.units import format_bytes, format_duration_ns, parse_duration_ns

if TYPE_CHECKING:
    from kvtrace.tools.diff import Comparison, Difference
    from kvtrace.tools.stream import Written
    from kvtrace.trace.reader import Trace

InArgument = Annotated[
    Path, typer.Argument(help="Trace to read, Parquet or CSV.", show_default=False)
]
OutArgument = Annotated[
    Path, typer.Argument(help="Trace to write: .parquet, .csv or .csv.zst.", show_default=False)
]
ForceOption = Annotated[bool, typer.Option("--force", help="Overwrite OUT.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
SeedOption = Annotated[int, typer.Option(min=0, help="Random seed.")]


def slice_command(
    trace: InArgument,
    out: OutArgument,
    begin: Annotated[
        str | None,
        typer.Option("--from", help="Keep rows from this time on, e.g. 10s.", show_default="0s"),
    ] = None,
    end: Annotated[
        str | None,
        typer.Option("--to", help="Keep rows before this time, e.g. 20s.", show_default="the end"),
    ] = None,
    rows: Annotated[
        str | None,
        typer.Option(
            help="Keep rows FIRST:END, counted from 0, without END; either may be omitted.",
            show_default=False,
        ),
    ] = None,
    tier: Annotated[
        list[str] | None,
        typer.Option(help="Keep this tier; may be repeated.", show_default="all tiers"),
    ] = None,
    sessions: Annotated[
        str | None,
        typer.Option(help="Keep a random sample of sessions: 50, 10% or 0.1.", show_default="all"),
    ] = None,
    seed: SeedOption = 0,
    keep_time: Annotated[
        bool,
        typer.Option("--keep-time", help="Keep the first row's time instead of moving it to 0."),
    ] = False,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Extract a time range, rows, tiers or a sample of sessions from a trace.

    Conditions are combined. A sample of sessions keeps all that happens to its objects.
    """
    from kvtrace.tools.sample import parse_share
    from kvtrace.tools.slice import Cut, sliced
    from kvtrace.tools.stream import opened, write

    first, last = _rows(rows)
    cut = Cut(
        begin_ns=0 if begin is None else parse_duration_ns(begin),
        end_ns=None if end is None else parse_duration_ns(end),
        first_row=first,
        end_row=last,
        tiers=_tiers(tier or []),
        sessions=None if sessions is None else parse_share(sessions, where="--sessions"),
        seed=seed,
        keep_time=keep_time,
    )
    _check_out(out, [trace], force=force)
    with opened(trace) as source:
        _tell(write(sliced(source, cut), out, force=force), as_json=as_json)


def merge_command(
    out: OutArgument,
    traces: Annotated[
        list[Path], typer.Argument(help="Traces to merge; each becomes a node.", show_default=False)
    ],
    shared_keys: Annotated[
        bool,
        typer.Option(
            "--shared-keys", help="Treat equal keys as the same object, for parts of one trace."
        ),
    ] = False,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Merge traces by time, each as a node with its own keys, requests and sessions."""
    from kvtrace.tools.merge import merged
    from kvtrace.tools.stream import opened, write

    _check_out(out, traces, force=force)
    with ExitStack() as stack:
        sources = [stack.enter_context(opened(path)) for path in traces]
        _tell(write(merged(sources, shared_keys=shared_keys), out, force=force), as_json=as_json)


def scale_command(
    trace: InArgument,
    out: OutArgument,
    time: Annotated[float, typer.Option(help="Multiply times by X; 2 is half as fast.")] = 1.0,
    sessions: Annotated[
        float,
        typer.Option(help="Multiply the number of sessions by X: copy above 1, sample below."),
    ] = 1.0,
    spread: Annotated[
        str, typer.Option(help="Start each copy up to this much later, at random.")
    ] = "1s",
    seed: SeedOption = 0,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Scale a trace's times or its number of sessions."""
    from kvtrace.tools.scale import Scaling, scaled
    from kvtrace.tools.stream import opened, write

    if time == 1.0 and sessions == 1.0:
        raise UsageError("nothing to scale", accepted="--time X, --sessions X or both")
    spread_ns = 0 if spread == "0" else parse_duration_ns(spread)
    scaling = Scaling(time, sessions, spread_ns, seed)
    _check_out(out, [trace], force=force)
    with opened(trace) as source, ExitStack() as stack:
        _tell(write(scaled(source, scaling, stack), out, force=force), as_json=as_json)


def anonymise_command(
    trace: InArgument,
    out: OutArgument,
    key_file: Annotated[
        Path,
        typer.Option(
            help="File with a secret of 16 to 64 bytes; equal secrets give equal hashes.",
            show_default=False,
        ),
    ],
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Replace keys, blocks, sessions and requests by keyed hashes; drop the source's details."""
    from kvtrace.tools.anonymise import anonymised, read_secret
    from kvtrace.tools.stream import opened, write

    secret = read_secret(key_file)
    _check_out(out, [trace, key_file], force=force)
    with opened(trace) as source:
        _tell(write(anonymised(source, secret), out, force=force), as_json=as_json)


def diff_command(
    a: InArgument,
    b: InArgument,
    fail_above: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, help="Exit 5 if a distance exceeds X, 0 to 1.", show_default="never"
        ),
    ] = None,
    report_to: Annotated[
        list[Path] | None,
        typer.Option(
            "--report",
            help="Report file (.html with charts, .json, .xlsx); may be repeated.",
            show_default=False,
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace reports that exist.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Compare two traces per tier: sizes, reuse distances, gaps between ops, read share."""
    from kvtrace.tools.diff import compared  # it compiles what the other commands don't need
    from kvtrace.tools.stream import opened

    if report_to:
        from kvtrace.cli.forms import check_reports

        check_reports(report_to, [a, b], force=force)
    with opened(a) as first, opened(b) as second:
        comparison = compared(first, second)
        differences, rows = comparison.differences, (first.rows, second.rows)
        largest = max((difference.ks for difference in differences), default=0.0)
        fields = {"a": {"path": str(a), "rows": rows[0]}, "b": {"path": str(b), "rows": rows[1]},
                  "largest": largest,
                  "differences": [asdict(each) for each in differences]}  # fmt: skip
        if report_to:
            _report([(a, first), (b, second)], comparison, fields, report_to, force=force)
    if as_json:
        typer.echo(json.dumps(fields, indent=2))
    else:
        _print_diff(differences, largest)
    if fail_above is not None and largest > fail_above:
        raise typer.Exit(EXIT_INVALID)


def _report(
    sides: list[tuple[Path, Trace]],
    comparison: Comparison,
    fields: dict[str, Any],
    paths: list[Path],
    *,
    force: bool,
) -> None:
    # Only a report needs them: they bring the page's program and compiled code.
    from kvtrace.cli.diff_page import Side, forms
    from kvtrace.cli.forms import write_reports
    from kvtrace.tools.profile import profile
    from kvtrace.tools.stats import summarise

    names = [printable(path.name) for path, _ in sides]
    labels = names if names[0] != names[1] else [f"A {names[0]}", f"B {names[1]}"]
    a, b = (
        Side(label, summarise(trace, space=False) | {"path": str(path)}, profile(trace))
        for label, (path, trace) in zip(labels, sides, strict=True)
    )
    write_reports(forms(a, b, comparison, fields), paths, force=force)


def _check_out(out: Path, inputs: list[Path], *, force: bool) -> None:
    """Refuse an output that exists, or that is an input, before anything is read."""
    check_apart([out], inputs)
    check_writable(out, force=force)


def _rows(text: str | None) -> tuple[int, int | None]:
    if text is None:
        return 0, None
    first, colon, end = text.partition(":")
    if not colon or not all(part == "" or part.isdigit() for part in (first, end)):
        raise UsageError("not a range", where="--rows", got=repr(text), accepted="e.g. 0:1000")
    return int(first or 0), int(end) if end else None


def _tiers(names: list[str]) -> tuple[Tier, ...]:
    known = {tier.label: tier for tier in Tier}
    for name in names:
        if name not in known:
            raise unknown_name("tier", name, known, where="--tier")
    return tuple(sorted({known[name] for name in names}))


def _tell(made: Written, *, as_json: bool) -> None:
    totals, csv = made.header.totals, made.path.suffix != ".parquet"
    dropped = made.header.dropped_rows if csv else 0
    if as_json:
        fields: dict[str, Any] = {
            "path": str(made.path),
            "rows": totals.rows,
            "residents": made.residents,
            "dropped_rows": dropped,
            "content_sha256": made.header.content_sha256,
        }
        typer.echo(json.dumps(fields, indent=2))
        return
    say(f"{made.path}: {totals.rows:,} rows, {made.residents:,} objects resident at the start")
    if dropped:
        say(f"  {dropped:,} rows have no word in the CSV and were left out")
    if csv and made.residents:
        say("  a CSV doesn't list resident objects; an import infers them from the rows")


def _print_diff(differences: list[Difference], largest: float) -> None:
    names = ("tier", "quantity", "A median", "B median", "A mean", "B mean", "KS")
    table = figures(names, left=names[:2], title="A and B")
    for each in differences:
        cells = [
            _value(of.get(name), each.unit) for name in ("p50", "mean") for of in (each.a, each.b)
        ]
        table.add_row(each.tier, each.quantity, *cells, f"{each.ks:.3f}")
    console = plain_console()
    console.print(table)
    console.print(f"largest distance {largest:.3f} (Kolmogorov–Smirnov: 0 equal, 1 apart)")


def _value(value: float | None, unit: str) -> str:
    if value is None:
        return "-"
    if unit == "bytes":
        return format_bytes(value)
    if unit == "ns":
        return "0" if not value else format_duration_ns(value)
    return f"{value:,.3f}" if unit == "ratio" else f"{value:,.0f}"
