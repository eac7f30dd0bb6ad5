"""`kvtrace list`: what there is, with availability and reason."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kvtrace import plugins
from kvtrace.cli.console import plain_console
from kvtrace.cli.help import section, width
from kvtrace.errors import UsageError, unknown_name
from kvtrace.options.described import describe
from kvtrace.recording.config import preset_names, preset_summary
from kvtrace.show.printable import printable
from kvtrace.show.tables import wrapped
from kvtrace.trace.schema import Tier
from replay.targets.support.declared import options_of, tiers_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from kvtrace.models import Model
    from kvtrace.options.described import Described

_HINTS = {"models": "use `kvtrace model {name}`"}
"""What shows one entry of a kind."""
Entry = tuple[str, str, str]
"""Name, availability, what it is."""


def _plugins(kind: plugins.Kind) -> list[Entry]:
    return [_entry(kind, name) for name in plugins.names(kind)]


def _entry(kind: plugins.Kind, name: str) -> Entry:
    try:
        module = plugins.load(kind, name)
        if kind is plugins.TARGET:
            tiers_of(module), options_of(module)
    except UsageError as error:  # a plug-in of the user's own that is broken
        return (name, str(error), "")
    return (name, plugins.unavailable(module) or "yes", plugins.summary(module))


def _models() -> list[Entry]:
    from kvtrace.models import models

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
    from kvtrace.models.summary import groups

    kinds = " + ".join(f"{row.layers} {row.kind}" for row in groups(model))
    sequence = model.rank_bytes_per_sequence()
    return (
        f"{kinds}: {model.rank_bytes_per_token():,} B per token"
        + (f", {sequence:,} per sequence" if sequence else "")
        + (", stored once" if model.replicated else "")
    )


def _architectures() -> list[Entry]:
    from kvtrace.models.config_json.families import architectures

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


def _tiers(name: str) -> list[str]:
    """Return the tiers that a target can stand for; none of a target that is broken."""
    try:
        return [tier.label for tier in tiers_of(plugins.load(plugins.TARGET, name))]
    except UsageError:
        return []


def _tier_names(name: str) -> str:
    """Return the tiers that a target can stand for, or `all`; "" of a broken one."""
    labels = _tiers(name)
    return "all" if len(labels) == len(Tier) else ",".join(labels)


def _option_rows(target: str) -> list[tuple[str, str]]:
    """Return a target's options as two columns of help. Raises UsageError for an unknown one."""
    return [(f"{o.key.replace('_', '-')}={o.takes}", _help_of(o)) for o in _options(target)]


def _options(target: str) -> tuple[Described, ...]:
    return describe(options_of(plugins.load(plugins.TARGET, target)))


def _help_of(option: Described) -> str:
    notes = ["required"] if option.required else []
    notes += ["may be repeated"] if option.repeated else []
    notes += [f"default: {option.default}"] if option.default else []
    return f"{option.help} [{', '.join(notes)}]" if notes else option.help


def _show_target(name: str, *, as_json: bool) -> None:
    """Print one target: its tiers, and the options that `--target` takes for it."""
    module = plugins.load(plugins.TARGET, name)
    _, available, what = _entry(plugins.TARGET, name)
    if as_json:
        options = [
            {
                "name": option.key.replace("_", "-"), "takes": option.takes, "help": option.help,
                "default": option.default or None, "required": option.required,
                "repeated": option.repeated,
            }
            for option in _options(name)
        ]  # fmt: skip
        fields = {"name": name, "available": available, "what": what, "tiers": _tiers(name)}
        typer.echo(json.dumps({**fields, "options": options}, indent=2))
        return
    tiers = _tier_names(name)
    example = f"--target {tiers_of(module)[0].label}={name}"
    about = [("tiers", tiers), ("available", available)]
    lines = [*wrapped(printable(f"{name}: {what}"), width()), *section("Target", about)]
    lines += section(f"Options, as {example}:key=value,...", _option_rows(name))
    typer.echo("\n".join(lines))


def list_command(
    kind: Annotated[
        str | None, typer.Argument(help=f"{', '.join(KINDS)}.", show_default="all")
    ] = None,
    name: Annotated[
        str | None,
        typer.Argument(help="One target: show its tiers and options.", show_default=False),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List models, sources, layouts, policies, importers, exporters and targets."""
    if kind is not None and kind not in KINDS:
        raise unknown_name("kind", kind, KINDS)
    if name is not None:
        if kind != "targets":
            raise UsageError(
                "only targets are listed by name",
                got=f"{kind} {name}",
                accepted="list targets NAME",
                hint=_HINTS.get(kind or "", f"use `kvtrace list {kind}`").format(name=name),
            )
        _show_target(name, as_json=as_json)
        return
    listed = {each: KINDS[each]() for each in ([kind] if kind else KINDS)}
    if as_json:
        fields = {
            each: [_fields(each, entry) for entry in entries] for each, entries in listed.items()
        }
        typer.echo(json.dumps(fields, indent=2))
        return
    from rich.table import Table

    console = plain_console()
    for each, entries in listed.items():
        table = Table(title=each, title_justify="left", show_header=False, box=None)
        for entry in entries:
            more = [_tier_names(entry[0])] if each == "targets" else []
            table.add_row(entry[0], *more, "" if entry[1] == "yes" else entry[1], entry[2])
        console.print(table)


def _fields(kind: str, entry: Entry) -> dict[str, Any]:
    fields: dict[str, Any] = dict(zip(("name", "available", "what"), entry, strict=True))
    return fields | ({"tiers": _tiers(entry[0])} if kind == "targets" else {})
