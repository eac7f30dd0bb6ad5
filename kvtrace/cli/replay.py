"""`kvtrace replay`: from the command line to a run, and from its result to outputs."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kvtrace.cli.options import with_options
from kvtrace.cli.parsing import FULL_HELP, REPORT_HELP
from kvtrace.cli.targets import ShortForms, paths_of
from kvtrace.errors import EXIT_INVALID, EXIT_OK, TargetError
from kvtrace.files.outputs import check_apart
from replay.options import OUTPUT, ReplayOptions
from replay.watch import Stop

if TYPE_CHECKING:
    from kvtrace.cli.metrics import Exposure
    from kvtrace.trace.reader import Trace
    from replay import Result
    from replay.execution.output import Outputs
    from replay.targets import TargetSpec

_CONFIG = "Configuration"


@with_options(ShortForms, ReplayOptions)
def replay_command(
    trace: Annotated[Path, typer.Argument(help="Trace to replay.", show_default=False)],
    *,
    out: Annotated[
        Path | None,
        typer.Option(help="Write the result trace (.parquet).", rich_help_panel=OUTPUT),
    ] = None,
    report_to: Annotated[
        list[Path] | None, typer.Option("--report", help=REPORT_HELP, rich_help_panel=OUTPUT)
    ] = None,
    metrics_port: Annotated[
        str | None,
        typer.Option(
            help="Serve Prometheus metrics during the run on [ADDRESS:]PORT.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    metrics_hold: Annotated[
        str | None,
        typer.Option(
            help="Keep the port open this long after the end, e.g. 30s; Ctrl-C closes it.",
            show_default="0s",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    metrics_textfile: Annotated[
        Path | None,
        typer.Option(
            help="Write metrics to this file for node_exporter (.prom).", rich_help_panel=OUTPUT
        ),
    ] = None,
    metrics_run: Annotated[
        str | None,
        typer.Option(
            help="Value of the label `run` of all metrics.",
            show_default="the start time, UTC",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Overwrite outputs.", rich_help_panel=OUTPUT)
    ] = False,
    full: Annotated[bool, typer.Option("--full", help=FULL_HELP, rich_help_panel=OUTPUT)] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the JSON report.", rich_help_panel=OUTPUT)
    ] = False,
    config: Annotated[
        Path | None,
        typer.Option(help="Read options and targets from this YAML file.", rich_help_panel=_CONFIG),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="Set key=value or targets.TIER.key=value; overrides --config.",
            rich_help_panel=_CONFIG,
        ),
    ] = None,
    show_config: Annotated[
        bool,
        typer.Option(
            "--show-config",
            help="Print each option's and target's value and origin; replay nothing.",
            rich_help_panel=_CONFIG,
        ),
    ] = False,
    **given: Any,
) -> None:
    """Replay TRACE on real storage tiers and report whether the results are valid."""
    from kvtrace.cli.metrics import Exposure, MetricsOptions
    from kvtrace.cli.replay_options import resolved_text, understood
    from kvtrace.cli.report import show
    from kvtrace.trace.reader import open_trace
    from replay.execution.output import Outputs

    asked = {**given, "config": config, "set_": set_}
    if show_config:
        typer.echo(resolved_text(asked), nl=False)
        return
    specs, options = understood(asked)
    inputs = (trace, *paths_of(specs), *([] if config is None else [config]))
    outputs = Outputs(inputs, out, tuple(report_to or ()), force=force)
    if metrics_textfile is not None:
        written = [metrics_textfile, *outputs.reports, *([] if out is None else [out])]
        check_apart(written, inputs)
    metrics = MetricsOptions(metrics_port, metrics_hold, metrics_textfile, metrics_run, force)
    with Exposure(metrics, trace, specs) as exposure:
        with outputs, open_trace(trace) as opened:
            outputs.check()
            result = _run(opened, specs, options, outputs, exposure)
            try:
                outputs.write(result)
            except TargetError:
                show(result.document(), as_json=as_json, full=full)
                raise
            exposure.finish(result)
        show(result.document(), outputs.files, as_json=as_json, full=full)
        exposure.hold()
    raise typer.Exit(_exit_code(result))


def _exit_code(result: Result) -> int:
    return EXIT_OK if result.verdict.acceptable else EXIT_INVALID


def _run(
    trace: Trace,
    specs: tuple[TargetSpec, ...],
    options: ReplayOptions,
    outputs: Outputs,
    exposure: Exposure,
) -> Result:
    from kvtrace.cli.running import Shown, stopping
    from replay.execution.runner import run

    stop, shown = Stop(), Shown()
    outputs.open(trace)
    for folder in outputs.left:
        shown.say(f"an earlier run was killed: `kvtrace recover` makes a trace of {folder}")
    watcher = exposure.watched_by(shown)
    with ExitStack() as opened:
        opened.enter_context(stopping(stop))
        opened.enter_context(shown.progress)
        return run(trace, specs, options, watcher=watcher, stop=stop, journal=outputs)
