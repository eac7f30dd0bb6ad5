"""`kvtrace breakeven`: loading KV state from a tier against computing it again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kvtrace.cli.console import plain_console, say
from kvtrace.cli.panels import FLOPS_HELP, MFU_HELP, option
from kvtrace.cli.tools import JsonOption
from kvtrace.errors import UsageError
from kvtrace.files.outputs import check_apart, check_writable
from kvtrace.show.tables import fitting, wrapped

if TYPE_CHECKING:
    from kvtrace.breakeven.ask import BreakEven

_GPUS, _WHAT, _OUT = "How fast recomputing is", "What is compared", "Output"
FORMS = ("aisimulate",)
"""What --export writes for."""


def breakeven_command(
    trace: Annotated[
        Path | None,
        typer.Argument(
            help="A trace (what its loads need) or a replay's result (what they took, request by "
            "request). Without it, a curve of --model.",
            show_default=False,
        ),
    ] = None,
    model: Annotated[
        str | None,
        option("Model: name, TOML file or config.json. [default: the trace's]", _WHAT),
    ] = None,
    tier: Annotated[
        str | None,
        option(
            "Tier that is loaded from: cpu, nvme, object. [default: the slowest with hits]", _WHAT
        ),
    ] = None,
    whole_trace: Annotated[
        Path | None,
        option(
            "The trace that was replayed, where TRACE is its result: it knows where in a "
            "prompt loads stand, and what no tier had.",
            _WHAT,
            "--trace",
        ),
    ] = None,
    drive_bandwidth: Annotated[
        str | None,
        option("Bandwidth of a load, e.g. 6GB/s: compare at it. Of a curve or a trace.", _WHAT),
    ] = None,
    dtype: Annotated[
        str | None, option("Data type of a curve's KV cache. [default: the model's]", _WHAT)
    ] = None,
    gpu: Annotated[
        str | None, option("GPU, e.g. h100; a wrong name lists all that are known.", _GPUS)
    ] = None,
    gpus: Annotated[
        int | None,
        option(
            "GPUs that share a request. [default: the trace's tensor parallelism, else 1]", _GPUS
        ),
    ] = None,
    precision: Annotated[
        str | None, option("Type that is multiplied: bf16 or fp8. [default: bf16]", _GPUS)
    ] = None,
    flops: Annotated[
        str | None,
        option(FLOPS_HELP, _GPUS),
    ] = None,
    mfu: Annotated[float | None, option(MFU_HELP, _GPUS)] = None,
    formula: Annotated[
        str | None,
        option(
            "Count FLOPs by active parameters and attention (parameters), or as Mooncake's "
            "paper does (mooncake). [default: parameters]",
            _GPUS,
        ),
    ] = None,
    prefill_rate: Annotated[
        str | None,
        option("Measured prefill of a request in tokens/s, in place of FLOPs.", _GPUS),
    ] = None,
    prefill_table: Annotated[
        Path | None,
        option("Measured prefill times: CSV of tokens,seconds[,hbm_seconds].", _GPUS),
    ] = None,
    hbm_floor: Annotated[
        str | None,
        option(
            "Time to first token with the whole prompt in HBM, subtracted from measured "
            "prefill. [default: 0s]",
            _GPUS,
        ),
    ] = None,
    csv_: Annotated[Path | None, option("Write lengths or requests as CSV.", _OUT, "--csv")] = None,
    report_to: Annotated[
        list[Path] | None,
        option(
            "Write tables and charts: .html, .json or .xlsx; may be repeated.", _OUT, "--report"
        ),
    ] = None,
    export: Annotated[
        str | None,
        option("Print a result's storage for another tool: aisimulate (g3_offload).", _OUT),
    ] = None,
    brief: Annotated[
        bool, option("Print the sentence and what it rests on, no tables.", _OUT, "--short")
    ] = False,
    force: Annotated[bool, option("Overwrite outputs.", _OUT)] = False,
    as_json: JsonOption = False,
) -> None:
    """Compare loading KV state from a tier with recomputing it: whether the tier is worth it."""
    from kvtrace.breakeven.ask import breakeven
    from kvtrace.cli import breakeven_page
    from kvtrace.cli.forms import check_reports, write_csv, write_reports

    reports = report_to or []
    _check(export, as_json=as_json)
    inputs = [path for path in (trace, whole_trace, prefill_table) if path is not None]
    if csv_ is not None:
        check_apart([csv_, *reports], inputs)
        check_writable(csv_, force=force)
    check_reports(reports, inputs, force=force)
    answered = breakeven(
        trace, model=model, gpu=gpu, gpus=gpus, precision=precision, flops=flops, mfu=mfu,
        formula=formula, prefill_rate=prefill_rate, prefill_table=prefill_table,
        hbm_floor=hbm_floor, dtype=dtype, tier=tier, drive_bandwidth=drive_bandwidth,
        whole_trace=whole_trace,
    )  # fmt: skip
    if csv_ is not None:
        write_csv(answered.records(), csv_, force=force)
    write_reports(breakeven_page.forms_of(answered), reports, force=force)
    if export is not None:
        from kvtrace.breakeven import aisimulate

        typer.echo(aisimulate.text(answered), nl=False)
    elif as_json:
        typer.echo(json.dumps(answered.document(), indent=2, ensure_ascii=False, allow_nan=False))
    else:
        show(answered, brief=brief)


def _check(export: str | None, *, as_json: bool) -> None:
    if export is None:
        return
    if export not in FORMS:
        raise UsageError(
            "unknown form", where="--export", got=repr(export), accepted=", ".join(FORMS)
        )
    if as_json:
        raise UsageError("both print to stdout", where="--export, --json", hint="give one")


def show(answered: BreakEven, *, brief: bool = False) -> None:
    """Print an answer: the sentence, the tables unless `brief`, and what it rests on."""
    from kvtrace.cli import breakeven_tables

    say(answered.sentence())
    if not brief:
        _show_figures(answered)
    console = plain_console()
    console.print()
    console.print("assumed", style="bold")
    for name, value, origin in breakeven_tables.assumptions(answered.answer):
        for line in wrapped(f"{name}: {value} ({origin})", console.width - 4, long_words=True):
            console.print(f"  {line}", highlight=False)


def _show_figures(answered: BreakEven) -> None:
    from kvtrace.cli import breakeven_tables

    console = plain_console()
    for table in breakeven_tables.tables(answered.answer):
        console.print()
        console.print(
            fitting(table.heads, table.rows, names=1, title=table.title, width=console.width)
        )
    facts = list(breakeven_tables.facts(answered.answer))
    if facts:
        console.print()
    wide = max((len(name) for name, _figure in facts), default=0)
    for name, figure in facts:
        console.print(f"{name:<{wide}}  {figure}", highlight=False)
