"""A pydantic model's fields as options: names, the values they take, defaults, help."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel

from kvtrace.errors import unknown_name
from kvtrace.fields import Option, Takes

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from pydantic.fields import FieldInfo

    from kvtrace.errors import UsageError

_UNITS = ("_bytes", "_ns", "_ratio", "_rows")
_PLAIN = {bool: "yes|no", int: "N", float: "X", Path: "PATH"}


@dataclass(frozen=True, slots=True)
class Described:
    """One field as an option.

    `key`: its name as a flag, with `_`, and in files, `--set` and `--target`. `path`: its dotted
    key in a recording's files, which have sections. `takes`: the values, in one word or in the
    words that are accepted. `default`: as text that is read back, or what stands for it; "": none.
    """

    field: str
    key: str
    path: str
    takes: str
    choices: tuple[str, ...]
    default: str
    help: str
    panel: str
    switch: bool
    repeated: bool
    required: bool
    kind: type
    text: Takes

    @property
    def flag(self) -> str:
        """How it is written on the command line."""
        return "--" + self.key.replace("_", "-")


def describe(model: type[BaseModel]) -> tuple[Described, ...]:
    """Return the fields of `model` that are options, in their order.

    All are that have a help; of a model without any help, all.
    """
    fields = model.model_fields.items()
    given = [(name, field, _option(field)) for name, field in fields]
    some = any(option is not None for _, _, option in given)
    return tuple(
        _described(name, field, option or Option(""))
        for name, field, option in given
        if option is not None or not some
    )


def describe_all(model: type[BaseModel], prefix: str = "") -> Iterator[Described]:
    """Yield the options of `model` that have a help, and of the models in its fields."""
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from describe_all(field.annotation, f"{prefix}{name}.")
        elif (option := _option(field)) is not None:
            yield _described(name, field, option, prefix)


def key_of(name: str, option: Option | None = None) -> str:
    """Return the name of a field as users write it in files: its unit is left out."""
    if option is not None and option.name:
        return option.name.replace("-", "_")
    for unit in _UNITS:
        name = name.removesuffix(unit)
    return name


def by_key(model: type[BaseModel]) -> dict[str, Described]:
    """Return the options of `model` by key."""
    return {option.key: option for option in describe(model)}


def fields_of(
    model: type[BaseModel],
    values: Mapping[str, Any],
    *,
    kind: str,
    where: object = None,
    names: Iterable[str] = (),
) -> dict[str, Any]:
    """Return values that are given by key by their fields. Raises UsageError for an unknown key.

    A `-` in a key is a `_`. `names`: fields that may be given by their own names.
    """
    known = by_key(model)
    fields = {}
    for given, value in values.items():
        key = given.replace("-", "_")
        if key not in known and key not in names:
            raise unknown_key(kind, given, known, where=where)
        fields[known[key].field if key in known else key] = value
    return fields


def wrongly_switched(option: Described, value: object) -> bool:
    """Return whether a value is yes or no, as YAML has them, for an option that isn't a switch."""
    return isinstance(value, bool) and not option.switch and "on" not in option.choices


def unknown_key(kind: str, given: str, known: Iterable[str], *, where: object) -> UsageError:
    """Return the refusal of a key, with the nearest known one."""
    return unknown_name(kind, given, [key.replace("_", "-") for key in known], where=where)


def _option(field: FieldInfo) -> Option | None:
    given = next((each for each in field.metadata if isinstance(each, Option)), None)
    if given is None and field.description is not None:
        return Option(field.description)
    return given


def _described(name: str, field: FieldInfo, option: Option, prefix: str = "") -> Described:
    parts = [*field.metadata, *_parts(field.annotation)]
    takes = next((each for each in parts if isinstance(each, Takes)), Takes(""))
    words = tuple(_words(field.annotation))
    kind = next((each for each in (bool, int, float, Path) if each in parts), str)
    number = words and {int, float} & set(parts)
    choices = ("N", *words) if number else words
    word = option.takes or takes.word or "|".join(choices) or _PLAIN.get(kind, "TEXT")
    default = None if field.is_required() else field.get_default(call_default_factory=True)
    return Described(
        field=name,
        key=key_of(name, option),
        path=f"{prefix}{name}",
        takes=word,
        choices=() if option.takes else choices,
        default=option.unset or _default(default, takes),
        help=option.help,
        panel=option.panel,
        switch=kind is bool,
        repeated=not takes.word
        and any(get_origin(part) in (tuple, list) for part in _parts(field.annotation)),
        required=field.is_required(),
        kind=str if takes.word or words else kind,
        text=takes,
    )


def _default(value: Any, takes: Takes) -> str:
    """Return a default as text that is read back; "" for none."""
    if value is None or value == ():
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return takes.text(value.value if isinstance(value, Enum) else value)


def _parts(kind: Any) -> Iterator[Any]:
    """Yield a type, all that it is made of, and what it is annotated with."""
    yield kind
    for part in get_args(kind):
        yield from _parts(part)


def _words(kind: Any) -> Iterator[str]:
    """Yield the words of a type that is one of several: an enumeration, or literals."""
    if get_origin(kind) is Literal:
        yield from (word for word in get_args(kind) if isinstance(word, str))
    elif get_origin(kind) is Annotated:
        yield from _words(get_args(kind)[0])
    elif isinstance(kind, type) and issubclass(kind, Enum) and not issubclass(kind, IntEnum):
        yield from (str(each.value) for each in kind)
    else:
        for part in get_args(kind):
            yield from _words(part)
