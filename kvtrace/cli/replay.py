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
from kvtrace.cli.targets import paths_of
from kvtrace.errors import EXIT_INVALID, EXIT_OK, TargetError
from kvtrace.files.outputs import check_apart
from kvtrace.trace.reader import open_trace
from replay import ReplayOptions, Stop, TargetSpec, run
from replay.execution.output import Outputs
from replay.result.from_run import document_of

if TYPE_CHECKING:
    from kvtrace.trace.reader import Trace
    from replay import Result

_TARGETS, _TIMING, _STATE, _SAFETY, _OUTPUT = (
    "Targets",
    "Timing and engine",
    "State and payload",
    "Safety",
    "Verdict and outputs",
)


def replay_command(
    trace: Annotated[Path, typer.Argument(help="Trace to replay.", show_default=False)],
    device: Annotated[
        Path | None,
        typer.Option(
            help="Replay tier nvme on this block device or file.", rich_help_panel=_TARGETS
        ),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(
            help="Size of a new file, or of the part of the device to use (the space "
            "needed, or all).",
            rich_help_panel=_TARGETS,
        ),
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(
            help="Replay TIER on any target, as [TIER=]NAME[:key=value,...], e.g. "
            "cpu=memory; see `kvtrace list targets`. null: execute all tiers without I/O, to "
            "measure kvtrace itself.",
            metavar="TARGET",
            rich_help_panel=_TARGETS,
        ),
    ] = None,
    cpu: Annotated[
        str, typer.Option(help="Replay tier cpu in memory, or not.", rich_help_panel=_TARGETS)
    ] = "none",
    gpu: Annotated[
        str,
        typer.Option(help="Replay tier gpu on cuda:N, or not (none).", rich_help_panel=_TARGETS),
    ] = "none",
    folder: Annotated[
        Path | None,
        typer.Option(
            "--dir",
            help="Replay tier nvme in this directory, one file per object.",
            rich_help_panel=_TARGETS,
        ),
    ] = None,
    fsync: Annotated[
        str,
        typer.Option(
            help="--dir: sync nothing, the file, or file and directory on each write.",
            rich_help_panel=_TARGETS,
        ),
    ] = "none",
    trim: Annotated[
        bool,
        typer.Option(
            "--trim",
            help="Discard the extent on each delete; punch holes in a file.",
            rich_help_panel=_TARGETS,
        ),
    ] = False,
    tiers: Annotated[
        str | None,
        typer.Option(
            help="Execute these tiers, e.g. cpu,nvme (those with a target).",
            rich_help_panel=_TARGETS,
        ),
    ] = None,
    mode: Annotated[
        str,
        typer.Option(
            help="Pace ops by the trace's clock (open), by completions (closed) or by the "
            "queue depth (max).",
            rich_help_panel=_TIMING,
        ),
    ] = "open",
    sync_stores: Annotated[
        bool,
        typer.Option(
            "--sync-stores",
            help="closed: let requests also wait for their stores, evictions and promotions.",
            rich_help_panel=_TIMING,
        ),
    ] = False,
    speed: Annotated[
        float,
        typer.Option(help="Divide due times by X; 2 is twice as fast.", rich_help_panel=_TIMING),
    ] = 1.0,
    queue_depth: Annotated[
        int | None,
        typer.Option(
            help="I/Os in flight at most (1024, or 32 in mode max).", rich_help_panel=_TIMING
        ),
    ] = None,
    io_size: Annotated[
        str,
        typer.Option(help="Size of the longest I/O; split longer ops.", rich_help_panel=_TIMING),
    ] = "4MiB",
    engine: Annotated[
        str, typer.Option(help="I/O engine; auto: the first that works.", rich_help_panel=_TIMING)
    ] = "auto",
    spin: Annotated[
        str,
        typer.Option(
            help="Poll for completions before blocking: on, off, auto (when a CPU is idle; "
            "in mode max, while polling moves more bytes).",
            rich_help_panel=_TIMING,
        ),
    ] = "auto",
    threads: Annotated[
        int, typer.Option(help="Loop threads per target.", rich_help_panel=_TIMING)
    ] = 1,
    priority: Annotated[
        str,
        typer.Option(
            help="Scheduling priority of the loop threads: none, nice -15, or real-time.",
            rich_help_panel=_TIMING,
        ),
    ] = "none",
    warmup: Annotated[
        str, typer.Option(help="Exclude ops due in the first DURATION.", rich_help_panel=_TIMING)
    ] = "0s",
    run_time: Annotated[
        str | None,
        typer.Option(
            help="End the run this long after the warm-up, e.g. 300s (the trace's length).",
            rich_help_panel=_TIMING,
            show_default=False,
        ),
    ] = None,
    loop: Annotated[
        bool,
        typer.Option(
            "--loop",
            help="Repeat the trace with fresh keys until --run-time ends.",
            rich_help_panel=_TIMING,
        ),
    ] = False,
    limit: Annotated[
        str | None,
        typer.Option(
            help="Replay only the first rows (1000) or the first time (60s).",
            rich_help_panel=_TIMING,
        ),
    ] = None,
    with_failed: Annotated[
        bool,
        typer.Option(
            "--with-failed",
            help="Execute ops that failed when the trace was recorded as well.",
            rich_help_panel=_TIMING,
        ),
    ] = False,
    extent_align: Annotated[
        str | None,
        typer.Option(
            help="Align extents to at least this size (the device's needs, at least 4KiB).",
            rich_help_panel=_STATE,
        ),
    ] = None,
    slack: Annotated[
        float,
        typer.Option(help="Extra space, as a fraction of the live set.", rich_help_panel=_STATE),
    ] = 0.05,
    arena: Annotated[
        str | None,
        typer.Option(
            help="Size of the unique payload (1GiB where memory allows).", rich_help_panel=_STATE
        ),
    ] = None,
    payload: Annotated[
        str,
        typer.Option(
            help="Payload: arena (one block of unique bytes, reused with stamps) or fresh "
            "(generated during the run).",
            rich_help_panel=_STATE,
        ),
    ] = "arena",
    dedup_ratio: Annotated[
        int,
        typer.Option(
            help="Make the payload deduplicable by this ratio; above 1 without stamps.",
            rich_help_panel=_STATE,
        ),
    ] = 1,
    compress_ratio: Annotated[
        int,
        typer.Option(help="Make the payload compressible by this ratio.", rich_help_panel=_STATE),
    ] = 1,
    run_id: Annotated[
        int | None,
        typer.Option(
            help="Run id, 0 to 65535; equal ids give equal payloads (random).",
            rich_help_panel=_STATE,
        ),
    ] = None,
    populate: Annotated[
        str,
        typer.Option(
            help="Objects to write before the run: those that the trace reads (touched), "
            "all, or none.",
            rich_help_panel=_STATE,
        ),
    ] = "touched",
    reuse_populated: Annotated[
        bool,
        typer.Option(
            "--reuse-populated",
            help="Reuse the objects that an earlier run populated.",
            rich_help_panel=_STATE,
        ),
    ] = False,
    settle: Annotated[
        str,
        typer.Option(
            help="Wait at most this long for the device to become idle.", rich_help_panel=_STATE
        ),
    ] = "10s",
    verify: Annotated[
        str,
        typer.Option(
            help="Verify reads: none, stamps (of every sector), sample (stamps, and every "
            "byte of one read in 128), full (every byte).",
            rich_help_panel=_STATE,
        ),
    ] = "sample",
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
    bpf: Annotated[
        bool,
        typer.Option(
            "--bpf",
            help="Measure block-layer latencies with bpftrace (needs root).",
            rich_help_panel=_OUTPUT,
        ),
    ] = False,
    min_window: Annotated[
        str, typer.Option(help="Mark a shorter run INVALID.", rich_help_panel=_OUTPUT)
    ] = "10s",
    accept: Annotated[
        list[str] | None,
        typer.Option(
            help="Exit 0 despite this INVALID reason; it is still reported.",
            rich_help_panel=_OUTPUT,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Write the result trace (.parquet).", rich_help_panel=_OUTPUT),
    ] = None,
    report_to: Annotated[
        list[Path] | None, typer.Option("--report", help=REPORT_HELP, rich_help_panel=_OUTPUT)
    ] = None,
    metrics_port: Annotated[
        str | None,
        typer.Option(
            help="Serve Prometheus metrics during the run on [ADDRESS:]PORT.",
            rich_help_panel=_OUTPUT,
        ),
    ] = None,
    metrics_hold: Annotated[
        str | None,
        typer.Option(
            help="Keep the port open this long after the end, e.g. 30s; Ctrl-C closes it (0s).",
            rich_help_panel=_OUTPUT,
        ),
    ] = None,
    metrics_textfile: Annotated[
        Path | None,
        typer.Option(
            help="Write metrics to this file for node_exporter (.prom).", rich_help_panel=_OUTPUT
        ),
    ] = None,
    metrics_run: Annotated[
        str | None,
        typer.Option(
            help="Value of the label `run` of all metrics (the start time).",
            rich_help_panel=_OUTPUT,
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
    """Replay TRACE on real storage tiers and report whether the results are valid."""
    specs, options = understood(locals())
    inputs = (trace, *paths_of(specs))
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
