"""Arguments of public functions, checked: a wrong one is a UsageError that names it."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from kvtrace.errors import UsageError


def wrong(name: str, got: object, accepted: str) -> UsageError:
    """Return the refusal of an argument."""
    return UsageError("not accepted", where=name, got=_shown(got), accepted=accepted)


def _shown(got: object) -> str:
    kind = type(got).__name__
    return f"{got!r}" if isinstance(got, str | int | float | None) else f"a value of type {kind}"


def path(given: object, name: str) -> Path:
    """Return a path that was given as one or as text. Raises UsageError."""
    if not isinstance(given, str | os.PathLike):
        raise wrong(name, given, "a path: a string or a pathlib.Path")
    text = os.fspath(given)
    if not isinstance(text, str):
        raise wrong(name, given, "a path of text, not of bytes")
    if not text or "\0" in text:
        raise wrong(name, text, "a path that isn't empty and has no NUL in it")
    try:
        os.lstat(text)
    except FileNotFoundError:
        pass
    except UnicodeEncodeError as error:
        raise wrong(
            name, text, "a path of characters that this system's file names have"
        ) from error
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise wrong(name, text, "a path that this file system can have") from error
    return Path(text)


def instance(given: Any, name: str, kinds: type | tuple[type, ...], accepted: str) -> Any:
    """Return what was given if it is of one of some kinds. Raises UsageError."""
    if not isinstance(given, kinds):
        raise wrong(name, given, accepted)
    return given


def flag(given: object, name: str) -> bool:
    """Return what was given if it is True or False. Raises UsageError."""
    if not isinstance(given, bool):
        raise wrong(name, given, "True or False")
    return given


def count(given: object, name: str, *, least: int = 1, most: int = 1 << 62) -> int:
    """Return a whole number within bounds. Raises UsageError."""
    if isinstance(given, bool) or not isinstance(given, int) or not least <= given <= most:
        raise wrong(name, given, f"a whole number from {least:,} to {most:,}")
    return given


def text(given: object, name: str) -> str:
    """Return what was given if it is text. Raises UsageError."""
    if not isinstance(given, str):
        raise wrong(name, given, "a string")
    return given


def texts(given: object, name: str) -> list[str]:
    """Return strings that were given as a list or the like, not as one string."""
    if isinstance(given, str | bytes | Mapping) or not isinstance(given, Iterable):
        raise wrong(name, given, "a list of strings")
    return [text(each, name) for each in given]


def options(given: object, name: str) -> dict[str, Any]:
    """Return a mapping whose keys are strings. Raises UsageError."""
    if not isinstance(given, Mapping):
        raise wrong(name, given, "a mapping of keys to values")
    return {text(key, f"{name}: key"): value for key, value in given.items()}


class Checked(BaseModel):
    """A model whose wrong fields are UsageErrors; what was wrong in detail is the error's cause."""

    # Help reads the fields, and must not wait for validators that no value needs.
    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    def __init__(self, **fields: Any) -> None:
        """Take fields by name. Raises UsageError that names the first wrong one."""
        try:
            super().__init__(**fields)
        except ValidationError as error:
            raise _refused(type(self).__name__, error) from error

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        """Return the fields that aren't their defaults."""
        return changed(self)


def changed(model: BaseModel) -> Iterable[tuple[str | None, Any]]:
    """Yield (name, value) of the fields that aren't their defaults."""
    for name, field in type(model).model_fields.items():
        value = getattr(model, name)
        if field.is_required() or value != field.get_default(call_default_factory=True):
            yield name, value


def invalid(error: UsageError) -> ValidationError | None:
    """Return what was wrong in detail, where a `Checked` model was refused."""
    return error.__cause__ if isinstance(error.__cause__, ValidationError) else None


@dataclass(frozen=True, slots=True)
class Flaw:
    """The first thing that is wrong with a model's values.

    `place`: the field, and where in it; empty for values that don't go together. `kind`: pydantic's
    word for it.
    """

    place: tuple[str, ...]
    kind: str
    problem: str
    given: object

    @property
    def got(self) -> str | None:
        """The value as text; None where the problem has it."""
        return None if "got " in self.problem else repr(self.given)


def first_flaw(error: ValidationError) -> Flaw:
    """Return the first thing that was wrong."""
    first = error.errors()[0]
    place = tuple(str(part) for part in first["loc"])
    return Flaw(place, first["type"], first["msg"].removeprefix("Value error, "), first["input"])


def _refused(name: str, error: ValidationError) -> UsageError:
    flaw = first_flaw(error)
    place = ".".join(flaw.place)
    if flaw.kind == "extra_forbidden":
        return UsageError("unknown option", where=f"{name}: {place}", hint="see its documentation")
    where = f"{name}: {place}" if place else name
    return UsageError(flaw.problem, where=where, got=_shown(flaw.given) if place else None)
