"""`kvtrace doctor`: what will spoil a run here, each with its figure and what to do."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kvtrace.cli.console import plain_console
from kvtrace.errors import EXIT_OK, EXIT_TARGET
from kvtrace.show.printable import printable
from replay.host.doctor import Level, Snapshot, examine

if TYPE_CHECKING:
    from replay.host.doctor import Finding

_STYLES = {Level.OK: "green", Level.WARNING: "yellow", Level.IMPOSSIBLE: "bold red"}
_WIDTH = 80


def doctor_command(
    device: Annotated[
        Path | None,
        typer.Option(help="Target to check: block device, existing or new file, or directory."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check this machine for problems that would invalidate a replay (2 s, read-only).

    Exit 0 without errors, warnings or not; exit 4 if an error makes a replay impossible.
    """
    from replay.host import activity, machine, place

    target, sysfs = (None, None) if device is None else place.observe(device)
    snapshot = Snapshot(machine.observe(), activity.measure(sysfs), target)
    findings = examine(snapshot)
    impossible = any(finding.level == Level.IMPOSSIBLE for finding in findings)
    if as_json:
        checks = [dataclasses.asdict(finding) for finding in findings]
        document = {"possible": not impossible, "checks": checks, **dataclasses.asdict(snapshot)}
        print(json.dumps(document, indent=2))
    else:
        _show(findings)
    raise typer.Exit(EXIT_TARGET if impossible else EXIT_OK)


def _show(findings: tuple[Finding, ...]) -> None:
    from rich.padding import Padding
    from rich.text import Text

    console = plain_console(width_max=_WIDTH)
    for finding in findings:
        line = Text(finding.level, style=_STYLES[finding.level])
        line.append(f" {finding.code}: {printable(finding.figure)}", style="default")
        console.print(line)
        if finding.remedy:
            console.print(
                Padding(Text(f"→ {printable(finding.remedy)}", style="dim"), (0, 0, 0, 2))
            )
    counts = {level: sum(finding.level == level for finding in findings) for level in Level}
    console.print(
        f"{counts[Level.OK]} ok, {_many(counts[Level.WARNING], 'warning')}, "
        f"{_many(counts[Level.IMPOSSIBLE], 'error')}"
    )


def _many(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
