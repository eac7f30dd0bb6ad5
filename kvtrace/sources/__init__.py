"""Sources of requests, one file each.

A source is a module with `create(context) -> Source` and `KEYS`, the keys of `SourceConfig` that
have an effect on it; the first line of its docstring is what `kvtrace list sources` says. `NEEDS`,
if it has one, is the package without which it isn't available. With `recognises(start) -> bool`
(`start`: first bytes, decompressed) `--source` may be left out. With `MAKES_ROWS` it makes rows of
a trace instead of requests: see `recording.rows`.
"""

from __future__ import annotations

from codecs import BOM_UTF8
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kvtrace import plugins
from kvtrace.errors import UsageError
from kvtrace.files.textfile import open_binary
from kvtrace.requests.paths import input_files

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from types import ModuleType

    from kvtrace.requests.request import Source
    from kvtrace.requests.source_config import SourceConfig


_START_BYTES = 1 << 16
_NOT_KNOWN = "no source is known to read it, and synthetic, the default, takes no input"


@dataclass(frozen=True, slots=True)
class SourceContext:
    """What a source is made from. `by_turn`: the layout wants each turn's tokens."""

    config: SourceConfig
    inputs: tuple[Path, ...]
    seed: int
    end_ns: int
    by_turn: bool
    workers: int


def create(context: SourceContext) -> Source:
    """Return the source that `context.config` names. Raises UsageError or TraceError."""
    module = _module(context.config.name)
    _check_keys(context.config, module.KEYS)
    source: Source = module.create(context)
    return source


def recognised(inputs: Sequence[str]) -> str:
    """Return the name of the source that reads these inputs, told by the first file.

    Raises UsageError if none does, or several do.
    """
    path = input_files(tuple(inputs))[0]
    with open_binary(path) as stream:
        start = stream.read(_START_BYTES).removeprefix(BOM_UTF8)
    names = plugins.names(plugins.SOURCE)
    readers = [name for name in names if hasattr(_module(name), "recognises")]
    matches = [name for name in readers if _module(name).recognises(start)]
    if len(matches) == 1:
        return matches[0]
    other = None if matches else plugins.recognising(plugins.IMPORTER, path)
    raise UsageError(
        "it could be of several sources" if matches else _NOT_KNOWN,
        where=f"--input {path}",
        accepted=", ".join(matches or readers),
        hint=f"it is for kvtrace import ({other})" if other else "name it by --source",
    )


def keys(name: str) -> frozenset[str]:
    """Return the keys of `SourceConfig` that have an effect on source `name`."""
    keys_of: frozenset[str] = _module(name).KEYS
    return keys_of


def makes_rows(name: str) -> bool:
    """Return whether source `name` makes rows of a trace instead of requests."""
    return getattr(_module(name), "MAKES_ROWS", False)


def _module(name: str) -> ModuleType:
    return plugins.load(plugins.SOURCE, name)


def _check_keys(config: SourceConfig, used: frozenset[str]) -> None:
    """Raise UsageError for a key that was set, and not to its default, but has no effect."""
    fields = type(config).model_fields
    for key in sorted(config.model_fields_set - used - {"name", "input"}):
        value = getattr(config, key)
        if value != fields[key].get_default(call_default_factory=True):
            raise UsageError(
                f"has no effect on source {config.name}",
                where=f"source.{key}",
                got=value,
                accepted=f"source.{', '.join(sorted(used))}",
                hint="leave it out",
            )
