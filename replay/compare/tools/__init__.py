"""Results of other tools that can be compared with ours: one file per kind.

A kind's module has `FORM` (what makes such a file), `CAUTION` (what is unfair about comparing its
figures), `recognises(found)` and `figures(found)`, both of the JSON object in the file; what
`figures` doesn't find may end in KeyError, TypeError or ValueError. Times of theirs become ns,
rates bytes/s; what is defined otherwise than our figure of that name gets a name of its own, or is
left out. It may have `setup(found)`: how the tool measured, where its result states that.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import pkgutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, cast

from kvtrace.errors import TraceError
from kvtrace.files.documents import MAX_BYTES
from kvtrace.files.textfile import open_binary
from replay.compare.setup import UNKNOWN, Setup
from replay.result.stored import foreign_form, is_mlperf_report

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from replay.compare.figures import Figure

Found = dict[str, Any]
_LARGEST = 1e300
OURS = ("schema_version", "verdict")


class _Tool(Protocol):
    FORM: str
    CAUTION: str

    def recognises(self, fields: Found) -> bool: ...

    def figures(self, fields: Found) -> tuple[Figure, ...]: ...


@dataclass(frozen=True, slots=True)
class Theirs:
    """What another tool's result says."""

    figures: tuple[Figure, ...]
    caution: str
    setup: Setup = UNKNOWN


def is_json(path: Path) -> bool:
    """Return whether a file is named as JSON, compressed or not."""
    return ".json" in path.suffixes[-2:]


def forms() -> tuple[str, ...]:
    """Return what makes the files that are known."""
    return tuple(tool.FORM for tool in _tools())


def load(path: Path) -> Theirs | None:
    """Return what a file of another tool says; None of a report of ours, or what is no JSON.

    Raises TraceError for unknown JSON, and for one that lacks what its kind has.
    """
    fields = _object(path) if is_json(path) and path.is_file() else None
    if fields is None or all(name in fields for name in OURS):
        return None
    if is_mlperf_report(fields):
        raise foreign_form(path)
    for tool in _tools():
        if tool.recognises(fields):
            stated = getattr(tool, "setup", lambda _: UNKNOWN)(fields)
            stated = dataclasses.replace(stated, tool=tool.FORM.partition(" --")[0])
            return Theirs(_figures(tool, fields, path), tool.CAUTION, stated)
    raise TraceError(
        "not a known result",
        where=path,
        accepted="; ".join(("a report by --report NAME.json", *forms())),
    )


def _figures(tool: _Tool, fields: Found, path: Path) -> tuple[Figure, ...]:
    """Return the figures. Raises TraceError if there are none."""
    try:
        figures = tool.figures(fields)
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError, IndexError) as error:
        raise TraceError(f"lacks {error}", where=path, accepted=tool.FORM) from error
    for figure in figures:
        if not isinstance(figure.value, int | float) or not _finite(figure.value):
            raise TraceError(
                f"{figure.name} isn't a number", where=path, got=figure.value, accepted=tool.FORM
            )
    if not figures:
        raise TraceError("has no figures", where=path, accepted=tool.FORM, hint="run it again")
    return figures


def _finite(value: float) -> bool:
    return -_LARGEST < value < _LARGEST


class _Text(str):
    """A string that isn't repeated where a number was meant."""

    __slots__ = ()

    def __mul__(self, other: object) -> NoReturn:
        raise TypeError("a number")

    __rmul__ = __mul__


class _Items(list[Any]):
    """A list, likewise."""

    __slots__ = ()

    def __mul__(self, other: object) -> NoReturn:
        raise TypeError("a number")

    __rmul__ = __mul__


def _guarded(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    return {name: _guard(value) for name, value in pairs}


def _guard(value: Any) -> Any:
    if isinstance(value, str):
        return _Text(value)
    return _Items(map(_guard, value)) if isinstance(value, list) else value


def _tools() -> Iterator[_Tool]:
    for module in pkgutil.iter_modules(__path__):
        yield cast("_Tool", importlib.import_module(f"{__name__}.{module.name}"))


def _object(path: Path) -> Found | None:
    """Return the JSON object in a file; None if there is none."""
    with open_binary(path) as stream:
        text = stream.read(MAX_BYTES + 1)
    if len(text) > MAX_BYTES:
        raise TraceError("too long a result", where=path, accepted=f"up to {MAX_BYTES >> 20} MiB")
    try:
        parsed = json.loads(text, object_pairs_hook=_guarded)
    except (ValueError, RecursionError):
        return None
    return parsed if isinstance(parsed, dict) else None
