"""`kvtrace list`: what there is, with availability and reason."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from kvtrace import plugins
from kvtrace.cli.console import plain_console
from kvtrace.errors import UsageError, unknown_name
from kvtrace.models import models
from kvtrace.models.config_json.families import architectures
from kvtrace.models.summary import groups
from kvtrace.recording.config import preset_names, preset_summary

if TYPE_CHECKING:
    from collections.abc import Callable

    from kvtrace.models import Model

Entry = tuple[str, str, str]
"""Name, availability, what it is."""


def _plugins(kind: plugins.Kind) -> list[Entry]:
    return [_entry(kind, name) for name in plugins.names(kind)]


def _entry(kind: plugins.Kind, name: str) -> Entry:
    try:
        module = plugins.load(kind, name)
    except UsageError as error:  # a plug-in of the user's own that is broken
        return (name, str(error), "")
    return (name, plugins.unavailable(module) or "yes", plugins.summary(module))


def _models() -> list[Entry]:
    return [
        (
            model.name,
            "yes",
            _geometry(model),
        )
        for model in models()
    ]


def _geometry(model: Model) -> str:
    """Return a model's groups of layers and what they keep, in one line."""
    kinds = " + ".join(f"{row.layers} {row.kind}" for row in groups(model))
    sequence = model.rank_bytes_per_sequence()
    return (
        f"{kinds}: {model.rank_bytes_per_token():,} B per token"
        + (f", {sequence:,} per sequence" if sequence else "")
        + (", stored once" if model.replicated else "")
    )


def _architectures() -> list[Entry]:
    return [(name, "yes", family) for name, family in architectures()]


def _presets() -> list[Entry]:
    return [(name, "yes", preset_summary(name)) for name in preset_names()]


KINDS: dict[str, Callable[[], list[Entry]]] = {
    "models": _models,
    "architectures": _architectures,
    "sources": lambda: _plugins(plugins.SOURCE),
    "layouts": lambda: _plugins(plugins.LAYOUT),
    "presets": _presets,
    "policies": lambda: _plugins(plugins.POLICY),
    "importers": lambda: _plugins(plugins.IMPORTER),
    "exporters": lambda: _plugins(plugins.EXPORTER),
    "targets": lambda: _plugins(plugins.TARGET),
}


def list_command(
    kind: Annotated[
        str | None, typer.Argument(help=f"{', '.join(KINDS)} (all).", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List models, sources, layouts, policies, importers, exporters and targets."""
    if kind is not None and kind not in KINDS:
        raise unknown_name("kind", kind, KINDS)
    listed = {name: KINDS[name]() for name in ([kind] if kind else KINDS)}
    if as_json:
        fields = {
            name: [
                dict(zip(("name", "available", "what"), entry, strict=True)) for entry in entries
            ]
            for name, entries in listed.items()
        }
        typer.echo(json.dumps(fields, indent=2))
        return
    console = plain_console()
    for name, entries in listed.items():
        table = Table(title=name, title_justify="left", show_header=False, box=None)
        for entry in entries:
            table.add_row(*entry[:1], "" if entry[1] == "yes" else entry[1], entry[2])
        console.print(table)
