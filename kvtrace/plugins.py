"""Plug-ins: what one file adds, here or in a plug-in folder of the user's own.

Ours lie in the package of their kind. Others lie in plug-in folders, which have subfolders of the
same names (`sources`, `layouts`, `policies`, `formats`, `targets`, `report`, `models`): those that
the variable `KVTRACE_PLUGINS` lists, and the packages that installed distributions name by entry
points of the group `kvtrace.plugins`.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import pkgutil
import sys
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kvtrace.errors import UsageError, unknown_name
from kvtrace.files.textfile import open_binary

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

FOLDERS_VARIABLE = "KVTRACE_PLUGINS"
"""Environment variable with plug-in folders, separated as in PATH."""
ENTRY_POINTS = "kvtrace.plugins"
_START_BYTES = 4096
_SHARED = ("support", "common")
"""Packages beside plug-ins that hold what several of them share."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of plug-in. `word`: as errors name it; `package`: where ours lie.

    `has`: the function that a plug-in of this kind must have; "": none. `part`: the module that has
    it where a plug-in may be a package; one without that module isn't of this kind.
    """

    word: str
    package: str
    has: str
    part: str = ""

    @property
    def subfolder(self) -> str:
        """Name of the subfolder of a plug-in folder."""
        return self.package.rpartition(".")[2]


SOURCE = Kind("source", "kvtrace.sources", "create")
LAYOUT = Kind("layout", "kvtrace.layouts", "create")
POLICY = Kind("policy", "kvtrace.policies", "policy")
IMPORTER = Kind("format", "kvtrace.formats", "convert", "importer")
EXPORTER = Kind("export format", "kvtrace.formats", "export", "exporter")
TARGET = Kind("target", "replay.targets", "make")
REPORT = Kind("form of report", "replay.report", "write")
FAMILY = Kind("family", "kvtrace.models.config_json.families", "")
ADDABLE = (SOURCE, LAYOUT, POLICY, IMPORTER, EXPORTER, TARGET, REPORT)
"""Kinds that plug-in folders may have."""
MODELS = "models"
"""Subfolder with models, as .toml or config.json."""


def folders() -> tuple[Path, ...]:
    """Return the plug-in folders. Raises UsageError for one that can't be used."""
    return _checked(os.environ.get(FOLDERS_VARIABLE, ""))


def names(kind: Kind) -> list[str]:
    """Return the names of the plug-ins of `kind`, as users write them; sorted.

    One in a plug-in folder that can't be loaded is among them: `load` says why.
    """
    return sorted([*_ours(kind), *added(kind)])


def added(kind: Kind) -> dict[str, Path]:
    """Return the files that plug-in folders add, by name."""
    files: dict[str, Path] = {}
    if kind not in ADDABLE:
        return files
    for folder in folders():
        for path in sorted((folder / kind.subfolder).glob("*.py")):
            name = path.stem.replace("_", "-")
            if name in _ours(kind) or name in files:
                raise UsageError(
                    f"this {kind.word} exists already", where=path, got=name, hint="rename the file"
                )
            if not path.name.startswith("_") and _may_be(kind, path):
                files[name] = path
    return files


def load(kind: Kind, name: str) -> ModuleType:
    """Return the module of plug-in `name`.

    Raises UsageError: with the nearest name for an unknown one, with the reason for a broken one.
    """
    files = added(kind)
    if name in files:
        return _of_kind(kind, files[name])
    if name not in _ours(kind):
        raise unknown_name(kind.word, name, names(kind))
    module = importlib.import_module(f"{kind.package}.{name.replace('-', '_')}")
    if kind.part and hasattr(module, "__path__"):
        return importlib.import_module(f"{module.__name__}.{kind.part}")
    return module


def recognising(kind: Kind, path: Path) -> str | None:
    """Return the first plug-in whose `recognises(path, start)` accepts the file; None if none does.

    `start`: the first bytes, decompressed. Raises TraceError for a file that can't be read.
    """
    with open_binary(path) as stream:
        start = stream.read(_START_BYTES)
    return next((name for name in names(kind) if load(kind, name).recognises(path, start)), None)


def summary(module: ModuleType) -> str:
    """Return the first line of a plug-in's docstring."""
    return (module.__doc__ or "").strip().partition("\n")[0]


def unavailable(module: ModuleType) -> str | None:
    """Return why a plug-in can't be used here, or None if it can."""
    if hasattr(module, "unavailable"):
        reason: str | None = module.unavailable()
        return reason
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


def _ours(kind: Kind) -> tuple[str, ...]:
    return _modules(tuple(importlib.import_module(kind.package).__path__), kind.has, kind.part)


@cache
def _modules(places: tuple[str, ...], has: str, part: str) -> tuple[str, ...]:
    """Return the modules in `places` that have function `has`, in `part` where they are packages.

    Told by their text, so that none of them is imported for a list of names.
    """
    names = []
    for info in pkgutil.iter_modules(places):
        place = Path(getattr(info.module_finder, "path", ""))
        file = place / info.name / f"{part}.py" if info.ispkg else place / f"{info.name}.py"
        if info.name not in _SHARED and file.is_file() and _defines(file, has):
            names.append(info.name.replace("_", "-"))
    return tuple(names)


def _defines(path: Path, function: str) -> bool:
    return not function or f"\ndef {function}(" in path.read_text(
        encoding="utf-8", errors="replace"
    )


def _may_be(kind: Kind, path: Path) -> bool:
    """Whether a file is of this kind: where two share a folder, it says which by its functions."""
    if not kind.part or _defines(path, kind.has):
        return True
    return not any(_defines(path, other.has) for other in ADDABLE if other.part)


def _of_kind(kind: Kind, path: Path) -> ModuleType:
    module = _imported(path)
    if not callable(getattr(module, kind.has, None)):
        raise UsageError(
            f"this plug-in is no {kind.word}", where=path, got=f"no function {kind.has}()",
            accepted="what docs/extending.md shows",
        )  # fmt: skip
    return module


@cache
def _imported(path: Path) -> ModuleType:
    """Import a file. Raises UsageError for whatever goes wrong in it."""
    name = "kvtrace_plugin_" + "_".join(path.with_suffix("").parts[-3:]).replace("-", "_")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise UsageError(
            "this plug-in can't be loaded", where=path, got=f"{type(error).__name__}: {error}",
            hint="mend it, or take it out of its folder",
        ) from error  # fmt: skip
    return module


@cache
def _checked(listed: str) -> tuple[Path, ...]:
    given = [(Path(text), FOLDERS_VARIABLE) for text in listed.split(os.pathsep) if text]
    for entry in importlib.metadata.entry_points(group=ENTRY_POINTS):
        given += [(path, f"entry point {entry.name}") for path in _package(entry.value)]
    known = {kind.subfolder for kind in ADDABLE} | {MODELS}
    for folder, where in given:
        if not folder.is_dir():
            raise UsageError("no such plug-in folder", where=where, got=str(folder))
        if not any((folder / name).is_dir() for name in known):
            raise UsageError(
                "has none of a plug-in folder's subfolders", where=f"{where}: {folder}",
                accepted=", ".join(sorted(known)),
            )  # fmt: skip
    return tuple(folder for folder, _ in given)


def _package(name: str) -> list[Path]:
    """Return the folders of an installed package, which isn't imported."""
    try:
        spec = importlib.util.find_spec(name)
    except ModuleNotFoundError:
        spec = None
    if spec is None or not spec.submodule_search_locations:
        raise UsageError(
            "this entry point names no package", where=f"entry point group {ENTRY_POINTS}", got=name
        )
    return [Path(place) for place in spec.submodule_search_locations]
