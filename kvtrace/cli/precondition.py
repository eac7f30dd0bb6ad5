"""`kvtrace precondition`: from the command line to a full device, and what is said of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kvtrace.cli.parsing import parsed
from kvtrace.errors import EXIT_INVALID, EXIT_OK, UsageError
from kvtrace.files.outputs import check_apart, check_writable
from kvtrace.show.printable import printable
from kvtrace.show.tables import wrapped
from kvtrace.trace.schema import Tier
from kvtrace.units import KIB, S_NS, format_bytes, parse_bytes
from replay.options import ENGINES
from replay.safety.storage import files_below
from replay.targets import TargetSpec
from replay.watch import Stop

if TYPE_CHECKING:
    from replay.state.precondition import Preconditioning

SCHEMA_VERSION = 1
_SAFETY = "Safety"


def precondition_command(
    device: Annotated[Path, typer.Option(help="Block device or file to fill.", show_default=False)],
    size: Annotated[
        str | None,
        typer.Option(
            help="Size of a new file, or of the part of the device to fill.",
            show_default="all of the device",
        ),
    ] = None,
    passes: Annotated[
        int, typer.Option(help="Passes at most; the first is sequential, the others random.")
    ] = 2,
    io_size: Annotated[str, typer.Option(help="Size of each write.")] = "128KiB",
    queue_depth: Annotated[int, typer.Option(help="Writes in flight.")] = 32,
    engine: Annotated[
        str,
        typer.Option(
            help="I/O engine; auto: the first that works.", metavar="|".join(("auto", *ENGINES))
        ),
    ] = "auto",
    run_id: Annotated[
        int | None,
        typer.Option(
            help="Run id, 0 to 65535; equal ids give equal bytes and order.", show_default="random"
        ),
    ] = None,
    arena: Annotated[
        str | None,
        typer.Option(help="Size of the unique payload.", show_default="1GiB where memory allows"),
    ] = None,
    require_steady: Annotated[
        bool, typer.Option("--require-steady", help="Exit 5 unless the write rate became steady.")
    ] = False,
    allow_destroy: Annotated[
        str | None,
        typer.Option(
            help="Permit overwriting the device with this serial, WWN or by-id name.",
            rich_help_panel=_SAFETY,
        ),
    ] = None,
    allow_signature: Annotated[
        list[str] | None,
        typer.Option(
            help="Permit destroying this type of signature; unknown: data of no known format.",
            rich_help_panel=_SAFETY,
        ),
    ] = None,
    report: Annotated[Path | None, typer.Option(help="Write the report (.json).")] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the report.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Fill a device with unique data, then overwrite it randomly until its rate is steady."""
    from kvtrace.cli.running import Shown, stopping
    from kvtrace.files.outfile import OutFile
    from replay.state.precondition import PreconditionOptions, precondition

    size_bytes = parsed("--size", parse_bytes, size)
    if size_bytes is not None and size_bytes <= 0:
        raise UsageError("not a size", where="--size", got=size, accepted="a size above 0")
    spec = TargetSpec(
        "file",
        (Tier.NVME,),
        device,
        size_bytes,
        allow_destroy=allow_destroy,
        allow_signature=tuple(allow_signature or ()),
    )
    options = PreconditionOptions(
        passes=passes,
        io_size_bytes=parsed("--io-size", parse_bytes, io_size) or 128 * KIB,
        queue_depth=queue_depth,
        engine=engine,
        run_id=run_id,
        arena_bytes=parsed("--arena", parse_bytes, arena),
    )
    _check_report(report, device, force=force)
    stop, shown = Stop(), Shown(in_bytes=True)
    with stopping(stop), shown.progress:
        done = precondition(spec, options, watcher=shown, stop=stop)
    document = _document(done)
    if report is not None:
        with OutFile(report, force=force) as file:
            file.write((json.dumps(document, indent=2, allow_nan=False) + "\n").encode())
    typer.echo(json.dumps(document, indent=2, allow_nan=False) if as_json else _summary(done))
    good = not done.interrupted and (done.steady is True or not require_steady)
    raise typer.Exit(EXIT_OK if good else EXIT_INVALID)


def _check_report(path: Path | None, device: Path, *, force: bool) -> None:
    if path is None:
        return
    if path.suffix != ".json":
        raise UsageError("unknown form of report", where=path, accepted=".json")
    check_apart([path], [device, *files_below(device)])
    check_writable(path, force=force)


def _document(done: Preconditioning) -> dict[str, Any]:
    steadiness = done.steadiness
    return {
        "schema_version": SCHEMA_VERSION,
        "target": done.title,
        "begin_bytes": done.begin_bytes,
        "end_bytes": done.end_bytes,
        "passes": done.passes,
        "passes_max": done.options.passes,
        "written_bytes": done.written_bytes,
        "elapsed_s": done.elapsed_ns / S_NS,
        "interrupted": done.interrupted,
        "steady": done.steady,
        "steadiness": None
        if steadiness is None
        else {
            "average_bytes_per_s": steadiness.average,
            "range_ratio": steadiness.range_ratio,
            "slope_ratio": steadiness.slope_ratio,
        },
        "windows": [
            {
                "pass": window.pass_index + 1,
                "bytes": window.bytes,
                "duration_ns": window.duration_ns,
                "bytes_per_s": window.bytes_per_s,
            }
            for window in done.windows
        ],
        "run_id": done.run_id,
        "engine": done.engine,
        "io_size_bytes": done.options.io_size_bytes,
        "queue_depth": done.options.queue_depth,
    }


_INDENT = " " * 11


def _summary(done: Preconditioning) -> str:
    """Return the summary in lines of 80 columns at most where names allow."""
    turns = done.written_bytes / done.span_bytes
    lines = [
        printable(done.title),
        f"  written  {format_bytes(done.written_bytes)} in {done.elapsed_ns / S_NS:.1f} s: "
        f"{turns:.2f} × the {format_bytes(done.span_bytes)} that were to be filled",
    ]
    for index in range(done.options.passes):
        rate = done.rate(index)
        if rate is not None:
            order = "random" if index else "sequential"
            lines.append(f"  pass {index + 1}   {rate / 1e9:.2f} GB/s, {order}")
    steady = wrapped(_steady(done), 80 - len(_INDENT))
    lines.append("  steady   " + f"\n{_INDENT}".join(steady))
    if done.interrupted:
        lines.append(
            f"INTERRUPTED after {done.passes} of {done.options.passes} passes: "
            "the state is not known; run it again"
        )
    return "\n".join(lines)


def _steady(done: Preconditioning) -> str:
    steadiness = done.steadiness
    if steadiness is None:
        return "unknown: too little was written at random (--passes 2 or more)"
    word = "yes" if steadiness.steady else "no"
    hint = "" if steadiness.steady else "; more --passes may help"
    return (
        f"{word}: rates of the last half pass within {steadiness.range_ratio:.1%} (limit 20%), "
        f"slope {steadiness.slope_ratio:.1%} (10%){hint}"
    )
