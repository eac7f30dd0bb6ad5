"""Options of commands, made from the fields of models."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kvtrace.options.described import describe, describe_all

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from pydantic import BaseModel

    from kvtrace.options.described import Described


def with_options(*models: type[BaseModel]) -> Callable[[Any], Any]:
    """Give a command that has `**given` an option for each field of `models`, by its key.

    They stand behind the command's arguments and before its own, keyword-only, options. One that
    isn't given is None: what it is then is the model's to say, and shown by the help.
    """

    def decorate(command: Any) -> Any:
        own = inspect.signature(command, eval_str=True)
        parameters = list(own.parameters.values())
        arguments = [each for each in parameters if each.kind == each.POSITIONAL_OR_KEYWORD]
        options = [each for each in parameters if each.kind == each.KEYWORD_ONLY]
        made = [_parameter(option) for model in models for option in describe_all(model)]
        command.__signature__ = own.replace(parameters=[*arguments, *made, *options])
        return command

    return decorate


def _parameter(option: Described) -> inspect.Parameter:
    names = [option.flag]
    kind: Any = Path if option.kind is Path else str
    if option.switch:
        kind, names = bool, [f"{option.flag}/--no-{option.flag[2:]}"]
    if option.repeated:
        kind = list[kind]
    info = typer.Option(
        *names,
        help=option.help,
        rich_help_panel=option.panel or None,
        metavar=None if option.switch else option.takes,
        show_default=False if option.switch and option.default == "no" else option.default or False,
    )
    return inspect.Parameter(
        option.key, inspect.Parameter.KEYWORD_ONLY, default=None,
        annotation=Annotated[kind | None, info],
    )  # fmt: skip


def given_of(model: type[BaseModel], given: Mapping[str, Any]) -> Iterator[tuple[Described, Any]]:
    """Yield the options of `model` that were given, with their values."""
    for option in describe(model):
        if given.get(option.key) is not None:
            yield option, given[option.key]
