"""The models that come with kvtrace, and those in files of the user's own."""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING

from kvtrace import arguments, plugins
from kvtrace.errors import TraceError, UsageError, unknown_name
from kvtrace.files.documents import parse_json, parse_toml, read_document
from kvtrace.models import config_json
from kvtrace.models.dtypes import dtype_bytes
from kvtrace.models.geometry import validated

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator
    from pathlib import Path

    from kvtrace.models.geometry import Model


def model_names() -> list[str]:
    """Return the names of the models of kvtrace and of plug-in folders, sorted."""
    return sorted([*_own_names(), *_added()])


def _added() -> dict[str, Path]:
    """Return the models in plug-in folders. Raises UsageError for a name that is taken."""
    paths: dict[str, Path] = {}
    for folder in plugins.folders():
        for path in sorted((folder / plugins.MODELS).glob("*")):
            if path.suffix in (".toml", ".json"):
                if path.stem in paths or path.stem in _own_names():
                    raise UsageError(
                        "this model exists already", where=path, got=path.stem,
                        hint="rename the file",
                    )  # fmt: skip
                paths[path.stem] = path
    return paths


def _own_names() -> list[str]:
    folder = files("kvtrace").joinpath("models")
    return sorted(
        entry.name.removesuffix(".toml")
        for entry in folder.iterdir()
        if entry.name.endswith(".toml")
    )


def models() -> Iterator[Model]:
    """Yield the models of kvtrace and of plug-in folders, in order of name."""
    for name in model_names():
        yield load_model(name)


def load_model(name: str | os.PathLike[str]) -> Model:
    """Return the model called `name`, or the one in a file: ours (.toml) or a config.json.

    Raises UsageError for an unknown name, TraceError for a bad file.
    """
    path = arguments.path(name, "name")
    path = _added().get(str(name), path)
    if name in _own_names():
        text = files("kvtrace").joinpath("models", f"{name}.toml").read_text(encoding="utf-8")
        return _from_toml(text, where=f"model {name}")
    if path.suffix not in (".toml", ".json"):
        raise unknown_name("model", str(path), model_names())
    text = read_document(path, "the model")
    if path.suffix == ".toml":
        return _from_toml(text, where=path)
    return validated(config_json.read(parse_json(text, path), path), path)


def _from_toml(text: str, where: object) -> Model:
    model = validated(parse_toml(text, where), where)
    try:
        dtype_bytes(model.dtype)
    except UsageError as error:
        raise TraceError(str(error), where=where) from error
    return model
