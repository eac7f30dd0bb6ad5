"""Declarations of a target's module: the tiers that it can stand for, and its options."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, BaseModel, Field, ValidationError

from kvtrace.arguments import first_flaw
from kvtrace.errors import UsageError
from kvtrace.fields import SIZE, Option, Section
from kvtrace.options.described import describe, fields_of, key_of, wrongly_switched
from kvtrace.trace.schema import Tier
from replay.options import SAFETY, STATE, TARGETS, FsyncPolicy

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import ModuleType


def _power_of_two(size_bytes: int) -> int:
    if size_bytes & (size_bytes - 1):
        raise ValueError("not a power of two: accepted: e.g. 64KiB")
    return size_bytes


ExtentAlign = Annotated[
    Annotated[int, Field(gt=0), SIZE, AfterValidator(_power_of_two)] | None,
    Option(
        "Align extents to at least this size.",
        STATE,
        unset="the device's needs, at least 4KiB",
    ),
]
AllowDestroy = Annotated[
    str | None,
    Option(
        "Permit overwriting the device with this serial, WWN or by-id name.", SAFETY, takes="ID"
    ),
]
AllowSignature = Annotated[
    tuple[str, ...],
    Option(
        "Permit destroying this type of signature; unknown: data of no known format.",
        SAFETY,
        takes="TYPE",
    ),
]


TargetSize = Annotated[
    Annotated[int, Field(gt=0), SIZE] | None,
    Option(
        "Size of a new file, or of the part of the device to use.",
        TARGETS,
        unset="the space needed, or all",
    ),
]
Trim = Annotated[bool, Option("Discard the extent on each delete; punch holes in a file.", TARGETS)]
FolderFsync = Annotated[
    FsyncPolicy,
    Option("Sync nothing, the file, or file and directory on each write.", TARGETS),
]


class NoOptions(Section):
    """The options of a target that has none."""


def options_of(module: ModuleType) -> type[BaseModel]:
    """Return the model of a target's options. Raises UsageError where `Options` is none."""
    model = getattr(module, "Options", NoOptions)
    if not (isinstance(model, type) and issubclass(model, BaseModel)):
        raise _broken(module, "Options", model, "a subclass of kvtrace.fields.Section")
    return model


def tiers_of(module: ModuleType) -> tuple[Tier, ...]:
    """Return the tiers that a target can stand for: all where its module has no `TIERS`.

    Raises UsageError where `TIERS` holds anything else.
    """
    tiers = getattr(module, "TIERS", tuple(Tier))
    if not isinstance(tiers, tuple) or not tiers or not all(isinstance(t, Tier) for t in tiers):
        raise _broken(module, "TIERS", tiers, "a tuple of kvtrace.trace.schema.Tier")
    return tiers


def _broken(module: ModuleType, name: str, got: object, accepted: str) -> UsageError:
    """Return the refusal of what a plug-in declares."""
    return UsageError(
        f"this plug-in's {name} can't be used",
        where=getattr(module, "__file__", module.__name__),
        got=repr(got),
        accepted=accepted,
    )


def check_tiers(
    name: str, module: ModuleType, tiers: tuple[Tier, ...], where: object = None
) -> None:
    """Raise UsageError for a tier that a target can't stand for."""
    can = tiers_of(module)
    for tier in tiers:
        if tier not in can:
            raise UsageError(
                f"target {name} can't stand for tier {tier.label}",
                where=where,
                accepted=", ".join(each.label for each in can),
            )


def checked(
    name: str,
    module: ModuleType,
    given: Mapping[str, Any],
    where: object = None,
    *,
    by_field: bool = False,
) -> BaseModel:
    """Return a target's options from values by key; `by_field`: or by the fields' own names.

    Raises UsageError that names target and key: for an unknown key with the nearest known one.
    """
    model = options_of(module)
    where = f"target {name}" if where is None else where
    if given and not model.model_fields:
        raise UsageError(f"target {name} has no options", where=where, got=", ".join(given))
    values = fields_of(model, given, kind=f"option of target {name}", where=where,
        names=model.model_fields if by_field else ())  # fmt: skip
    for option in describe(model):
        value = values.get(option.field)
        if option.repeated and isinstance(value, str):
            values[option.field] = [value]
        elif wrongly_switched(option, value):
            raise UsageError(
                f"{option.key}: isn't yes or no", where=where, got=value, accepted=option.takes
            )
        elif isinstance(value, list) and not option.repeated:
            raise UsageError(f"{option.key}: is given twice", where=where)
        elif value == "" and option.kind is Path:  # which would be the working directory
            raise UsageError(f"{option.key}: is empty", where=where, accepted=option.takes)
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise _refusal(name, model, error, where) from error


def _refusal(
    name: str, model: type[BaseModel], error: ValidationError, where: object
) -> UsageError:
    flaw = first_flaw(error)
    if not flaw.place:
        return UsageError(flaw.problem, where=where)
    field = flaw.place[0]
    takes = next((each.takes for each in describe(model) if each.field == field), None)
    key = next((each.key for each in describe(model) if each.field == field), key_of(field))
    key = key.replace("_", "-")
    if flaw.kind == "missing":
        return UsageError(f"target {name} needs a {key}", where=where, accepted=f"{key}={takes}")
    return UsageError(
        f"{key}: {flaw.problem}",
        where=where if f"target {name}" in str(where) else f"{where}: target {name}",
        got=flaw.got,
        accepted=None if "accepted: " in flaw.problem else takes,
    )
