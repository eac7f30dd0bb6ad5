"""`kvtrace replay`: from the command line to a run, and from its result to outputs."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from kvtrace.errors import EXIT_INVALID, EXIT_OK, UsageError, unknown_name
from kvtrace.reader import open_trace
from kvtrace.schema import Tier
from kvtrace.units import parse_bytes, parse_duration_ns
from replay import ReplayOptions, Stop, TargetSpec, run
from replay.output import Outputs
from replay.report import terminal
from replay.report.json import document
from replay.verdict import CODES

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
Value = TypeVar("Value")


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
    tiers: Annotated[
        str | None,
        typer.Option(
            help="Tiers to execute, e.g. cpu,nvme; default: those with a target.",
            rich_help_panel=_TARGETS,
        ),
    ] = None,
    mode: Annotated[
        str, typer.Option(help="open (by the trace's clock) or max.", rich_help_panel=_TIMING)
    ] = "open",
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
        typer.Option(help="auto, on or off: poll before blocking.", rich_help_panel=_TIMING),
    ] = "auto",
    limit: Annotated[
        str | None,
        typer.Option(
            help="Replay only so much: rows (1000) or time (60s).", rich_help_panel=_TIMING
        ),
    ] = None,
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
    settle: Annotated[
        str,
        typer.Option(help="Longest wait for the device to be quiet.", rich_help_panel=_STATE),
    ] = "10s",
    verify: Annotated[
        str,
        typer.Option(
            help="none, stamps or full: what of reads is checked.", rich_help_panel=_STATE
        ),
    ] = "stamps",
    allow_destroy: Annotated[
        str | None,
        typer.Option(
            help="Serial, WWN or by-id name of the device that may be overwritten.",
            rich_help_panel=_SAFETY,
        ),
    ] = None,
    allow_signature: Annotated[
        list[str] | None,
        typer.Option(help="Type of signature that may be destroyed.", rich_help_panel=_SAFETY),
    ] = None,
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
        typer.Option("--report", help="Report file (.json).", rich_help_panel=_OUTPUT),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Overwrite outputs.", rich_help_panel=_OUTPUT)
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the JSON report.", rich_help_panel=_OUTPUT)
    ] = False,
) -> None:
    """Do what TRACE says on real tiers, with unique payloads, and say whether it may be used."""
    specs = _specs(
        device=device,
        size=_parsed("--size", parse_bytes, size),
        target=target,
        cpu=cpu,
        extent_align=_parsed("--extent-align", parse_bytes, extent_align),
        allow_destroy=allow_destroy,
        allow_signature=tuple(allow_signature or ()),
    )
    limit_rows, limit_ns = _limit(limit)
    options = _options(
        mode=mode,
        speed=speed,
        queue_depth=queue_depth,
        io_size_bytes=_parsed("--io-size", parse_bytes, io_size),
        slack_ratio=slack,
        engine=engine,
        spin=spin,
        arena_bytes=_parsed("--arena", parse_bytes, arena),
        run_id=run_id,
        tiers=_tiers(tiers),
        populate=populate,
        settle_ns=_parsed("--settle", parse_duration_ns, settle),
        verify=verify,
        min_window_ns=_parsed("--min-window", parse_duration_ns, min_window),
        limit_rows=limit_rows,
        limit_ns=limit_ns,
        accept=_accepted(accept or []),
    )
    inputs = (trace,) if device is None else (trace, device)
    outputs = Outputs(inputs, out, tuple(report_to or ()), force=force)
    outputs.check()
    with open_trace(trace) as opened:
        result = _run(opened, specs, options)
        outputs.write(opened, result)
    _show(result, as_json=as_json)
    raise typer.Exit(_exit_code(result))


def _exit_code(result: Result) -> int:
    interrupted = any(reason.code == "interrupted" for reason in result.verdict.reasons)
    acceptable = result.verdict.acceptable and not interrupted
    return EXIT_OK if acceptable else EXIT_INVALID


def _parsed(option: str, parse: Callable[[str], Value], text: str | None) -> Value | None:
    if text is None:
        return None
    try:
        return parse(text)
    except UsageError as error:
        raise UsageError(
            error.problem, where=option, got=error.got, accepted=error.accepted
        ) from error


def _limit(text: str | None) -> tuple[int | None, int | None]:
    """Return (rows, time): a bare number is rows."""
    if text is None:
        return None, None
    if text.replace("_", "").isdigit():
        return int(text), None
    return None, _parsed("--limit", parse_duration_ns, text)


def _tiers(text: str | None) -> tuple[Tier, ...] | None:
    if text is None:
        return None
    known = {tier.label: tier for tier in Tier}
    names = [name.strip().lower() for name in text.split(",")]
    for name in names:
        if name not in known:
            raise unknown_name("tier", name, known, where="--tiers")
    return tuple(sorted({known[name] for name in names}))


def _accepted(codes: list[str]) -> tuple[str, ...]:
    for code in codes:
        if code not in CODES:
            raise unknown_name("reason", code, CODES, where="--accept")
    return tuple(codes)


def _options(**fields: Any) -> ReplayOptions:
    try:
        return ReplayOptions(**fields)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        for unit in ("_bytes", "_ns", "_ratio", "_rows"):
            name = name.removesuffix(unit)
        raise UsageError(
            first["msg"], where=f"--{name.replace('_', '-')}", got=repr(first["input"])
        ) from error


def _specs(
    *,
    device: Path | None,
    size: int | None,
    target: str | None,
    cpu: str,
    extent_align: int | None,
    allow_destroy: str | None,
    allow_signature: tuple[str, ...],
) -> tuple[TargetSpec, ...]:
    _check_targets(device, size, target, cpu)
    if extent_align is not None and (extent_align <= 0 or extent_align & (extent_align - 1)):
        raise UsageError(
            "not a power of two", where="--extent-align", got=extent_align, accepted="e.g. 64KiB"
        )
    if target is not None:
        return (TargetSpec(target, tuple(Tier), extent_align_bytes=extent_align),)
    specs = []
    if cpu == "memory":
        specs.append(TargetSpec("memory", (Tier.CPU,), extent_align_bytes=extent_align))
    if device is not None:
        specs.append(
            TargetSpec(
                "file",
                (Tier.NVME,),
                device,
                size,
                extent_align,
                allow_destroy,
                allow_signature,
            )
        )
    return tuple(specs)


def _check_targets(device: Path | None, size: int | None, target: str | None, cpu: str) -> None:
    if cpu not in ("memory", "none"):
        raise unknown_name("target of tier cpu", cpu, ("memory", "none"), where="--cpu")
    if target not in (None, "null"):
        raise unknown_name("target", target or "", ("null",), where="--target")
    if target is not None and (device is not None or cpu != "none"):
        raise UsageError(
            "--target null stands for all tiers",
            got="--device or --cpu beside it",
            hint="take away one or the other",
        )
    if target is None and device is None and cpu == "none":
        raise UsageError(
            "no target",
            accepted="--device PATH, --cpu memory, --target null",
            hint="say where the trace is to be replayed",
        )
    if size is not None and (device is None or size <= 0):
        raise UsageError(
            "--size is the size of --device", got=size, accepted="a size above 0, and a --device"
        )


def _show(result: Result, *, as_json: bool) -> None:
    """Print the result."""
    if as_json:
        print(json.dumps(document(result), indent=2, allow_nan=False))
        return
    console = Console(width=min(Console().width, terminal.WIDTH), highlight=False)
    for part in terminal.render(result):
        console.print(part)


class _Shown:
    """A bar on stderr where that is a terminal; lines for people in any case."""

    def __init__(self) -> None:
        self.console = Console(stderr=True, highlight=False)
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
        self.task: TaskID | None = None

    def say(self, text: str) -> None:
        """Print one line."""
        self.console.print(text, soft_wrap=True)

    def stage(self, name: str, total: int | None) -> None:
        """Show a new bar."""
        if self.task is not None:
            self.progress.remove_task(self.task)
        self.task = self.progress.add_task(name, total=total)

    def advance(self, done: int) -> None:
        """Move the bar."""
        if self.task is not None:
            self.progress.update(self.task, completed=done)


@contextmanager
def _stopping(stop: Stop) -> Iterator[None]:
    """Make SIGINT and SIGTERM end the run in good order; a second one ends it at once."""

    def handle(number: int, _frame: object) -> None:
        if stop.requested:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        stop.set()
        print("stopping: waiting for what is in flight", file=sys.stderr)

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _run(trace: Trace, specs: tuple[TargetSpec, ...], options: ReplayOptions) -> Result:
    stop, shown = Stop(), _Shown()
    with _stopping(stop), shown.progress:
        return run(trace, specs, options, watcher=shown, stop=stop)
