"""`kvtrace replay`: from the command line to a run, and from its result to outputs."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kvtrace.cli.metrics import Exposure, MetricsOptions
from kvtrace.cli.parsing import FULL_HELP, REPORT_HELP
from kvtrace.cli.replay_options import understood
from kvtrace.cli.report import show
from kvtrace.cli.running import Shown, stopping
from kvtrace.errors import EXIT_INVALID, EXIT_OK, TargetError
from kvtrace.outputs import check_apart
from kvtrace.reader import open_trace
from replay import ReplayOptions, Stop, TargetSpec, run
from replay.from_run import document_of
from replay.output import Outputs

if TYPE_CHECKING:
    from kvtrace.reader import Trace
    from replay import Result

_TARGETS, _TIMING, _STATE, _SAFETY, _OUTPUT = (
    "Targets",
    "Timing and engine",
    "State and payload",
    "Safety",
    "Verdict and outputs",
)


def replay_command(
    trace: Annotated[Path, typer.Argument(help="The trace to replay.", show_default=False)],
    device: Annotated[
        Path | None,
        typer.Option(help="Block device or file for tier nvme.", rich_help_panel=_TARGETS),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(
            help="Size of a new file, or of the part that is used.", rich_help_panel=_TARGETS
        ),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            help="null: measures the tool itself, on all tiers.", rich_help_panel=_TARGETS
        ),
    ] = None,
    cpu: Annotated[
        str, typer.Option(help="memory or none: target of tier cpu.", rich_help_panel=_TARGETS)
    ] = "none",
    gpu: Annotated[
        str, typer.Option(help="cuda:N or none: target of tier gpu.", rich_help_panel=_TARGETS)
    ] = "none",
    folder: Annotated[
        Path | None,
        typer.Option(
            "--dir",
            help="Folder for tier nvme, one file per object, instead of --device.",
            rich_help_panel=_TARGETS,
        ),
    ] = None,
    fsync: Annotated[
        str,
        typer.Option(
            help="none, file or dir: what of --dir a write makes durable.",
            rich_help_panel=_TARGETS,
        ),
    ] = "none",
    trim: Annotated[
        bool,
        typer.Option(
            "--trim",
            help="Deletes discard their extent (holes in a file).",
            rich_help_panel=_TARGETS,
        ),
    ] = False,
    tiers: Annotated[
        str | None,
        typer.Option(
            help="Tiers to execute, e.g. cpu,nvme; default: those with a target.",
            rich_help_panel=_TARGETS,
        ),
    ] = None,
    mode: Annotated[
        str,
        typer.Option(
            help="open (by the trace's clock), closed (by completions) or max.",
            rich_help_panel=_TIMING,
        ),
    ] = "open",
    sync_stores: Annotated[
        bool,
        typer.Option(
            "--sync-stores",
            help="closed: stores, evictions and promotions hold up their request too.",
            rich_help_panel=_TIMING,
        ),
    ] = False,
    speed: Annotated[
        float, typer.Option(help="Due times are divided by it.", rich_help_panel=_TIMING)
    ] = 1.0,
    queue_depth: Annotated[
        int | None,
        typer.Option(help="I/Os in flight at most; 32 in max, else 1024.", rich_help_panel=_TIMING),
    ] = None,
    io_size: Annotated[
        str, typer.Option(help="Longest single I/O.", rich_help_panel=_TIMING)
    ] = "4MiB",
    engine: Annotated[
        str, typer.Option(help="auto, uring, threads or python.", rich_help_panel=_TIMING)
    ] = "auto",
    spin: Annotated[
        str,
        typer.Option(
            help="Poll before blocking: on, off, or auto: where a CPU is spare, in max mode only "
            "while it moves more bytes.",
            rich_help_panel=_TIMING,
        ),
    ] = "auto",
    threads: Annotated[
        int, typer.Option(help="Loop threads per target.", rich_help_panel=_TIMING)
    ] = 1,
    priority: Annotated[
        str,
        typer.Option(help="none, nice or rt: of the loop threads.", rich_help_panel=_TIMING),
    ] = "none",
    warmup: Annotated[
        str,
        typer.Option(help="Ops of so long aren't measured.", rich_help_panel=_TIMING),
    ] = "0s",
    run_time: Annotated[
        str | None,
        typer.Option(
            help="End the run this long after the warm-up, e.g. 300s.",
            rich_help_panel=_TIMING,
            show_default=False,
        ),
    ] = None,
    loop: Annotated[
        bool,
        typer.Option(
            "--loop",
            help="Repeat the trace, with fresh keys, until --run-time is over.",
            rich_help_panel=_TIMING,
        ),
    ] = False,
    limit: Annotated[
        str | None,
        typer.Option(
            help="Replay only so much: rows (1000) or time (60s).", rich_help_panel=_TIMING
        ),
    ] = None,
    with_failed: Annotated[
        bool,
        typer.Option(
            "--with-failed",
            help="Also execute ops that had failed where the trace was recorded.",
            rich_help_panel=_TIMING,
        ),
    ] = False,
    extent_align: Annotated[
        str | None, typer.Option(help="Raise extents' alignment.", rich_help_panel=_STATE)
    ] = None,
    slack: Annotated[
        float,
        typer.Option(help="Space beyond the live set, as a part of it.", rich_help_panel=_STATE),
    ] = 0.05,
    arena: Annotated[
        str | None,
        typer.Option(
            help="Unique payload bytes; default 1GiB where memory allows.", rich_help_panel=_STATE
        ),
    ] = None,
    payload: Annotated[
        str,
        typer.Option(
            help="arena (one block of unique bytes) or fresh (generated as it runs).",
            rich_help_panel=_STATE,
        ),
    ] = "arena",
    dedup_ratio: Annotated[
        int,
        typer.Option(
            help="Payload has duplicates; above 1 it isn't stamped.", rich_help_panel=_STATE
        ),
    ] = 1,
    compress_ratio: Annotated[
        int, typer.Option(help="Payload can be compressed so far.", rich_help_panel=_STATE)
    ] = 1,
    run_id: Annotated[
        int | None,
        typer.Option(help="0 to 65535: repeat a run byte for byte.", rich_help_panel=_STATE),
    ] = None,
    populate: Annotated[
        str,
        typer.Option(
            help="touched, all or none: what is written before the clock starts.",
            rich_help_panel=_STATE,
        ),
    ] = "touched",
    reuse_populated: Annotated[
        bool,
        typer.Option(
            "--reuse-populated",
            help="Take the objects that an earlier run has populated.",
            rich_help_panel=_STATE,
        ),
    ] = False,
    settle: Annotated[
        str,
        typer.Option(help="Longest wait for the device to be quiet.", rich_help_panel=_STATE),
    ] = "10s",
    verify: Annotated[
        str,
        typer.Option(
            help="How reads are verified: none, stamps (in every sector), sample (stamps, and "
            "every byte of one read in 128), full (every byte).",
            rich_help_panel=_STATE,
        ),
    ] = "sample",
    allow_destroy: Annotated[
        str | None,
        typer.Option(
            help="Serial, WWN or by-id name of the device that may be overwritten.",
            rich_help_panel=_SAFETY,
        ),
    ] = None,
    allow_signature: Annotated[
        list[str] | None,
        typer.Option(
            help="Type of signature that may be destroyed, or unknown: data of no known format.",
            rich_help_panel=_SAFETY,
        ),
    ] = None,
    bpf: Annotated[
        bool,
        typer.Option(
            "--bpf",
            help="Count the block layer's latencies too, by bpftrace (needs root).",
            rich_help_panel=_OUTPUT,
        ),
    ] = False,
    min_window: Annotated[
        str, typer.Option(help="A shorter run is INVALID.", rich_help_panel=_OUTPUT)
    ] = "10s",
    accept: Annotated[
        list[str] | None,
        typer.Option(help="Reason that stays visible but exits 0.", rich_help_panel=_OUTPUT),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Result trace (.parquet).", rich_help_panel=_OUTPUT),
    ] = None,
    report_to: Annotated[
        list[Path] | None,
        typer.Option("--report", help=REPORT_HELP, rich_help_panel=_OUTPUT),
    ] = None,
    metrics_port: Annotated[
        str | None,
        typer.Option(
            help="Serve metrics for Prometheus while it runs: [ADDRESS:]PORT.",
            rich_help_panel=_OUTPUT,
        ),
    ] = None,
    metrics_hold: Annotated[
        str | None,
        typer.Option(
            help="Keep the port open so long after the end (30s); Ctrl-C ends it.",
            rich_help_panel=_OUTPUT,
        ),
    ] = None,
    metrics_textfile: Annotated[
        Path | None,
        typer.Option(
            help="Keep metrics in a file for node_exporter (.prom).", rich_help_panel=_OUTPUT
        ),
    ] = None,
    metrics_run: Annotated[
        str | None,
        typer.Option(
            help="Label `run` of all metrics; default: when it began.", rich_help_panel=_OUTPUT
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Overwrite outputs.", rich_help_panel=_OUTPUT)
    ] = False,
    full: Annotated[bool, typer.Option("--full", help=FULL_HELP, rich_help_panel=_OUTPUT)] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the JSON report.", rich_help_panel=_OUTPUT)
    ] = False,
) -> None:
    """Do what TRACE says on real tiers, with unique payloads, and say whether it may be used."""
    specs, options = understood(locals())
    inputs = tuple(path for path in (trace, device, folder) if path is not None)
    outputs = Outputs(inputs, out, tuple(report_to or ()), force=force)
    if metrics_textfile is not None:
        written = [metrics_textfile, *outputs.reports, *([] if out is None else [out])]
        check_apart(written, inputs)
    asked = MetricsOptions(metrics_port, metrics_hold, metrics_textfile, metrics_run, force)
    with Exposure(asked, trace, specs) as exposure:
        with outputs, open_trace(trace) as opened:
            outputs.check()
            result = _run(opened, specs, options, outputs, exposure)
            try:
                outputs.write(result)
            except TargetError:
                show(document_of(result), as_json=as_json, full=full)
                raise
            exposure.finish(result)
        show(document_of(result), outputs.files, as_json=as_json, full=full)
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
    stop, shown = Stop(), Shown()
    outputs.open(trace)
    for folder in outputs.left:
        shown.say(f"an earlier run was killed: `kvtrace recover` makes a trace of {folder}")
    watcher = exposure.watched_by(shown)
    with ExitStack() as opened:
        opened.enter_context(stopping(stop))
        opened.enter_context(shown.progress)
        return run(trace, specs, options, watcher=watcher, stop=stop, journal=outputs)
