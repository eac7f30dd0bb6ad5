"""Finds what a file dropped into a folder adds: sources, layouts, exporters and so on."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
from dataclasses import fields
from functools import cache
from typing import TYPE_CHECKING, Any

from kvtrace.errors import UsageError, unknown_name

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType


def names(folder: str) -> list[str]:
    """Return the names of the plug-ins in package `folder`, as users write them; sorted."""
    package = importlib.import_module(folder)
    return list(_names(tuple(package.__path__)))


@cache
def _names(places: tuple[str, ...]) -> tuple[str, ...]:
    """Return what lies in these places, each looked at once per process."""
    return tuple(sorted(module.name.replace("_", "-") for module in pkgutil.iter_modules(places)))


def load(folder: str, name: str, *, kind: str) -> ModuleType:
    """Return the module of plug-in `name`. Raises UsageError, with the nearest known name."""
    if name not in names(folder):
        raise unknown_name(kind, name, names(folder))
    return importlib.import_module(f"{folder}.{name.replace('-', '_')}")


def summary(module: ModuleType) -> str:
    """Return the first line of a plug-in's docstring."""
    return (module.__doc__ or "").strip().partition("\n")[0]


def unavailable(module: ModuleType) -> str | None:
    """Return why a plug-in can't be used here, or None if it can."""
    needs: str | None = getattr(module, "NEEDS", None)
    if needs is None or importlib.util.find_spec(needs) is not None:
        return None
    return f"needs the package {needs}"


def check_options(options: Any, *, accepted: Sequence[str], of: str) -> None:
    """Raise UsageError if dataclass `options` sets one that isn't `accepted`; all take `force`."""
    for field in fields(options):
        asked = getattr(options, field.name) != field.default
        if asked and field.name != "force" and field.name not in accepted:
            raise UsageError(
                f"{of} has no option {option(field.name)}",
                accepted=", ".join(map(option, accepted)) or "no option but --force",
            )


def option(name: str) -> str:
    """Return how a user writes option `name`; units are left out."""
    return "--" + name.removesuffix("_bytes").removesuffix("_ns").replace("_", "-")
