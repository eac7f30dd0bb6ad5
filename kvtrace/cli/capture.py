"""`kvtrace capture`: how to record a live engine, and what a recording does meanwhile."""

from __future__ import annotations

import dataclasses
import json
import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kvtrace.cli.capture_strings import Asked, check_of, parse_inner, pastes
from kvtrace.cli.console import figures, plain_console, say
from kvtrace.cli.parsing import parsed
from kvtrace.errors import TraceError, UsageError
from kvtrace.units import (
    S_NS,
    format_bytes,
    format_count,
    format_duration_ns,
    format_rate,
    parse_duration_ns,
)

if TYPE_CHECKING:
    from kvtrace.formats.capture.status import Status

_EVERY_S = 1.0


def capture_command(
    engine: Annotated[
        str | None,
        typer.Argument(
            help="Engine to record: lmcache, vllm, sglang, mooncake; or kv-events.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder that the engine records in.", show_default=False),
    ] = None,
    inner: Annotated[
        str | None,
        typer.Option(
            help="Your storage as the engine configures it, as JSON with its `type`.",
            show_default="files in a folder",
        ),
    ] = None,
    secret_file: Annotated[
        Path | None,
        typer.Option(
            help="File with the secret that keys all hashes; recordings under one secret can be "
            "joined.",
            show_default="random",
        ),
    ] = None,
    endpoint: Annotated[
        str | None,
        typer.Option(
            help="kv-events: ZeroMQ address, as the engine's configuration has it.",
            show_default=False,
        ),
    ] = None,
    bind: Annotated[
        bool | None,
        typer.Option(
            "--bind/--connect",
            help="kv-events: bind or connect to the address.",
            show_default="what the engine doesn't do",
        ),
    ] = None,
    topic: Annotated[
        str | None,
        typer.Option(help="kv-events: record this topic only.", show_default="all"),
    ] = None,
    duration: Annotated[
        str | None,
        typer.Option(help="kv-events: record for this long.", show_default="until Ctrl-C"),
    ] = None,
    status: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Show what is being recorded in DIR, and what was lost.",
            show_default=False,
        ),
    ] = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Refresh --status every second until Ctrl-C.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:  # fmt: skip
    """Print the configuration that records a live engine's KV-cache storage; watch a recording.

    Nothing is started: paste the printed string into the engine's command line. Afterwards
    `kvtrace import DIR trace.parquet` makes a trace of all its processes.

    kv-events subscribes to the events of the GPU's cache that vLLM and SGLang publish, and records
    them until Ctrl-C.
    """
    events = {"--endpoint": endpoint, "--topic": topic, "--duration": duration}
    given = [name for name, value in events.items() if value is not None]
    given += [] if bind is None else ["--bind" if bind else "--connect"]
    if status is not None:
        others = {"ENGINE": engine, "--out": out, "--inner": inner, "--secret-file": secret_file}
        for name in (name for name, value in others.items() if value is not None):
            raise UsageError(f"excludes {name}", where="--status", got=others[name])
        _only_of_events(given)
        _show_status(status, watch=watch, as_json=as_json)
        return
    if watch:
        raise UsageError("needs --status DIR", where="--watch")
    if engine is None or out is None:
        missing = "ENGINE" if engine is None else "--out DIR"
        raise UsageError(
            f"{missing} is missing", where="capture",
            accepted="ENGINE --out DIR, or --status DIR",
        )  # fmt: skip
    if engine == "kv-events":
        if endpoint is None or inner is not None:
            raise UsageError(
                "--endpoint is missing" if endpoint is None else "--inner is of other engines",
                where="kv-events", accepted="--endpoint tcp://HOST:PORT --out DIR",
            )  # fmt: skip
        from kvtrace.cli.capture_kv_events import EventsAsked, record_events

        length_ns = parsed("--duration", parse_duration_ns, duration)
        asked = EventsAsked(endpoint, out, secret_file, bind, topic or "", length_ns)
        record_events(asked, as_json=as_json)
        return
    _only_of_events(given)
    _print_strings(engine, Asked(out, secret_file, parse_inner(inner)), as_json=as_json)


def _only_of_events(given: list[str]) -> None:
    """Raise UsageError for options that only kv-events has."""
    if given:
        raise UsageError("is of kv-events", where=given[0], accepted="capture kv-events")


def _print_strings(engine: str, asked: Asked, *, as_json: bool) -> None:
    texts = pastes(engine, asked)
    check = check_of(engine)
    if as_json:
        strings = [dataclasses.asdict(each) for each in texts]
        typer.echo(json.dumps({"engine": engine, "strings": strings, "check": check}, indent=2))
        return
    say(f"1. In {engine}'s environment, which needs nothing new (numpy only), then check it:")
    typer.echo(f"     pip install --no-deps kvtrace && {check}")
    say("2. Paste into")
    for each in texts:
        say(f"   {each.title}:")
        for line in each.text.splitlines():
            typer.echo(f"     {line}")
    say("3. While it runs, then when it has ended:")
    folder = shlex.quote(str(asked.out))
    typer.echo(f"     kvtrace capture --status {folder}")
    typer.echo(f"     kvtrace import {folder} trace.parquet")


def _show_status(folder: Path, *, watch: bool, as_json: bool) -> None:
    from kvtrace.formats.capture.status import Follower

    follower = Follower(folder)
    if not watch:
        _print_status(follower.read(time.monotonic_ns()), as_json=as_json)
        return
    if as_json:
        raise UsageError("excludes --json", where="--watch")
    while True:
        typer.echo("\x1b[H\x1b[2J", nl=False)  # home, clear
        say(str(folder))
        try:
            _print_status(follower.read(time.monotonic_ns()), as_json=False)
        except TraceError as error:
            if follower.started:
                raise
            say(f"{error.problem}; Ctrl-C ends the watch")
        sys.stdout.flush()
        time.sleep(_EVERY_S)


def _print_status(status: Status, *, as_json: bool) -> None:
    if as_json:
        document: dict[str, Any] = dataclasses.asdict(status)
        document["tiers"] = {tier.label: each for tier, each in document["tiers"].items()}
        typer.echo(json.dumps(document, indent=2))
        return
    recording = status.processes - status.ended - status.killed
    state = f"{recording} recording, {status.ended} ended"
    state += f", {status.killed} gone without an end" if status.killed else ""
    silent = "" if status.silent_ns is None else f", last op {_ago(status.silent_ns)} ago"
    say(f"{status.engine}: {state}{silent}")
    when = "now" if recording else "at its end"
    say(
        f"{status.rows:,} rows in {format_bytes(status.file_bytes)}, {when} "
        f"{status.rows_per_s:,.0f} rows/s"
    )
    if status.events:
        say(f"{status.events:,} KV-cache events")
    lost = {
        "rows dropped": status.dropped_rows,
        "gaps": status.gaps,
        "bytes damaged": status.damaged_bytes,
        "bus events dropped": status.bus_events_dropped,
        "write errors": status.write_errors,
        "faults of the plug-in": status.guarded_errors,
    }
    parts = [f"{count:,} {what}" for what, count in lost.items() if count]
    say(f"lost: {', '.join(parts) or 'nothing'}")
    if not status.tiers:
        return
    table = figures(("tier", "ops/s", "read", "written", "in flight"), left=["tier"])
    for tier, each in status.tiers.items():
        table.add_row(
            tier.label,
            format_count(round(each.ops_per_s)),
            format_rate(each.read_bytes_per_s),
            format_rate(each.write_bytes_per_s),
            f"{each.in_flight:.2f}",
        )
    plain_console().print(table)


def _ago(time_ns: int) -> str:
    return format_duration_ns(time_ns // S_NS * S_NS) if time_ns >= S_NS else "less than 1 s"
