"""`kvtrace discover`: this machine, what can be replayed on it, and commands that do so."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kvtrace.cli.console import plain_console
from kvtrace.units import format_bytes
from replay.host import gpus

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

    from kvtrace.cli.plain import PlainConsole
    from replay.host.disks import Disk, FileSystem
    from replay.host.gpus import Gpus
    from replay.host.machine import Machine
    from replay.host.suggest import Suggestion

_WIDTH = 80
_NOWHERE = "nothing here has room for a replay: see the reasons above"


def discover_command(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List GPUs, CPUs, memory and storage, with record and replay commands for them."""
    from replay.host import disks, machine
    from replay.host.suggest import suggest

    seen, cards = machine.observe(), gpus.observe()
    drives, places = disks.observe_disks(), disks.observe_file_systems()
    suggestion = suggest(seen, cards, drives, places)
    if as_json:
        print(json.dumps(_document(seen, cards, drives, places, suggestion), indent=2))
        return
    console = plain_console(width_max=_WIDTH)
    console.print(_machine(seen, cards))
    for drive in drives:
        console.print(_disk(drive))
    for place in places:
        console.print(_file_system(place))
    _print_suggestion(console, suggestion)


def _document(
    seen: Machine,
    cards: Gpus,
    drives: tuple[Disk, ...],
    places: tuple[FileSystem, ...],
    suggestion: Suggestion | None,
) -> dict[str, Any]:
    from replay.host.disks import why_not_disk, why_not_file_system
    from replay.host.suggest import LEAST_BYTES

    return {
        "machine": dataclasses.asdict(seen),
        "gpus": dataclasses.asdict(cards),
        "disks": [
            {**dataclasses.asdict(drive), "path": drive.path,
             "allow_destroy": drive.allow_destroy, "why_not": why_not_disk(drive)}
            for drive in drives
        ],
        "file_systems": [
            {**dataclasses.asdict(place), "usable_bytes": place.usable_bytes,
             "why_not": why_not_file_system(place, LEAST_BYTES)}
            for place in places
        ],
        "suggestion": None if suggestion is None else dataclasses.asdict(suggestion),
    }  # fmt: skip


def _pairs(rows: list[tuple[str, str | Text]]) -> Table:
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True, style="dim", min_width=12)
    table.add_column(overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def _machine(seen: Machine, cards: Gpus) -> Table:
    swap = f", swap {format_bytes(seen.swap_bytes)}" if seen.swap_bytes else ", no swap"
    free = format_bytes(seen.available_bytes)
    rows: list[tuple[str, str | Text]] = [
        ("CPU", f"{seen.cpus} × {seen.cpu_model or 'unknown'}"),
        ("memory", f"{format_bytes(seen.memory_bytes)}, {free} available{swap}"),
        ("huge pages", f"{seen.huge_pages} reserved, transparent {seen.transparent_huge_pages}"),
        ("io_uring", seen.no_uring or "works"),
    ]
    for node in seen.nodes:
        cpus = f"{len(node.cpus)} CPUs, {format_bytes(node.memory_bytes)}"
        rows.append((f"NUMA node {node.number}", cpus))
    for gpu in cards.found:
        where = "" if gpu.numa_node is None else f", NUMA node {gpu.numa_node}"
        memory = f"{format_bytes(gpu.memory_bytes)}, {format_bytes(gpu.free_bytes)} free"
        rows.append((f"GPU {gpu.index}", f"{gpu.name}, {memory}, {gpu.pci}{where}"))
    if not cards.found:
        rows.append(("GPU", f"none: {cards.missing or 'the driver shows none'}"))
    return _pairs(rows)


def _usable(reason: str | None, how: str) -> Text:
    from rich.text import Text

    if reason is None:
        return Text(f"yes: {how}", style="green")
    return Text(f"no: {reason}", style="yellow")


def _disk(drive: Disk) -> Table:
    from replay.host.disks import why_not_disk

    kind = "rotational" if drive.rotational else "not rotational"
    marks = [" (virtual)"] * drive.virtual + [" (read-only)"] * drive.read_only
    blocks = f"{drive.logical_block_bytes}/{drive.physical_block_bytes}-byte blocks"
    node = "" if drive.numa_node is None else f", NUMA node {drive.numa_node}"
    rows: list[tuple[str, str | Text]] = [
        ("", ""),
        (drive.path, f"{drive.model}{''.join(marks)}, {format_bytes(drive.size_bytes)}"),
        ("", f"{blocks}, scheduler {drive.scheduler or 'none'}, {kind}{node}"),
    ]
    for name, values in (
        ("identity", drive.identities),
        ("partitions", drive.partitions),
        ("mounted at", drive.mounts),
        ("holders", drive.holders),
        ("signatures", drive.signatures or ()),
    ):
        if values:
            rows.append((f"  {name}", ", ".join(values)))
    how = f"--device {drive.path} --allow-destroy {drive.allow_destroy}"
    rows.append(("  replay", _usable(why_not_disk(drive), how)))
    return _pairs(rows)


def _file_system(place: FileSystem) -> Table:
    from replay.host.disks import why_not_file_system
    from replay.host.suggest import LEAST_BYTES

    room = f"{format_bytes(place.free_bytes)} free of {format_bytes(place.size_bytes)}"
    how = f"a file of up to {format_bytes(place.usable_bytes)} there, or a folder for --dir"
    return _pairs(
        [
            ("", ""),
            ("file system", f"{place.point}, {place.type} on {place.source}, {room}"),
            ("  replay", _usable(why_not_file_system(place, LEAST_BYTES), how)),
        ]
    )


def _print_suggestion(console: PlainConsole, suggestion: Suggestion | None) -> None:
    if suggestion is None:
        console.print()
        console.print(_NOWHERE)
        return
    console.print()
    console.print(f"For this machine ({suggestion.note}):")
    console.print()
    # As they are, so that they can be pasted: no wrapping of ours.
    print(suggestion.record)
    print(suggestion.replay)
